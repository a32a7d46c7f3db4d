//! A record's file, and the lock on it that its owner has until it dies. flock(2): the lock is the open file's, and no
//! program inherits it, as every descriptor of ours is closed on execve.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use crate::cni::fault::{Code, Fault};
use crate::whole;

/// Longer than somebody holds the lock who only looks whether there is an owner; flock(2) has no way to ask.
const LOOK: Duration = Duration::from_millis(250);

/// A record that is ours.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    _lock: fs::File,
}

/// What came of taking one.
pub(super) enum Taken {
    /// There is none.
    Absent,
    /// Its owner lives, or somebody is looking at it.
    Busy,
    /// It was nobody's; with what is written in it.
    Ours(Claim, Vec<u8>),
}

/// Nobody else writes a record in this directory while this lives.
pub(super) struct Alone {
    _lock: fs::File,
}

/// Waits for the others who write records; makes the directory where it is missing.
pub(super) fn lock(directory: &Path) -> Result<Alone, Fault> {
    let failed = |error: io::Error| Fault::io(format!("lock {}", directory.display()), &error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let lock = fs::File::open(directory).map_err(failed)?;
    let locked = retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive));
    locked.map_err(|errno| failed(errno.into()))?;
    Ok(Alone { _lock: lock })
}

/// What is written, whosever it is.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

impl Claim {
    /// Writes a new one. It appears whole, and locked.
    pub(super) fn make(_: &Alone, path: &Path, bytes: &[u8]) -> Result<Self, Fault> {
        match whole::create(path, bytes, |file| flock(file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock.into() }),
            Err(Errno::EXIST) => Err(Fault::new(Code::TRY_AGAIN, format!("{} is there already", path.display()))),
            Err(errno) => Err(Fault::io(format!("write {}", path.display()), &errno.into())),
        }
    }

    /// Takes one that is nobody's, after whoever only looks at it.
    pub(super) fn take_after_lookers(path: &Path) -> Result<Taken, Fault> {
        let end = Instant::now() + LOOK;
        loop {
            match Self::take(path)? {
                Taken::Busy if Instant::now() < end => thread::sleep(LOOK / 50),
                taken => return Ok(taken),
            }
        }
    }

    /// Takes one that is nobody's.
    pub(super) fn take(path: &Path) -> Result<Taken, Fault> {
        let failed = |error: io::Error| Fault::io(format!("read {}", path.display()), &error);
        let mut file = match fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::Absent),
            file => file.map_err(failed)?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(Taken::Busy),
            locked => locked.map_err(|errno| failed(errno.into()))?,
        }
        // Its owner may have taken the file away between the two.
        let opened = file.metadata().map_err(failed)?;
        if !fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())) {
            return Ok(Taken::Absent);
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).map_err(failed)?;
        Ok(Taken::Ours(Self { path: path.to_owned(), _lock: file }, bytes))
    }

    /// Takes the file away.
    pub(super) fn release(self) -> Result<(), Fault> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Fault::io(format!("remove {}", self.path.display()), &error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_owners_until_it_is_gone() {
        let directory = std::env::temp_dir().join(format!("berth-claim-{}", std::process::id()));
        let path = directory.join("pod.json");
        assert!(matches!(Claim::take(&path).unwrap(), Taken::Absent));
        let claim = Claim::make(&lock(&directory).unwrap(), &path, b"text").unwrap();
        assert!(matches!(Claim::take(&path).unwrap(), Taken::Busy));
        assert!(Claim::make(&lock(&directory).unwrap(), &path, b"other").is_err());
        assert_eq!(read(&path).unwrap(), b"text");
        // As when its owner dies.
        drop(claim);
        let Taken::Ours(claim, bytes) = Claim::take(&path).unwrap() else { panic!("it is nobody's") };
        assert_eq!(bytes, b"text");
        claim.release().unwrap();
        assert!(matches!(Claim::take(&path).unwrap(), Taken::Absent));
        // Fails if anything is left in it.
        fs::remove_dir(&directory).unwrap();
    }
}
