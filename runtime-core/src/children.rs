//! The children of this process, and the orphans that are not ours.
//!
//! A shim is a child subreaper, so processes that lost their parent come to it. They are reaped without looking, but the
//! status of a child that we made belongs to whoever made it. So every child is registered before its status could be
//! taken, and a pid cannot be used again while its status is still there: matching by pid is sound exactly here.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::sys::first_ended;
pub use crate::sys::send_signal;

/// Every child this process has made and not yet reaped.
#[derive(Debug, Default)]
pub struct Children(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    ours: HashSet<Pid>,
    /// Spawns under way: their children are born but perhaps not registered yet.
    spawning: usize,
}

/// While this lives, no orphan is reaped.
#[derive(Debug)]
pub(crate) struct Spawning<'a>(&'a Children);

/// A process that this process made: a container's init, or an exec.
#[derive(Debug)]
pub struct Child {
    /// As our own pid namespace counts.
    pub pid: Pid,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// The pty master, if a terminal was asked for.
    pub console: Option<OwnedFd>,
    /// What its spec asked for and was ignored, and why: for the caller's log.
    pub warnings: Vec<String>,
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 plus the number of the signal that ended it.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

impl Exit {
    fn of(status: &WaitIdStatus) -> Self {
        let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
        Self { status: code.and_then(|code| u32::try_from(code).ok()).unwrap_or(255), at: SystemTime::now() }
    }
}

impl Child {
    /// Takes the status if the process has ended; `None` while it runs.
    pub fn reap(&self, children: &Children) -> Result<Option<Exit>, Errno> {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        if status.is_some() {
            children.forget(self.pid);
        }
        Ok(status.as_ref().map(Exit::of))
    }

    /// Sends it a signal, of any number.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        send_signal(self.pidfd.as_fd(), signal)
    }

    /// How the process ended, its status left where it is; waits for the end.
    pub(crate) fn peek(&self) -> Result<Exit, Errno> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    }

    /// Ends the process and takes its status: nobody will ask for it.
    pub(crate) fn discard(&self, children: &Children) {
        self.kill();
        let _ = self.wait(children);
    }

    /// Ends the process. One that is gone already cannot be ended.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }

    fn wait_with(&self, options: WaitIdOptions) -> Result<Exit, Errno> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) | Ok(None) => {}
                Err(errno) => return Err(errno),
                Ok(Some(status)) => return Ok(Exit::of(&status)),
            }
        }
    }

    /// Waits until the process has ended, and takes the status.
    pub(crate) fn wait(&self, children: &Children) -> Result<Exit, Errno> {
        let exit = self.wait_with(WaitIdOptions::EXITED)?;
        children.forget(self.pid);
        Ok(exit)
    }
}

impl Children {
    /// Announces that a child is about to be made.
    pub(crate) fn spawning(&self) -> Spawning<'_> {
        self.registry().spawning += 1;
        Spawning(self)
    }

    /// Runs what makes children and waits for them itself: no orphan is reaped meanwhile.
    pub fn apart<T>(&self, act: impl FnOnce() -> T) -> T {
        let _spawning = self.spawning();
        act()
    }

    /// Starts a command whose status is the caller's: after waiting for it, the caller calls [`Children::forget`].
    pub fn command(&self, command: &mut std::process::Command) -> std::io::Result<std::process::Child> {
        let spawning = self.spawning();
        let child = command.spawn()?;
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            spawning.born(pid);
        }
        Ok(child)
    }

    /// Says that a child's status was taken.
    pub fn forget(&self, pid: Pid) {
        self.registry().ours.remove(&pid);
        self.reap_orphans();
    }

    /// Reaps every orphan that has ended. Called on SIGCHLD; where one of our own stands first in the line, its owner is
    /// about to take it and comes back here.
    pub fn reap_orphans(&self) {
        let registry = self.registry();
        if registry.spawning > 0 {
            return;
        }
        while let Some(pid) = first_ended().filter(|pid| !registry.ours.contains(pid)) {
            if waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_err() {
                return;
            }
        }
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        // Nothing between lock and unlock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spawning<'_> {
    /// Registers a child.
    pub(crate) fn born(&self, pid: Pid) {
        self.0.registry().ours.insert(pid);
    }
}

impl Drop for Spawning<'_> {
    fn drop(&mut self) {
        self.0.registry().spawning -= 1;
        self.0.reap_orphans();
    }
}
