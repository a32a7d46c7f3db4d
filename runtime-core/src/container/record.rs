//! What is on disk of a container, in its bundle: enough to clean up after us when we are gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::cgroup::CgroupPath;

const RECORD: &str = "berth.json";
/// Where other tools look for the pid of a container's first process.
const PID: &str = "init.pid";

#[derive(Serialize, Deserialize)]
struct Record {
    cgroup: CgroupPath,
}

pub(super) fn path(bundle: &Path) -> PathBuf {
    bundle.join(RECORD)
}

/// Written before the cgroup is made, so that nothing exists that nobody would find.
pub(super) fn write(bundle: &Path, cgroup: &CgroupPath) -> Result<(), Error> {
    let path = path(bundle);
    let record = Record { cgroup: cgroup.clone() };
    let text = serde_json::to_vec(&record).map_err(|source| Error::NotOurs { path: path.clone(), source })?;
    fs::write(&path, text).map_err(failed("write", path))
}

pub(super) fn write_pid(bundle: &Path, pid: Pid) -> Result<(), Error> {
    let path = bundle.join(PID);
    fs::write(&path, pid.as_raw_nonzero().to_string()).map_err(failed("write", path))
}

/// The cgroup of a container that somebody left; `None` if there is no record.
pub(super) fn cgroup(bundle: &Path) -> Result<Option<CgroupPath>, Error> {
    let path = path(bundle);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed("read", path.clone()))?,
    };
    let record: Record = serde_json::from_slice(&text).map_err(|source| Error::NotOurs { path, source })?;
    Ok(Some(record.cgroup))
}

/// Nothing is left to clean up. The bundle is containerd's, and goes whole if this does not.
pub(super) fn remove(bundle: &Path) {
    for file in [PID, RECORD] {
        let _ = fs::remove_file(bundle.join(file));
    }
}

fn failed(act: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::State { act, path, source }
}
