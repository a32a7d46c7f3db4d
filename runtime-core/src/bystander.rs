//! A process that does nothing: it is needed only for where it stands. A user namespace must have somebody born in it
//! before it can be had, and systemd starts no scope without a process.

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::channel::{Channel, receive_go};
use crate::children::{Child, Children};
use crate::errno::text;
use crate::init::close_others;
use crate::sys::{self, CloneRequest, block_signals, clone_into, restore_signals};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket to it.
    #[error("talk with a process that only waits: {}", text(*.0))]
    Channel(#[source] Errno),
    /// clone3.
    #[error("clone a process that only waits: {}", text(*.0))]
    Clone(#[source] Errno),
}

/// It is gone, and its status taken, when this is dropped; if we die it ends as well.
#[derive(Debug)]
pub(crate) struct Bystander<'a> {
    child: Child,
    children: &'a Children,
    _ours: Channel,
}

impl<'a> Bystander<'a> {
    /// One in new namespaces, by their `CLONE_NEW*` flags.
    pub(crate) fn new(namespaces: u64, children: &'a Children) -> Result<Self, Error> {
        let (ours, theirs) = Channel::pair().map_err(Error::Channel)?;
        let spawning = children.spawning();
        let request = CloneRequest { namespaces, cgroup: None, sibling: false };
        let kept = [theirs.as_fd().as_raw_fd().cast_unsigned()];
        let mask = block_signals();
        let cloned = clone_into(request, || {
            sys::guard::enter_child();
            // Of all others it has copies, whose ends somebody may wait for.
            close_others(0, &kept);
            // Nobody ever says go: this is the end of the parent's end.
            let _ = receive_go(theirs.as_fd());
            sys::exit(0)
        });
        restore_signals(&mask);
        let (pid, pidfd) = cloned.map_err(Error::Clone)?;
        spawning.born(pid);
        Ok(Self { child: Child { pid, pidfd, console: None, warnings: Vec::new() }, children, _ours: ours })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.child.pid
    }
}

impl Drop for Bystander<'_> {
    fn drop(&mut self) {
        self.child.discard(self.children);
    }
}
