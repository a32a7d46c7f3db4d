//! What can go wrong with a container.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::errno::text;
use crate::{cgroup, mounted, plan, spawn};

/// What a caller can make of an error; what a person makes of it is its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request, or the spec, asks for something that cannot be.
    InvalidArgument,
    /// What it names is not there (any more).
    NotFound,
    /// What it names is there already.
    AlreadyExists,
    /// Not in this state.
    FailedPrecondition,
    /// Not in this version.
    Unimplemented,
    /// The host said no.
    Other,
}

/// What can go wrong with a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec does not make a plan.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// Its seccomp profile does not make a filter.
    #[error(transparent)]
    Seccomp(#[from] plan::seccomp::Error),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// Its resctrl group.
    #[error(transparent)]
    Resctrl(#[from] cgroup::resctrl::Error),
    /// Its process.
    #[error(transparent)]
    Spawn(#[from] spawn::Error),
    /// This host could not be looked at.
    #[error("look at the host: {0}")]
    Host(#[source] io::Error),
    /// `root.path` is no place for a container.
    #[error("invalid rootfs {}: not a directory, or a symlink", path.display())]
    Rootfs {
        /// The path, with the bundle's.
        path: PathBuf,
    },
    /// A file of ours.
    #[error("{act} {}: {source}", path.display())]
    State {
        /// `write`, `read`, …
        act: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of ours is not ours.
    #[error("{} is not a state file of berth: {source}", path.display())]
    NotOurs {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// One more descriptor.
    #[error("duplicate a pidfd: {0}")]
    Descriptor(#[source] io::Error),
    /// The id is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// A second start.
    #[error("the container was started before")]
    Started,
    /// A signal to a process that has ended.
    #[error("process already finished")]
    Finished,
    /// Its root, which is mounted on the host.
    #[error(transparent)]
    Unmount(mounted::Error),
    /// Killed, and still there.
    #[error("container init still running")]
    Unkillable,
    /// A signal that could not be sent.
    #[error("send signal {signal} to the container's process: {}", text(*source))]
    Signal {
        /// Its number.
        signal: i32,
        /// Why.
        source: Errno,
    },
}

impl Error {
    /// What a caller can make of it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Plan(plan::Error::Unsupported { .. }) => ErrorKind::Unimplemented,
            Self::Plan(_) => ErrorKind::InvalidArgument,
            Self::Seccomp(_) | Self::Rootfs { .. } => ErrorKind::InvalidArgument,
            Self::Cgroup(error) => error.kind(),
            Self::Resctrl(error) => error.kind(),
            Self::Signal { source: Errno::INVAL, .. } => ErrorKind::InvalidArgument,
            Self::Finished => ErrorKind::NotFound,
            Self::Started => ErrorKind::FailedPrecondition,
            Self::Exists => ErrorKind::AlreadyExists,
            _ => ErrorKind::Other,
        }
    }
}
