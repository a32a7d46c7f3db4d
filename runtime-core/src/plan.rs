//! The OCI spec compiled into a list of steps: every path a C string, every BPF program built, every decision taken.
//!
//! Nothing here asks the system anything: what a plan depends on comes in by value, so that the same spec gives the
//! same plan everywhere and a test needs no root. The order of the steps is the order of [`InitPlan::compile`].

mod capabilities;
mod cgroupfs;
mod confine;
mod devices;
mod display;
mod draft;
mod error;
mod exec;
pub(crate) mod hooks;
mod identity;
mod idmap;
mod mounts;
mod namespaces;
mod options;
mod program;
pub mod rootfs;
mod scheduling;
pub mod seccomp;
mod tail;
mod unsupported;

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{Linux, Process, Spec};

pub(crate) use self::capabilities::unavailable;
use self::confine::Labels;
pub use self::display::Described;
use self::draft::{Draft, c_string, in_root};
pub use self::error::Error;
pub use self::exec::ExecInput;
use self::namespaces::{EntersPid, Namespaces};
use self::tail::Tail;
use crate::host::Host;
use crate::program::Program;
use crate::step::{
    BitSet, Entry, Namespace, NetDevice, Propagation, RootPlace, Seccomp, Slot, Source, SourceIndex, Step,
};

/// Everything that is decided about a process before it exists: a container's init, or an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitPlan {
    /// What the parent opens before the clone.
    pub sources: Vec<Source>,
    /// `CLONE_NEW*` flags of clone3 itself.
    pub clone_flags: u64,
    /// The CPUs of the thread that clones, which are the child's until it is in its cgroup; `None` for those it has.
    pub born_on: Option<BitSet>,
    /// What the parent writes for [`Step::UnshareUser`].
    pub maps: Option<IdMaps>,
    /// What the child does.
    pub steps: Vec<Step>,
    /// What it becomes.
    pub program: Program,
    /// How many descriptors of its own making the child keeps for later steps.
    pub slots: usize,
    /// What was ignored, and why.
    pub warnings: Vec<String>,
}

/// The contents of `uid_map` and `gid_map`. user_namespaces(7)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// `inside outside count` lines.
    pub uid: CString,
    /// `inside outside count` lines.
    pub gid: CString,
}

/// What the plan of a container's init is made of.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// config.json.
    pub spec: &'a Spec,
    /// The container's id, for its session keyring.
    pub id: &'a str,
    /// The bundle, absolute: relative paths of the spec start here.
    pub bundle: &'a Path,
    /// What the snapshotter gives; empty if `root.path` is the root file system already.
    pub rootfs: &'a [rootfs::Mount],
    /// Facts of the host.
    pub host: &'a Host,
    /// The user's home according to the container's passwd, for a spec without HOME; `None` leaves that to the caller.
    pub home: Option<&'a str>,
    /// Whether the process gets a pty. It is the request that says so, not the spec.
    pub terminal: bool,
    /// `MS_MOVE` and chroot instead of pivot_root.
    pub no_pivot_root: bool,
    /// Keep the session keyring of the shim.
    pub no_new_keyring: bool,
    /// The container's own directory in each v1 hierarchy, for a mount of type `cgroup` without a cgroup namespace.
    pub cgroup: &'a [CgroupDirectory],
    /// The network namespace joined by path is the one we are in: its sysctls are the host's.
    pub host_network: bool,
    /// `linux.seccomp`, compiled.
    pub seccomp: Option<Arc<Seccomp>>,
    /// Where it waits for another process to start it; absolute. `None` if its maker does.
    pub gate: Option<&'a Path>,
    /// How many descriptors from 3 on the program gets, beside stdio.
    pub preserve_fds: u32,
}

/// Where a container's cgroup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupDirectory {
    /// As in [`crate::host::Hierarchy::name`].
    pub hierarchy: String,
    /// An absolute path of the host.
    pub path: PathBuf,
}

impl InitPlan {
    /// The plan of a container's init. The order of the steps and its reasons: ARCHITECTURE.md.
    pub fn compile(input: &Input<'_>) -> Result<Self, Error> {
        let spec = input.spec;
        let process = spec.process().as_ref().ok_or_else(|| Error::missing("process"))?;
        let linux = linux(spec)?;
        let namespaces = Namespaces::parse(linux)?;
        namespaces.validate(spec, linux)?;
        let labels = &labels(process, None, input.host)?;
        let seccomp = input.seccomp.as_ref();
        let tail = Tail { process, container: None, linux, host: input.host, labels, seccomp };
        let hooks = hooks::Checked::parse(input)?;

        let mut draft = Draft::default();
        unsupported::of_other_platforms(spec, &mut draft);
        enter(input, (process, linux), &namespaces, hooks.as_ref(), &mut draft)?;
        let readonly = root(input, linux, &namespaces, hooks.as_ref(), &mut draft)?;
        stdio(input, process, &mut draft)?;
        confine(input, linux, &namespaces, labels, readonly, &mut draft)?;
        tail.become_user(&mut draft)?;
        gate(input, &mut draft)?;
        tail.execute(hooks.as_ref(), &mut draft)?;
        let maps = if namespaces.is_new(Namespace::User) { Some(namespaces::id_maps(linux)?) } else { None };
        if namespaces.joined(Namespace::User).is_some() && linux.uid_mappings().is_some() {
            draft.warn("linux.uidMappings: ignored, the user namespace is joined by path and has its own");
        }
        let program = program::compile(process, input.home, input.preserve_fds)?;
        Ok(finish(draft, namespaces.clone_flags(), maps, program))
    }

