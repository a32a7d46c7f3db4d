//! Which cgroup hierarchies the host has, found with a few statfs(2) and without mountinfo.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use super::dir::Dir;

/// A v1 hierarchy's or a v2 controller's name, as /proc/self/cgroup has it.
pub(super) type Controller = &'static str;

/// Where the cgroup file systems are mounted. hier(7), and every distribution
const MOUNT_POINT: &str = "/sys/fs/cgroup";
const CGROUP_SUPER_MAGIC: u32 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

/// v1 controllers with the directory names they may be mounted under. Distributions mount the
/// joint ones under both names and link the single ones to it; without the links the joint names count.
const V1: [(Controller, &[&str]); 15] = [
    ("cpuset", &["cpuset"]),
    ("cpu", &["cpu", "cpu,cpuacct", "cpuacct,cpu"]),
    ("cpuacct", &["cpuacct", "cpu,cpuacct", "cpuacct,cpu"]),
    ("memory", &["memory"]),
    ("devices", &["devices"]),
    ("freezer", &["freezer"]),
    ("blkio", &["blkio"]),
    ("pids", &["pids"]),
    ("hugetlb", &["hugetlb"]),
    ("net_cls", &["net_cls", "net_cls,net_prio", "net_prio,net_cls"]),
    ("net_prio", &["net_prio", "net_cls,net_prio", "net_prio,net_cls"]),
    ("perf_event", &["perf_event"]),
    ("rdma", &["rdma"]),
    ("misc", &["misc"]),
    ("name=systemd", &["systemd"]),
];

/// The v2 hierarchy of a hybrid host, and where it is mounted: it has no name in /proc/self/cgroup.
pub(super) const UNIFIED: Controller = "";
const UNIFIED_DIRECTORY: &str = "unified";

/// The host's cgroup file systems.
#[derive(Debug)]
pub(super) enum Layout {
    /// One hierarchy for all controllers.
    V2(Dir),
    /// A hierarchy for each controller or set of them, and a v2 beside them (hybrid) whose controllers are left alone.
    V1(Vec<Hierarchy>),
}

/// One v1 hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// The controllers on it; a joint mount has several.
    pub(super) controllers: Vec<Controller>,
    /// Its root.
    pub(super) root: Dir,
}

impl Layout {
    /// Looks at the mounts below /sys/fs/cgroup.
    pub(super) fn discover() -> Result<Layout, Error> {
        let none = |source| Error::NoCgroups { source };
        let base = open(rustix::fs::CWD, MOUNT_POINT).map_err(none)?;
        if magic(&base).map_err(none)? == CGROUP2_SUPER_MAGIC {
            return Ok(Layout::V2(Dir::new(base)));
        }
        let hierarchies = v1_hierarchies(&base).map_err(none)?;
        if hierarchies.is_empty() {
            return Err(none(Errno::NOENT));
        }
        Ok(Layout::V1(hierarchies))
    }
}

fn v1_hierarchies(base: &OwnedFd) -> Result<Vec<Hierarchy>, Errno> {
    let mut found: Vec<(u64, Hierarchy)> = Vec::with_capacity(V1.len());
    for (controller, names) in V1 {
        let Some(root) = names.iter().find_map(|name| mounted(base, name, CGROUP_SUPER_MAGIC)) else {
            continue;
        };
        // Joint controllers are one file system under two names.
        let device = rustix::fs::fstat(&root)?.st_dev;
        match found.iter_mut().find(|(other, _)| *other == device) {
            Some((_, hierarchy)) => hierarchy.controllers.push(controller),
            None => {
                let hierarchy = Hierarchy { controllers: vec![controller], root: Dir::new(root) };
                found.push((device, hierarchy));
            }
        }
    }
    let mut hierarchies: Vec<Hierarchy> = found.into_iter().map(|(_, hierarchy)| hierarchy).collect();
    if !hierarchies.is_empty()
        && let Some(root) = mounted(base, UNIFIED_DIRECTORY, CGROUP2_SUPER_MAGIC)
    {
        hierarchies.push(Hierarchy { controllers: vec![UNIFIED], root: Dir::new(root) });
    }
    Ok(hierarchies)
}

fn mounted(base: &OwnedFd, name: &str, expected: u32) -> Option<OwnedFd> {
    let root = open(base, name).ok()?;
    (magic(&root).ok()? == expected).then_some(root)
}

fn open(at: impl std::os::fd::AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn magic(fd: &OwnedFd) -> Result<u32, Errno> {
    // The kernel's type is a word, the magic numbers have 32 bits.
    Ok(rustix::fs::fstatfs(fd)?.f_type as u32)
}
