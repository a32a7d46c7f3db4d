//! What can be asked of a container.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::SystemTime;

use oci_spec::runtime::Spec;
use rustix::process::Pid;

use super::{Container, Error};
use crate::cgroup::Cgroup;
use crate::gate;
use crate::state::{State, Status};

impl Container {
    /// Where the container is in its life.
    pub fn status(&self) -> Result<Status, Error> {
        Ok(match &self.init {
            None if self.creating => Status::Creating,
            None => Status::Stopped,
            Some(init) if init.has_ended() => Status::Stopped,
            Some(_) if self.cgroup.is_frozen()? => Status::Paused,
            Some(_) if self.home.gate().is_some_and(|gate| gate::is_manned(&gate)) => Status::Created,
            Some(_) => Status::Running,
        })
    }

    /// Its state, as the specification has it.
    pub fn state(&self) -> Result<State, Error> {
        let status = self.status()?;
        let pid = self.init.as_ref().map(|init| init.pid).filter(|_| status != Status::Stopped);
        Ok(self.identity().state(status, pid))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where `config.json` was.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// What it was made of. Of one that this process has created the seccomp profile is left out.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// When.
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// The pidfd of its first process, if that had not ended when the container was opened.
    pub fn init(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().map(|init| init.pidfd.as_fd())
    }

    /// The pid of its first process, likewise.
    pub fn pid(&self) -> Option<Pid> {
        self.init.as_ref().map(|init| init.pid)
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}
