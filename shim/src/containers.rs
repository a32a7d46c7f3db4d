//! The containers of this server: who exists, in which state, and who waits for it.
//!
//! The table's lock is held for a lookup, a state's for a transition; neither across an await. State, Pids, Wait and
//! Kill look things up and never wait for work on a container.

use crate::error::Error;
use crate::lifetime::{Guard, Lifetime};
use crate::network::Network;
use crate::process::Process;
use runtime_core::children::Exit;
use runtime_core::container::Container;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// An exec: a process beside init.
pub struct Exec {
    /// As RPCs see it.
    pub process: Process,
    /// What to run.
    pub spec: oci_spec::runtime::Process,
}

/// Execs that run, for the rule that init's exit is the last one.
#[derive(Clone, Copy, Debug, Default)]
struct Running {
    execs: usize,
    /// Init has ended: no exec may start any more.
    closed: bool,
}

/// One container.
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The init process.
    pub init: Process,
    /// The container itself.
    pub container: Container,
    /// Owner of the pipes of its execs.
    pub io_owner: (u32, u32),
    /// The network that was made for it, and goes with it.
    pub network: Option<Arc<Network>>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    running: watch::Sender<Running>,
    /// Set while a Delete is under way, so that a second one gets the first one's answer.
    deletion: Mutex<Option<watch::Receiver<Option<Deleted>>>>,
}

/// How a Delete ended.
pub type Deleted = Result<Exit, Error>;

/// Held by an exec that runs.
pub struct RunningExec(Arc<Record>);

impl Drop for RunningExec {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| running.execs -= 1);
    }
}

impl Record {
    /// A container that was just created.
    pub fn new(
        id: String,
        bundle: PathBuf,
        init: Process,
        container: Container,
        io_owner: (u32, u32),
        network: Option<Arc<Network>>,
    ) -> Record {
        Record {
            id,
            bundle,
            init,
            container,
            io_owner,
            network,
            execs: Mutex::default(),
            running: watch::Sender::default(),
            deletion: Mutex::default(),
        }
    }

    /// The init for an empty exec id, else that exec.
    pub fn process(self: &Arc<Self>, exec_id: &str) -> Result<Which, Error> {
        match exec_id {
            "" => Ok(Which::Init(self.clone())),
            _ => self.exec(exec_id).map(Which::Exec),
        }
    }

    /// An exec.
    pub fn exec(&self, exec_id: &str) -> Result<Arc<Exec>, Error> {
        lock(&self.execs).get(exec_id).cloned().ok_or_else(|| Error::NoProcess(exec_id.to_owned()))
    }

    /// All execs, with their ids.
    pub fn execs(&self) -> Vec<(String, Arc<Exec>)> {
        lock(&self.execs).iter().map(|(id, exec)| (id.clone(), exec.clone())).collect()
    }

    /// Registers an exec.
    pub fn add_exec(&self, exec_id: &str, exec: Exec) -> Result<(), Error> {
        use std::collections::hash_map::Entry;
        match lock(&self.execs).entry(exec_id.to_owned()) {
            Entry::Occupied(_) => Err(Error::Exists { what: "exec", id: exec_id.to_owned() }),
            Entry::Vacant(free) => {
                free.insert(Arc::new(exec));
                Ok(())
            }
        }
    }

    /// Forgets an exec.
    pub fn remove_exec(&self, exec_id: &str) {
        lock(&self.execs).remove(exec_id);
    }

    /// Counts an exec that is about to start, unless init has ended.
    pub fn exec_starts(self: &Arc<Self>) -> Result<RunningExec, Error> {
        let open = self.running.send_if_modified(|running| {
            running.execs += usize::from(!running.closed);
            !running.closed
        });
        match open {
            true => Ok(RunningExec(self.clone())),
            false => Err(Error::InitGone(self.id.clone())),
        }
    }

    /// Refuses execs from now on and waits for those that run.
    pub async fn execs_ended(&self) {
        self.running.send_modify(|running| running.closed = true);
        // The sender is ours.
        let _ = self.running.subscribe().wait_for(|running| running.execs == 0).await;
    }

