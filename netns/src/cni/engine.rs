//! What libcni does with a network: plugins in order, results handed on, attachments remembered. On purpose otherwise:
//!
//! - an entry of the cache is there before ADD begins, so that what a crash left is known, and is written whole;
//! - DEL is told what ADD was told where its caller says nothing: without its ports, portmap would leave its rules;
//! - a list without any plugin is refused, and not an ADD without a result;
//! - a plugin's process has a time limit, and what it says on standard error is dropped unless it is the error;
//! - a binary that is still being written after six tries is an error, where libcni goes on with an empty answer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::cache::{Attachment, Cache, Cached};
use super::conflist::{NetworkList, Plugin};
use super::exec;
use super::fault::{Code, Fault};
use super::json::Fields;
use super::result::Outcome;
use super::version::Version;
use crate::Afterwards;
use crate::plugin::{self, Call, Command, Places, validate};

/// Wires containers. It holds no state but what is on disk, so there may be many.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Where plugins' binaries are, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// libcni's cacheDir. One of our own: whoever shares it shares garbage collection.
    pub cache_dir: PathBuf,
    /// Whether plugins that we have ourselves run in this process.
    pub native: bool,
    /// How long one plugin may take.
    pub timeout: Duration,
    /// Where native plugins keep their state.
    pub places: Places,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            native: true,
            timeout: Duration::from_secs(60),
            places: Places::default(),
        }
    }
}

/// An attachment that is still wanted, by container and interface.
pub type Valid = (String, String);

impl Engine {
    fn cache(&self) -> Cache {
        Cache::new(&self.cache_dir)
    }

    /// Refuses a network whose plugins are not all to be found: what none can undo is not begun.
    pub fn refuse_missing(&self, list: &NetworkList) -> Result<(), Fault> {
        for plugin in &list.plugins {
            let ipam = Fields(&plugin.config).object("ipam")?.map(|ipam| ipam.string("type")).transpose()?.flatten();
            for kind in [Some(plugin.kind.clone()), ipam].into_iter().flatten() {
                if self.native(&kind).is_none() {
                    exec::find(&kind, &self.bin_dirs)?;
                }
            }
        }
        Ok(())
    }

    /// Attaches a container to a network and answers the last plugin's result, in the network's version. What a failed
    /// ADD leaves is taken away by [`delete`](Self::delete), which the caller owes.
    pub fn add(&self, list: &NetworkList, attachment: &Attachment) -> Result<Value, Fault> {
        validate::valid_container_id(&attachment.container_id)?;
        validate::valid_network_name(&list.name)?;
        validate::valid_interface_name(&attachment.if_name)?;
        let mut cached = Cached {
            network: list.name.clone(),
            config: list.bytes.clone(),
            attachment: attachment.clone(),
            result: None,
        };
        let before = self.cache().read(&list.name, attachment);
        // An ADD that began and did not end, as whoever did it died: what it made is taken away first. What cannot be
        // is of the same attachment, so that its DEL has it again.
        if before.as_ref().is_some_and(|before| before.result.is_none()) {
            let _ = self.delete(list, attachment);
        }
        // What is attached stays known as it is if this ADD is refused.
        if before.is_none_or(|before| before.result.is_none()) {
            self.cache().write(&cached)?;
        }
        let mut result = None;
        let afterwards = Afterwards::default();
        for plugin in &list.plugins {
            let config = self.config(list, plugin, result.as_ref(), Some(attachment));
            let printed = self.run(Command::Add, list, plugin, config, Some(attachment), &afterwards)?;
            result = Some(printed.ok_or_else(|| Fault::new(Code::DECODE, "no result"))?);
        }
        cached.result.clone_from(&result);
        self.cache().write(&cached)?;
        Ok(result.unwrap_or_default())
    }

    /// Attaches a container to several networks, in order; where one fails, all of them are detached again.
    pub fn attach(&self, networks: &[(NetworkList, Attachment)]) -> Result<Vec<Value>, Fault> {
        let mut results = Vec::with_capacity(networks.len());
        for (at, (list, attachment)) in networks.iter().enumerate() {
            match self.add(list, attachment) {
                Ok(result) => results.push(result),
                Err(fault) => {
                    let undone = self.detach(&networks[..=at]);
                    let details = undone.err().map(|undo| format!("and undoing it: {undo}"));
                    return Err(match details {
                        Some(details) => fault.with_details(details),
                        None => fault,
                    });
                }
            }
        }
        Ok(results)
    }

    /// Detaches a container from its networks, the last first. All are tried; the first error is answered.
    pub fn detach(&self, networks: &[(NetworkList, Attachment)]) -> Result<(), Fault> {
        let faults = networks.iter().rev().filter_map(|(list, attachment)| self.delete(list, attachment).err());
        faults.reduce(|first, _| first).map_or(Ok(()), Err)
    }

