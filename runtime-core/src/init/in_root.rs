//! Paths beneath the container's root.
//!
//! The image, and other containers through shared volumes, own what is there and may change it at any moment. So a path
//! is resolved by the kernel beneath the root (openat2 `RESOLVE_IN_ROOT`), to a descriptor, and only the descriptor is used.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat_raw, statat};
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
    // Most often it is the last name alone that is missing. A link that points to nothing is in the way of that.
    let made = open(root, &path.parent).and_then(|parent| make_last(parent.as_fd(), &path.name, missing));
    if made.is_err() {
        make_missing(root, &mut PathBuffer::new(&[path.path.to_bytes()])?, missing, LINKS)?;
    }
    open(root, &path.path)
}

/// The directory that holds the last name of a path; made where it is missing.
pub(super) fn make_parent(root: BorrowedFd<'_>, path: &InRoot) -> Result<OwnedFd, Errno> {
    match open(root, &path.parent) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    make_missing(root, &mut PathBuffer::new(&[path.parent.to_bytes()])?, Missing::Directory, LINKS)?;
    open(root, &path.parent)
}

fn make_last(parent: BorrowedFd<'_>, name: &CStr, missing: Missing) -> Result<(), Errno> {
    match missing {
        Missing::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Missing::File => make_file(parent, name),
    }
}

/// How many links that point to nothing yet are followed, one behind the other.
const LINKS: usize = 8;

/// Makes every name of a path that is not there. A link to something missing has its target made, beneath the root.
fn make_missing(root: BorrowedFd<'_>, path: &mut PathBuffer, missing: Missing, links: usize) -> Result<(), Errno> {
    let mut start = 0;
    while let Some(end) = path.end_of_name(start) {
        let found = path.with_prefix(end, |prefix| open(root, prefix))?;
        if matches!(found, Err(Errno::NOENT)) {
            let parent = path.with_prefix(start.saturating_sub(1), |parent| open(root, parent))??;
            let last = if path.is_last(end) { missing } else { Missing::Directory };
            let made = path.with_name(start, end, |name| make_last(parent.as_fd(), name, last))?;
            match made {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
                    if let Some(mut target) = path.link_target(parent.as_fd(), start, end)? {
                        make_missing(root, &mut target, last, links)?;
                    }
                }
                Err(errno) => return Err(errno),
            }
        } else {
            found?;
        }
        start = end + 1;
    }
    Ok(())
}

/// A path on the stack, of which a part at a time is a C string: the child has no heap.
struct PathBuffer {
    bytes: [u8; libc::PATH_MAX as usize],
    length: usize,
}

impl PathBuffer {
    fn new(parts: &[&[u8]]) -> Result<Self, Errno> {
        let mut buffer = Self { bytes: [0; libc::PATH_MAX as usize], length: 0 };
        for part in parts {
            let end = buffer.length + part.len();
            // One byte is left for the NUL.
            if end >= buffer.bytes.len() {
                return Err(Errno::NAMETOOLONG);
            }
            buffer.bytes.get_mut(buffer.length..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(part);
            buffer.length = end;
        }
        Ok(buffer)
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Where the name that begins at `start` ends; `None` behind the last.
    fn end_of_name(&self, start: usize) -> Option<usize> {
        let rest = self.text().get(start..).filter(|rest| !rest.is_empty())?;
        Some(start + rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len()))
    }

    fn is_last(&self, end: usize) -> bool {
        self.text().get(end..).unwrap_or_default().iter().all(|byte| *byte == b'/')
    }

    /// The path up to `end`; `.` for an empty one.
    fn with_prefix<T>(&mut self, end: usize, act: impl FnOnce(&CStr) -> T) -> Result<T, Errno> {
        if end == 0 { Ok(act(c".")) } else { self.with_name(0, end, act) }
    }

    fn with_name<T>(&mut self, start: usize, end: usize, act: impl FnOnce(&CStr) -> T) -> Result<T, Errno> {
        let kept = std::mem::replace(self.bytes.get_mut(end).ok_or(Errno::NAMETOOLONG)?, 0);
        let name = self.bytes.get(start..=end).and_then(|name| CStr::from_bytes_with_nul(name).ok());
        let result = name.map(act).ok_or(Errno::INVAL);
        if let Some(byte) = self.bytes.get_mut(end) {
            *byte = kept;
        }
        result
    }

    /// Where the link at `start..end` points, from the root on; `None` if it is no link (any more).
    fn link_target(&mut self, parent: BorrowedFd<'_>, start: usize, end: usize) -> Result<Option<Self>, Errno> {
        let mut target = [MaybeUninit::uninit(); libc::PATH_MAX as usize];
        let read = self.with_name(start, end, |name| readlinkat_raw(parent, name, &mut target))?;
        let target = match read {
            Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
            read => &*read?.0,
        };
        let directory = self.text().get(..start).unwrap_or_default();
        let from_root = target.first() == Some(&b'/');
        if from_root { Self::new(&[target]) } else { Self::new(&[directory, target]) }.map(Some)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-in-root-{}-{name}", std::process::id()));
            std::fs::create_dir_all(path.join("root")).unwrap();
            Self(path)
        }

        fn path(&self) -> PathBuf {
            self.0.join("root")
        }

        fn make(&self, path: &str, missing: Missing) -> Result<OwnedFd, Errno> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(self.path(), flags, Mode::empty())?;
            make(root.as_fd(), &InRoot::new(path).unwrap(), missing)
        }

        /// What was made beside the root, where nothing may ever be.
        fn outside(&self) -> usize {
            std::fs::read_dir(&self.0).unwrap().count() - 1
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn missing_names_are_made() {
        let root = Root::new("missing");
        assert!(is_directory(root.make("/a/b/../c", Missing::Directory).unwrap().as_fd()).unwrap());
        assert!(!is_directory(root.make("/a/d/file", Missing::File).unwrap().as_fd()).unwrap());
        assert!(root.path().join("a/c").is_dir() && root.path().join("a/d/file").is_file());
    }

    #[test]
    fn link_to_something_missing_is_followed_beneath_the_root() {
        let root = Root::new("links");
        let outside = root.0.join("outside");
        symlink(&outside, root.path().join("absolute")).unwrap();
        symlink("../../outside", root.path().join("relative")).unwrap();
        root.make("/absolute/x", Missing::Directory).unwrap();
        root.make("/relative", Missing::File).unwrap();
        assert!(root.path().join(Path::new(&outside).strip_prefix("/").unwrap()).join("x").is_dir());
        assert!(root.path().join("outside").is_file());
        assert_eq!(root.outside(), 0);
    }

    #[test]
    fn links_that_go_round_end() {
        let root = Root::new("loop");
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        assert_eq!(root.make("/a/x", Missing::Directory).map(drop), Err(Errno::LOOP));
    }

    #[test]
    fn file_in_the_way_is_an_error() {
        let root = Root::new("file");
        std::fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(root.make("/file/x", Missing::Directory).map(drop), Err(Errno::NOTDIR));
    }
}
