//! Who the process is: ids, capabilities, limits, labels, working directory, program.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, statat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Init, in_root};
use crate::program::Program;
use crate::step::Capabilities;
use crate::sys;

/// Highest number of a capability that a mask can hold.
const CAPABILITY_BITS: u32 = 64;

impl Init<'_> {
    /// A value into a file of our own procfs, over which nothing can be mounted (CVE-2025-52881).
    pub(super) fn write_proc(&self, path: &CStr, value: &[u8]) -> Result<(), Errno> {
        let procfs = self.procfs.as_ref().ok_or(Errno::BADF)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let file = in_root::resolve(procfs.as_fd(), path, flags, resolve)?;
        let written = rustix::io::write(&file, value)?;
        if written == value.len() { Ok(()) } else { Err(Errno::IO) }
    }

    /// An LSM attribute of this thread; an older kernel has only the second name.
    pub(super) fn write_attribute(&self, name: &CStr, older: Option<&CStr>, value: &CStr) -> Result<(), Errno> {
        let write = |name| self.write_proc_attribute(name, value.to_bytes());
        match (write(name), older) {
            (Err(Errno::NOENT), Some(older)) => write(older),
            (result, _) => result,
        }
    }

    fn write_proc_attribute(&self, name: &CStr, value: &[u8]) -> Result<(), Errno> {
        let procfs = self.procfs.as_ref().ok_or(Errno::BADF)?;
        // `self` is a symlink of procfs itself; a magic link it is not.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        let attributes = in_root::resolve(procfs.as_fd(), c"self/attr", flags, resolve)?;
        let file = in_root::resolve(attributes.as_fd(), name, OFlags::WRONLY | OFlags::CLOEXEC, resolve)?;
        rustix::io::write(&file, value).map(drop)
    }

    /// As root, for directories that only root may enter; what is refused is tried again as the user.
    pub(super) fn chdir(&mut self, path: &CStr) -> Result<(), Errno> {
        match rustix::process::chdir(path) {
            Err(Errno::ACCESS | Errno::PERM) => {
                self.cwd_refused = true;
                Ok(())
            }
            other => other,
        }
    }

    /// getcwd(2) answers "(unreachable)/…" outside the root; the kernel's raw call does, where libc's would hide it.
    pub(super) fn verify_cwd(&mut self, path: &CStr) -> Result<(), Errno> {
        if self.cwd_refused {
            rustix::process::chdir(path)?;
            self.cwd_refused = false;
        }
        if sys::cwd_is_reachable()? { Ok(()) } else { Err(Errno::NOENT) }
    }
}

/// The first procfs that there is: the host's, before any namespace of the container's is entered.
pub(super) fn oom_score_adj(score: &CStr) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(&file, score.to_bytes()).map(drop)
}

pub(super) fn session_keyring(name: &CStr) -> Result<(), Errno> {
    match sys::join_session_keyring(name) {
        // No keyrings in this kernel, or forbidden to us: as runc, go on without.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// As runc, go on without where that is refused to us.
pub(super) fn every_cpu() -> Result<(), Errno> {
    // More than any kernel has: it takes those that there are. linux/threads.h
    let _ = sys::sched_setaffinity(&[u64::MAX; 8192 / 64]);
    Ok(())
}

pub(super) fn rlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    sys::setrlimit(resource, soft, hard)
}

pub(super) fn become_root() -> Result<(), Errno> {
    set_ids(0, 0)
}

/// Ids 0, 1, 2 belong to the user, as far as they can be given (runc does the same, with the same exceptions).
pub(super) fn chown_stdio(uid: u32) -> Result<(), Errno> {
    for fd in 0..3 {
        let fd = sys::stdio(fd);
        let stat = statat(fd, c"", AtFlags::EMPTY_PATH)?;
        let null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if stat.st_uid == uid || null {
            continue;
        }
        match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

pub(super) fn bounding_set(keep: u64) -> Result<(), Errno> {
    for number in 0..CAPABILITY_BITS {
        let bit = 1 << number;
        if keep & bit != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Leaving uid 0 would clear the permitted set; it is kept for [`capabilities`] to choose from. capabilities(7)
pub(super) fn ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), Errno> {
    rustix::thread::set_keep_capabilities(true)?;
    if let Some(groups) = groups {
        sys::setgroups(groups)?;
    }
    set_ids(uid, gid)
}

fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Leaving uid 0 clears the effective set and the ambient one, so all are set after the ids.
pub(super) fn capabilities(sets: &Capabilities) -> Result<(), Errno> {
    rustix::thread::set_keep_capabilities(false)?;
    let set = CapabilitySet::from_bits_retain;
    let wanted = CapabilitySets {
        effective: set(sets.effective),
        permitted: set(sets.permitted),
        inheritable: set(sets.inheritable),
    };
    rustix::thread::set_capabilities(None, wanted)?;
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..CAPABILITY_BITS {
        let bit = 1 << number;
        if sets.ambient & bit != 0 {
            // One that is not inheritable cannot be ambient; like runc, go on without it.
            match rustix::thread::configure_capability_in_ambient_set(set(bit), true) {
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// The first candidate that is a file the user may execute, as execvp(3) would choose: one that may not be executed is
/// passed over, but remembered where there is no other.
pub(super) fn find_program(program: &Program) -> Result<usize, Errno> {
    let mut refused = Errno::NOENT;
    for (index, path) in program.candidates.iter().enumerate() {
        match executable(path) {
            Ok(()) => return Ok(index),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => refused = errno,
        }
    }
    Err(refused)
}

/// A filter that is in force already may refuse the question (faccessat2(2) is younger than many profiles): then the mode
/// says whether it can be executed at all, and execve(2) whether it may be.
fn executable(path: &CStr) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    match rustix::fs::accessat(CWD, path, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS) {
        Err(Errno::PERM | Errno::NOSYS) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(Errno::PERM | Errno::NOSYS) => Err(Errno::ACCESS),
        result => result,
    }
}
