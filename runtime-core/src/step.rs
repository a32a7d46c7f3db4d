//! The steps of a plan: what the child of clone3 does, one after another, and what its parent opens for it before.
//!
//! Everything here is plain data. A step holds C strings, numbers and indices, so that the child can carry it out
//! without a heap, and it prints itself, so that a person can read the plan and an error can name the step.
//! Paths called `InRoot` are relative to the container's root and are resolved beneath it (openat2 `RESOLVE_IN_ROOT`).

mod hook;
mod in_root;
mod mount;
mod namespace;
mod sched;
mod source;

use std::ffi::CString;
use std::sync::Arc;

pub use hook::{HookKind, HookStep};
pub use in_root::InRoot;
pub use mount::{Attributes, Entry, Filesystem, MountSource, MountStep, Propagation, RootPlace};
pub use namespace::Namespace;
pub use sched::{BitSet, SchedAttr};
pub use source::{Idmap, Source, SourceIndex};

/// A place in the child where a descriptor of its own making is kept for a later step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

/// A network device of the host that becomes the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub name: String,
    /// Its name in the container, or a template with `%d` in it.
    pub inside: String,
}

/// A device node inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where; parents are made.
    pub path: InRoot,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and the permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner inside the container.
    pub uid: u32,
    /// Group inside the container.
    pub gid: u32,
}

/// The five capability sets, as bit masks. capabilities(7)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// What may be gained by execve at all.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What may be kept across execve.
    pub inheritable: u64,
    /// What may be raised.
    pub permitted: u64,
    /// What survives execve of an ordinary program.
    pub ambient: u64,
}

/// A seccomp filter, ready for the kernel. seccomp(2)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seccomp {
    /// `struct sock_filter`s.
    pub program: Vec<SockFilter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

impl Seccomp {
    /// Whether somebody else answers some system calls: seccomp_unotify(2).
    #[must_use]
    pub fn has_listener(&self) -> bool {
        self.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0
    }
}

