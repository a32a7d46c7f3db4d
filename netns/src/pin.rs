//! Names of namespaces: a namespace's file bound over an empty one.

use std::fs::DirBuilder;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::Error;
use crate::namespace::NSFS_MAGIC;

/// Where ip-netns(8) and containerd keep theirs.
pub const DIRECTORY: &str = "/run/netns";

/// How many mounts over one name are taken off; more are somebody's game.
const STACKED: usize = 16;

/// Makes `directory/name` and mounts the namespace on it, through descriptors: what is mounted on is what was made.
pub(crate) fn pin(namespace: BorrowedFd<'_>, directory: &Path, name: &str) -> Result<PathBuf, Error> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::Name { name: name.to_owned() });
    }
    let path = directory.join(name);
    let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.map_err(|error| Error::CreateFile {
        path: directory.to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    let directory = open_directory(directory)?;
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, name, flags, Mode::RUSR | Mode::RGRP | Mode::ROTH)
        .map_err(|source| Error::CreateFile { path: path.clone(), source })?;
    if let Err(source) = mount(namespace, &file) {
        let _ = rustix::fs::unlinkat(&directory, name, AtFlags::empty());
        return Err(Error::Mount { path, source });
    }
    Ok(path)
}

fn mount(namespace: BorrowedFd<'_>, file: &OwnedFd) -> Result<(), Errno> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(namespace, c"", clone)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&tree, c"", file, c"", both)
}

/// Takes a pin away; the namespace lives on while something else holds it. A pin that is gone, or whose mount is (a
/// crash between the file and the mount leaves that), is no error; a path that is something else is, and stays.
pub fn remove(path: &Path) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotANamespace { path: path.to_owned() });
    };
    // The mount table knows /run/netns, callers may say /var/run/netns: the directory's links are followed, the
    // name is not.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let directory = match open_directory(parent) {
        Err(Error::Open { source: Errno::NOENT, .. }) => return Ok(()),
        other => other?,
    };
    let below = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    for _ in 0..STACKED {
        match probe(&directory, name, path)? {
            Probe::Absent => return Ok(()),
            Probe::Empty => break,
            Probe::Mounted => rustix::mount::unmount(&below, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .map_err(|source| Error::Unmount { path: path.to_owned(), source })?,
        }
    }
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(source) => Err(Error::Remove { path: path.to_owned(), source }),
    }
}

/// What stands under a pin's name.
enum Probe {
    Absent,
    /// The file that a namespace is mounted on, without it.
    Empty,
    Mounted,
}

fn probe(directory: &OwnedFd, name: &std::ffi::OsStr, path: &Path) -> Result<Probe, Error> {
    let failed = |source| Error::Open { path: path.to_owned(), source };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Probe::Absent),
        other => other.map_err(failed)?,
    };
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if rustix::fs::fstatfs(&file).map_err(failed)?.f_type == NSFS_MAGIC {
        return Ok(Probe::Mounted);
    }
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0 {
        return Ok(Probe::Empty);
    }
    Err(Error::NotANamespace { path: path.to_owned() })
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|source| Error::Open { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_mount_that_fails_takes_its_file_away() {
        let scratch = std::env::temp_dir().join(format!("berth-netns-undone-{}", std::process::id()));
        // A directory cannot be mounted on a file, and without root nothing can.
        let directory = std::fs::File::open("/").unwrap();
        let error = pin(directory.as_fd(), &scratch, "pod").unwrap_err();
        assert!(matches!(error, Error::Mount { .. }), "{error:?}");
        // Fails if the file is still there.
        std::fs::remove_dir(&scratch).unwrap();
    }
}
