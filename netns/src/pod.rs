//! A pod's network as one thing that is made whole and taken away whole: a namespace with a name, and the networks that
//! it is attached to.
//!
//! ```text
//! create: record ─▶ namespace ─▶ name ─▶ lo up ─▶ ADD, ADD, …         fails: remove
//! remove: … DEL, DEL ─▶ name ─▶ record                                what is gone already is no error
//! ```
//!
//! The record comes first and goes last, so that nothing exists that nobody would find. It is locked for as long as
//! its pod's owner lives: the kernel tells who has died.

mod claim;
mod inhabitants;
mod ports;
mod record;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::cni::cache::Attachment;
use crate::cni::conflist::NetworkList;
use crate::cni::engine::Engine;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;
use crate::plugin::Places;
use crate::{Afterwards, DIRECTORY, Namespace};

use claim::{Claim, Taken};
pub use record::{Record, Wanted};

/// The pods of one state directory.
#[derive(Debug, Clone)]
pub struct Pods {
    /// libcni's cacheDir, and one of our own: records are in `pods` in it.
    pub cache_dir: PathBuf,
    /// Where namespaces get their names.
    pub netns_dir: PathBuf,
    /// Where native plugins keep their state.
    pub places: Places,
    /// How long one plugin may take.
    pub timeout: Duration,
}

/// A pod's network, and the right to take it away.
#[derive(Debug)]
pub struct Pod {
    pods: Pods,
    record: Record,
    claim: Claim,
}

/// Who a pod's network is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its owner lives.
    Live,
    /// Its owner has died, and processes live in its namespace.
    Orphaned,
    /// Nobody.
    Gone,
}

impl Life {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Orphaned => "orphaned",
            Self::Gone => "gone",
        }
    }
}

/// The name of a pod, and how taking it away went.
pub type Collected = (String, Result<(), Fault>);

/// A pod's network as it is found.
#[derive(Debug)]
pub struct Found {
    /// What was written of it.
    pub record: Record,
    /// Whom it is there for.
    pub life: Life,
    /// What ADD answered, for each of its networks; None where it did not.
    pub outcomes: Vec<Option<Outcome>>,
}