    /// The Delete under way, or else the place for the result of ours.
    pub fn begin_delete(&self) -> Result<watch::Sender<Option<Deleted>>, watch::Receiver<Option<Deleted>>> {
        let mut deletion = lock(&self.deletion);
        match &*deletion {
            // One that failed may be tried again.
            Some(under_way) if !matches!(*under_way.borrow(), Some(Err(_))) => Err(under_way.clone()),
            _ => {
                let result = watch::Sender::new(None);
                *deletion = Some(result.subscribe());
                Ok(result)
            }
        }
    }
}

/// A process that an RPC named.
pub enum Which {
    /// The container's init.
    Init(Arc<Record>),
    /// An exec.
    Exec(Arc<Exec>),
}

impl std::ops::Deref for Which {
    type Target = Process;
    fn deref(&self) -> &Process {
        match self {
            Which::Init(record) => &record.init,
            Which::Exec(exec) => &exec.process,
        }
    }
}

enum Slot {
    /// A Create is under way; the receiver's end is its end.
    Creating(watch::Receiver<()>),
    Present(Arc<Record>, #[allow(dead_code, reason = "held for its drop")] Guard),
}

/// The table.
#[derive(Default)]
pub struct Containers {
    slots: Mutex<HashMap<String, Slot>>,
    lifetime: Arc<Lifetime>,
}

/// The right to put one container into the table. Dropped, the id is free again.
pub struct Reservation {
    containers: Arc<Containers>,
    id: String,
    guard: Option<Guard>,
    /// Dropped last: it tells who waits for this Create that it has ended.
    _creating: watch::Sender<()>,
}

impl Containers {
    /// An empty table.
    pub fn new(lifetime: Arc<Lifetime>) -> Containers {
        Containers { slots: Mutex::default(), lifetime }
    }

    /// A container that was created.
    pub fn get(&self, id: &str) -> Result<Arc<Record>, Error> {
        match lock(&self.slots).get(id) {
            Some(Slot::Present(record, _)) => Ok(record.clone()),
            _ => Err(Error::NoContainer),
        }
    }

    /// A container, after its Create if that is under way: a client that gave up on Create asks for Delete next.
    pub async fn get_created(&self, id: &str) -> Result<Arc<Record>, Error> {
        let creating = match lock(&self.slots).get(id) {
            Some(Slot::Creating(creating)) => Some(creating.clone()),
            _ => None,
        };
        if let Some(mut creating) = creating {
            while creating.changed().await.is_ok() {}
        }
        self.get(id)
    }

    /// True if there is a container of this id, or is about to be.
    pub fn knows(&self, id: &str) -> bool {
        lock(&self.slots).contains_key(id)
    }

    /// Takes an id for a Create.
    pub fn reserve(self: &Arc<Self>, id: &str) -> Result<Reservation, Error> {
        use std::collections::hash_map::Entry;
        let creating = watch::Sender::new(());
        match lock(&self.slots).entry(id.to_owned()) {
            Entry::Occupied(_) => return Err(Error::Exists { what: "container", id: id.to_owned() }),
            Entry::Vacant(free) => free.insert(Slot::Creating(creating.subscribe())),
        };
        let guard = Some(self.lifetime.container());
        Ok(Reservation { containers: self.clone(), id: id.to_owned(), guard, _creating: creating })
    }

    /// Forgets a container.
    pub fn remove(&self, id: &str) {
        let slot = lock(&self.slots).remove(id);
        drop(slot);
    }
}

impl Reservation {
    /// Puts the container into the table.
    pub fn fulfil(mut self, record: Arc<Record>) {
        if let Some(guard) = self.guard.take() {
            lock(&self.containers.slots).insert(self.id.clone(), Slot::Present(record, guard));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.guard.is_some() {
            self.containers.remove(&self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_id_is_taken_while_its_create_is_under_way() {
        let containers = Arc::new(Containers::default());
        let reservation = containers.reserve("a").unwrap();
        assert!(matches!(containers.reserve("a"), Err(Error::Exists { .. })));
        assert!(matches!(containers.get("a"), Err(Error::NoContainer)));
        drop(reservation);
        assert!(containers.reserve("a").is_ok());
    }

    #[tokio::test]
    async fn delete_waits_for_a_create_that_is_under_way() {
        let containers = Arc::new(Containers::default());
        let reservation = containers.reserve("a").unwrap();
        let waiting = containers.get_created("a");
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(10), &mut waiting).await.is_err());
        drop(reservation);
        assert!(matches!(waiting.await, Err(Error::NoContainer)));
    }
}
