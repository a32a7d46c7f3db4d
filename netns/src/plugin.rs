//! The plugins that we have ourselves, and the one call that they, and those that we have not, answer.

mod bandwidth;
mod bridge;
mod dummy;
mod firewall;
mod host_device;
mod host_local;
mod ipvlan;
mod loopback;
mod macvlan;
mod masquerade;
mod portmap;
mod ptp;
mod sbr;
mod stale;
mod static_;
mod tuning;
mod upon;
pub(crate) mod validate;
mod vlan;
mod vrf;
mod wire;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value};

use crate::Afterwards;
use crate::cni::exec;
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::cni::result::Outcome;
use crate::cni::version::{SUPPORTED, Version};
pub(crate) use portmap::Mapping;
pub(crate) use validate::{valid_container_id, valid_interface_name};

/// CNI_COMMAND.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Delete,
    /// Look whether all is as ADD made it.
    Check,
    /// Take away what is of nobody that is known.
    Gc,
    /// Say whether ADD could work.
    Status,
}

impl Command {
    /// The one of that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Add, Self::Delete, Self::Check, Self::Gc, Self::Status].into_iter().find(|one| one.name() == name)
    }

    /// As plugins read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Delete => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    /// As libcni's errors call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Delete => "delete",
            Self::Check => "check",
            Self::Gc => "gc",
            Self::Status => "status",
        }
    }

    /// The first version that has it.
    fn since(self) -> Version {
        match self {
            Self::Add | Self::Delete => Version::FIRST,
            Self::Check => Version::CHECK,
            Self::Gc | Self::Status => Version::GC,
        }
    }
}

/// Where plugins keep state on the host: the same places as the Go plugins, so that either finds the other's.
#[derive(Debug, Clone)]
pub struct Places {
    /// Leases of host-local whose configuration names no `dataDir`.
    pub networks: PathBuf,
    /// What tuning changed.
    pub tuning: PathBuf,
    /// Which sysctls tuning may change; a file of regular expressions.
    pub tuning_allowlist: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            networks: "/var/lib/cni/networks".into(),
            tuning: "/run/cni/tuning".into(),
            tuning_allowlist: "/etc/cni/tuning/allowlist.conf".into(),
        }
    }
}

/// One call of one plugin: CNI specification 1.1.0, section 2.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// CNI_COMMAND
    pub command: Command,
    /// CNI_CONTAINERID
    pub container_id: &'a str,
    /// CNI_NETNS
    pub netns: &'a str,
    /// CNI_IFNAME
    pub if_name: &'a str,
    /// CNI_ARGS, in order.
    pub args: &'a [(String, String)],
    /// What a plugin reads from its standard input.
    pub config: &'a Map<String, Value>,
    /// CNI_PATH
    pub bin_dirs: &'a [PathBuf],
    /// Whether our own plugins are used, where there is one.
    pub native: bool,
    /// Where state is kept.
    pub places: &'a Places,
    /// When a plugin's process is killed.
    pub deadline: Instant,
    /// What is put off until the answer is given.
    pub afterwards: &'a Afterwards,
}

