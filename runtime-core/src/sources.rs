//! What the parent opens for a plan before the clone.

mod idmap;
mod overlay;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::children::Children;
use crate::errno::text;
use crate::step::{Filesystem, Namespace, Source};
use crate::{sys, userns};
use idmap::UserNamespaces;
pub(crate) use idmap::apply as idmap;

/// Why a source could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no more to say.
    #[error("{}", text(*.0))]
    Errno(#[from] Errno),
    /// A lower layer of an overlay that is to be idmapped.
    #[error("open the layer {}: {}", path.to_string_lossy(), text(*source))]
    Layer {
        /// Its path.
        path: CString,
        /// Why.
        source: Errno,
    },
    /// A mount could not be idmapped.
    #[error("idmap {}: {}{}", of.to_string_lossy(), text(*source), unmappable(*source))]
    Idmap {
        /// Its path, or its device.
        of: CString,
        /// Why.
        source: Errno,
    },
    /// An overlay on idmapped layers.
    #[error("make an overlay on idmapped layers: {}{}", text(*.0), too_old(*.0))]
    OverlayOnIdmapped(#[source] Errno),
    /// The user namespace that has the maps.
    #[error(transparent)]
    UserNamespace(#[from] userns::Error),
}

/// What EINVAL means where everything else was checked. mount_setattr(2)
fn unmappable(errno: Errno) -> &'static str {
    if errno == Errno::INVAL { " (its file system may not support idmapped mounts)" } else { "" }
}

/// As above. overlayfs refuses such layers before Linux 5.19.
fn too_old(errno: Errno) -> &'static str {
    if errno == Errno::INVAL { " (which needs Linux 5.19 or newer)" } else { "" }
}

/// The container's init, for an exec.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    pub(crate) pidfd: BorrowedFd<'a>,
    /// What it has as its `/`, as long as it lives.
    pub(crate) root: Option<BorrowedFd<'a>>,
}

/// Opens every source of a plan, in order.
pub(crate) fn open(
    sources: &[Source],
    init: Option<&Joined<'_>>,
    children: &Children,
) -> Result<Vec<OwnedFd>, (usize, Error)> {
    let mut namespaces = UserNamespaces::new(children);
    let mut open = |(index, source)| open_one(source, init, &mut namespaces).map_err(|error| (index, error));
    sources.iter().enumerate().map(&mut open).collect()
}

fn open_one(source: &Source, init: Option<&Joined<'_>>, namespaces: &mut UserNamespaces<'_>) -> Result<OwnedFd, Error> {
    Ok(match source {
        Source::Tree { path, recursive } => open_tree(path, *recursive)?,
        Source::Filesystem(made) => filesystem(made)?,
        Source::Idmapped { of, by, recursive } => idmap::make(of, by, *recursive, namespaces)?,
        Source::Namespace { path, kind } => open_namespace(path, *kind)?,
        Source::Gate(path) => crate::gate::listen(path)?,
        Source::Init => fcntl_dupfd_cloexec(init.ok_or(Errno::SRCH)?.pidfd, 3)?,
        Source::InitRoot => fcntl_dupfd_cloexec(init.and_then(|init| init.root).ok_or(Errno::SRCH)?, 3)?,
    })
}

fn filesystem(filesystem: &Filesystem) -> Result<OwnedFd, Errno> {
    if overlay::is_long(filesystem) { overlay::make(filesystem) } else { make_filesystem(filesystem) }
}

/// `/dev/null` for a process's stdio. It is open on a read-only mount, which keeps nobody from writing to a device: root
/// in a container may change the owner and the mode of what it has open, and this is the host's.
pub fn null() -> Result<OwnedFd, Errno> {
    let tree = open_tree(c"/dev/null", false)?;
    let attributes = sys::MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..sys::MountAttr::default() };
    sys::mount_setattr(tree.as_fd(), 0, attributes)?;
    rustix::fs::open(format!("/proc/self/fd/{}", tree.as_raw_fd()), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn open_tree(path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
}

/// A namespace file that is not of its kind answers EINVAL, as setns(2) would, but before anything was made.
fn open_namespace(path: &CStr, kind: Namespace) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    if sys::namespace_type(file.as_fd()) == Ok(kind.flag()) { Ok(file) } else { Err(Errno::INVAL) }
}

/// Makes a file system, detached. Called by the parent for a root file system and by the child for everything else: it
/// allocates nothing.
pub(crate) fn make_filesystem(filesystem: &Filesystem) -> Result<OwnedFd, Errno> {
    let context = configure(filesystem)?;
    create(context.as_fd(), filesystem.attributes)
}

/// fsopen(2) and every option, before the file system is created.
pub(crate) fn configure(filesystem: &Filesystem) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(filesystem.fstype.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !filesystem.source.is_empty() {
        rustix::mount::fsconfig_set_string(&context, c"source", filesystem.source.as_c_str())?;
    }
    for (key, value) in &filesystem.options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, key.as_c_str(), value.as_c_str())?,
            None => rustix::mount::fsconfig_set_flag(&context, key.as_c_str())?,
        }
    }
    Ok(context)
}

/// The file system of a configured context, as a detached mount.
pub(crate) fn create(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    rustix::mount::fsconfig_create(context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
