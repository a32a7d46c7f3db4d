//! User namespaces: the maps of one, and one that nobody lives in, for the sake of its maps.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::bystander::{self, Bystander};
use crate::children::Children;
use crate::errno::text;
use crate::plan::IdMaps;
use crate::step::Namespace;

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
    /// The process that is born in it.
    #[error("make a user namespace: {0}")]
    Bystander(#[from] bystander::Error),
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
    let inhabitant = Bystander::new(Namespace::User.flag(), children)?;
    write_maps(inhabitant.pid(), maps)?;
    open(inhabitant.pid())
}

fn open(pid: Pid) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| Error::Open { path, source })
}
