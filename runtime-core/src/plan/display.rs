//! A plan as text, for people and for golden files; a step as the first half of an error.

mod mount;

use std::ffi::{CStr, CString};
use std::fmt::{self, Display, Formatter};

use super::{IdMaps, InitPlan, capabilities};
use crate::hooks;
use crate::program::CStringArray;
use crate::step::{
    Entry, HookStep, MountSource, Namespace, NetDevice, RootPlace, SchedAttr, Source, SourceIndex, Step,
};

/// A step together with the plan that it belongs to, so that it can name what its sources are.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    sources: &'a [Source],
    step: &'a Step,
}

impl InitPlan {
    /// A step by its index, as text: what it does and to what. An error is this and an errno.
    #[must_use]
    pub fn describe(&self, index: usize) -> Option<Described<'_>> {
        self.steps.get(index).map(|step| Described { sources: &self.sources, step })
    }
}

impl Display for InitPlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        writeln!(f, "sources")?;
        for (index, source) in self.sources.iter().enumerate() {
            writeln!(f, "  {index:3}  {source:#}")?;
        }
        let on = self.born_on.as_ref().map(|cpus| format!(" on CPUs {cpus}")).unwrap_or_default();
        writeln!(f, "clone{}{on}", flags(self.clone_flags))?;
        if let Some(IdMaps { uid, gid }) = &self.maps {
            writeln!(f, "uid_map {uid:?}\ngid_map {gid:?}")?;
        }
        writeln!(f, "steps")?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {index:3}  {:#}", Described { sources: &self.sources, step })?;
        }
        writeln!(f, "program")?;
        for candidate in &self.program.candidates {
            writeln!(f, "  try  {}", text(candidate))?;
        }
        for arg in self.program.args.iter() {
            writeln!(f, "  arg  {arg:?}")?;
        }
        for entry in self.program.env.iter() {
            writeln!(f, "  env  {entry:?}")?;
        }
        Ok(())
    }
}

impl Display for Described<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.step {
            Step::Mount(mount) => self.mount(mount, f),
            Step::AttachRootfs { source, at } => {
                let place = match at {
                    RootPlace::Slash => "",
                    RootPlace::Path => " at its path",
                    RootPlace::Host => " at its path, on the host",
                };
                write!(f, "attach the root{place}: {}", self.source(*source, f.alternate()))
            }
            Step::Join { source, kind, before_user } => {
                let later = if *before_user { ", or later if it is the user namespace's" } else { "" };
                write!(f, "join the {} namespace {}{later}", kind.name(), self.source(*source, false))
            }
            step => step.fmt(f),
        }
    }
}

impl Described<'_> {
    fn source(&self, index: SourceIndex, whole: bool) -> String {
        match self.sources.get(index.0) {
            Some(source) if whole => format!("{source:#}"),
            Some(source) => source.to_string(),
            None => format!("source {}", index.0),
        }
    }
}