impl Pods {
    /// Those whose state is in that directory.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        let Engine { timeout, places, .. } = Engine::default();
        Self { cache_dir: cache_dir.into(), netns_dir: DIRECTORY.into(), places, timeout }
    }

    fn records(&self) -> PathBuf {
        self.cache_dir.join("pods")
    }

    /// Where the record of a pod is.
    pub fn path(&self, id: &str) -> PathBuf {
        self.records().join(format!("{id}.json"))
    }

    fn engine(&self, record: &Record) -> Engine {
        Engine {
            bin_dirs: record.bin_dirs.clone(),
            cache_dir: self.cache_dir.clone(),
            native: record.native,
            timeout: self.timeout,
            places: self.places.clone(),
        }
    }

    /// Makes a pod's network, and answers what each of its networks gave. On error nothing is left.
    pub fn create(&self, wanted: Wanted) -> Result<(Pod, Vec<Outcome>), Fault> {
        crate::plugin::valid_container_id(&wanted.id)?;
        // What a dead owner left of a pod of this name.
        if let Some(stale) = self.open(&wanted.id)? {
            stale.remove()?;
        }
        let record = Record::new(wanted, &self.netns_dir)?;
        let engine = self.engine(&record);
        record.networks.iter().try_for_each(|(list, _)| engine.refuse_missing(list))?;
        let claim = self.claim(&record)?;
        let pod = Pod { pods: self.clone(), record, claim };
        match pod.make() {
            Ok(outcomes) => Ok((pod, outcomes)),
            Err(fault) => Err(match pod.remove() {
                Ok(()) => fault,
                Err(undo) => fault.with_details(format!("and undoing it: {undo}")),
            }),
        }
    }

    /// Writes the record down, unless a port that it maps is somebody's.
    fn claim(&self, record: &Record) -> Result<Claim, Fault> {
        let alone = claim::lock(&self.records())?;
        let ports = ports::of(record)?;
        if !ports.is_empty() {
            for id in self.ids()? {
                if let Some(other) = claim::read(&self.path(&id)).and_then(|bytes| Record::parse(&bytes).ok()) {
                    ports::refuse_shared(&ports, &ports::of(&other)?, &other.id)?;
                }
            }
            ports::refuse_bound(&ports)?;
        }
        Claim::make(&alone, &self.path(&record.id), record.to_json().to_string().as_bytes())
    }

    /// A pod whose owner has died. None: there is none of that name. A live owner's is an error.
    pub fn open(&self, id: &str) -> Result<Option<Pod>, Fault> {
        crate::plugin::valid_container_id(id)?;
        match Claim::take_after_lookers(&self.path(id))? {
            Taken::Absent => Ok(None),
            Taken::Busy => Err(Fault::new(Code::TRY_AGAIN, format!("the network of pod {id} is in use"))),
            Taken::Ours(claim, bytes) => {
                let record = Record::parse(&bytes).map_err(|fault| self.of_file(id, fault))?;
                Ok(Some(Pod { pods: self.clone(), record, claim }))
            }
        }
    }

    fn of_file(&self, id: &str, fault: Fault) -> Fault {
        Fault { message: format!("{}: {}", self.path(id).display(), fault.message), ..fault }
    }

    /// The names of all of them.
    pub fn ids(&self) -> Result<Vec<String>, Fault> {
        let directory = self.records();
        let failed = |error: std::io::Error| Fault::io(format!("read {}", directory.display()), &error);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            ids.extend(id.filter(|id| !id.starts_with('.')).map(str::to_owned));
        }
        ids.sort();
        Ok(ids)
    }

    /// A pod as it is found, whosever it is. None: there is none of that name.
    pub fn find(&self, id: &str) -> Result<Option<Found>, Fault> {
        crate::plugin::valid_container_id(id)?;
        // Held until the look is over, so that nobody takes away what is looked at.
        let (taken, bytes) = match Claim::take(&self.path(id))? {
            Taken::Absent => return Ok(None),
            Taken::Busy => (None, claim::read(&self.path(id))),
            Taken::Ours(claim, bytes) => (Some(claim), Some(bytes)),
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let record = Record::parse(&bytes).map_err(|fault| self.of_file(id, fault))?;
        let life = match taken {
            None => Life::Live,
            Some(_) if record.is_of_this_boot() && inhabitants::lives_any(&record.namespace) => Life::Orphaned,
            Some(_) => Life::Gone,
        };
        let engine = self.engine(&record);
        let outcomes = record.networks.iter().map(|(list, attachment)| engine.outcome(list, attachment)).collect();
        Ok(Some(Found { record, life, outcomes }))
    }

    /// Whether a pod's networks are still as ADD made them.
    pub fn check(&self, record: &Record) -> Result<(), Fault> {
        Namespace::open(&record.namespace)?;
        let engine = self.engine(record);
        record.networks.iter().try_for_each(|(list, attachment)| engine.check(list, attachment))
    }

    /// Takes away what pods have left that are gone: their owner has died, and nobody lives in their namespace. What
    /// belongs to anybody else is not looked at. Answers the name of each, and how it went.
    pub fn collect(&self) -> Result<Vec<Collected>, Fault> {
        let mut collected = Vec::new();
        for id in self.ids()? {
            let removed = match self.find(&id) {
                Ok(Some(Found { life: Life::Gone, .. })) => {
                    self.open(&id).and_then(|pod| pod.map_or(Ok(()), Pod::remove))
                }
                Ok(_) => continue,
                Err(fault) => Err(fault),
            };
            collected.push((id, removed));
        }
        Ok(collected)
    }
}

impl Pod {
    /// What was written of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    fn make(&self) -> Result<Vec<Outcome>, Fault> {
        let namespace = Namespace::create()?;
        namespace.pin(&self.pods.netns_dir, &self.record.id)?;
        namespace.bring_loopback_up()?;
        let engine = self.pods.engine(&self.record);
        let add = |(list, attachment): &(NetworkList, Attachment)| {
            Outcome::parse(&engine.add(list, attachment)?, &list.version)
        };
        self.record.networks.iter().map(add).collect()
    }

    /// Takes it all away, the last network first. On error the record stays, for a later try.
    pub fn remove(self) -> Result<(), Fault> {
        let engine = self.pods.engine(&self.record);
        // After a boot the name may be somebody else's.
        let of_this_boot = self.record.is_of_this_boot();
        let is_there = of_this_boot && Namespace::open(&self.record.namespace).is_ok();
        let known = self.record.networks.iter().filter(|(list, attachment)| engine.knows(list, attachment));
        let networks: Vec<_> = known
            .map(|(list, attachment)| {
                let netns = if is_there { attachment.netns.clone() } else { String::new() };
                (list.clone(), Attachment { netns, ..attachment.clone() })
            })
            .collect();
        // All are tried.
        let released: Vec<_> =
            networks.iter().rev().map(|(list, attachment)| engine.release(list, attachment)).collect();
        let unnamed = if of_this_boot { crate::remove(&self.record.namespace) } else { Ok(()) };
        let released: Vec<_> = released.into_iter().collect::<Result<_, _>>()?;
        unnamed?;
        // Interfaces are off the network, and go with the namespace, which the kernel does by itself.
        released.into_iter().for_each(Afterwards::leave_links);
        self.claim.release()
    }
}
