//! What was attached, on disk, as libcni keeps it (`libcni/api.go`, kind `cniCacheV1`), so that either reads the
//! other's. An entry without a result is an ADD that has begun: whoever finds it after a crash can DEL it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::fault::Fault;
use super::json::Fields;
use super::result::Outcome;
use crate::whole;

const KIND: &str = "cniCacheV1";

/// One attachment of a container to a network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attachment {
    /// The container.
    pub container_id: String,
    /// The path of its network namespace; may be empty at DEL.
    pub netns: String,
    /// The name of its interface.
    pub if_name: String,
    /// CNI_ARGS, in order.
    pub args: Vec<(String, String)>,
    /// What each capability is given: portMappings, bandwidth, …
    pub capability_args: Map<String, Value>,
}

/// An attachment as the cache knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// The network.
    pub network: String,
    /// The network's configuration at ADD.
    pub config: Vec<u8>,
    /// The attachment.
    pub attachment: Attachment,
    /// What ADD answered. None: it had not when the entry was written.
    pub result: Option<Value>,
}

/// The directory below which results are kept.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// `directory` is what libcni calls cacheDir.
    pub fn new(directory: &Path) -> Self {
        Self(directory.join("results"))
    }

    fn path(&self, network: &str, attachment: &Attachment) -> PathBuf {
        self.0.join(format!("{network}-{}-{}", attachment.container_id, attachment.if_name))
    }

    /// Hidden by its dot from those who list the directory for results.
    fn draft(path: &Path) -> PathBuf {
        path.with_file_name(format!(".{}", path.file_name().unwrap_or_default().to_string_lossy()))
    }

    /// Writes an entry, whole or not at all.
    pub fn write(&self, cached: &Cached) -> Result<(), Fault> {
        let path = self.path(&cached.network, &cached.attachment);
        let failed = |error: io::Error| Fault::io(format!("write {}", path.display()), &error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(failed)?;
        let draft = Self::draft(&path);
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(failed)?;
        let text = cached.to_json().to_string();
        let written = file.write_all(text.as_bytes()).and_then(|()| Ok(whole::publish(&draft, &path)?));
        written.map_err(|error| {
            let _ = fs::remove_file(&draft);
            failed(error)
        })
    }

    /// The entry of an attachment. What cannot be read or understood is none.
    pub fn read(&self, network: &str, attachment: &Attachment) -> Option<Cached> {
        let value: Value = serde_json::from_slice(&fs::read(self.path(network, attachment)).ok()?).ok()?;
        Cached::parse(&value).or_else(|| {
            // Before cniCacheV1 the file was the bare result.
            Outcome::parse(&value, "").ok()?;
            let attachment = attachment.clone();
            Some(Cached { network: network.to_owned(), config: Vec::new(), attachment, result: Some(value) })
        })
    }

    /// Whether there is an entry, whatever is in it.
    pub fn knows(&self, network: &str, attachment: &Attachment) -> bool {
        self.path(network, attachment).exists()
    }

    /// Forgets an attachment; one that is not there is forgotten already.
    pub fn remove(&self, network: &str, attachment: &Attachment) {
        let path = self.path(network, attachment);
        // Of a writer that was killed.
        let _ = fs::remove_file(Self::draft(&path));
        let _ = fs::remove_file(path);
    }

    /// Every entry, by file name.
    pub fn list(&self) -> Vec<Cached> {
        let mut paths: Vec<_> =
            fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let parse = |path: PathBuf| Cached::parse(&serde_json::from_slice(&fs::read(path).ok()?).ok()?);
        paths.into_iter().filter(|path| !hidden(path)).filter_map(parse).collect()
    }
}