    /// Where on the host the root will be mounted, and which source it is, for a container without a mount namespace.
    pub(crate) fn root_on_host(&self) -> Option<(&CStr, SourceIndex)> {
        let path = self.steps.iter().find_map(|step| match step {
            Step::EnterRootPath(path) => Some(path.as_c_str()),
            _ => None,
        });
        let source = self.steps.iter().find_map(|step| match step {
            Step::AttachRootfs { source, at: RootPlace::Host } => Some(*source),
            _ => None,
        });
        path.zip(source)
    }

    /// The network devices that the parent moves.
    pub(crate) fn net_devices(&self) -> &[NetDevice] {
        let devices = self.steps.iter().find_map(|step| match step {
            Step::NetDevices(devices) => Some(devices.as_slice()),
            _ => None,
        });
        devices.unwrap_or_default()
    }
}

impl InitPlan {
    /// The index of the [`Step::Gate`]; an exec has none.
    pub(crate) fn gate(&self) -> Option<usize> {
        self.steps.iter().position(|step| matches!(step, Step::Gate { .. }))
    }
}

fn linux(spec: &Spec) -> Result<&Linux, Error> {
    // `Linux::default()` is no empty one: it has namespaces and more of its own choice.
    spec.linux().as_ref().ok_or_else(|| Error::missing("linux"))
}

fn finish(draft: Draft, clone_flags: u64, maps: Option<IdMaps>, program: Program) -> InitPlan {
    let Draft { sources, steps, slots, warnings, born_on } = draft;
    InitPlan { sources, clone_flags, born_on, maps, steps, program, slots, warnings }
}

fn gate(input: &Input<'_>, draft: &mut Draft) -> Result<(), Error> {
    let listener = match input.gate {
        Some(path) => Some(draft.source(Source::Gate(draft::host_path("gate", draft::text(path), Path::new("/"))?))),
        None => None,
    };
    draft.step(Step::Gate { listener });
    Ok(())
}

/// Into the cgroup, the keyring and the namespaces.
fn enter(
    input: &Input<'_>,
    (process, linux): (&Process, &Linux),
    namespaces: &Namespaces,
    hooks: Option<&hooks::Checked<'_>>,
    draft: &mut Draft,
) -> Result<(), Error> {
    draft.step(Step::JoinCgroup);
    // Only now, or it would be confined to the CPUs of ours.
    draft.step(Step::EveryCpu);
    identity::oom_score_adj(process, draft)?;
    keyring(input.id, input.no_new_keyring, draft)?;
    if mounts::root_place(namespaces, hooks) != RootPlace::Slash {
        draft.step(Step::EnterRootPath(mounts::root_path(input)?));
    }
    if namespaces.own(Namespace::User) {
        identity::early_rlimits(process, draft);
    }
    let offsets = namespaces::time_offsets(linux)?;
    if offsets.is_some() {
        draft.step(Step::OpenTimeOffsets);
    }
    namespaces.enter(draft);
    draft.steps.extend(offsets.map(Step::TimeOffsets));
    if namespaces.enters_pid(input.host) == Some(EntersPid::BeforeMounts) {
        draft.step(Step::EnterPidNamespace);
    }
    if namespaces.is_new(Namespace::Network) {
        draft.step(Step::LoopbackUp);
    }
    let devices = namespaces::net_devices(linux, namespaces, input.host_network)?;
    if !devices.is_empty() {
        draft.step(Step::NetDevices(devices));
    }
    Ok(())
}

fn keyring(id: &str, none: bool, draft: &mut Draft) -> Result<(), Error> {
    if !none {
        draft.step(Step::SessionKeyring(c_string("id", &format!("_ses.{id}"))?));
    }
    Ok(())
}

