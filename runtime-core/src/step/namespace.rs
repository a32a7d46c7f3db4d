//! Namespaces, as data.

/// The kinds of namespace, with the kernel's flags. namespaces(7)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespace {
    /// Mount points.
    Mount,
    /// Hostname and domain name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Network devices, addresses, ports.
    Network,
    /// Process ids.
    Pid,
    /// The view of the cgroup tree.
    Cgroup,
    /// User and group ids, and the owner of the other namespaces.
    User,
    /// Offsets of the monotonic and the boot clock.
    Time,
}

impl Namespace {
    /// The `CLONE_NEW*` flag.
    #[must_use]
    pub const fn flag(self) -> u64 {
        (match self {
            Self::Mount => libc::CLONE_NEWNS,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Network => libc::CLONE_NEWNET,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::User => libc::CLONE_NEWUSER,
            Self::Time => libc::CLONE_NEWTIME,
        }) as u64
    }

    /// The name below `/proc/<pid>/ns`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Network => "net",
            Self::Pid => "pid",
            Self::Cgroup => "cgroup",
            Self::User => "user",
            Self::Time => "time",
        }
    }
}
