//! What can go wrong with a cgroup.

use rustix::io::Errno;

use super::layout::Controller;
use super::systemd;
use crate::bystander;
use crate::container::ErrorKind;

/// What can go wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `linux.cgroupsPath` names no cgroup below a root.
    #[error("cgroupsPath {path:?} is not a path below the root of the hierarchy")]
    BadPath {
        /// As it was given.
        path: String,
    },
    /// The systemd driver cannot make a unit of `linux.cgroupsPath`, or of the container's id.
    #[error("cgroupsPath {path:?} names no unit for the systemd cgroup driver: {why}")]
    BadUnit {
        /// As it was given, or the id.
        path: String,
        /// In words.
        why: &'static str,
    },
    /// systemd did not do its part.
    #[error("{act} unit {unit}: {source}")]
    Unit {
        /// `start`, `change`, `stop`.
        act: &'static str,
        /// Its name.
        unit: String,
        /// Why.
        source: systemd::Error,
    },
    /// A cgroup of systemd's cannot be made without it.
    #[error("cgroup {path} is systemd's to make")]
    Systemd {
        /// The unit's cgroup.
        path: String,
    },
    /// The process that a unit begins with.
    #[error(transparent)]
    Bystander(#[from] bystander::Error),
    /// Nothing usable is mounted on /sys/fs/cgroup.
    #[error("find a cgroup file system on /sys/fs/cgroup")]
    NoCgroups {
        /// What looking there said.
        #[source]
        source: Errno,
    },
    /// /proc does not say in which cgroups a process is: we, for a relative path, or another one.
    #[error("read the cgroups of a process")]
    ProcessCgroup(#[source] std::io::Error),
    /// A process is elsewhere.
    #[error("process {pid} is not in cgroup {path}")]
    NotBelow {
        /// The process.
        pid: i32,
        /// Where it should be.
        path: String,
    },
    /// A relative path needs our own cgroup, and no name reaches it.
    #[error("our own {controller} cgroup is not below the visible root")]
    OwnCgroupHidden {
        /// The hierarchy, by its controllers.
        controller: String,
    },
    /// A directory could not be made or opened.
    #[error("{act} cgroup {path}")]
    Directory {
        /// `make`, `open`, `list`.
        act: &'static str,
        /// From the hierarchy's root, or the name.
        path: String,
        /// The system call's error.
        #[source]
        source: Errno,
    },
    /// There is none, or none any more.
    #[error("container has no cgroup ({path})")]
    Absent {
        /// Where it would be.
        path: String,
    },
    /// The cgroup was there before and somebody lives in it.
    #[error("container's cgroup is not empty: {count} process(es) found in {path}")]
    InUse {
        /// From the hierarchy's root.
        path: String,
        /// How many.
        count: usize,
    },
    /// The cgroup was there before and would stop whoever enters it.
    #[error("container's cgroup unexpectedly frozen: {path}")]
    Frozen {
        /// From the hierarchy's root.
        path: String,
    },
    /// `exec --cgroup` names a hierarchy that is not there.
    #[error("unknown controller {name}")]
    UnknownController {
        /// As it was given.
        name: String,
    },
    /// `exec --cgroup` names one that cannot be opened.
    #[error("error adding pid to cgroups: open sub cgroup {path}")]
    SubCgroup {
        /// From the container's.
        path: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// `exec --cgroup` names none below the container's.
    #[error("bad sub cgroup path: {path}")]
    BadSubPath {
        /// As it was given.
        path: String,
    },
    /// A limit is asked for, and the host has nobody to keep it.
    #[error("set {file}: the {controller} controller, or this knob of it, is not available here")]
    NoController {
        /// Who would keep it.
        controller: Controller,
        /// Where the limit would be written.
        file: String,
    },
    /// A controller could not be enabled for the children of a v2 cgroup.
    #[error("enable {controller} for the children of cgroup {path}{}", busy_hint(*source))]
    Enable {
        /// The controller.
        controller: String,
        /// The parent.
        path: String,
        /// EBUSY: it has processes itself, and a v2 cgroup with processes has no controlled children.
        #[source]
        source: Errno,
    },
    /// A v2 cgroup below a threaded one cannot hold whole processes.
    #[error("cgroup {path} is {mode}: an ancestor is threaded or holds processes")]
    Threaded {
        /// From the hierarchy's root.
        path: String,
        /// `cgroup.type`.
        mode: String,
    },
    /// The kernel refused a value.
    #[error("write {value} to {file}")]
    Write {
        /// The file's name in the cgroup.
        file: String,
        /// What was written.
        value: String,
        /// EINVAL, EBUSY (below present usage), …
        #[source]
        source: Errno,
    },
    /// A file could not be read.
    #[error("read {file}")]
    Read {
        /// The file's name in the cgroup.
        file: String,
        /// The system call's error.
        #[source]
        source: Errno,
    },
    /// A value that the kernel would not keep as it is.
    #[error("{what} {value} is not within {least}…{most}")]
    OutOfRange {
        /// The file.
        what: &'static str,
        /// As asked.
        value: u64,
        /// The least possible.
        least: u64,
        /// The most possible.
        most: u64,
    },
    /// Swap is given together with memory, and must be the greater.
    #[error("memory and swap limit {swap} does not go with memory limit {limit:?}")]
    Swap {
        /// Memory and swap.
        swap: i64,
        /// Memory alone.
        limit: Option<i64>,
    },
    /// A memory limit is not above what is in use and cannot be reclaimed (v1), or is in use at all and
    /// `checkBeforeUpdate` is set (v2).
    #[error("{file} {limit} is not above the present usage {usage}")]
    BelowUsage {
        /// Which limit.
        file: String,
        /// As asked, in bytes.
        limit: u64,
        /// In bytes.
        usage: u64,
    },
    /// `unified` is for cgroup v2.
    #[error("invalid configuration: unified resources need cgroup v2")]
    UnifiedOnV1,
    /// A key of `unified` is no file of a known controller.
    #[error("unified resource {file:?} is not a CONTROLLER.FILE name")]
    UnifiedName {
        /// The key.
        file: String,
    },
    /// What would be a part of a file's name.
    #[error("linux.resources.hugepageLimits: {size:?} is no size of pages")]
    PageSize {
        /// As it was given.
        size: String,
    },
    /// What the kernel would take for less than it says.
    #[error("linux.resources: {value:?}, for {file:?}, is more than one line")]
    BadLine {
        /// The cgroup's file.
        file: String,
        /// What would be written.
        value: String,
    },
    /// Something for which cgroup v2 has no controller.
    #[error("{what} need cgroup v1")]
    OnlyV1 {
        /// In words.
        what: &'static str,
    },
    /// A device rule that says nothing.
    #[error("linux.resources.devices[{index}] has no valid type, number or access")]
    DeviceRule {
        /// Its place in the list.
        index: usize,
    },
    /// A device rule that would be ignored.
    #[error("device rule {rule} would cut a hole into a wider one, which cgroups cannot do")]
    DeviceHole {
        /// Its place in the list; `None` for one of the defaults, which come after it.
        index: Option<usize>,
        /// The rule.
        rule: String,
    },
    /// A device program could not be loaded or attached.
    #[error("{act} the device program")]
    DeviceProgram {
        /// `load`, `attach`, …
        act: &'static str,
        /// bpf(2)'s error.
        #[source]
        source: Errno,
    },
    /// The kernel did not get all tasks to stop in time.
    #[error("freeze cgroup {path}: tasks still run")]
    NotFrozen {
        /// Its name.
        path: String,
    },
    /// A process could not be signalled.
    #[error("send signal {signal} to process {pid}")]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The process.
        pid: i32,
        /// kill(2)'s error.
        #[source]
        source: Errno,
    },
    /// The cgroup still holds processes.
    #[error("remove cgroup {path}: it is not empty")]
    Busy {
        /// Its name.
        path: String,
    },
    /// Watching or waiting failed.
    #[error("{act}")]
    Wait {
        /// In words.
        act: &'static str,
        /// The system call's error.
        #[source]
        source: Errno,
    },
}

impl Error {
    /// The cgroups here are not ours to change.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        let forbidden = |errno: &Errno| matches!(*errno, Errno::ACCESS | Errno::PERM | Errno::ROFS);
        match self {
            Self::Directory { source, .. }
            | Self::Enable { source, .. }
            | Self::Write { source, .. }
            | Self::Read { source, .. }
            | Self::DeviceProgram { source, .. } => forbidden(source),
            Self::OwnCgroupHidden { .. } | Self::NoCgroups { .. } => true,
            _ => false,
        }
    }

    /// What a caller can make of it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unit { source: systemd::Error::NoSystemd, .. } => ErrorKind::FailedPrecondition,
            Self::Unit { source, .. } if source.is(".UnitExists") => ErrorKind::AlreadyExists,
            Self::Absent { .. } => ErrorKind::NotFound,
            Self::InUse { .. } => ErrorKind::AlreadyExists,
            Self::BelowUsage { .. } | Self::Busy { .. } | Self::Frozen { .. } => ErrorKind::FailedPrecondition,
            Self::BadPath { .. }
            | Self::BadSubPath { .. }
            | Self::UnknownController { .. }
            | Self::BadUnit { .. }
            | Self::OutOfRange { .. }
            | Self::Swap { .. }
            | Self::UnifiedOnV1
            | Self::UnifiedName { .. }
            | Self::PageSize { .. }
            | Self::BadLine { .. }
            | Self::OnlyV1 { .. }
            | Self::DeviceRule { .. }
            | Self::DeviceHole { .. }
            | Self::Write { source: Errno::INVAL | Errno::RANGE, .. } => ErrorKind::InvalidArgument,
            Self::Read { source: Errno::NOENT | Errno::NODEV, .. } => ErrorKind::NotFound,
            _ => ErrorKind::Other,
        }
    }
}

fn busy_hint(errno: Errno) -> &'static str {
    if errno == Errno::BUSY { ", which has processes of its own" } else { "" }
}
