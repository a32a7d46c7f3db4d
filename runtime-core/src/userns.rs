//! User namespaces: the maps of one, and one that nobody lives in, for the sake of its maps.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::channel::{Channel, wait_at_gate};
use crate::children::{Child, Children};
use crate::errno::text;
use crate::init::close_others;
use crate::plan::IdMaps;
use crate::step::Namespace;
use crate::sys::{self, CloneRequest, block_signals, clone_into, restore_signals};

/// The ids of a user namespace could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {file} of process {pid}: {source}")]
pub struct WriteMap {
    /// `uid_map` or `gid_map`.
    pub file: &'static str,
    /// Whose.
    pub pid: i32,
    /// Why.
    pub source: io::Error,
}

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket to the process that is born in it.
    #[error("talk with the process of a user namespace: {}", text(*.0))]
    Channel(#[source] Errno),
    /// clone3.
    #[error("clone a process into a new user namespace: {}", text(*.0))]
    Clone(#[source] Errno),
    /// Its maps.
    #[error(transparent)]
    Map(#[from] WriteMap),
    /// Its file.
    #[error("open {path}: {}", text(*source))]
    Open {
        /// `/proc/<pid>/ns/user`
        path: String,
        /// Why.
        source: Errno,
    },
}

/// The uid_map and the gid_map of a process that is alone in its user namespace. user_namespaces(7)
pub(crate) fn write_maps(pid: Pid, maps: &IdMaps) -> Result<(), WriteMap> {
    let pid = pid.as_raw_nonzero().get();
    for (file, map) in [("uid_map", &maps.uid), ("gid_map", &maps.gid)] {
        fs::write(format!("/proc/{pid}/{file}"), map.as_bytes()).map_err(|source| WriteMap { file, pid, source })?;
    }
    Ok(())
}

/// Makes a user namespace with these maps. It lives as long as its descriptor, and as what was mounted by it; the process
/// that had to be born in it is gone when this returns.
pub(crate) fn make(maps: &IdMaps, children: &Children) -> Result<OwnedFd, Error> {
    let (ours, theirs) = Channel::pair().map_err(Error::Channel)?;
    let spawning = children.spawning();
    let request = CloneRequest { namespaces: Namespace::User.flag(), cgroup: None, sibling: false };
    let kept = [theirs.as_fd().as_raw_fd().cast_unsigned()];
    let mask = block_signals();
    let cloned = clone_into(request, || {
        sys::guard::enter_child();
        // Of all others it has copies, whose ends somebody may wait for.
        close_others(0, &kept);
        // Until the other end is closed: if we die, it goes as well.
        let _ = wait_at_gate(theirs.as_fd());
        sys::exit(0)
    });
    restore_signals(&mask);
    let (pid, pidfd) = cloned.map_err(Error::Clone)?;
    spawning.born(pid);
    let inhabitant = Child { pid, pidfd, console: None, warnings: Vec::new() };
    let namespace = write_maps(pid, maps).map_err(Error::from).and_then(|()| open(pid));
    drop(ours);
    inhabitant.discard(children);
    namespace
}

fn open(pid: Pid) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| Error::Open { path, source })
}