impl Cached {
    fn to_json(&self) -> Value {
        let attachment = &self.attachment;
        let mut object = json!({
            "kind": KIND,
            "containerId": attachment.container_id,
            "config": base64(&self.config),
            "ifName": attachment.if_name,
            "networkName": self.network,
        });
        if let Value::Object(object) = &mut object {
            let mut put = |key: &str, value: Option<Value>| {
                if let Some(value) = value {
                    object.insert(key.to_owned(), value);
                }
            };
            put("netns", (!attachment.netns.is_empty()).then(|| attachment.netns.as_str().into()));
            let args = || attachment.args.iter().map(|(key, value)| json!([key, value])).collect();
            put("cniArgs", (!attachment.args.is_empty()).then(args));
            let capabilities = || Value::Object(attachment.capability_args.clone());
            put("capabilityArgs", (!attachment.capability_args.is_empty()).then(capabilities));
            put("result", self.result.clone());
        }
        object
    }

    fn parse(value: &Value) -> Option<Self> {
        let fields = Fields(value.as_object()?);
        if fields.string("kind").ok()?? != KIND {
            return None;
        }
        let pair = |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned()));
        let attachment = Attachment {
            container_id: fields.string("containerId").ok()??,
            netns: fields.string("netns").ok()?.unwrap_or_default(),
            if_name: fields.string("ifName").ok()??,
            args: fields.list("cniArgs").ok()?.iter().map(pair).collect::<Option<_>>()?,
            capability_args: fields.object("capabilityArgs").ok()?.map(|object| object.0.clone()).unwrap_or_default(),
        };
        Some(Self {
            network: fields.string("networkName").ok()??,
            config: unbase64(&fields.string("config").ok()?.unwrap_or_default())?,
            attachment,
            result: fields.get("result").cloned(),
        })
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4: as Go writes bytes into JSON.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number = (0..3).fold(0_u32, |number, at| number << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.as_bytes().chunks(4) {
        let mut number = 0_u32;
        let mut digits = 0_usize;
        for byte in chunk.iter().take_while(|byte| **byte != b'=') {
            number = number << 6 | u32::try_from(DIGITS.iter().position(|digit| digit == byte)?).ok()?;
            digits += 1;
        }
        number <<= 6 * (4 - digits);
        bytes.extend(&number.to_be_bytes()[1..][..digits.checked_sub(1)?]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_base64() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
        {
            assert_eq!(base64(bytes), text);
            assert_eq!(unbase64(text).unwrap(), bytes);
        }
        assert_eq!(unbase64("Z"), Some(vec![]));
        assert_eq!(unbase64("!!!!"), None);
    }

    #[test]
    fn an_entry_is_read_as_it_was_written_and_libcnis_too() {
        let directory = std::env::temp_dir().join(format!("berth-cache-{}", std::process::id()));
        let cache = Cache::new(&directory);
        let attachment = Attachment {
            container_id: "pod".to_owned(),
            netns: "/run/netns/pod".to_owned(),
            if_name: "eth0".to_owned(),
            args: vec![("IP".to_owned(), "10.0.0.2".to_owned())],
            capability_args: Map::from_iter([("mac".to_owned(), "x".into())]),
        };
        let mut cached = Cached { network: "net".to_owned(), config: b"{}".to_vec(), attachment, result: None };
        cache.write(&cached).unwrap();
        assert_eq!(cache.read("net", &cached.attachment), Some(cached.clone()));
        cached.result = Some(json!({"cniVersion":"1.0.0"}));
        cache.write(&cached).unwrap();
        assert_eq!(cache.list(), [cached.clone()]);
        let text = r#"{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"lo","networkName":"cni-loopback",
            "netns":"/run/netns/c","result":{"cniVersion":"0.3.1","dns":{}}}"#;
        fs::write(directory.join("results/cni-loopback-c-lo"), text).unwrap();
        fs::write(directory.join("results/cni-broken-c-lo"), "{").unwrap();
        assert_eq!(cache.list().len(), 2);
        assert_eq!(cache.list()[0].config, b"{}");
        cache.remove("net", &cached.attachment);
        assert_eq!(cache.read("net", &cached.attachment), None);
        fs::remove_dir_all(&directory).unwrap();
    }
}