/// A plugin in this process.
#[derive(Debug)]
pub struct Native {
    kind: &'static str,
    oldest: &'static str,
    add: fn(&Call<'_>) -> Result<Outcome, Fault>,
    delete: fn(&Call<'_>) -> Result<(), Fault>,
    check: fn(&Call<'_>) -> Result<(), Fault>,
    gc: fn(&Call<'_>) -> Result<(), Fault>,
    /// Whether a configuration asks for what only the binary of that name can do.
    beyond: fn(&Call<'_>) -> bool,
    /// Whether STATUS and GC are the address management plugin's too.
    ipam_status: bool,
}

const NATIVE: &[Native] = &[
    bandwidth::PLUGIN,
    bridge::PLUGIN,
    dummy::PLUGIN,
    firewall::PLUGIN,
    host_device::PLUGIN,
    host_local::PLUGIN,
    ipvlan::PLUGIN,
    loopback::PLUGIN,
    macvlan::PLUGIN,
    portmap::PLUGIN,
    ptp::PLUGIN,
    sbr::PLUGIN,
    static_::PLUGIN,
    tuning::PLUGIN,
    vlan::PLUGIN,
    vrf::PLUGIN,
];

/// Our own plugin of that type.
pub fn native(kind: &str) -> Option<&'static Native> {
    NATIVE.iter().find(|native| native.kind == kind)
}

/// The types of our own plugins.
pub fn natives() -> impl Iterator<Item = &'static str> {
    NATIVE.iter().map(|native| native.kind)
}

impl Native {
    /// One that does all that the Go plugin can, and has nothing to collect.
    const fn new(
        kind: &'static str,
        add: fn(&Call<'_>) -> Result<Outcome, Fault>,
        delete: fn(&Call<'_>) -> Result<(), Fault>,
        check: fn(&Call<'_>) -> Result<(), Fault>,
    ) -> Self {
        Self { kind, oldest: "0.1.0", add, delete, check, gc: |_| Ok(()), beyond: |_| false, ipam_status: false }
    }

    /// The name of the Go plugin's binary.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The versions that it speaks, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = &'static str> {
        SUPPORTED.into_iter().skip_while(|version| *version != self.oldest)
    }

    /// The binary that has to do it: what ours cannot is another's, from ADD to DEL. None: ours does it, or has the words
    /// where there is no other.
    pub(crate) fn other(&self, call: &Call<'_>) -> Option<PathBuf> {
        (self.beyond)(call).then(|| exec::find_other(self.kind, call.bin_dirs)).flatten()
    }

    /// Does what the call asks, in this process.
    pub(crate) fn run(&self, call: &Call<'_>) -> Result<Option<Outcome>, Fault> {
        call.validate(self)?;
        match call.command {
            Command::Add => (self.add)(call).map(Some),
            Command::Delete => (self.delete)(call).map(|()| None),
            Command::Check => (self.check)(call).map(|()| None),
            Command::Gc => {
                (self.gc)(call)?;
                self.ask_ipam(call)
            }
            Command::Status => self.ask_ipam(call),
        }
    }

    fn ask_ipam(&self, call: &Call<'_>) -> Result<Option<Outcome>, Fault> {
        if self.ipam_status { call.ipam().map(|_| None) } else { Ok(None) }
    }
}

impl<'a> Call<'a> {
    /// The configuration's fields.
    pub fn fields(&self) -> Fields<'a> {
        Fields(self.config)
    }

    /// The configuration's version, as it was written.
    pub fn version(&self) -> Result<String, Fault> {
        Ok(self.fields().string("cniVersion")?.unwrap_or_default())
    }

    /// The network's name.
    pub fn network(&self) -> Result<String, Fault> {
        let missing = || Fault::new(Code::CONFIG, "missing network name");
        self.fields().string("name")?.ok_or_else(missing)
    }

    /// What the plugins before this one made.
    pub fn previous(&self) -> Result<Option<Outcome>, Fault> {
        let version = self.version()?;
        self.fields().get("prevResult").map(|value| Outcome::parse(value, &version)).transpose()
    }

    /// Runs the plugin of that type, ours or a binary. An ADD answers a result, and the version that it said it has.
    pub fn run(&self, kind: &str) -> Result<Option<(Outcome, Option<String>)>, Fault> {
        let path = match self.native.then(|| native(kind)).flatten() {
            None => exec::find(kind, self.bin_dirs)?,
            Some(native) => match native.other(self) {
                None => return Ok(native.run(self)?.map(|outcome| (outcome, None))),
                Some(other) => other,
            },
        };
        let args: Vec<_> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let directories = std::env::join_paths(self.bin_dirs).unwrap_or_default();
        let environment: [(&str, OsString); 6] = [
            ("CNI_COMMAND", self.command.name().into()),
            ("CNI_CONTAINERID", self.container_id.into()),
            ("CNI_NETNS", self.netns.into()),
            ("CNI_ARGS", args.join(";").into()),
            ("CNI_IFNAME", self.if_name.into()),
            ("CNI_PATH", directories),
        ];
        let input = Value::Object(self.config.clone()).to_string();
        let printed = exec::run(&path, &environment, input.as_bytes(), self.deadline)?;
        if self.command != Command::Add {
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(&printed).map_err(|error| {
            let printed: String = String::from_utf8_lossy(&printed).chars().take(1000).collect();
            Fault::new(Code::DECODE, format!("failed to unmarshal raw result {printed:?}: {error}"))
        })?;
        let outcome = Outcome::parse(&value, &self.version()?)?;
        let version = value.as_object().map(Fields).and_then(|fields| fields.string("cniVersion").ok().flatten());
        Ok(Some((outcome, version)))
    }

    /// Asks the address management plugin that the configuration names, with the whole of the configuration. None:
    /// there is none.
    pub(crate) fn ipam(&self) -> Result<Option<Outcome>, Fault> {
        let kind = match self.fields().object("ipam")? {
            Some(ipam) => ipam.string("type")?,
            None => None,
        };
        let Some(kind) = kind else { return Ok(None) };
        let outcome = self.run(&kind).map_err(|fault| fault.of(&kind, self.command.word()))?;
        Ok(Some(outcome.map(|(outcome, _)| outcome).unwrap_or_default()))
    }

    /// GC: the container and interface of each attachment that is still wanted, where the runtime says which.
    pub(crate) fn valid_attachments(&self) -> Result<Option<Vec<(String, String)>>, Fault> {
        const FIELD: &str = "cni.dev/valid-attachments";
        if self.fields().get(FIELD).is_none() {
            return Ok(None);
        }
        let field = |attachment: Fields<'_>, name| attachment.string(name).map(Option::unwrap_or_default);
        let of = |attachment| Ok((field(attachment, "containerID")?, field(attachment, "ifname")?));
        self.fields().objects(FIELD)?.into_iter().map(of).collect::<Result<_, _>>().map(Some)
    }

    /// Whether a field is there and is not false.
    pub(crate) fn asks(&self, field: &str) -> bool {
        self.fields().get(field).is_some_and(|value| *value != Value::Bool(false))
    }

    /// The same call with another command.
    pub(crate) fn with(&self, command: Command) -> Self {
        Self { command, ..*self }
    }

    /// The value of one CNI_ARGS key; a key that `known` has not is an error, unless unknown ones are to be ignored.
    pub(crate) fn arg(&self, key: &str, known: &[&str]) -> Result<Option<&'a str>, Fault> {
        let ignores = |(name, value): &(String, String)| {
            name == "IgnoreUnknown" && matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
        };
        let ignore = self.args.iter().any(ignores);
        let unknown = self.args.iter().find(|(name, _)| name != "IgnoreUnknown" && !known.contains(&name.as_str()));
        if let Some((name, _)) = unknown.filter(|_| !ignore) {
            return Err(Fault::new(Code::ENVIRONMENT, format!("ARGS: unknown args [\"{name}\"]")));
        }
        Ok(self.args.iter().rfind(|(name, _)| name == key).map(|(_, value)| value.as_str()))
    }
}

/// CNI_ARGS as it comes in the environment: `K=V;K2=V2`.
pub fn parse_args(text: &str) -> Result<Vec<(String, String)>, Fault> {
    let invalid = |pair: &str| Fault::new(Code::ENVIRONMENT, format!("ARGS: invalid pair {pair:?}"));
    let pairs = text.split(';').filter(|_| !text.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
            _ => Err(invalid(pair)),
        })
        .collect()
}

/// Whether a path is an open network namespace; one that is empty or gone is not, and neither is a plain file, which is
/// what a crash leaves of a pin.
pub(crate) fn namespace(path: &str) -> Result<Option<crate::Namespace>, Fault> {
    if path.is_empty() {
        return Ok(None);
    }
    match crate::Namespace::open(Path::new(path)) {
        Ok(namespace) => Ok(Some(namespace)),
        Err(crate::Error::NotANamespace { .. }) => Ok(None),
        Err(crate::Error::Open { source: rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
