//! What a container's network is to be: decided from its spec, the options and its annotations. Pure.

use super::Error;
use super::annotations::Asked;
use crate::bootstrap::group_of;
use crate::options::{Mode, Network as Options};
use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use oci_spec::runtime::{Hook, LinuxNamespaceType, Spec};
use serde_json::Value;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: somebody else does it, or nobody.
    Nothing,
    /// Share the network of the container that is the pod.
    Join(String),
    /// Make one.
    Make(Asked),
}

/// The network namespace that a spec asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Hosts,
    Given,
    New,
}

fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Namespace {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    match namespaces.into_iter().flatten().find(|namespace| namespace.typ() == kind) {
        None => Namespace::Hosts,
        Some(one) if one.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) => Namespace::Given,
        Some(_) => Namespace::New,
    }
}

/// Hooks that run before the program may make a network themselves: nerdctl's do.
fn has_hooks(spec: &Spec) -> bool {
    let Some(hooks) = spec.hooks() else { return false };
    #[allow(deprecated, reason = "nerdctl's hooks were prestart ones")]
    let early: [&Option<Vec<Hook>>; 2] = [hooks.prestart(), hooks.create_runtime()];
    early.into_iter().flatten().any(|hooks| !hooks.is_empty())
}

impl Wish {
    /// For the container of that id.
    pub fn of(id: &str, spec: &Spec, options: &Options) -> Result<Wish, Error> {
        let nothing = Default::default();
        let annotations = spec.annotations().as_ref().unwrap_or(&nothing);
        let asked = Asked::parse(annotations)?;
        let mode = asked.mode.unwrap_or(if asked.anything { Mode::Cni } else { options.mode });
        if mode == Mode::None {
            return Ok(Wish::Nothing);
        }
        match namespace(spec, LinuxNamespaceType::Network) {
            // CRI has wired it, or whoever made it.
            Namespace::Given => return Ok(Wish::Nothing),
            Namespace::Hosts if asked.anything => return Err(Error::HostNetwork),
            Namespace::Hosts => return Ok(Wish::Nothing),
            Namespace::New => {}
        }
        if !asked.anything && has_hooks(spec) {
            return Ok(Wish::Nothing);
        }
        // The namespace would be the host's user's, and the container could mount no sysfs and change no route.
        if namespace(spec, LinuxNamespaceType::User) != Namespace::Hosts {
            return Err(Error::UserNamespace);
        }
        match group_of(annotations).filter(|group| *group != id) {
            Some(pod) if asked.is_about_the_pod() => Err(Error::NotThePod { pod: pod.to_owned() }),
            Some(pod) => Ok(Wish::Join(pod.to_owned())),
            None if mode == Mode::Pod => Err(Error::NoGroup),
            None => Ok(Wish::Make(asked)),
        }
    }
}

impl Asked {
    fn is_about_the_pod(&self) -> bool {
        let lists = [self.networks.len(), self.ports.len(), self.ips.len(), self.dns.len()];
        lists != [0; 4] || self.mac.is_some() || self.hostname.is_some()
    }
}

/// Whether some plugin of a network wants what is given for a capability.
fn takes(list: &NetworkList, capability: &str) -> bool {
    let of_plugin = |config: &serde_json::Map<String, Value>| {
        config.get("capabilities").is_some_and(|capabilities| capabilities.get(capability) == Some(&Value::Bool(true)))
    };
    list.plugins.iter().any(|plugin| of_plugin(&plugin.config))
}

/// The networks with what is asked of each: eth0, eth1, …; addresses of the first, ports of the first that maps any.
pub fn attachments(asked: &Asked, lists: Vec<NetworkList>) -> Result<Vec<(NetworkList, Attachment)>, Error> {
    let mapping = lists.iter().position(|list| takes(list, "portMappings"));
    if !asked.ports.is_empty() && mapping.is_none() {
        let names: Vec<_> = lists.iter().map(|list| list.name.as_str()).collect();
        return Err(Error::NoPortMappings { networks: names.join(", ") });
    }
    let attach = |(at, list): (usize, NetworkList)| {
        let args = vec![("IgnoreUnknown".to_owned(), "1".to_owned())];
        let mut attachment = Attachment { if_name: format!("eth{at}"), args, ..Attachment::default() };
        if mapping == Some(at) && !asked.ports.is_empty() {
            attachment.capability_args.insert("portMappings".to_owned(), asked.ports.clone().into());
        }
        if at == 0 {
            give(&list, &mut attachment, ("ips", asked.ips.clone().into()), ("IP", asked.ips.join(",")));
            let mac = asked.mac.clone().unwrap_or_default();
            give(&list, &mut attachment, ("mac", mac.clone().into()), ("MAC", mac));
        }
        (list, attachment)
    };
    Ok(lists.into_iter().enumerate().map(attach).collect())
}

