//! Which namespaces are new, which are joined, and whether the rest of the spec agrees with that.

use std::collections::BTreeMap;
use std::ffi::CString;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxNetDevice, Spec};

use super::draft::{Draft, c_string, text};
use super::{Error, IdMaps};
use crate::host::Host;
use crate::step::{Namespace, NetDevice, Source, Step};

/// The namespaces that a container does not share with the host: new (`None`), or joined by path.
#[derive(Debug)]
pub(super) struct Namespaces(BTreeMap<Namespace, Option<CString>>);

impl Namespaces {
    /// Reads `linux.namespaces`.
    pub fn parse(linux: &Linux) -> Result<Self, Error> {
        let mut found = BTreeMap::new();
        for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
            let field = format!("linux.namespaces[{index}]");
            let kind = kind(namespace.typ());
            let path = match namespace.path().as_deref().map(text) {
                None | Some("") => None,
                Some(path) if path.starts_with('/') => Some(c_string(&field, path)?),
                Some(path) => return Err(Error::invalid(field + ".path", path, "must be an absolute path")),
            };
            if found.insert(kind, path).is_some() {
                return Err(Error::invalid(field, namespace.typ().to_string(), "duplicated namespace"));
            }
        }
        Ok(Self(found))
    }

    /// Not the host's.
    pub fn own(&self, kind: Namespace) -> bool {
        self.0.contains_key(&kind)
    }

    pub fn is_new(&self, kind: Namespace) -> bool {
        matches!(self.0.get(&kind), Some(None))
    }

    pub fn joined(&self, kind: Namespace) -> Option<&CString> {
        self.0.get(&kind)?.as_ref()
    }

    /// `CLONE_NEW*` of all that are not the host's: what an exec has to join.
    pub fn flags(&self) -> u64 {
        self.0.keys().fold(0, |flags, kind| flags | kind.flag())
    }

    fn new_flags(&self) -> u64 {
        self.0.iter().filter(|(_, path)| path.is_none()).fold(0, |flags, (kind, _)| flags | kind.flag())
    }

    /// What clone3 makes. A cgroup namespace is rooted where its maker is, so it has to wait for the cgroup; with a
    /// user namespace everything has to wait for that, to be owned by it; and a new time namespace is entered by one more
    /// clone, for which the first process of a pid namespace is not free.
    pub fn clone_flags(&self) -> u64 {
        if self.own(Namespace::User) || self.is_new(Namespace::Time) {
            0
        } else {
            self.new_flags() & !Namespace::Cgroup.flag()
        }
    }

    /// Joins and makes all of them but the pid namespace's second half.
    pub fn enter(&self, draft: &mut Draft) {
        let user = self.own(Namespace::User);
        let joins: Vec<_> = self
            .0
            .iter()
            .filter(|(kind, _)| !matches!(kind, Namespace::User | Namespace::Mount))
            .filter_map(|(kind, path)| path.clone().map(|path| (*kind, path)))
            .map(|(kind, path)| (kind, draft.source(Source::Namespace { path, kind })))
            .collect();
        for (kind, source) in &joins {
            draft.step(Step::Join { source: *source, kind: *kind, before_user: user });
        }
        if user {
            self.enter_user(draft);
            for (kind, source) in &joins {
                draft.step(Step::Join { source: *source, kind: *kind, before_user: false });
            }
        }
        if let Some(path) = self.joined(Namespace::Mount) {
            let source = draft.source(Source::Namespace { path: path.clone(), kind: Namespace::Mount });
            draft.step(Step::Join { source, kind: Namespace::Mount, before_user: false });
        }
        let unshared = self.new_flags() & !self.clone_flags() & !Namespace::User.flag();
        if unshared != 0 {
            draft.step(Step::Unshare(unshared));
        }
    }

    fn enter_user(&self, draft: &mut Draft) {
        match self.joined(Namespace::User) {
            None => draft.step(Step::UnshareUser),
            Some(path) => {
                let source = draft.source(Source::Namespace { path: path.clone(), kind: Namespace::User });
                draft.step(Step::Join { source, kind: Namespace::User, before_user: false });
                draft.step(Step::BecomeRoot);
            }
        }
    }

    /// Without a mount namespace of its own, what a container has mounted is the host's.
    fn validate_host_mounts(&self, linux: &Linux) -> Result<(), Error> {
        let some = |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(|paths| !paths.is_empty());
        let restrict = "unable to restrict sys entries without a private MNT namespace";
        if some(linux.masked_paths()) {
            return Err(Error::conflict("linux.maskedPaths", restrict));
        }
        if some(linux.readonly_paths()) {
            return Err(Error::conflict("linux.readonlyPaths", restrict));
        }
        if self.own(Namespace::User) {
            let reason = "a user namespace without a mount namespace of its own has nothing to mount on";
            return Err(Error::conflict("linux.namespaces", reason));
        }
        Ok(())
    }

    /// When a pid namespace is entered by one more clone; one that clone3 made itself needs none. A new time namespace is
    /// entered at the same moment.
    pub fn enters_pid(&self, host: &Host) -> Option<EntersPid> {
        let (user, joined) = (self.own(Namespace::User), self.joined(Namespace::Pid).is_some());
        if joined && !user && host.proc_of_namespace {
            return Some(EntersPid::AfterPivot);
        }
        let unshared = self.is_new(Namespace::Pid) && user || self.is_new(Namespace::Time);
        (joined || unshared).then_some(EntersPid::BeforeMounts)
    }

    /// Refuses what cannot be meant, in the words of runc's validator.
    pub fn validate(&self, spec: &Spec, linux: &Linux) -> Result<(), Error> {
        if !self.own(Namespace::Mount) {
            self.validate_host_mounts(linux)?;
        }
        if !self.own(Namespace::Uts) {
            if spec.hostname().as_ref().is_some_and(|name| !name.is_empty()) {
                return Err(Error::conflict("hostname", "unable to set hostname without a private UTS namespace"));
            }
            if spec.domainname().as_ref().is_some_and(|name| !name.is_empty()) {
                return Err(Error::conflict("domainname", "unable to set domainname without a private UTS namespace"));
            }
        }
        if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()) && !self.is_new(Namespace::Time) {
            let reason = match self.joined(Namespace::Time) {
                Some(_) => "time namespace enabled, but both namespace path and time offsets specified",
                None => "time namespace offsets specified, but time namespace isn't enabled in the config",
            };
            return Err(Error::conflict("linux.timeOffsets", reason));
        }
        let mapped = |maps: &Option<Vec<LinuxIdMapping>>| maps.as_ref().is_some_and(|maps| !maps.is_empty());
        let (uid, gid) = (mapped(linux.uid_mappings()), mapped(linux.gid_mappings()));
        if (uid || gid) && !self.own(Namespace::User) {
            let field = if uid { "linux.uidMappings" } else { "linux.gidMappings" };
            return Err(Error::conflict(
                field,
                "user namespace mappings specified, but user namespace isn't enabled in the config",
            ));
        }
        if self.is_new(Namespace::User) && !(uid && gid) {
            let field = if uid { "linux.gidMappings" } else { "linux.uidMappings" };
            return Err(Error::conflict(field, "a new user namespace needs both uid and gid mappings"));
        }
        Ok(())
    }
}