impl Display for HookStep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = hooks::name(self.kind, self.index, &text(&self.path));
        if !f.alternate() {
            return f.write_str(&name);
        }
        write!(f, "run {name}")?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg:?}"))?;
        for entry in self.env.iter().flat_map(CStringArray::iter) {
            write!(f, ", env {entry:?}")?;
        }
        self.timeout.map_or(Ok(()), |seconds| write!(f, ", at most {seconds} s"))
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(fixed) = fixed(self) {
            return f.write_str(fixed);
        }
        match self {
            Self::Mount(mount) => match &mount.source {
                MountSource::Opened { source, .. } => write!(f, "mount source {} on {}", source.0, mount.target),
                MountSource::InRoot { path, .. } => write!(f, "mount {path} of the container on {}", mount.target),
                MountSource::Filesystem { filesystem, .. } => {
                    write!(f, "mount {} on {}", text(&filesystem.fstype), mount.target)
                }
            },
            Self::OomScoreAdj(score) => write!(f, "write {} to /proc/self/oom_score_adj", text(score)),
            Self::SessionKeyring(name) => write!(f, "create session keyring {}", text(name)),
            Self::Rlimit { resource, soft, hard } => {
                write!(f, "set {} to {}:{}", rlimit(*resource), limit(*soft), limit(*hard))
            }
            Self::Join { source, kind, .. } => write!(f, "join {} namespace (source {})", kind.name(), source.0),
            Self::JoinInit { flags: joined, .. } => {
                write!(f, "join the namespaces of the container's init:{}", flags(*joined))
            }
            Self::Unshare(unshared) => write!(f, "unshare{}", flags(*unshared)),
            Self::NetDevices(devices) => {
                let list = devices.iter().map(|NetDevice { name, inside }| format!(" {name} as {inside}"));
                write!(f, "have the parent move{}", list.collect::<Vec<_>>().join(","))
            }
            Self::RootPropagation(propagation) => write!(f, "make / {propagation}"),
            Self::RootfsPropagation(propagation) => write!(f, "make the container's / {propagation}"),
            Self::EnterRootPath(path) => write!(f, "go to {}", text(path)),
            Self::AttachRootfs { source, .. } => write!(f, "attach the root (source {})", source.0),
            Self::Hook(hook) => hook.fmt(f),
            Self::Device(_) | Self::Symlink { .. } => self.node(f),
            Self::Readonly(slot) => write!(f, "make the mount in slot {} read-only", slot.0),
            Self::Console { size, bind, uid } => {
                let size =
                    size.map_or_else(String::new, |(rows, columns)| format!(" of {rows} rows, {columns} columns"));
                write!(f, "open a console{size} for uid {uid}{}", if *bind { " on /dev/console" } else { "" })
            }
            Self::ChownStdio { uid } => write!(f, "give stdio to uid {uid}"),
            Self::Hostname(name) => write!(f, "sethostname {}", text(name)),
            Self::Domainname(name) => write!(f, "setdomainname {}", text(name)),
            Self::Sysctl { path, value } => write!(f, "write {value:?} to /proc/{}", text(path)),
            Self::Mask { path, .. } => write!(f, "mask {path}"),
            Self::ReadonlyPath(path) => write!(f, "make {path} read-only"),
            Self::TimeOffsets(offsets) => write!(f, "write {:?} to timens_offsets", text(offsets).trim_end()),
            Self::Scheduler(_) | Self::IoPriority(_) | Self::CpuAffinity(_) => self.scheduling(f),
            Self::MemoryPolicy { .. } | Self::Personality(_) => self.scheduling(f),
            Self::Umask(mask) => write!(f, "set umask {mask:04o}"),
            Self::MakeCwd(path) => write!(f, "mkdir cwd {path}"),
            // In the words of runc, whose users look for them.
            Self::Chdir(path) if f.alternate() => write!(f, "chdir to cwd ({:?})", text(path)),
            Self::Chdir(path) => write!(f, "chdir to cwd ({:?}) set in config.json failed", text(path)),
            Self::VerifyCwd(path) => write!(f, "verify that cwd ({:?}) is inside the container", text(path)),
            Self::AppArmor(command) => {
                write!(f, "apply apparmor profile {}", text(command).trim_start_matches("exec "))
            }
            Self::SelinuxExec(label) => write!(f, "set exec label {}", text(label)),
            Self::BoundingSet(_) | Self::Ids { .. } | Self::Capabilities(_) => self.rights(f),
            Self::Seccomp(filter) => {
                write!(f, "load seccomp filter ({} instructions, flags {:#x})", filter.program.len(), filter.flags)?;
                f.write_str(if filter.has_listener() { " and hand its listener on" } else { "" })
            }
            _ => Ok(()),
        }
    }
}

impl Step {
    fn rights(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::BoundingSet(mask) => write!(f, "limit the bounding set to {}", caps(*mask)),
            Self::Ids { uid, gid, groups } => {
                write!(f, "become uid {uid}, gid {gid}")?;
                groups.as_ref().map_or(Ok(()), |groups| write!(f, ", groups {groups:?}"))
            }
            Self::Capabilities(sets) => {
                let sets = [
                    ("effective", sets.effective),
                    ("permitted", sets.permitted),
                    ("inheritable", sets.inheritable),
                    ("ambient", sets.ambient),
                ];
                write!(f, "apply capabilities:")?;
                sets.iter().try_for_each(|(name, mask)| write!(f, " {name} {};", caps(*mask)))
            }
            _ => Ok(()),
        }
    }

    fn scheduling(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheduler(SchedAttr { policy, flags, nice, priority, runtime, deadline, period }) => {
                write!(f, "set scheduler {policy} (nice {nice}, priority {priority}, flags {flags:#x}")?;
                let times = [runtime, deadline, period];
                if times == [&0; 3] { f.write_str(")") } else { write!(f, ", times {times:?})") }
            }
            Self::IoPriority(priority) => write!(f, "set I/O priority {priority:#x}"),
            Self::CpuAffinity(cpus) => write!(f, "set CPU affinity to {cpus}"),
            Self::MemoryPolicy { mode, nodes } => write!(f, "set memory policy {mode:#x} on nodes {nodes}"),
            Self::Personality(persona) => write!(f, "set personality {persona:#x}"),
            _ => Ok(()),
        }
    }

    fn node(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => {
                let kind = match device.mode & libc::S_IFMT {
                    libc::S_IFBLK => 'b',
                    libc::S_IFIFO => 'p',
                    _ => 'c',
                };
                let mode = device.mode & !libc::S_IFMT;
                write!(f, "mknod {} {kind} {}:{} mode {mode:04o}", device.path, device.major, device.minor)?;
                write!(f, " owner {}:{}", device.uid, device.gid)
            }
            Self::Symlink { target, path } => write!(f, "symlink {path} to {}", text(target)),
            _ => Ok(()),
        }
    }
}

