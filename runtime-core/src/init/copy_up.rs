//! `tmpcopyup`: a tmpfs that begins with what it covers.
//!
//! The image owns what is copied and may change it meanwhile: every step is by descriptor, and follows no symlink.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, XattrFlags, fgetxattr, flistxattr,
    fsetxattr, mkdirat, mknodat, openat, readlinkat_raw, sendfile, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

/// How deep directories may be nested: the stack has an end.
const DEPTH: usize = 64;
/// Names that are read at a time.
const ENTRIES: usize = 2048;
/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`. linux/limits.h
const ATTRIBUTES: usize = 1 << 16;
/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;

/// Copies what a directory holds into another.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    copy_directory(open_directory(from, c".")?.as_fd(), open_directory(to, c".")?.as_fd(), DEPTH)
}

fn open_directory(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    let mut buffer = [MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        copy_entry(from, to, name, &stat, depth)?;
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat, depth: usize) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let source = match kind {
        FileType::Directory => Some(copy_tree(from, to, name, depth)?),
        FileType::RegularFile => Some(copy_file(from, to, name)?),
        FileType::Symlink => {
            copy_symlink(from, to, name)?;
            None
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)?;
            None
        }
        // A socket is nothing without who listens.
        _ => return Ok(()),
    };
    // Of what was copied, whatever has the name by now: another's set-user-ID would be a way to become him.
    let stat = source.as_ref().map_or(Ok(*stat), rustix::fs::fstat)?;
    match rustix::fs::chownat(
        to,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    ) {
        // An id that the user namespace does not map.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    // After the owner, whose change takes set-user-ID away. What was just made is not a symlink.
    if kind != FileType::Symlink {
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    if let Some(source) = &source {
        copy_attributes(source.as_fd(), to, name)?;
    }
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    };
    utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<OwnedFd, Errno> {
    mkdirat(to, name, Mode::RWXU)?;
    let source = open_directory(from, name)?;
    copy_directory(source.as_fd(), open_directory(to, name)?.as_fd(), depth)?;
    Ok(source)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    // Non-blocking, since it may be a fifo by now; of that nothing is read.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let source = openat(from, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
    while sendfile(&target, &source, None, CHUNK)? > 0 {}
    Ok(source)
}

/// Extended attributes, among them file capabilities, as far as a tmpfs takes them and we may give them.
fn copy_attributes(source: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let target = openat(to, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let (mut names, mut value) = ([0; ATTRIBUTES], [0; ATTRIBUTES]);
    let listed = match flistxattr(source, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        listed => listed?,
    };
    for name in names.get(..listed).unwrap_or_default().split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
        let length = match fgetxattr(source, name, &mut value[..]) {
            // Gone meanwhile, or with ids that mean nothing here.
            Err(Errno::NODATA | Errno::OVERFLOW) => continue,
            length => length?,
        };
        match fsetxattr(&target, name, value.get(..length).unwrap_or_default(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_symlink(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut read = [MaybeUninit::uninit(); libc::PATH_MAX as usize];
    let (target, _) = readlinkat_raw(from, name, &mut read)?;
    let mut text = [0; libc::PATH_MAX as usize + 1];
    text.get_mut(..target.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(target);
    symlinkat(CStr::from_bytes_until_nul(&text).map_err(|_| Errno::NAMETOOLONG)?, to, name)
}