/// When the second half of entering a pid namespace, the clone, is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntersPid {
    /// procfs shows the pid namespace of who mounts it, and may be mounted by who rules that namespace.
    BeforeMounts,
    /// Others who live there could reach the host's root through `/proc/<pid>/root`: procfs is mounted by naming the
    /// namespace (`pidns=`), and it is entered when that root is gone. Behind a user namespace nobody there may look.
    AfterPivot,
}

fn kind(typ: LinuxNamespaceType) -> Namespace {
    match typ {
        LinuxNamespaceType::Mount => Namespace::Mount,
        LinuxNamespaceType::Uts => Namespace::Uts,
        LinuxNamespaceType::Ipc => Namespace::Ipc,
        LinuxNamespaceType::Network => Namespace::Network,
        LinuxNamespaceType::Pid => Namespace::Pid,
        LinuxNamespaceType::Cgroup => Namespace::Cgroup,
        LinuxNamespaceType::User => Namespace::User,
        LinuxNamespaceType::Time => Namespace::Time,
    }
}

/// `linux.netDevices`, sorted: a map has no order, and a plan has to.
pub(super) fn net_devices(linux: &Linux, namespaces: &Namespaces, host_network: bool) -> Result<Vec<NetDevice>, Error> {
    let devices: BTreeMap<_, _> = linux.net_devices().iter().flatten().collect();
    if !devices.is_empty() && (!namespaces.own(Namespace::Network) || host_network) {
        return Err(Error::conflict(
            "linux.netDevices",
            "unable to move network devices without a private NET namespace",
        ));
    }
    let device = |(name, device): (&String, &LinuxNetDevice)| {
        let inside = device.name().as_ref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        for name in [name, inside] {
            let odd = |c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace();
            if name.is_empty()
                || name.len() >= libc::IFNAMSIZ
                || matches!(name.as_str(), "." | "..")
                || name.contains(odd)
            {
                return Err(Error::invalid("linux.netDevices", name, "is not the name of a network device"));
            }
        }
        Ok(NetDevice { name: name.clone(), inside: inside.clone() })
    };
    devices.into_iter().map(device).collect()
}

/// The text of `timens_offsets`; `None` where there is none to write.
pub(super) fn time_offsets(linux: &Linux) -> Result<Option<CString>, Error> {
    const SECOND: u32 = 1_000_000_000;
    let offsets: BTreeMap<_, _> = linux.time_offsets().iter().flatten().collect();
    let mut lines = String::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::invalid("linux.timeOffsets", clock, "must be monotonic or boottime"));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= SECOND {
            let field = format!("linux.timeOffsets.{clock}.nanosecs");
            return Err(Error::invalid(field, nanoseconds.to_string(), "must be less than a second"));
        }
        lines.push_str(&format!("{clock} {} {nanoseconds}\n", offset.secs().unwrap_or(0)));
    }
    if lines.is_empty() { Ok(None) } else { c_string("linux.timeOffsets", &lines).map(Some) }
}

/// The texts of `uid_map` and `gid_map` for a new user namespace.
pub(super) fn id_maps(linux: &Linux) -> Result<IdMaps, Error> {
    Ok(IdMaps {
        uid: id_map("linux.uidMappings", linux.uid_mappings())?,
        gid: id_map("linux.gidMappings", linux.gid_mappings())?,
    })
}

/// The text of one of them.
pub(super) fn id_map(field: &str, maps: &Option<Vec<LinuxIdMapping>>) -> Result<CString, Error> {
    let mut lines = String::new();
    for map in maps.iter().flatten() {
        if map.size() == 0 {
            return Err(Error::invalid(field, format!("{map:?}"), "size must not be 0"));
        }
        lines.push_str(&format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()));
    }
    c_string(field, &lines)
}

/// Whether an id of the container stands for anybody; everybody does where there are no maps.
pub(super) fn is_mapped(maps: &Option<Vec<LinuxIdMapping>>, id: u32) -> bool {
    let mut maps = maps.iter().flatten().peekable();
    maps.peek().is_none() || maps.any(|map| id.checked_sub(map.container_id()).is_some_and(|n| n < map.size()))
}
