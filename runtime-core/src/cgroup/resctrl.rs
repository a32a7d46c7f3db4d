//! `linux.intelRdt`: groups of the resctrl file system, which share out caches and the bandwidth of memory. They are no
//! cgroups, but made, entered and removed like them. kernel Documentation/filesystems/resctrl.rst
//!
//! A container without a `closID` has a group of its own, which goes with it; one with a `closID` shares that group with
//! whoever is in it, and only a monitoring group that it asked for goes.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{LinuxIntelRdt, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::dir::{Dir, existing};
use crate::container::ErrorKind;
use crate::errno::text;

const MOUNT_POINT: &str = "/sys/fs/resctrl";
/// statfs(2)
const RDTGROUP_SUPER_MAGIC: u32 = 0x0765_5821;

/// What can go wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("linux.intelRdt is not supported: no resctrl file system is mounted on /sys/fs/resctrl")]
    NotMounted,
    /// The host shares out something else.
    #[error("linux.intelRdt.{field} is not supported: this host has no /sys/fs/resctrl/info/{needs}")]
    NotThere {
        /// Of `linux.intelRdt`.
        field: &'static str,
        /// A directory that would be there.
        needs: &'static str,
    },
    /// No name of a group.
    #[error("linux.intelRdt.closID {0:?} is not the name of a group")]
    BadClos(String),
    /// More than one line.
    #[error("linux.intelRdt.schemata {0:?} is more than one line")]
    BadLine(String),
    /// A group that nobody has made, and nothing to make one of.
    #[error("linux.intelRdt.closID {0:?}: there is no such group, and no schemata to make one with")]
    NoGroup(String),
    /// A step.
    #[error("{act} {path} in /sys/fs/resctrl: {}{}", text(*source), because(.status))]
    Step {
        /// `make`, `write`, `open`, `remove`.
        act: &'static str,
        /// Below the mount point.
        path: String,
        /// Why.
        source: Errno,
        /// `info/last_cmd_status`: what the kernel has to say beyond that.
        status: String,
    },
}

fn because(status: &str) -> String {
    if status.is_empty() || status == "ok" { String::new() } else { format!(" ({status})") }
}

impl Error {
    /// What a caller can make of it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotMounted | Self::NotThere { .. } => ErrorKind::Unimplemented,
            Self::BadClos(_) | Self::BadLine(_) | Self::NoGroup(_) => ErrorKind::InvalidArgument,
            Self::Step { .. } => ErrorKind::Other,
        }
    }
}

/// What a spec asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// The group, below the mount point; `.` is the root's.
    group: String,
    /// The spec has named it: somebody else may have made it, and others may be in it.
    shared: bool,
    /// Lines for its `schemata`.
    schemata: String,
    /// The container's own monitoring group, below that one.
    monitoring: Option<String>,
}

impl Wanted {
    fn parse(rdt: &LinuxIntelRdt, id: &str) -> Result<Self, Error> {
        let clos = rdt.clos_id().as_deref().unwrap_or_default();
        if clos == "." || clos == ".." || (clos.len() > 1 && clos.contains('/')) {
            return Err(Error::BadClos(clos.to_owned()));
        }
        if let Some(line) = rdt.schemata().iter().flatten().find(|line| line.contains('\n')) {
            return Err(Error::BadLine(line.clone()));
        }
        let others = rdt.schemata().iter().flatten().map(String::as_str);
        let lines =
            [rdt.l3_cache_schema().as_deref(), rdt.mem_bw_schema().as_deref()].into_iter().flatten().chain(others);
        Ok(Self {
            group: match clos {
                "" => id,
                "/" => ".",
                clos => clos,
            }
            .to_owned(),
            shared: !clos.is_empty(),
            schemata: lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect(),
            monitoring: rdt.enable_monitoring().unwrap_or(false).then(|| format!("mon_groups/{id}")),
        })
    }

    /// What goes with the container, if its group was there before or was not.
    fn left(&self, found: bool) -> Option<Left> {
        let monitoring = || self.monitoring.as_ref().map(|below| format!("{}/{below}", self.group));
        let path = if self.shared || found { monitoring()? } else { self.group.clone() };
        Some(Left { path })
    }
}

/// What has to be removed when the container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    /// Below the mount point.
    path: String,
}

