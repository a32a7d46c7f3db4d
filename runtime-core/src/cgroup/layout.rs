//! Which cgroup hierarchies the host has, by /proc/self/cgroup and a few statfs(2), and without mountinfo.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Error;
use super::dir::Dir;
use crate::host::{self, CgroupLayout};

/// A v1 hierarchy's or a v2 controller's name, as /proc/self/cgroup has it.
pub(super) type Controller = &'static str;

/// Where the cgroup file systems are mounted. hier(7), and every distribution
const MOUNT_POINT: &str = "/sys/fs/cgroup";
const CGROUP_SUPER_MAGIC: u32 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

/// The v1 hierarchies that a container has a cgroup in. Others there may be are somebody's own.
const KNOWN: [Controller; 15] = [
    "cpuset",
    "cpu",
    "cpuacct",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
    "name=systemd",
];

/// The v2 hierarchy of a hybrid host, and where it is mounted: it has no name in /proc/self/cgroup.
pub(super) const UNIFIED: Controller = "";
const UNIFIED_DIRECTORY: &str = "unified";

/// The host's cgroup file systems.
#[derive(Debug)]
pub(crate) enum Layout {
    /// One hierarchy for all controllers.
    V2(Dir),
    /// A hierarchy for each controller or set of them, and a v2 beside them (hybrid) whose controllers are left alone.
    V1(Vec<Hierarchy>),
}

/// One v1 hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// The controllers on it; a joint mount has several.
    pub(super) controllers: Vec<Controller>,
    /// Its root.
    pub(super) root: Dir,
    facts: host::Hierarchy,
}

impl Layout {
    /// Looks for the mounts below /sys/fs/cgroup.
    pub(crate) fn discover() -> Result<Layout, Error> {
        let none = |source| Error::NoCgroups { source };
        let base = open(rustix::fs::CWD, MOUNT_POINT).map_err(none)?;
        if magic(&base).map_err(none)? == CGROUP2_SUPER_MAGIC {
            return Ok(Layout::V2(Dir::new(base)));
        }
        let own = std::fs::read_to_string("/proc/self/cgroup").map_err(Error::ProcessCgroup)?;
        let mut hierarchies: Vec<_> = listed(&own).filter_map(|listed| Hierarchy::mounted(&base, listed)).collect();
        if hierarchies.is_empty() {
            return Err(none(Errno::NOENT));
        }
        hierarchies.reverse();
        hierarchies.extend(Hierarchy::unified(&base));
        Ok(Layout::V1(hierarchies))
    }

    /// What a plan has to know of it.
    pub(crate) fn facts(&self) -> CgroupLayout {
        match self {
            Layout::V2(_) => CgroupLayout::V2,
            Layout::V1(hierarchies) => {
                let v1 = hierarchies.iter().filter(|hierarchy| hierarchy.controllers != [UNIFIED]);
                CgroupLayout::V1(v1.map(|hierarchy| hierarchy.facts.clone()).collect())
            }
        }
    }
}

impl Hierarchy {
    fn mounted(base: &OwnedFd, listed: &str) -> Option<Hierarchy> {
        let found = |name: String| mounted(base, &name, CGROUP_SUPER_MAGIC).map(|root| (name, root));
        let (name, root) = directories(listed).find_map(found)?;
        let controllers = KNOWN.into_iter().filter(|known| listed.split(',').any(|name| name == *known)).collect();
        let options = listed.split(',').map(str::to_owned).collect();
        Some(Hierarchy { controllers, root: Dir::new(root), facts: host::Hierarchy { name, options } })
    }

    fn unified(base: &OwnedFd) -> Option<Hierarchy> {
        let root = mounted(base, UNIFIED_DIRECTORY, CGROUP2_SUPER_MAGIC)?;
        let facts = host::Hierarchy { name: UNIFIED_DIRECTORY.to_owned(), options: Vec::new() };
        Some(Hierarchy { controllers: vec![UNIFIED], root: Dir::new(root), facts })
    }
}

/// The hierarchies of a `/proc/<pid>/cgroup` that we know: `4:cpu,cpuacct:/a`, `1:name=systemd:/a`. cgroups(7)
fn listed(text: &str) -> impl Iterator<Item = &str> {
    let names = text.lines().filter_map(|line| line.split(':').nth(1));
    names.filter(|names| names.split(',').any(|name| KNOWN.contains(&name)))
}

/// Where a hierarchy may be mounted. Distributions mount the joint ones under both names and link the single ones to it;
/// some have the single ones alone.
fn directories(listed: &str) -> impl Iterator<Item = String> {
    let single: Vec<&str> = listed.split(',').collect();
    let reversed: Vec<&str> = single.iter().rev().copied().collect();
    let joint = if single.len() > 1 { vec![listed.to_owned(), reversed.join(",")] } else { Vec::new() };
    let single: Vec<String> = single.iter().map(|name| name.trim_start_matches("name=").to_owned()).collect();
    joint.into_iter().chain(single)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_those_that_a_container_has_a_cgroup_in() {
        let text = "13:name=elogind:/\n12:cpu,cpuacct:/\n3:dmem:/\n1:name=systemd:/init.scope\n0::/\n";
        assert_eq!(listed(text).collect::<Vec<_>>(), ["cpu,cpuacct", "name=systemd"]);
    }

    #[test]
    fn a_hierarchy_may_have_its_joint_name_or_a_single_one() {
        let names: Vec<String> = directories("cpu,cpuacct").collect();
        assert_eq!(names, ["cpu,cpuacct", "cpuacct,cpu", "cpu", "cpuacct"]);
        assert_eq!(directories("name=systemd").collect::<Vec<_>>(), ["systemd"]);
    }
}
