//! What is on disk of a container: enough to clean up after us when we are gone, and, if other processes are to go on with
//! the container, all that they need.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::runtime::{Hooks, Spec, SpecBuilder};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::cgroup::{CgroupPath, resctrl};
use crate::mounted::Mounted;
use crate::spawn::Words;
use crate::stat;
use crate::state;
use crate::sys::send_signal;

/// In a bundle.
const RECORD: &str = "berth.json";
/// Where other tools look for the pid of a container's first process.
const PID: &str = "init.pid";
/// In a directory of its own.
const STATE: &str = "state.json";
const GATE: &str = "gate";

/// How long a killed process may take to end.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What is written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub cgroup: CgroupPath,
    /// What there may be of resctrl's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<resctrl::Left>,
    /// What is mounted on the host for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<Mounted>,
    /// For other processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Kept>,
    /// Of a container with poststop hooks that is not for other processes, what those need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poststop: Option<Poststop>,
}

/// The hooks that run when a container is gone, and who it was.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Poststop {
    pub id: String,
    /// Its annotations and these hooks.
    pub spec: Spec,
}

impl Poststop {
    pub fn of(container: state::Identity<'_>) -> Option<Self> {
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

/// A container without what the kernel holds of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub id: String,
    pub bundle: PathBuf,
    pub created: SystemTime,
    /// As it was when the container was created: what becomes of the file does not matter.
    pub spec: Spec,
    pub no_new_keyring: bool,
    /// There was none to be had: one of that name is another container's.
    pub without_cgroup: bool,
    /// `None` until there is a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Born>,
}

/// The first process, and what may go wrong behind its gate.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Born {
    pub process: Identity,
    pub words: Words,
}

/// A process for ever: a pid alone may be another one's by now.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pid: i32,
    /// In clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    started: u64,
}

/// The first process of a container.
#[derive(Debug)]
pub(super) struct First {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

impl Identity {
    pub fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid: pid.as_raw_nonzero().get(), started: stat::start_time(pid)? })
    }

    /// The process, if it has not ended.
    pub fn find(&self) -> Option<First> {
        let pid = Pid::from_raw(self.pid)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after the pidfd was opened: the process that it is of started then.
        let first = First { pid, pidfd };
        (stat::start_time(pid).is_ok_and(|started| started == self.started) && !first.has_ended()).then_some(first)
    }
}

impl First {
    /// A zombie has.
    pub fn has_ended(&self) -> bool {
        self.ends_within(&Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    /// The status with which it ended, if it had executed nothing. Who was reaped is not known any more.
    pub fn ended_as_cloned(&self) -> Option<u32> {
        let status = stat::ended_as_cloned(self.pid).ok()??;
        // The pid was still its own.
        send_signal(self.pidfd.as_fd(), 0).is_ok().then_some(status)
    }

    /// Kills it and waits.
    pub fn end(&self) -> Result<(), Error> {
        // It may have ended by itself.
        let _ = send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        if self.ends_within(&PATIENCE) { Ok(()) } else { Err(Error::Unkillable) }
    }

    /// The root that it sees, as long as there is one.
    pub fn root(&self) -> Option<OwnedFd> {
        let path = format!("/proc/{}/root", self.pid.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok()
    }

    fn ends_within(&self, patience: &Timespec) -> bool {
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(patience))).is_ok_and(|ready| ready > 0)
    }
}

/// Where the record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    /// Beside `config.json`.
    Bundle(PathBuf),
    /// In a directory that is the container's own.
    Directory(PathBuf),
}

impl Home {
    pub fn file(&self) -> PathBuf {
        match self {
            Self::Bundle(bundle) => bundle.join(RECORD),
            Self::Directory(directory) => directory.join(STATE),
        }
    }

    /// Where another process opens the gate.
    pub fn gate(&self) -> Option<PathBuf> {
        match self {
            Self::Bundle(_) => None,
            Self::Directory(directory) => Some(directory.join(GATE)),
        }
    }

