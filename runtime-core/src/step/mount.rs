//! Mounts, as data.

use std::ffi::CString;

use super::{Idmap, InRoot, Slot, SourceIndex};

/// A file system to be made by fsopen(2), fsconfig(2) and fsmount(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// `proc`, `tmpfs`, `overlay` …
    pub fstype: CString,
    /// What stands first in mountinfo: `proc`, `shm`, a device.
    pub source: CString,
    /// Options for the file system itself, in order; without a value it is a flag.
    pub options: Vec<(CString, Option<CString>)>,
    /// `MOUNT_ATTR_*` of the mount.
    pub attributes: u64,
}

/// Propagation of mount events, applied to a mount or to the tree below it. mount_namespaces(7)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_PRIVATE`, `MS_SHARED`, `MS_SLAVE` or `MS_UNBINDABLE`.
    pub kind: u64,
    /// The whole tree (`rprivate` …).
    pub recursive: bool,
}

/// Changes of mount attributes: mount_setattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear; `MOUNT_ATTR__ATIME` whole where an access-time mode is set.
    pub clear: u64,
}

/// Where the root file system is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootPlace {
    /// Over `/` of the child's own mount namespace.
    Slash,
    /// Where [`Step::EnterRootPath`](super::Step::EnterRootPath) went, in the child's own mount namespace.
    Path,
    /// There too, but the mount namespace is the host's.
    Host,
}

/// How a container's root becomes its `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// pivot_root(2), and the old root gone.
    Pivot,
    /// chroot(2) into a root over `/`: runc's `--no-pivot`, for a host whose root is a ramdisk.
    Move,
    /// chroot(2) alone: the mounts are the host's too.
    Chroot,
}

/// What a [`MountStep`] puts on its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A tree or a file system that the parent opened. `slave_first` makes the copy a slave of the host's mount before
    /// anything else, as a bind inside a namespace whose root was made rslave would be.
    Opened {
        /// Which one.
        source: SourceIndex,
        /// Receive from the host, send nothing to it.
        slave_first: bool,
    },
    /// A tree of the container's own, as earlier mounts have made it: resolved beneath its root, never on the host.
    InRoot {
        /// Where.
        path: InRoot,
        /// Mounts below it too.
        recursive: bool,
        /// Have the parent give it other owners, and its whole tree where that is true.
        idmap: Option<(Idmap, bool)>,
    },
    /// A new file system, made by the child inside its own namespaces.
    Filesystem {
        /// What to make.
        filesystem: Filesystem,
        /// Give its root the mode of the directory it covers, as runc does for a tmpfs without `mode=`.
        inherit_mode: bool,
        /// Copy what it covers into it, as runc's `tmpcopyup`.
        copy_up: bool,
    },
}

/// One mount inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountStep {
    /// What is mounted.
    pub source: MountSource,
    /// Where; made if missing: a directory, or an empty file for a bind of a file.
    pub target: InRoot,
    /// Attributes of the mount itself.
    pub attributes: Attributes,
    /// A change of attributes that must change nothing, or the mount is refused: it has been asked for in a user namespace,
    /// which has no right to it.
    pub locked: Attributes,
    /// Attributes of the whole tree (`rro`, `rnosuid` …).
    pub recursive_attributes: Attributes,
    /// Propagation, in the order given.
    pub propagation: Vec<Propagation>,
    /// The target must be a real directory, reached without a symlink (proc and sysfs: CVE-2019-19921, CVE-2023-27561).
    pub no_symlinks: bool,
    /// The target may lie inside a procfs (the short list of runc's `checkProcMount`); anything else that turns out to is refused.
    pub over_proc: bool,
    /// Where to keep the mount's descriptor for [`super::Step::Readonly`].
    pub keep: Option<Slot>,
}
