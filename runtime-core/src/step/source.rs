//! What the parent opens for a child, as data.

use std::ffi::CString;

use super::{Filesystem, Namespace};
use crate::plan::IdMaps;

/// Something the parent opens before the clone. A step names it by its index in [`InitPlan::sources`].
///
/// [`InitPlan::sources`]: crate::plan::InitPlan::sources
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A detached copy of the mount at a host path, or of the whole tree below it: open_tree(2).
    Tree {
        /// An absolute path of the host; symlinks are followed.
        path: CString,
        /// Mounts below it too (`rbind`).
        recursive: bool,
    },
    /// A new file system, detached: fsopen(2), fsmount(2). Made by the parent, so it belongs to the host's user namespace.
    Filesystem(Filesystem),
    /// A namespace to join: the file at an absolute path of the host, checked to be of this kind.
    Namespace {
        /// A path like `/proc/42/ns/net` or `/run/netns/pod`.
        path: CString,
        /// Which namespace it must be.
        kind: Namespace,
    },
    /// A tree or a file system whose files show other owners: `MOUNT_ATTR_IDMAP` of mount_setattr(2). Of an overlay it is
    /// the lower layers that do; what is written to it keeps the ids that it is written with.
    Idmapped {
        /// The tree or the file system.
        of: Box<Source>,
        /// Who stands for whom.
        by: Idmap,
        /// What is mounted below it too (`ridmap`).
        recursive: bool,
    },
    /// The pidfd of the container's init, for an exec.
    Init,
    /// What that has as its `/`.
    InitRoot,
    /// A new socket that listens at an absolute path of the host, for a [`Step::Gate`](super::Step::Gate) that another process opens.
    Gate(CString),
}

impl Source {
    /// Whether it is a part of the host's tree, and no file system of its own.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        match self {
            Self::Tree { .. } => true,
            Self::Idmapped { of, .. } => of.is_tree(),
            _ => false,
        }
    }
}

/// What an idmapped mount takes its ids from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idmap {
    /// Maps of its own, for which the parent makes a user namespace that nobody lives in.
    Maps(IdMaps),
    /// The user namespace at an absolute path of the host.
    Namespace(CString),
}

/// An index into [`InitPlan::sources`](crate::plan::InitPlan::sources).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceIndex(pub usize);
