//! What is on disk of a container, in its bundle: enough to clean up after us when we are gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Spec, SpecBuilder};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::cgroup::CgroupPath;
use crate::state::Identity;

const RECORD: &str = "berth.json";
/// Where other tools look for the pid of a container's first process.
const PID: &str = "init.pid";

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) cgroup: CgroupPath,
    /// Of a container with poststop hooks, what they need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) poststop: Option<Poststop>,
}

/// The hooks that run when a container is gone, and who it was.
#[derive(Serialize, Deserialize)]
pub(super) struct Poststop {
    pub(super) id: String,
    /// Its annotations and these hooks.
    pub(super) spec: Spec,
}

impl Poststop {
    fn of(container: Identity<'_>) -> Option<Self> {
        let hooks = container.spec.hooks().as_ref()?.poststop().as_ref().filter(|hooks| !hooks.is_empty())?;
        let mut only = Hooks::default();
        only.set_poststop(Some(hooks.clone()));
        let spec =
            SpecBuilder::default().hooks(only).annotations(container.spec.annotations().clone().unwrap_or_default());
        let mut spec = spec.build().ok()?;
        // The builder has opinions of its own about everything else.
        spec.set_process(None).set_root(None).set_mounts(None).set_linux(None).set_hostname(None);
        Some(Self { id: container.id.to_owned(), spec })
    }
}

pub(super) fn path(bundle: &Path) -> PathBuf {
    bundle.join(RECORD)
}

/// Written before the cgroup is made, so that nothing exists that nobody would find.
pub(super) fn write(container: Identity<'_>, cgroup: &CgroupPath) -> Result<(), Error> {
    let path = path(container.bundle);
    let record = Record { cgroup: cgroup.clone(), poststop: Poststop::of(container) };
    let text = serde_json::to_vec(&record).map_err(|source| Error::NotOurs { path: path.clone(), source })?;
    fs::write(&path, text).map_err(failed("write", path))
}

pub(super) fn write_pid(bundle: &Path, pid: Pid) -> Result<(), Error> {
    let path = bundle.join(PID);
    fs::write(&path, pid.as_raw_nonzero().to_string()).map_err(failed("write", path))
}

/// The record of a container that somebody left; `None` if there is none, and so no container.
pub(super) fn read(bundle: &Path) -> Result<Option<Record>, Error> {
    let path = path(bundle);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed("read", path.clone()))?,
    };
    match serde_json::from_slice(&text) {
        // Whoever wrote it was killed in the middle, and so before there was anything else.
        Err(error) if error.is_eof() => {
            remove(bundle);
            Ok(None)
        }
        parsed => parsed.map(Some).map_err(|source| Error::NotOurs { path, source }),
    }
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
