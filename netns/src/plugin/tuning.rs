//! tuning: sysctls and properties of the pod's interface. What it changes of the interface is noted in the Go plugin's
//! file, from which DEL puts it back.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Call, Native, wire};
use crate::change::{Change, Place, Set, Sysctl, attempt};
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::cni::result::Outcome;
use crate::netlink::{Link, Netlink};

pub(super) const PLUGIN: Native =
    Native { beyond: |call| call.places.tuning_allowlist.exists(), ..Native::new("tuning", add, delete, check) };

/// What is asked for; nothing where nothing is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Config {
    sysctls: Vec<Sysctl>,
    mac: Option<Vec<u8>>,
    mtu: Option<u32>,
    promiscuous: Option<bool>,
    all_multicast: Option<bool>,
    queue: Option<u32>,
}

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

impl Config {
    fn parse(call: &Call<'_>) -> Result<Self, Fault> {
        let fields = call.fields();
        let args = fields.object("args")?.map(|args| args.object("cni")).transpose()?.flatten();
        let runtime = fields.object("runtimeConfig")?;
        let argument = call.args.iter().rfind(|(key, value)| key == "MAC" && !value.is_empty());
        // The last that says something counts.
        let mut mac = fields.string("mac")?;
        mac = argument.map(|(_, value)| value.clone()).or(mac);
        mac = runtime.map(|runtime| runtime.string("mac")).transpose()?.flatten().or(mac);
        mac = args.map(|args| args.string("mac")).transpose()?.flatten().or(mac);
        let mut this = Self { mac: mac.map(|text| wire::mac(&text)).transpose()?, ..Self::default() };
        let mut sysctls = Map::new();
        for fields in [Some(fields), args].into_iter().flatten() {
            let flag = |name| fields.get(name).map(|_| fields.boolean(name)).transpose();
            this.promiscuous = flag("promisc")?.or(this.promiscuous);
            this.all_multicast = flag("allmulti")?.or(this.all_multicast);
            this.mtu = fields.number("mtu")?.or(this.mtu);
            this.queue = fields.number("txQLen")?.or(this.queue);
            sysctls.extend(fields.object("sysctl")?.map(|object| object.0.clone()).unwrap_or_default());
        }
        this.promiscuous = this.promiscuous.filter(|on| *on);
        this.mtu = this.mtu.filter(|mtu| *mtu != 0);
        for (key, value) in sysctls {
            let value = value.as_str().ok_or_else(|| config(format!("the value of sysctl {key} is no string")))?;
            this.sysctls.push(Sysctl::must(sysctl_path(&key, call.if_name)?, value));
        }
        Ok(this)
    }

    /// What of the link is to be noted before it changes. Pure.
    fn before(&self, link: &Link) -> Map<String, Value> {
        let mut before = Map::new();
        let mut note = |key: &str, asked: bool, value: Value| {
            if asked {
                before.insert(key.to_owned(), value);
            }
        };
        note("mac", self.mac.is_some(), link.mac_text().into());
        note("promisc", self.promiscuous.is_some(), link.promiscuous.into());
        note("mtu", self.mtu.is_some(), link.mtu.into());
        note("allmulti", self.all_multicast.is_some(), link.all_multicast.into());
        note("txQLen", self.queue.is_some(), link.queue.into());
        before
    }

    /// Pure.
    fn changes(&self, link: &str) -> Vec<Change> {
        let sets = [
            self.mac.clone().map(Set::Mac),
            self.promiscuous.map(Set::Promiscuous),
            self.mtu.map(Set::Mtu),
            self.all_multicast.map(Set::AllMulticast),
            self.queue.map(Set::Queue),
        ];
        sets.into_iter().flatten().map(|set| Change::Set(Place::Pod, link.to_owned(), set)).collect()
    }
}

/// The file of a sysctl, below /proc/sys; only the network's are a pod's own.
fn sysctl_path(key: &str, if_name: &str) -> Result<String, Fault> {
    let path = key.replace('.', "/").replacen("IFNAME", if_name, 1);
    let plain = path.split('/').all(|part| !part.is_empty() && part != "..");
    if plain && path.starts_with("net/") { Ok(path) } else { Err(config(format!("invalid net sysctl key: {key:?}"))) }
}

fn backup(call: &Call<'_>) -> Result<PathBuf, Fault> {
    let directory = call.fields().string("dataDir")?.map_or_else(|| call.places.tuning.clone(), PathBuf::from);
    Ok(directory.join(format!("{}_{}.json", call.container_id, call.if_name)))
}

