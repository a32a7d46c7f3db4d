//! One cgroup directory: a descriptor, and what can be done below it by plain file names.
//!
//! Nothing here takes a path of the host. A directory is reached from its hierarchy's root by one
//! openat2(2) that can neither climb nor follow links, and its files by openat(2) from there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::Pid;

/// A cgroup directory, open with O_PATH.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

impl Dir {
    /// Takes over a descriptor of a directory.
    pub(super) fn new(fd: OwnedFd) -> Dir {
        Dir(fd)
    }

    /// The directory at `path` (relative, without `..`) below this one.
    pub(super) fn below(&self, path: &str) -> Result<Dir, Errno> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
                // A rename or mount elsewhere raced with the walk. openat2(2)
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other.map(Dir),
            }
        }
    }

    /// Makes the child `path`; false if it was there before.
    pub(super) fn mkdir(&self, path: &str) -> Result<bool, Errno> {
        match rustix::fs::mkdirat(&self.0, path, DIR_MODE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the empty child `path`.
    pub(super) fn rmdir(&self, path: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.0, path, AtFlags::REMOVEDIR)
    }

    /// Opens the file `name` of this cgroup.
    pub(super) fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.0, name, flags, Mode::empty())
    }

    /// Writes `value` to the file `name` with a single write(2), as cgroupfs wants it.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<(), Errno> {
        let file = self.open(name, OFlags::WRONLY)?;
        rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes())).map(drop)
    }

    /// Writes `lines` to the file `name`, each by a write(2) of its own; an error says which one.
    pub(super) fn write_lines<'a>(&self, name: &str, lines: &'a [String]) -> Result<(), (&'a str, Errno)> {
        let Some(first) = lines.first() else { return Ok(()) };
        let file = self.open(name, OFlags::WRONLY).map_err(|errno| (first.as_str(), errno))?;
        for line in lines {
            rustix::io::retry_on_intr(|| rustix::io::write(&file, line.as_bytes()))
                .map_err(|errno| (line.as_str(), errno))?;
        }
        Ok(())
    }

    /// The whole of the file `name`.
    pub(super) fn read(&self, name: &str) -> Result<String, Errno> {
        let file = self.open(name, OFlags::RDONLY)?;
        read_from_start(file.as_fd())
    }

    /// True if the file `name` exists.
    pub(super) fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The names of the child cgroups.
    pub(super) fn children(&self) -> Result<Vec<String>, Errno> {
        // A cgroup's link count is two and one for each child: most have none, and need no listing.
        if rustix::fs::fstat(&self.0)?.st_nlink == 2 {
            return Ok(Vec::new());
        }
        self.list(rustix::fs::FileType::Directory)
    }

    fn list(&self, wanted: rustix::fs::FileType) -> Result<Vec<String>, Errno> {
        let fd = self.open(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == wanted && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    /// The processes of this cgroup alone.
    pub(super) fn procs(&self) -> Result<Vec<Pid>, Errno> {
        let text = match self.read("cgroup.procs") {
            // A threaded cgroup of v2 lists only threads. cgroups(7)
            Err(Errno::OPNOTSUPP) => self.read("cgroup.threads")?,
            other => other?,
        };
        Ok(parse_pids(&text))
    }

    /// The processes of this cgroup and of all below it. One that vanishes meanwhile has none.
    pub(super) fn all_procs(&self) -> Result<Vec<Pid>, Errno> {
        let mut pids = existing(self.procs())?.unwrap_or_default();
        self.walk(
            |child| {
                pids.extend(existing(child.procs())?.unwrap_or_default());
                Ok(())
            },
            |_, _| Ok(()),
        )?;
        Ok(pids)
    }

    /// Goes to every cgroup below this one: `enter` sees it before what is below it, `leave` its parent and its name
    /// after that. A container that may make cgroups may nest them to any depth: neither the stack nor the descriptors
    /// in use grow with it.
    pub(super) fn walk(
        &self,
        mut enter: impl FnMut(&Dir) -> Result<(), Errno>,
        mut leave: impl FnMut(&Dir, &str) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let children = |dir: &Dir| existing(dir.children()).map(Option::unwrap_or_default);
        // On each level the names that are still to be seen; the last of them is the one that we are in.
        let mut levels = vec![children(self)?];
        let mut below: Option<Dir> = None;
        while let Some(names) = levels.last_mut() {
            let at = below.as_ref().unwrap_or(self);
            let child = names.last().map_or(Ok(None), |name| existing(at.below(name)))?;
            if let Some(child) = child {
                enter(&child)?;
                levels.push(children(&child)?);
                below = Some(child);
            } else if names.pop().is_none() {
                levels.pop();
                let Some(name) = levels.last_mut().and_then(Vec::pop) else { break };
                below = if levels.len() > 1 { Some(at.parent()?) } else { None };
                leave(below.as_ref().unwrap_or(self), &name)?;
            }
        }
        Ok(())
    }

    /// One that was removed meanwhile has it still.
    fn parent(&self) -> Result<Dir, Errno> {
        self.open("..", OFlags::PATH | OFlags::DIRECTORY).map(Dir)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads a small kernel file from its start, whatever was read before.
pub(super) fn read_from_start(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut text = Vec::with_capacity(4096);
    loop {
        let at = text.len() as u64;
        text.reserve(4096);
        let read =
            rustix::io::retry_on_intr(|| rustix::io::pread(file, rustix::buffer::spare_capacity(&mut text), at))?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// True for what the kernel says of a cgroup that was removed: no name, or a dead descriptor.
pub(super) fn gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NODEV)
}

/// `None` where the thing does not exist.
pub(super) fn existing<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(errno) if gone(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The pids of a `cgroup.procs`. Zero, a process of a foreign pid namespace, is left out.
pub(super) fn parse_pids(text: &str) -> Vec<Pid> {
    text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_of_foreign_namespaces_are_left_out() {
        let pids = parse_pids("12\n0\n7\n");
        assert_eq!(pids.iter().map(|pid| pid.as_raw_nonzero().get()).collect::<Vec<_>>(), [12, 7]);
    }
}