/// The steps that have nothing to tell but themselves.
fn fixed(step: &Step) -> Option<&'static str> {
    Some(match step {
        Step::JoinCgroup => "join the cgroup",
        Step::EveryCpu => "allow every CPU",
        Step::UnshareUser => "create the user namespace",
        Step::BecomeRoot => "become root of the user namespace",
        Step::OpenTimeOffsets => "open timens_offsets",
        Step::EnterPidNamespace => "enter the pid namespace",
        Step::LoopbackUp => "bring lo up",
        Step::OpenRoot => "open the container's root",
        Step::OpenProcfs => "open a procfs of our own",
        Step::RuntimeHooks => "let the parent run hooks",
        Step::EnterRoot(Entry::Pivot) => "pivot_root",
        Step::EnterRoot(Entry::Move) => "move the root and chroot",
        Step::EnterRoot(Entry::Chroot) => "chroot",
        Step::EnterInitRoot(_) => "chroot to the root of the container's init",
        Step::ReadonlyRoot => "make the root read-only",
        Step::Stdio => "set up stdio",
        Step::ReopenNull { if_any: false } => "reopen /dev/null in the container",
        Step::ReopenNull { if_any: true } => "reopen /dev/null in the container, if it has one",
        Step::NoNewPrivileges => "set no_new_privs",
        Step::FindProgram => "find the program",
        Step::Gate { .. } => "wait for start",
        Step::ResetSignals => "reset signals",
        Step::Exec => "exec",
        _ => return None,
    })
}

fn text(string: &CString) -> String {
    let string: &CStr = string;
    string.to_string_lossy().into_owned()
}

fn flags(flags: u64) -> String {
    const KINDS: [Namespace; 8] = [
        Namespace::Mount,
        Namespace::Uts,
        Namespace::Ipc,
        Namespace::Network,
        Namespace::Pid,
        Namespace::Cgroup,
        Namespace::User,
        Namespace::Time,
    ];
    KINDS.iter().filter(|kind| flags & kind.flag() != 0).map(|kind| format!(" {}", kind.name())).collect()
}

fn caps(mask: u64) -> String {
    if mask == 0 { "none".to_owned() } else { capabilities::names(mask) }
}

fn limit(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}

fn rlimit(resource: u32) -> String {
    let name = match resource {
        libc::RLIMIT_CPU => "CPU",
        libc::RLIMIT_FSIZE => "FSIZE",
        libc::RLIMIT_DATA => "DATA",
        libc::RLIMIT_STACK => "STACK",
        libc::RLIMIT_CORE => "CORE",
        libc::RLIMIT_RSS => "RSS",
        libc::RLIMIT_NPROC => "NPROC",
        libc::RLIMIT_NOFILE => "NOFILE",
        libc::RLIMIT_MEMLOCK => "MEMLOCK",
        libc::RLIMIT_AS => "AS",
        libc::RLIMIT_LOCKS => "LOCKS",
        libc::RLIMIT_SIGPENDING => "SIGPENDING",
        libc::RLIMIT_MSGQUEUE => "MSGQUEUE",
        libc::RLIMIT_NICE => "NICE",
        libc::RLIMIT_RTPRIO => "RTPRIO",
        libc::RLIMIT_RTTIME => "RTTIME",
        other => return format!("rlimit {other}"),
    };
    format!("RLIMIT_{name}")
}