    /// Detaches a container, the last plugin first. What the caller does not say about the attachment (its arguments,
    /// port mappings and the like) is as it was at ADD. An error leaves the rest for a later try: a plugin that comes
    /// first in the list may only free what those behind it use no more.
    pub fn delete(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), Fault> {
        // Known until nothing is left, whatever kills us.
        drop(self.take_down(list, attachment)?);
        self.cache().remove(&list.name, attachment);
        Ok(())
    }

    /// The same, but that some of what was made may still be there, useless and off the network, until what this answers
    /// is dropped: the kernel needs time for it that nobody has to wait for. What a process that is killed meanwhile
    /// leaves, goes with the pod's namespace or with the next DEL.
    pub fn release(&self, list: &NetworkList, attachment: &Attachment) -> Result<Afterwards, Fault> {
        let afterwards = self.take_down(list, attachment)?;
        self.cache().remove(&list.name, attachment);
        Ok(afterwards)
    }

    fn take_down(&self, list: &NetworkList, attachment: &Attachment) -> Result<Afterwards, Fault> {
        let cached = self.cache().read(&list.name, attachment);
        let mut attachment = attachment.clone();
        if let Some(cached) = &cached {
            if attachment.args.is_empty() {
                attachment.args.clone_from(&cached.attachment.args);
            }
            if attachment.capability_args.is_empty() {
                attachment.capability_args.clone_from(&cached.attachment.capability_args);
            }
        }
        let previous = match Version::parse(&list.version)? >= Version::CHECK {
            true => cached.and_then(|cached| converted(&cached.result?, &list.version).ok()),
            false => None,
        };
        let afterwards = Afterwards::default();
        for plugin in list.plugins.iter().rev() {
            let config = self.config(list, plugin, previous.as_ref(), Some(&attachment));
            self.run(Command::Delete, list, plugin, config, Some(&attachment), &afterwards)?;
        }
        Ok(afterwards)
    }

    /// Whether an attachment is still as ADD made it.
    pub fn check(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), Fault> {
        if Version::parse(&list.version)? < Version::CHECK {
            let message = format!("configuration version {:?} does not support the CHECK command", list.version);
            return Err(Fault::new(Code::INCOMPATIBLE_VERSION, message));
        }
        if list.disable_check {
            return Ok(());
        }
        let cached = self.cache().read(&list.name, attachment).and_then(|cached| cached.result);
        let previous = cached.map(|result| converted(&result, &list.version)).transpose()?;
        for plugin in &list.plugins {
            let config = self.config(list, plugin, previous.as_ref(), Some(attachment));
            self.run(Command::Check, list, plugin, config, Some(attachment), &Afterwards::default())?;
        }
        Ok(())
    }

    /// Detaches what the cache knows of this network and `valid` does not name, then lets the plugins look for
    /// themselves. **Whatever is not in `valid` is taken down**, so it has to name everybody who uses the network's
    /// name with these directories. All is tried; the errors come together.
    pub fn gc(&self, list: &NetworkList, valid: &[Valid]) -> Result<(), Fault> {
        if list.disable_gc {
            return Ok(());
        }
        let mut faults = Vec::new();
        for cached in self.cache().list().into_iter().filter(|cached| cached.network == list.name) {
            let of = (&cached.attachment.container_id, &cached.attachment.if_name);
            if !valid.iter().any(|(id, if_name)| (id, if_name) == of) {
                let outdated = |fault| format!("failed to delete stale attachment {} {}: {fault}", of.0, of.1);
                faults.extend(self.delete(list, &cached.attachment).err().map(outdated));
            }
        }
        if Version::parse(&list.version)? >= Version::GC {
            let named = |(id, if_name): &Valid| json!({ "containerID": id, "ifname": if_name });
            let valid: Value = valid.iter().map(named).collect();
            for plugin in &list.plugins {
                let mut config = self.config(list, plugin, None, None);
                config.insert("cni.dev/valid-attachments".to_owned(), valid.clone());
                config.insert("cni.dev/attachments".to_owned(), valid.clone());
                let done = self.run(Command::Gc, list, plugin, config, None, &Afterwards::default());
                faults.extend(done.err().map(|fault| fault.to_string()));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Fault::new(Code::INTERNAL, faults.join("\n"))) }
    }

    /// Whether the network's plugins could ADD.
    pub fn status(&self, list: &NetworkList) -> Result<(), Fault> {
        if Version::parse(&list.version)? < Version::GC {
            return Ok(());
        }
        for plugin in &list.plugins {
            let config = self.config(list, plugin, None, None);
            self.run(Command::Status, list, plugin, config, None, &Afterwards::default())?;
        }
        Ok(())
    }

