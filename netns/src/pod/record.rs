//! What is written of a pod before anything of it exists: enough to take it away without its owner, its configuration
//! files, or its options.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cni::cache::Attachment;
use crate::cni::conflist::NetworkList;
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;

/// A pod to be.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// CNI_CONTAINERID, and the name of its namespace.
    pub id: String,
    /// Where its owner keeps it.
    pub bundle: PathBuf,
    /// Where plugins' binaries are, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Whether plugins that we have ourselves run in this process.
    pub native: bool,
    /// Its networks, in order. Container and namespace of an attachment need not be told.
    pub networks: Vec<(NetworkList, Attachment)>,
}

/// What is written.
#[derive(Debug, Clone)]
pub struct Record {
    /// CNI_CONTAINERID, and the name of its namespace.
    pub id: String,
    /// Where its owner keeps it.
    pub bundle: PathBuf,
    /// The namespace's path.
    pub namespace: PathBuf,
    /// Where plugins' binaries are, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Whether plugins that we have ourselves run in this process.
    pub native: bool,
    /// Its networks, in order, whole.
    pub networks: Vec<(NetworkList, Attachment)>,
    /// The kernel's name for the time since it was started.
    boot_id: String,
}

impl Record {
    pub(super) fn new(wanted: Wanted, netns_dir: &Path) -> Result<Self, Fault> {
        let Wanted { id, bundle, bin_dirs, native, networks } = wanted;
        let namespace = netns_dir.join(&id);
        let netns = namespace.to_str().ok_or_else(|| {
            Fault::new(Code::ENVIRONMENT, format!("the namespace's path {} is not Unicode", namespace.display()))
        })?;
        let of_pod = |(list, attachment): (NetworkList, Attachment)| {
            (list, Attachment { container_id: id.clone(), netns: netns.to_owned(), ..attachment })
        };
        let networks = networks.into_iter().map(of_pod).collect();
        Ok(Self { bundle, bin_dirs, native, networks, boot_id: boot_id()?, id: id.clone(), namespace })
    }

    /// Whether it was written since this boot: namespaces, interfaces and rules do not outlive one.
    pub fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|now| now == self.boot_id)
    }

    pub(super) fn to_json(&self) -> Value {
        let pair = |(key, value): &(String, String)| json!([key, value]);
        let network = |(list, attachment): &(NetworkList, Attachment)| {
            json!({
                "ifName": attachment.if_name,
                "args": attachment.args.iter().map(pair).collect::<Value>(),
                "capabilityArgs": attachment.capability_args,
                "config": list.to_json(),
            })
        };
        json!({
            "id": self.id,
            "bootId": self.boot_id,
            "bundle": self.bundle.to_string_lossy(),
            "namespace": self.namespace.to_string_lossy(),
            "binDirs": self.bin_dirs.iter().map(|directory| directory.to_string_lossy()).collect::<Value>(),
            "native": self.native,
            "networks": self.networks.iter().map(network).collect::<Value>(),
        })
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let object: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| Fault::new(Code::DECODE, format!("no record of a pod: {error}")))?;
        let fields = Fields(&object);
        let text = |name: &str| {
            fields.string(name)?.ok_or_else(|| Fault::new(Code::DECODE, format!("no record of a pod: no {name}")))
        };
        let (id, namespace) = (text("id")?, text("namespace")?);
        let of_pod = |network: Fields<'_>| parse_network(network, &id, &namespace);
        Ok(Self {
            networks: fields.objects("networks")?.into_iter().map(of_pod).collect::<Result<_, _>>()?,
            bundle: fields.string("bundle")?.unwrap_or_default().into(),
            bin_dirs: fields.strings("binDirs")?.into_iter().map(PathBuf::from).collect(),
            native: fields.boolean("native")?,
            boot_id: text("bootId")?,
            namespace: namespace.clone().into(),
            id: id.clone(),
        })
    }
}

fn parse_network(fields: Fields<'_>, id: &str, namespace: &str) -> Result<(NetworkList, Attachment), Fault> {
    let pair = |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned()));
    let bad = |what: &str| Fault::new(Code::DECODE, format!("no record of a pod: no {what} of a network"));
    let config = fields.get("config").ok_or_else(|| bad("config"))?;
    let args = fields.list("args")?.iter().map(pair).collect::<Option<_>>();
    let attachment = Attachment {
        container_id: id.to_owned(),
        netns: namespace.to_owned(),
        if_name: fields.string("ifName")?.ok_or_else(|| bad("ifName"))?,
        args: args.ok_or_else(|| bad("args"))?,
        capability_args: fields.object("capabilityArgs")?.map(|object| object.0.clone()).unwrap_or_default(),
    };
    Ok((NetworkList::from_bytes(config.to_string().as_bytes())?, attachment))
}

fn boot_id() -> Result<String, Fault> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).map_err(|error| Fault::io(format!("read {PATH}"), &error))?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let text = br#"{"name":"n","cniVersion":"1.1.0","disableGC":true,"plugins":[{"type":"a","x":1},{"type":"b"}]}"#;
        let attachment = Attachment {
            if_name: "eth0".to_owned(),
            args: vec![("IP".to_owned(), "10.0.0.2".to_owned())],
            capability_args: Map::from_iter([("mac".to_owned(), "x".into())]),
            ..Attachment::default()
        };
        let wanted = Wanted {
            id: "ns-pod".to_owned(),
            bundle: "/b".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            native: true,
            networks: vec![(NetworkList::from_bytes(text).unwrap(), attachment)],
        };
        let record = Record::new(wanted, Path::new("/run/netns")).unwrap();
        let again = Record::parse(record.to_json().to_string().as_bytes()).unwrap();
        assert!(again.is_of_this_boot());
        assert_eq!(again.to_json(), record.to_json());
        let (list, attachment) = &again.networks[0];
        assert_eq!(list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(list.disable_gc && list.version == "1.1.0");
        assert_eq!((attachment.container_id.as_str(), attachment.netns.as_str()), ("ns-pod", "/run/netns/ns-pod"));
        let other = record.to_json().to_string().replace(&record.boot_id, "another");
        assert!(!Record::parse(other.as_bytes()).unwrap().is_of_this_boot());
    }

    #[test]
    fn what_is_no_record_says_so() {
        for text in ["", "{", "[]", "{}", r#"{"id":"a","namespace":"/n","bootId":"b","networks":[{}]}"#] {
            assert!(Record::parse(text.as_bytes()).unwrap_err().message.contains("no record of a pod"), "{text}");
        }
    }
}
