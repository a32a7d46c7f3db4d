//! Device nodes, symlinks, terminal and stdio.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstatfs, mknodat, statat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::in_root::{self, Missing};
use super::mounts::attach;
use super::{Init, mounts};
use crate::channel::report_console;
use crate::step::{Device, InRoot};
use crate::sys;

/// Magic number of devpts. statfs(2)
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// Major and minor number of `/dev/null` and of `/dev/ptmx`. mem(4), pts(4)
const NULL: (u32, u32) = (1, 3);
const PTMX: (u32, u32) = (5, 2);

impl<'a> Init<'a> {
    /// The directory of a node or a symlink; the last one is kept, since most stand beside each other.
    fn directory(&mut self, path: &'a InRoot) -> Result<BorrowedFd<'_>, Errno> {
        if self.directory.as_ref().is_none_or(|(last, _)| *last != path.parent.as_c_str()) {
            self.directory = Some((&path.parent, in_root::make_parent(self.root()?, path)?));
        }
        self.directory.as_ref().map(|(_, directory)| directory.as_fd()).ok_or(Errno::BADF)
    }

    /// A node that is there already is left alone, but it must be the device that was asked for.
    pub(super) fn device(&mut self, device: &'a Device) -> Result<(), Errno> {
        let parent = self.directory(&device.path)?;
        let name = &device.path.name;
        let kind = FileType::from_raw_mode(device.mode);
        let mode = Mode::from_raw_mode(device.mode & 0o7777);
        let number = rustix::fs::makedev(device.major, device.minor);
        let made = match mknodat(parent, name.as_c_str(), kind, mode, number) {
            // Just made, root's, and for everybody: there is nothing to give to anybody.
            Ok(()) if (device.uid, device.gid) == (0, 0) && device.mode & 0o666 == 0o666 => return Ok(()),
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(parent, name.as_c_str(), flags, Mode::empty())?;
        let stat = status(node.as_fd())?;
        let numbered = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if FileType::from_raw_mode(stat.st_mode) != kind || (numbered && stat.st_rdev != number) {
            return Err(Errno::EXIST);
        }
        // One that is bound from the host is the host's.
        if !made || (stat.st_uid, stat.st_gid) == (device.uid, device.gid) {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        rustix::fs::chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }

    pub(super) fn symlink(&mut self, target: &CStr, path: &'a InRoot) -> Result<(), Errno> {
        let parent = self.directory(path)?;
        let name = path.name.as_c_str();
        match rustix::fs::symlinkat(target, parent, name) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        // What stands there goes, unless it is a directory or a mount of the spec's own: that one is meant.
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => rustix::fs::symlinkat(target, parent, name),
            Err(Errno::BUSY | Errno::ISDIR | Errno::ROFS) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// CVE-2025-52565, CVE-2026-88264: neither end of the pty is reached by a path that the image could have made.
    pub(super) fn console(&mut self, size: Option<(u16, u16)>, bind: bool, uid: u32) -> Result<(), Errno> {
        let root = self.root()?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let master = in_root::resolve(root, c"dev/pts/ptmx", flags, resolve)?;
        let stat = status(master.as_fd())?;
        if fstatfs(&master)?.f_type as i64 != DEVPTS_SUPER_MAGIC || !is_device(&stat, PTMX) {
            return Err(Errno::NODEV);
        }
        rustix::pty::unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        if let Some((rows, columns)) = size {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&slave, size)?;
        }
        match rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None) {
            // An id that is not mapped, or a read-only file system: as far as it can be given.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => return Err(errno),
        }
        if bind {
            self.bind_console(slave.as_fd())?;
        }
        report_console(self.channel(), master.as_fd())?;
        become_session_leader()?;
        sys::set_controlling_terminal(slave.as_fd())?;
        stdio_from([slave.as_fd(), slave.as_fd(), slave.as_fd()])
    }

    fn bind_console(&self, slave: BorrowedFd<'_>) -> Result<(), Errno> {
        let root = self.root()?;
        let target = match in_root::open_file_without_symlinks(root, c"dev/console") {
            Err(Errno::NOENT) => {
                in_root::make_file(in_root::open(root, c"dev")?.as_fd(), c"console")?;
                in_root::open_file_without_symlinks(root, c"dev/console")?
            }
            other => other?,
        };
        attach(mounts::clone_mount(slave)?.as_fd(), target.as_fd())
    }

    /// CVE-2026-88265: a regular file has device number 0:0 on both sides, so the type is compared first.
    pub(super) fn reopen_null(&self, if_any: bool) -> Result<(), Errno> {
        let mut null: Option<OwnedFd> = None;
        for fd in 0..3 {
            if !is_device(&status(sys::stdio(fd))?, NULL) {
                continue;
            }
            let ours = match null.take() {
                Some(ours) => ours,
                None => match self.open_null() {
                    Ok(ours) => ours,
                    // A container without /dev/null keeps what it was given.
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                    Err(_) if if_any => return Ok(()),
                    Err(errno) => return Err(errno),
                },
            };
            sys::dup_to_stdio(ours.as_fd(), fd)?;
            null = Some(ours);
        }
        Ok(())
    }

    fn open_null(&self) -> Result<OwnedFd, Errno> {
        // Non-blocking, since it may be a fifo of the image's; for the device the flag means nothing.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let null = in_root::resolve(self.root()?, c"dev/null", flags, resolve)?;
        if is_device(&status(null.as_fd())?, NULL) { Ok(null) } else { Err(Errno::NODEV) }
    }

    pub(super) fn make_cwd(&self, path: &InRoot) -> Result<(), Errno> {
        in_root::make(self.root()?, path, Missing::Directory).map(drop)
    }
}

/// A session of its own, so that the container's terminal is nobody else's. Already a leader: fine.
pub(super) fn become_session_leader() -> Result<(), Errno> {
    match rustix::process::setsid() {
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

pub(super) fn stdio_from(fds: [BorrowedFd<'_>; 3]) -> Result<(), Errno> {
    for (to, from) in fds.into_iter().enumerate() {
        sys::dup_to_stdio(from, to as i32)?;
    }
    Ok(())
}

fn status(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    statat(fd, c"", AtFlags::EMPTY_PATH)
}

fn is_device(stat: &Stat, (major, minor): (u32, u32)) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(major, minor)
}