    /// The versions that a plugin says it speaks.
    pub fn version(&self, kind: &str) -> Result<Vec<String>, Fault> {
        if let Some(native) = self.native(kind) {
            return Ok(native.versions().map(str::to_owned).collect());
        }
        let path = exec::find(kind, &self.bin_dirs)?;
        let dummy = || OsString::from("dummy");
        let environment = [
            ("CNI_COMMAND", OsString::from("VERSION")),
            ("CNI_NETNS", dummy()),
            ("CNI_IFNAME", dummy()),
            ("CNI_PATH", dummy()),
        ];
        let deadline = Instant::now() + self.timeout;
        let printed = match exec::run(&path, &environment, br#"{"cniVersion":"1.1.0"}"#, deadline) {
            // What plugins say that are older than the command.
            Err(fault) if fault.message == "unknown CNI_COMMAND: VERSION" => return Ok(vec!["0.1.0".to_owned()]),
            printed => printed?,
        };
        let bad = || Fault::new(Code::DECODE, format!("{kind} says no supportedVersions"));
        let value: Value = serde_json::from_slice(&printed).map_err(|_| bad())?;
        let versions = Fields(value.as_object().ok_or_else(bad)?).strings("supportedVersions")?;
        if versions.is_empty() { Err(bad()) } else { Ok(versions) }
    }

    /// Whether an ADD of this attachment has begun, and no DEL has ended since.
    pub fn knows(&self, list: &NetworkList, attachment: &Attachment) -> bool {
        self.cache().knows(&list.name, attachment)
    }

    /// What ADD answered for this attachment.
    pub fn outcome(&self, list: &NetworkList, attachment: &Attachment) -> Option<Outcome> {
        let cached = self.cache().read(&list.name, attachment)?;
        Outcome::parse(&cached.result?, &list.version).ok()
    }

    /// Every attachment that the cache knows, of all networks.
    pub fn attachments(&self) -> Vec<Cached> {
        self.cache().list()
    }

    fn native(&self, kind: &str) -> Option<&'static plugin::Native> {
        self.native.then(|| plugin::native(kind)).flatten()
    }

    /// The plugin's own object and what the runtime adds to it.
    fn config(
        &self,
        list: &NetworkList,
        plugin: &Plugin,
        previous: Option<&Value>,
        attachment: Option<&Attachment>,
    ) -> Map<String, Value> {
        let mut config = plugin.config.clone();
        config.insert("name".to_owned(), list.name.as_str().into());
        config.insert("cniVersion".to_owned(), list.version.as_str().into());
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        let capabilities = Fields(&plugin.config).object("capabilities").ok().flatten();
        let mut runtime = Map::new();
        for (capability, value) in attachment.iter().flat_map(|attachment| &attachment.capability_args) {
            if capabilities.is_some_and(|capabilities| capabilities.0.get(capability) == Some(&Value::Bool(true))) {
                runtime.insert(capability.clone(), value.clone());
            }
        }
        if !runtime.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        config
    }

    /// Runs one plugin; what ADD answers is in the version that it says.
    fn run(
        &self,
        command: Command,
        list: &NetworkList,
        plugin: &Plugin,
        config: Map<String, Value>,
        attachment: Option<&Attachment>,
        afterwards: &Afterwards,
    ) -> Result<Option<Value>, Fault> {
        let nobody = Attachment::default();
        let attachment = attachment.unwrap_or(&nobody);
        let call = Call {
            command,
            container_id: &attachment.container_id,
            netns: &attachment.netns,
            if_name: &attachment.if_name,
            args: &attachment.args,
            config: &config,
            bin_dirs: &self.bin_dirs,
            native: self.native,
            places: &self.places,
            deadline: Instant::now() + self.timeout,
            afterwards,
        };
        let outcome = call.run(&plugin.kind).map_err(|fault| fault.of(&plugin.kind, command.word()))?;
        outcome.map(|(outcome, version)| outcome.to_json(version.as_deref().unwrap_or(&list.version))).transpose()
    }
}

/// A cached result in the version that the network has now.
fn converted(result: &Value, version: &str) -> Result<Value, Fault> {
    Outcome::parse(result, version)?.to_json(version)
}

/// The networks of a directory and the interfaces that they are given: eth0, eth1, … by file name.
pub fn networks(
    directory: &Path,
    most: usize,
    attachment: &Attachment,
) -> Result<Vec<(NetworkList, Attachment)>, Fault> {
    let lists = NetworkList::load_first(directory, most)?;
    let numbered = |(at, list)| (list, Attachment { if_name: format!("eth{at}"), ..attachment.clone() });
    Ok(lists.into_iter().enumerate().map(numbered).collect())
}