/// `struct sock_filter`: one instruction of classic BPF. linux/filter.h
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// One act of the child. The order is the plan's; the child has no choices left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Attach to the cgroup: `0` into every opened `tasks` (v1). Nothing on v2, where clone3 did it.
    JoinCgroup,
    /// How soon the OOM killer takes it, from -1000 to 1000; to lower it needs CAP_SYS_RESOURCE. Every clone inherits it.
    OomScoreAdj(CString),
    /// A new session keyring named `_ses.<id>`; a kernel without keyrings is no error. keyrings(7)
    SessionKeyring(CString),
    /// A resource limit. setrlimit(2)
    Rlimit {
        /// `RLIMIT_*`.
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
    /// setns(2) to a namespace that the parent opened. Before the user namespace EPERM means: it belongs to that one, join it after.
    Join {
        /// Which one.
        source: SourceIndex,
        /// Its kind.
        kind: Namespace,
        /// The first of the two attempts.
        before_user: bool,
    },
    /// setns(2) to several namespaces of the container's init at once, by its pidfd.
    JoinInit {
        /// The pidfd.
        source: SourceIndex,
        /// `CLONE_NEW*` flags.
        flags: u64,
    },
    /// A new user namespace; the parent writes the maps, then the child becomes its root.
    UnshareUser,
    /// Become uid 0 and gid 0 of the user namespace just joined.
    BecomeRoot,
    /// unshare(2) of `CLONE_NEW*` flags.
    Unshare(u64),
    /// Open the file of time_namespaces(7), while we are still who may write to it.
    OpenTimeOffsets,
    /// The offsets of the new time namespace, before anybody is in it.
    TimeOffsets(CString),
    /// Clone again, into the pid namespace joined or unshared before, or the new time namespace; the first child hands the
    /// pidfd up and ends.
    EnterPidNamespace,
    /// Bring `lo` up in the new network namespace.
    LoopbackUp,
    /// Hand a netlink socket up, by which the parent moves these devices here, and wait for that.
    NetDevices(Vec<NetDevice>),
    /// The propagation of every mount, before anything is mounted.
    RootPropagation(Propagation),
    /// Make the propagation of the container's root what `rootfsPropagation` says, after the pivot.
    RootfsPropagation(Propagation),
    /// Go to the directory of the host that `root.path` names, where hooks look for the root file system. Before a user
    /// namespace takes the right to walk there; a new mount namespace takes the place along.
    EnterRootPath(CString),
    /// Attach the root file system and keep its descriptor as *the root*.
    AttachRootfs {
        /// Which one.
        source: SourceIndex,
        /// Where.
        at: RootPlace,
    },
    /// The root of an exec: `/` of the mount namespace just joined.
    OpenRoot,
    /// A detached procfs of our own, that nothing can be mounted over, kept for labels and sysctls.
    OpenProcfs,
    /// One mount.
    Mount(Box<MountStep>),
    /// mknod(2), verified after; a node that is already there must be the same.
    Device(Device),
    /// A symlink; one that exists is replaced.
    Symlink {
        /// Where it points.
        target: CString,
        /// Where it stands.
        path: InRoot,
    },
    /// Let the parent run the hooks of its namespaces (prestart, createRuntime), and wait.
    RuntimeHooks,
    /// Run a hook in the container's namespaces, and wait for its end.
    Hook(Box<HookStep>),
    /// Make the root the `/` of this process.
    EnterRoot(Entry),
    /// Go where the container's init has its `/`, for an exec that has no mount namespace to join.
    EnterInitRoot(SourceIndex),
    /// Make a kept mount read-only, through its descriptor.
    Readonly(Slot),
    /// Make the root mount read-only, through its descriptor (CVE-2026-115521).
    ReadonlyRoot,
    /// A pty in the container's devpts: master sent up, slave becomes stdio and the controlling terminal.
    Console {
        /// Rows and columns, where the spec has them.
        size: Option<(u16, u16)>,
        /// Bind the slave over `/dev/console` (not for an exec).
        bind: bool,
        /// Owner of the slave.
        uid: u32,
    },
    /// The stdio that the parent opened becomes 0, 1, 2 in a new session.
    Stdio,
    /// Replace a `/dev/null` of the host on 0, 1, 2 by the container's own (verified to be 1:3).
    ReopenNull {
        /// What is no null is left where it is, and so is what was given: in a running container it is the program's to
        /// have removed it.
        if_any: bool,
    },
    /// Give 0, 1, 2 to the user, as far as they can be given.
    ChownStdio {
        /// The user.
        uid: u32,
    },
    /// sethostname(2)
    Hostname(CString),
    /// setdomainname(2)
    Domainname(CString),
    /// A value into a file below the procfs of [`Step::OpenProcfs`]: `sys/net/ipv4/ip_forward`.
    Sysctl {
        /// Relative to the procfs.
        path: CString,
        /// What is written.
        value: CString,
    },
    /// Cover a path, if it exists: a directory by an empty read-only tmpfs, a file by `/dev/null` (opened and verified by the parent).
    Mask {
        /// What is covered.
        path: InRoot,
        /// The host's `/dev/null`.
        null: SourceIndex,
    },
    /// Make a path read-only, if it exists.
    ReadonlyPath(InRoot),
    /// sched_setattr(2)
    Scheduler(SchedAttr),
    /// ioprio_set(2): class and level, as the kernel has them.
    IoPriority(u32),
    /// sched_setaffinity(2)
    CpuAffinity(BitSet),
    /// Run wherever the cgroup lets it: the CPUs that our caller was confined to are no matter of the container's.
    EveryCpu,
    /// set_mempolicy(2)
    MemoryPolicy {
        /// `MPOL_*` and its flags.
        mode: u32,
        /// NUMA nodes.
        nodes: BitSet,
    },
    /// personality(2)
    Personality(u32),
    /// umask(2)
    Umask(u32),
    /// prctl(PR_SET_NO_NEW_PRIVS)
    NoNewPrivileges,
    /// Make the working directory where it is missing (init only, as runc does).
    MakeCwd(InRoot),
    /// chdir(2), as root; refused there, it is tried again by [`Step::VerifyCwd`] as the user.
    Chdir(CString),
    /// The working directory must be inside the container (CVE-2024-21626); retries a refused chdir.
    VerifyCwd(CString),
    /// `exec <profile>` to the AppArmor attribute, through the procfs of [`Step::OpenProcfs`].
    AppArmor(CString),
    /// The SELinux label of the program to be executed, likewise.
    SelinuxExec(CString),
    /// Drop everything else from the bounding set.
    BoundingSet(u64),
    /// setgroups(2), setresgid(2), setresuid(2), keeping the permitted capabilities across.
    Ids {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Supplementary groups; `None` leaves them alone (a user namespace that denies setgroups).
        groups: Option<Vec<u32>>,
    },
    /// capset(2), then the ambient set.
    Capabilities(Capabilities),
    /// seccomp(SECCOMP_SET_MODE_FILTER); of a filter that leaves calls to a listener, wait until the parent has handed that on.
    Seccomp(Arc<Seccomp>),
    /// Look the program up as the final user: PATH decides at create.
    FindProgram,
    /// Report that all is ready and wait until `start` opens the gate.
    Gate {
        /// Where, if it is not the parent that opens: whoever connects there may.
        listener: Option<SourceIndex>,
    },
    /// Default signal dispositions and an empty signal mask, as the program expects them.
    ResetSignals,
    /// execve(2). Everything but 0, 1, 2 is closed.
    Exec,
}

impl Step {
    /// What it needs that the parent opens.
    #[must_use]
    pub fn source(&self) -> Option<SourceIndex> {
        match self {
            Self::AttachRootfs { source, .. } | Self::Join { source, .. } | Self::JoinInit { source, .. } => {
                Some(*source)
            }
            Self::Mask { null, .. } => Some(*null),
            Self::EnterInitRoot(source) => Some(*source),
            Self::Gate { listener } => *listener,
            Self::Mount(mount) => match mount.source {
                MountSource::Opened { source, .. } => Some(source),
                MountSource::InRoot { .. } | MountSource::Filesystem { .. } => None,
            },
            _ => None,
        }
    }
}
