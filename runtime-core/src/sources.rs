//! What the parent opens for a plan before the clone.

mod overlay;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::step::{Filesystem, Namespace, Source};

/// Opens every source of a plan, in order. `init` is the container's init for an exec.
pub(crate) fn open(sources: &[Source], init: Option<BorrowedFd<'_>>) -> Result<Vec<OwnedFd>, (usize, Errno)> {
    sources.iter().enumerate().map(|(index, source)| open_one(source, init).map_err(|errno| (index, errno))).collect()
}

fn open_one(source: &Source, init: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Errno> {
    match source {
        Source::Tree { path, recursive } => open_tree(path, *recursive),
        Source::Filesystem(filesystem) if overlay::is_long(filesystem) => overlay::make(filesystem),
        Source::Filesystem(filesystem) => make_filesystem(filesystem),
        Source::Namespace { path, kind } => open_namespace(path, *kind),
        Source::Init => fcntl_dupfd_cloexec(init.ok_or(Errno::SRCH)?, 3),
    }
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
    if crate::sys::namespace_type(file.as_fd()) == Ok(kind.flag()) { Ok(file) } else { Err(Errno::INVAL) }
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