/// An allowlist names what may be set by regular expressions, which this crate does not read.
fn allowed(call: &Call<'_>, config: &Config) -> Result<(), Fault> {
    if config.sysctls.is_empty() || !call.places.tuning_allowlist.exists() {
        return Ok(());
    }
    let message =
        format!("sysctls with {} are not supported by the native tuning", call.places.tuning_allowlist.display());
    Err(Fault::new(Code::UNSUPPORTED_FIELD, message))
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let config = Config::parse(call)?;
    allowed(call, &config)?;
    let missing = || Fault::new(Code::CONFIG, "Required prevResult missing");
    let mut outcome = call.previous()?.ok_or_else(missing)?;
    attempt(call, |work| {
        if !config.sysctls.is_empty() {
            work.apply([Change::Sysctls(Place::Pod, config.sysctls.clone())])?;
        }
        let changes = config.changes(call.if_name);
        if !changes.is_empty() {
            let link = work.link(Place::Pod, call.if_name)?;
            note(&backup(call)?, &config.before(&link))?;
            work.apply(changes)?;
        }
        Ok(())
    })?;
    if let Some(mac) = &config.mac {
        let text: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        for interface in outcome.interfaces.iter_mut().filter(|interface| interface.name == call.if_name) {
            interface.mac = text.join(":");
        }
    }
    Ok(outcome)
}

fn note(path: &PathBuf, before: &Map<String, Value>) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::io(format!("write {}", path.display()), &error);
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    io::Write::write_all(&mut opened.map_err(failed)?, json!(before).to_string().as_bytes()).map_err(failed)
}

/// Puts back what was noted, as far as the link is still there; a pod that is gone needs nothing.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    let path = backup(call)?;
    let Ok(bytes) = fs::read(&path) else { return Ok(()) };
    let before: Map<String, Value> = serde_json::from_slice(&bytes).unwrap_or_default();
    let fields = Fields(&before);
    let config = Config {
        sysctls: Vec::new(),
        mac: fields.string("mac").ok().flatten().and_then(|text| wire::mac(&text).ok()),
        mtu: fields.number("mtu").ok().flatten(),
        promiscuous: fields.get("promisc").and_then(Value::as_bool),
        all_multicast: fields.get("allmulti").and_then(Value::as_bool),
        queue: fields.number("txQLen").ok().flatten(),
    };
    if super::namespace(call.netns)?.is_some() {
        // The link goes next, mostly: what cannot be put back is no reason to keep it.
        let mut work = crate::change::Work::begin(call)?;
        for change in config.changes(call.if_name) {
            let _ = work.apply([change]);
        }
    }
    fs::remove_file(&path).map_err(|error| Fault::io(format!("remove {}", path.display()), &error))
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let config = Config::parse(call)?;
    let wrong = |what: &str| Fault::new(Code::INTERNAL, format!("{what} of {} is not as configured", call.if_name));
    let missing = || Fault::new(Code::NETNS, format!("failed to open netns {:?}", call.netns));
    let pod = super::namespace(call.netns)?.ok_or_else(missing)?;
    let differs = |sysctl: &&Sysctl| {
        let read = fs::read_to_string(format!("/proc/sys/{}", sysctl.path));
        !read.is_ok_and(|value| value.trim_end() == sysctl.value)
    };
    if let Some(path) = pod.enter(|| config.sysctls.iter().find(differs).map(|sysctl| sysctl.path.clone()))? {
        return Err(wrong(&path));
    }
    let link = Netlink::inside(&pod)?.link(call.if_name)?.ok_or_else(|| wrong("the link"))?;
    let same = [
        ("mac", config.mac.is_none_or(|mac| mac == link.mac)),
        ("mtu", config.mtu.is_none_or(|mtu| mtu == link.mtu)),
        ("promisc", config.promiscuous.is_none_or(|on| on == link.promiscuous)),
        ("allmulti", config.all_multicast.is_none_or(|on| on == link.all_multicast)),
        ("txQLen", config.queue.is_none_or(|queue| queue == link.queue)),
    ];
    same.iter().find(|(_, same)| !same).map_or(Ok(()), |(what, _)| Err(wrong(what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_networks_sysctls_are_a_pods() {
        assert_eq!(sysctl_path("net.ipv4.conf.IFNAME.arp_notify", "eth0").unwrap(), "net/ipv4/conf/eth0/arp_notify");
        for key in ["kernel.hostname", "net/../kernel/hostname", "net", "net//x", "/net/x", ""] {
            assert!(sysctl_path(key, "eth0").is_err(), "{key}");
        }
    }
}