impl Left {
    /// What is gone already is no error.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match Resctrl::find() {
            Err(Error::NotMounted) => Ok(()),
            resctrl => resctrl?.remove(self),
        }
    }
}

/// A container's group.
#[derive(Debug)]
pub(crate) struct Group {
    resctrl: Resctrl,
    wanted: Wanted,
    /// Somebody had made it when we looked.
    found: bool,
}

impl Group {
    /// What a spec asks for, checked against the host; `None` if it asks for nothing.
    pub(crate) fn of(spec: &Spec, id: &str) -> Result<Option<Self>, Error> {
        let Some(rdt) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else { return Ok(None) };
        Resctrl::find()?.group(rdt, id).map(Some)
    }

    /// What goes with the container.
    pub(crate) fn left(&self) -> Option<Left> {
        self.wanted.left(self.found)
    }

    /// Makes what is missing of it, with its schemata.
    pub(crate) fn make(&self) -> Result<(), Error> {
        let Self { resctrl, wanted, .. } = self;
        resctrl.mkdir(&wanted.group)?;
        if !wanted.schemata.is_empty() {
            let written = resctrl.open(&wanted.group)?.write("schemata", &wanted.schemata);
            written.map_err(resctrl.failed("write the schemata of", &wanted.group))?;
        }
        wanted.monitoring.as_ref().map_or(Ok(()), |below| resctrl.mkdir(&format!("{}/{below}", wanted.group)))
    }

    /// Files to which a process that is to be in it writes `0`, as with cgroup v1.
    pub(crate) fn tasks(&self) -> Result<Vec<OwnedFd>, Error> {
        let Self { resctrl, wanted, .. } = self;
        let monitoring = wanted.monitoring.as_ref().map(|below| format!("{}/{below}", wanted.group));
        let tasks = |group: String| {
            let tasks = resctrl.open(&group)?.open("tasks", OFlags::WRONLY);
            tasks.map_err(resctrl.failed("open the tasks of", &group))
        };
        [wanted.group.clone()].into_iter().chain(monitoring).map(tasks).collect()
    }
}

/// The file system.
#[derive(Debug)]
struct Resctrl(Dir);

impl Resctrl {
    fn find() -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, MOUNT_POINT, flags, Mode::empty()).map_err(|_| Error::NotMounted)?;
        // The kernel's type is a word, the magic numbers have 32 bits.
        match rustix::fs::fstatfs(root.as_fd()) {
            Ok(found) if found.f_type as u32 == RDTGROUP_SUPER_MAGIC => Ok(Self(Dir::new(root))),
            _ => Err(Error::NotMounted),
        }
    }

    fn group(self, rdt: &LinuxIntelRdt, id: &str) -> Result<Group, Error> {
        let wanted = Wanted::parse(rdt, id)?;
        let asked = |line: &Option<String>| line.as_ref().is_some_and(|line| !line.is_empty());
        let lines = [("l3CacheSchema", rdt.l3_cache_schema(), "L3"), ("memBwSchema", rdt.mem_bw_schema(), "MB")];
        for (field, line, needs) in lines {
            if asked(line) && !self.0.has(&format!("info/{needs}")) {
                return Err(Error::NotThere { field, needs });
            }
        }
        let found = self.0.has(&wanted.group);
        if wanted.shared && !found && wanted.schemata.is_empty() {
            return Err(Error::NoGroup(wanted.group));
        }
        Ok(Group { resctrl: self, wanted, found })
    }

    fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.0.mkdir(path).map(drop).map_err(self.failed("make", path))
    }

    fn open(&self, path: &str) -> Result<Dir, Error> {
        self.0.below(path).map_err(self.failed("open", path))
    }

    fn remove(&self, left: &Left) -> Result<(), Error> {
        existing(self.0.rmdir(&left.path)).map(drop).map_err(self.failed("remove", &left.path))
    }

    fn failed<'a>(&'a self, act: &'static str, path: &'a str) -> impl FnOnce(Errno) -> Error + 'a {
        move |source| {
            let status = self.0.below("info").and_then(|info| info.read("last_cmd_status")).unwrap_or_default();
            Error::Step { act, path: path.to_owned(), source, status: status.trim().to_owned() }
        }
    }
}

#[cfg(test)]
mod tests;