    /// Makes the directory, which nobody may have made before. Nobody else gets in as long as the lock is held.
    pub fn claim(&self) -> Result<Option<Lock>, Error> {
        let Self::Directory(directory) = self else { return Ok(None) };
        let make = |recursive, path: &Path| fs::DirBuilder::new().recursive(recursive).mode(0o700).create(path);
        let made = match (make(false, directory), directory.parent()) {
            (Err(error), Some(parent)) if error.kind() == ErrorKind::NotFound => {
                make(true, parent).and_then(|()| make(false, directory))
            }
            (made, _) => made,
        };
        match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::Exists),
            made => made.map_err(failed("make", directory)),
        }?;
        // Nobody knows of it yet: what cannot be locked is not left for the next one of this name to find.
        Lock::take(directory).inspect_err(|_| drop(fs::remove_dir(directory)))
    }

    /// A directory beside the state.
    pub fn make(&self, name: &str) -> Result<(), Error> {
        let Self::Directory(directory) = self else { return Ok(()) };
        let path = directory.join(name);
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(failed("make", &path))
    }

    /// Written before the cgroup is made, so that nothing exists that nobody would find; replaced at once and whole.
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.file();
        let text = serde_json::to_vec(record).map_err(|source| Error::NotOurs { path: path.clone(), source })?;
        let new = path.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.map_err(failed("write", &path))
    }

    /// For tools that look into bundles.
    pub fn write_pid(&self, pid: Pid) -> Result<(), Error> {
        let Self::Bundle(bundle) = self else { return Ok(()) };
        let path = bundle.join(PID);
        fs::write(&path, pid.as_raw_nonzero().to_string()).map_err(failed("write", &path))
    }

    /// `None` if there is none.
    pub fn read(&self) -> Result<Option<Record>, Error> {
        let path = self.file();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(failed("read", &path))?,
        };
        match serde_json::from_slice(&text) {
            // Whoever wrote it into a bundle was killed in the middle, and so before there was anything else.
            Err(error) if error.is_eof() && matches!(self, Self::Bundle(_)) => {
                self.remove()?;
                Ok(None)
            }
            parsed => parsed.map(Some).map_err(|source| Error::NotOurs { path, source }),
        }
    }

    /// Nothing is left to clean up. A bundle is its caller's, and goes whole if this does not.
    pub fn remove(&self) -> Result<(), Error> {
        match self {
            Self::Bundle(bundle) => {
                for file in [PID, RECORD] {
                    let _ = fs::remove_file(bundle.join(file));
                }
                Ok(())
            }
            Self::Directory(directory) => {
                // Most often there is nothing else, and no need to look.
                let _ = fs::remove_file(directory.join(STATE));
                let removed = fs::remove_dir(directory).or_else(|_| fs::remove_dir_all(directory));
                match removed {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", directory)(error)),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Held by whoever makes or changes a container whose state is in a directory. It is the kernel's, and ends with its holder.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] OwnedFd);

impl Lock {
    /// Waits for whoever has the container of this directory; `None` if there is none (any more).
    pub fn take(directory: &Path) -> Result<Option<Self>, Error> {
        let failed = |source: rustix::io::Errno| failed("lock", directory)(source.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(CWD, directory, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            file => file.map_err(failed)?,
        };
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive)).map_err(failed)?;
        // Who had it may have deleted it, and somebody else may have made another.
        let ours = rustix::fs::fstat(file.as_fd()).map_err(failed)?;
        let same = fs::metadata(directory).is_ok_and(|now| (now.dev(), now.ino()) == (ours.st_dev, ours.st_ino));
        Ok(same.then_some(Self(file)))
    }
}

impl Lock {
    /// Whether somebody has it now.
    pub(super) fn is_held(directory: &Path) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, directory, flags, Mode::empty());
        file.is_ok_and(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
        })
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::State { act, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_again_and_another_with_its_pid_is_not() {
        let own = rustix::process::getpid();
        let mut identity = Identity::of(own).unwrap();
        assert_eq!(identity.find().unwrap().pid, own);
        identity.started += 1;
        assert!(identity.find().is_none());
    }

    #[test]
    fn a_directory_is_claimed_once_and_locked_while_it_is_there() {
        let home = Home::Directory(std::env::temp_dir().join(format!("berth-record-{}/a", std::process::id())));
        let Home::Directory(directory) = &home else { unreachable!() };
        let lock = home.claim().unwrap();
        assert!(lock.is_some() && Lock::is_held(directory));
        drop(lock);
        assert!(!Lock::is_held(directory));
        assert!(matches!(home.claim(), Err(Error::Exists)));
        assert!(Lock::take(directory).unwrap().is_some());
        assert!(home.read().unwrap().is_none());
        home.remove().unwrap();
        assert!(Lock::take(directory).unwrap().is_none());
        fs::remove_dir(directory.parent().unwrap()).unwrap();
    }
}
