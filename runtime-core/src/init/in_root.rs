//! Paths beneath the container's root.
//!
//! The image, and other containers through shared volumes, own what is there and may change it at any moment. So a path
//! is resolved by the kernel beneath the root (openat2 `RESOLVE_IN_ROOT`), to a descriptor, and only the descriptor is used.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat};
use rustix::io::Errno;

use crate::step::InRoot;

/// What is made where the last name is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Directory,
    File,
}

/// Opens a path for use as a target (`O_PATH`).
pub(super) fn open(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    resolve(root, path, OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path that must be reached without any symlink.
pub(super) fn open_without_symlinks(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    resolve(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// Opens a file or a device as a target, reached without any symlink.
pub(super) fn open_file_without_symlinks(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    resolve(root, path, OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// openat2(2); EAGAIN means that something was renamed meanwhile and the walk is safe to repeat.
pub(super) fn resolve(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    const TRIES: usize = 128;
    for _ in 1..TRIES {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// Opens a path and makes what is missing of it, directories with mode 0755.
pub(super) fn make(root: BorrowedFd<'_>, path: &InRoot, missing: Missing) -> Result<OwnedFd, Errno> {
    match open(root, &path.path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    for (index, prefix) in path.prefixes.iter().enumerate() {
        if open(root, prefix).is_ok() {
            continue;
        }
        let parent = parent_of(root, path, index)?;
        let name = path.names.get(index).ok_or(Errno::INVAL)?;
        let last = index + 1 == path.prefixes.len();
        let made = if last && missing == Missing::File {
            make_file(parent.as_fd(), name)
        } else {
            mkdirat(&parent, name.as_c_str(), Mode::from_raw_mode(0o755))
        };
        match made {
            // Somebody else made it meanwhile: what it is, the next look will tell.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    open(root, &path.path)
}

/// The directory that holds the last name of a path; made where it is missing.
pub(super) fn make_parent(root: BorrowedFd<'_>, path: &InRoot) -> Result<OwnedFd, Errno> {
    let count = path.prefixes.len().checked_sub(1).ok_or(Errno::EXIST)?;
    match parent_of(root, path, count) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    for (index, (prefix, name)) in path.prefixes.iter().zip(&path.names).take(count).enumerate() {
        if open(root, prefix).is_ok() {
            continue;
        }
        match mkdirat(parent_of(root, path, index)?, name.as_c_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    parent_of(root, path, count)
}

/// The directory in which the `index`th prefix of a path stands.
fn parent_of(root: BorrowedFd<'_>, path: &InRoot, index: usize) -> Result<OwnedFd, Errno> {
    let parent = match index.checked_sub(1) {
        None => c".",
        Some(before) => path.prefixes.get(before).ok_or(Errno::INVAL)?.as_c_str(),
    };
    open(root, parent)
}

/// Makes an empty file, mode 0644, as the target of a bind.
pub(super) fn make_file(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// Whether a descriptor is a directory.
pub(super) fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
