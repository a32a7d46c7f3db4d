//! What is left to do when an ADD or DEL has been answered. A link that is deleted, and chains and rules that were changed,
//! keep whoever asked for it waiting until no processor looks at them any more (RCU): 15 to 30 ms each, in which nothing
//! else is done. By then the pod is on the network; or it is off it, and its addresses are free.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::netlink::{Netlink, Refused};
use crate::nft::Nft;
use crate::sys;

/// How long what was changed is on the kernel's hands. To close a socket of nf_tables meanwhile waits for it.
const RULES_GONE: Duration = Duration::from_millis(300);

/// The rest of an operation. Dropping it does it.
#[derive(Debug, Default)]
pub struct Afterwards(Mutex<Rest>);

#[derive(Debug, Default)]
struct Rest {
    /// Links by number, with a socket to their namespace.
    links: Vec<(Netlink, Vec<u32>)>,
    /// One for all plugins of a network.
    nft: Option<Nft>,
}

impl Afterwards {
    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes links that are of no use any more.
    pub(crate) fn delete(&self, netlink: Netlink, indexes: Vec<u32>) {
        if !indexes.is_empty() {
            self.rest().links.push((netlink, indexes));
        }
    }

    /// The packet filter of the calling thread's namespace, which every plugin of an operation uses in turn.
    pub(crate) fn nft(&self) -> Result<Nft, Refused> {
        match self.rest().nft.take() {
            Some(nft) => Ok(nft),
            None => Nft::here(),
        }
    }

    /// Gives it back.
    pub(crate) fn keep(&self, nft: Nft) {
        self.rest().nft = Some(nft);
    }

    /// Has a thread do the rest, which ends with the process if that comes first.
    pub fn in_background(self) {
        let rest = std::mem::take(&mut *self.rest());
        if !rest.is_nothing() {
            rest.on_thread();
        }
    }

    /// Leaves links to the end of their pod's namespace, which nothing keeps any more.
    pub(crate) fn leave_links(self) {
        self.rest().links.clear();
    }

    /// Has a process of its own do the rest, for one that is about to end: it would wait at its end.
    pub(crate) fn detach(self) {
        let mut rest = std::mem::take(&mut *self.rest());
        if rest.is_nothing() {
            return;
        }
        match sys::fork() {
            Ok(sys::Forked::Parent) => rest.links.clear(),
            Ok(sys::Forked::Child) => {
                let_go();
                rest.delete_links();
                thread::sleep(RULES_GONE);
                std::process::exit(0);
            }
            Err(_) => drop(rest),
        }
    }
}

impl Rest {
    fn is_nothing(&self) -> bool {
        self.links.is_empty() && !self.nft.as_ref().is_some_and(Nft::lingers)
    }

    /// Does it on a thread. Where none is to be had, it is done here, as it is dropped.
    fn on_thread(mut self) {
        let act = move || {
            self.delete_links();
            thread::sleep(RULES_GONE);
            drop(self);
        };
        let _ = thread::Builder::new().name("afterwards".to_owned()).spawn(act);
    }

    /// What fails here is down, on no bridge, and is found by the next DEL.
    fn delete_links(&mut self) {
        for (mut netlink, indexes) in self.links.drain(..) {
            for index in indexes {
                let _ = netlink.delete(index);
            }
        }
    }
}

/// Leaves whatever the process that ended was part of: whoever ran it waits for the end of its output.
fn let_go() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let null = OwnedFd::from(null);
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.delete_links();
    }
}

impl Drop for Afterwards {
    fn drop(&mut self) {
        let mut rest = std::mem::take(&mut *self.rest());
        rest.delete_links();
        if rest.nft.as_ref().is_some_and(Nft::lingers) {
            rest.on_thread();
        }
    }
}