/// By the capability where the network has it, else by CNI_ARGS: whoever is told twice may take it for two.
fn give(list: &NetworkList, attachment: &mut Attachment, capability: (&str, Value), argument: (&str, String)) {
    if argument.1.is_empty() {
        return;
    }
    if takes(list, capability.0) {
        attachment.capability_args.insert(capability.0.to_owned(), capability.1);
    } else {
        attachment.args.push((argument.0.to_owned(), argument.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(change: Value) -> Spec {
        let mut spec = json!({"ociVersion":"1.1.0","linux":{"namespaces":[{"type":"network"}]}});
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn cni() -> Options {
        Options { mode: Mode::Cni, ..Options::default() }
    }

    fn asks(key: &str, value: &str) -> Value {
        json!({"annotations": {key: value}})
    }

    #[test]
    fn nothing_is_done_unasked() {
        assert_eq!(Wish::of("a", &spec(json!({})), &Options::default()).unwrap(), Wish::Nothing);
        let off = spec(asks("io.berth.network.mode", "none"));
        assert_eq!(Wish::of("a", &off, &cni()).unwrap(), Wish::Nothing);
    }

    #[test]
    fn options_or_annotations_ask() {
        assert!(matches!(Wish::of("a", &spec(json!({})), &cni()).unwrap(), Wish::Make(_)));
        let named = spec(asks("io.berth.network", "n"));
        let Wish::Make(asked) = Wish::of("a", &named, &Options::default()).unwrap() else { panic!("not made") };
        assert_eq!(asked.networks, ["n"]);
    }

    #[test]
    fn who_wires_it_otherwise_is_left_alone() {
        let given = json!({"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}});
        let hooked = json!({"hooks":{"createRuntime":[{"path":"/bin/true"}]}});
        for change in [given, hooked, json!({"linux":{"namespaces":[{"type":"pid"}]}})] {
            assert_eq!(Wish::of("a", &spec(change.clone()), &cni()).unwrap(), Wish::Nothing, "{change}");
        }
        // A path is somebody's even where annotations ask, as CRI hands them down.
        let mut given = spec(json!({"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}}));
        given.set_annotations(Some([("io.berth.network".to_owned(), "n".to_owned())].into()));
        assert_eq!(Wish::of("a", &given, &cni()).unwrap(), Wish::Nothing);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let host = json!({"linux":{"namespaces":[]},"annotations":{"io.berth.network":"n"}});
        assert!(matches!(Wish::of("a", &spec(host), &cni()), Err(Error::HostNetwork)));
        let user = json!({"linux":{"namespaces":[{"type":"network"},{"type":"user"}]}});
        assert!(matches!(Wish::of("a", &spec(user), &cni()), Err(Error::UserNamespace)));
        let alone = spec(asks("io.berth.network.mode", "pod"));
        assert!(matches!(Wish::of("a", &alone, &cni()), Err(Error::NoGroup)));
    }

    #[test]
    fn a_container_of_a_group_shares_its_pods() {
        let member = spec(asks("io.containerd.runc.v2.group", "pod"));
        assert_eq!(Wish::of("a", &member, &cni()).unwrap(), Wish::Join("pod".to_owned()));
        assert!(matches!(Wish::of("pod", &member, &cni()).unwrap(), Wish::Make(_)));
        let own = json!({"annotations":{"io.containerd.runc.v2.group":"pod","io.berth.network.ports":"1:1"}});
        assert!(matches!(Wish::of("a", &spec(own), &cni()), Err(Error::NotThePod { .. })));
    }

    fn list(name: &str, capabilities: Value) -> NetworkList {
        let list =
            json!({"name": name, "cniVersion": "1.0.0", "plugins": [{"type": "t", "capabilities": capabilities}]});
        NetworkList::from_bytes(list.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn each_network_gets_what_it_takes() {
        let asked = Asked {
            ports: vec![json!({"hostPort": 1})],
            ips: vec!["10.0.0.7".to_owned()],
            mac: Some("02:00:00:00:00:01".to_owned()),
            ..Asked::default()
        };
        let lists = vec![list("a", json!({"mac": true})), list("b", json!({"portMappings": true}))];
        let networks = attachments(&asked, lists).unwrap();
        let (first, second) = (&networks[0].1, &networks[1].1);
        assert_eq!((first.if_name.as_str(), second.if_name.as_str()), ("eth0", "eth1"));
        assert_eq!(first.capability_args.get("mac"), Some(&json!("02:00:00:00:00:01")));
        assert_eq!(first.args[1], ("IP".to_owned(), "10.0.0.7".to_owned()));
        assert!(!first.capability_args.contains_key("portMappings") && second.args.len() == 1);
        assert_eq!(second.capability_args.get("portMappings"), Some(&json!([{"hostPort": 1}])));
        assert!(matches!(attachments(&asked, vec![list("a", json!({}))]), Err(Error::NoPortMappings { .. })));
    }
}