/// Everything that is mounted and made below the new root, and the pivot into it.
fn root(
    input: &Input<'_>,
    linux: &Linux,
    namespaces: &Namespaces,
    hooks: Option<&hooks::Checked<'_>>,
    draft: &mut Draft,
) -> Result<Vec<Slot>, Error> {
    let propagation = root_propagation(linux, input.no_pivot_root)?;
    let default = Propagation { kind: libc::MS_SLAVE, recursive: true };
    // Without a mount namespace of the container's these would be the host's.
    if namespaces.own(Namespace::Mount) {
        draft.step(Step::RootPropagation(propagation.unwrap_or(default)));
    }
    let context = mounts::Context {
        input,
        namespaces,
        slave_first: propagation.is_none_or(|propagation| propagation.kind != libc::MS_SHARED),
        label: confine::mount_label(linux, input.host)?,
        place: mounts::root_place(namespaces, hooks),
    };
    mounts::rootfs(&context, draft)?;
    if linux.sysctl().as_ref().is_some_and(|sysctls| !sysctls.is_empty()) {
        draft.step(Step::OpenProcfs);
    }
    let readonly = mounts::compile(&context, draft)?;
    devices::compile(input.spec, linux, namespaces.own(Namespace::User), input.host, draft)?;
    hooks.map_or(Ok(()), |hooks| hooks.create(draft))?;
    draft.step(Step::EnterRoot(entry(input, namespaces)?));
    draft.steps.extend(propagation.into_iter().flat_map(rootfs_propagation));
    if namespaces.enters_pid(input.host) == Some(EntersPid::AfterPivot) {
        draft.step(Step::EnterPidNamespace);
    }
    Ok(readonly)
}

fn entry(input: &Input<'_>, namespaces: &Namespaces) -> Result<Entry, Error> {
    match (namespaces.own(Namespace::Mount), input.no_pivot_root) {
        (true, false) => Ok(Entry::Pivot),
        (true, true) => Ok(Entry::Move),
        (false, false) => Ok(Entry::Chroot),
        (false, true) => {
            let reason = "without a mount namespace of the container's, the root cannot be moved (--no-pivot)";
            Err(Error::conflict("linux.namespaces", reason))
        }
    }
}

fn root_propagation(linux: &Linux, no_pivot: bool) -> Result<Option<Propagation>, Error> {
    let Some(word) = linux.rootfs_propagation().as_deref().filter(|word| !word.is_empty()) else { return Ok(None) };
    let propagation = options::propagation(word)
        .ok_or_else(|| Error::invalid("linux.rootfsPropagation", word, "is not supported"))?;
    if no_pivot && propagation.kind == libc::MS_PRIVATE {
        let reason = "[r]private is not safe without pivot_root";
        return Err(Error::invalid("linux.rootfsPropagation", word, reason));
    }
    Ok(Some(propagation))
}

/// The new root is a slave of the host's. Made shared, it would still hear its master: OCI wants a new peer group, not shared
/// with the host.
fn rootfs_propagation(propagation: Propagation) -> impl Iterator<Item = Step> {
    let alone = Propagation { kind: libc::MS_PRIVATE, recursive: false };
    let first = (propagation.kind == libc::MS_SHARED).then_some(alone);
    first.into_iter().chain([propagation]).map(Step::RootfsPropagation)
}

fn stdio(input: &Input<'_>, process: &Process, draft: &mut Draft) -> Result<(), Error> {
    draft.step(terminal(process, input.terminal, true)?);
    draft.step(Step::ReopenNull { if_any: false });
    let cwd = in_root("process.cwd", program::cwd(process)?)?;
    if !cwd.is_root() {
        draft.step(Step::MakeCwd(cwd));
    }
    Ok(())
}

fn terminal(process: &Process, terminal: bool, bind: bool) -> Result<Step, Error> {
    if !terminal {
        return Ok(Step::Stdio);
    }
    let cells = |name: &str, cells: u64| {
        let invalid = |_| Error::invalid(format!("process.consoleSize.{name}"), cells.to_string(), "out of range");
        u16::try_from(cells).map_err(invalid)
    };
    let size = process.console_size().map(|size| Ok((cells("height", size.height())?, cells("width", size.width())?)));
    Ok(Step::Console { size: size.transpose()?, bind, uid: process.user().uid() })
}

fn confine(
    input: &Input<'_>,
    linux: &Linux,
    namespaces: &Namespaces,
    labels: &Labels,
    readonly: Vec<Slot>,
    draft: &mut Draft,
) -> Result<(), Error> {
    draft.steps.extend(readonly.into_iter().map(Step::Readonly));
    if input.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        draft.step(Step::ReadonlyRoot);
    }
    confine::names(input.spec, draft)?;
    draft.steps.extend(confine::sysctls(linux, namespaces, input.host_network)?);
    if labels.any() {
        draft.step(Step::OpenProcfs);
    }
    draft.steps.extend(labels.apparmor.clone().map(Step::AppArmor));
    confine::paths(linux, draft)
}

/// The labels of a process, or else of its container.
fn labels(process: &Process, container: Option<&Process>, host: &Host) -> Result<Labels, Error> {
    let of = |get: fn(&Process) -> Option<&str>| {
        get(process).filter(|label| !label.is_empty()).or_else(|| container.and_then(get))
    };
    Labels::parse(of(|p| p.apparmor_profile().as_deref()), of(|p| p.selinux_label().as_deref()), host)
}
