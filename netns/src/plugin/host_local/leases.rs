//! The directory of a network's leases: a file for each address, `<container>\r\n<interface>`, under one lock.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::owners::Owners;
use crate::cni::fault::Fault;
use crate::whole;

/// Between two looks whether the lock is free. It is held for a fraction of a millisecond.
const LONGEST_PAUSE: Duration = Duration::from_micros(400);

/// The leases, locked for as long as this lives. The kernel unlocks what a dead process held.
pub(super) struct Leases {
    directory: PathBuf,
    owners: Owners,
    _lock: OwnedFd,
}

fn content(container: &str, interface: &str) -> String {
    format!("{container}\r\n{interface}")
}

impl Leases {
    /// Waits for the lock, as long as there is time; makes the directory where it is missing.
    pub(super) fn lock(directory: &Path, deadline: Instant) -> Result<Self, Fault> {
        let failed = |error: io::Error| Fault::io(format!("lock the leases in {}", directory.display()), &error);
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(directory.join("lock"), flags, Mode::from_raw_mode(0o750));
        let lock = lock.map_err(|errno| failed(errno.into()))?;
        let mut pause = Duration::from_micros(100);
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(Errno::WOULDBLOCK) => return Err(failed(io::Error::other("somebody else has it"))),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Ok(Self { directory: directory.to_owned(), owners: Owners::of(directory), _lock: lock })
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }

    /// Takes an address if it is free. A lease appears with its content: a crash leaves it whole or not at all.
    pub(super) fn reserve(&self, address: IpAddr, set: usize, container: &str, interface: &str) -> Result<bool, Fault> {
        let path = self.path(address);
        let failed = |errno: Errno| Fault::io(format!("lease {}", path.display()), &errno.into());
        let content = content(container, interface);
        let write = || whole::create(&path, content.as_bytes(), |_| Ok(()));
        match write() {
            Ok(_) => {}
            // We hold the lock, so one without an owner is not being written: its writer has died.
            Err(Errno::EXIST)
                if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) =>
            {
                fs::remove_file(&path).map_err(|error| Fault::io(format!("lease {}", path.display()), &error))?;
                write().map_err(failed)?;
            }
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        }
        // Only where the next search begins: without it, it begins at the start.
        let _ = overwrite(&self.directory.join(format!("last_reserved_ip.{set}")), &address.to_string());
        self.owners.given(&address.to_string(), &content);
        Ok(true)
    }

    /// The address that was given last of a set.
    pub(super) fn last(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.directory.join(format!("last_reserved_ip.{set}"))).ok()?.parse().ok()
    }

    /// Frees an address if the container has it, and says whether it had.
    pub(super) fn free(&self, address: IpAddr, container: &str, interface: &str) -> bool {
        let path = self.path(address);
        let is_its = fs::read_to_string(&path).is_ok_and(|text| text.trim() == content(container, interface));
        let freed = is_its && fs::remove_file(&path).is_ok();
        self.owners.changed();
        freed
    }

    /// Every lease: its file, and what it says.
    fn all(&self) -> Result<impl Iterator<Item = (PathBuf, String)>, Fault> {
        let failed = |error: io::Error| Fault::io(format!("read {}", self.directory.display()), &error);
        let paths = fs::read_dir(&self.directory).map_err(failed)?.flatten().map(|entry| entry.path());
        let is_address = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<IpAddr>().is_ok())
        };
        Ok(paths.filter(is_address).filter_map(read))
    }

    /// The leases of a container's interface, and those of old plugins, which name no interface.
    fn its(&self, container: &str, interface: &str) -> Result<Vec<(PathBuf, String)>, Fault> {
        let content = content(container, interface);
        let is_its = |(_, text): &(PathBuf, String)| *text == content || text == container;
        if let Some(paths) = self.owners.candidates(container) {
            return Ok(paths.into_iter().filter_map(read).filter(is_its).collect());
        }
        let mut all: Vec<_> = self.all()?.collect();
        self.owners.begin(&all);
        all.retain(is_its);
        Ok(all)
    }

    /// The addresses of a container's interface. Leases of old plugins name no interface.
    pub(super) fn of(&self, container: &str, interface: &str) -> Result<Vec<IpAddr>, Fault> {
        let its = self.its(container, interface)?.into_iter();
        Ok(its.filter_map(|(path, _)| path.file_name()?.to_str()?.parse().ok()).collect())
    }

    /// Frees whatever a container's interface has; leases that name no interface, where it has none of its own.
    pub(super) fn free_all(&self, container: &str, interface: &str) -> Result<(), Fault> {
        let content = content(container, interface);
        let its = self.its(container, interface)?.into_iter();
        let (own, old): (Vec<_>, Vec<_>) = its.partition(|(_, text)| *text == content);
        let freed = if own.is_empty() { old } else { own }.into_iter().try_for_each(|(path, _)| remove(&path));
        self.owners.changed();
        freed
    }

    /// Frees every lease but those of these containers' interfaces, and those that nobody owns since a crash.
    pub(super) fn keep(&self, valid: &[(String, String)]) -> Result<(), Fault> {
        let contents: Vec<_> = valid.iter().map(|(id, interface)| content(id, interface)).collect();
        let is_valid = |text: &String| contents.contains(text) || valid.iter().any(|(id, _)| id == text);
        let stale: Vec<_> = self.all()?.filter(|(_, text)| !is_valid(text)).collect();
        stale.into_iter().try_for_each(|(path, _)| remove(&path))
    }
}

/// Not by O_TRUNC, after which ext4 writes the content to the disk at once, and waits for the content before.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    if file.metadata()?.len() > text.len() as u64 { file.set_len(text.len() as u64) } else { Ok(()) }
}

fn read(path: PathBuf) -> Option<(PathBuf, String)> {
    let text = fs::read_to_string(&path).ok()?;
    Some((path, text.trim().to_owned()))
}

fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Fault::io(format!("remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            Self::below(&std::env::temp_dir(), test)
        }

        fn below(directory: &Path, test: &str) -> Self {
            Self(directory.join(format!("berth-leases-{test}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_lease_is_the_go_plugins_file() {
        let scratch = Scratch::new("file");
        let leases = Leases::lock(&scratch.0, Instant::now()).unwrap();
        assert!(leases.reserve(address("10.0.0.2"), 0, "pod", "eth0").unwrap());
        assert!(!leases.reserve(address("10.0.0.2"), 0, "other", "eth0").unwrap());
        assert_eq!(fs::read(scratch.0.join("10.0.0.2")).unwrap(), b"pod\r\neth0");
        assert_eq!(fs::read(scratch.0.join("last_reserved_ip.0")).unwrap(), b"10.0.0.2");
        assert!(!leases.free(address("10.0.0.2"), "pod", "eth1"));
        assert!(leases.free(address("10.0.0.2"), "pod", "eth0"));
        assert_eq!(leases.of("pod", "eth0").unwrap(), Vec::<IpAddr>::new());
    }

    #[test]
    fn a_lease_without_an_owner_is_free() {
        let scratch = Scratch::new("empty");
        let leases = Leases::lock(&scratch.0, Instant::now()).unwrap();
        fs::write(scratch.0.join("10.0.0.2"), "").unwrap();
        assert!(leases.reserve(address("10.0.0.2"), 0, "pod", "eth0").unwrap());
        assert_eq!(leases.of("pod", "eth0").unwrap(), [address("10.0.0.2")]);
    }

    #[test]
    fn an_old_lease_goes_only_where_there_is_no_new_one() {
        let scratch = Scratch::new("old");
        let leases = Leases::lock(&scratch.0, Instant::now()).unwrap();
        fs::write(scratch.0.join("10.0.0.2"), "pod").unwrap();
        leases.reserve(address("10.0.0.3"), 0, "pod", "eth0").unwrap();
        leases.free_all("pod", "eth0").unwrap();
        assert_eq!(leases.of("pod", "eth0").unwrap(), [address("10.0.0.2")]);
        leases.free_all("pod", "eth0").unwrap();
        assert!(leases.of("pod", "eth0").unwrap().is_empty());
    }

    #[test]
    fn only_what_is_valid_is_kept() {
        let scratch = Scratch::new("keep");
        let leases = Leases::lock(&scratch.0, Instant::now()).unwrap();
        leases.reserve(address("10.0.0.2"), 0, "a", "eth0").unwrap();
        leases.reserve(address("10.0.0.3"), 0, "b", "eth0").unwrap();
        fs::write(scratch.0.join("10.0.0.4"), "").unwrap();
        leases.keep(&[("a".to_owned(), "eth0".to_owned())]).unwrap();
        let left: Vec<_> = leases.all().unwrap().map(|(_, text)| text).collect();
        assert_eq!(left, ["a\r\neth0"]);
        assert!(scratch.0.join("lock").exists() && scratch.0.join("last_reserved_ip.0").exists());
    }

    #[test]
    fn leases_are_not_read_for_one_that_is_looked_up() {
        let scratch = Scratch::new("owners");
        let its = |container| Leases::lock(&scratch.0, Instant::now()).unwrap().of(container, "eth0").unwrap();
        assert!(its("pod").is_empty());
        let leases = Leases::lock(&scratch.0, Instant::now()).unwrap();
        leases.reserve(address("10.0.0.2"), 0, "pod", "eth0").unwrap();
        leases.reserve(address("10.0.0.3"), 0, "other", "eth0").unwrap();
        drop(leases);
        assert_eq!(its("pod"), [address("10.0.0.2")]);
        // One that came without a change of the directory's time would be found only by reading them all.
        let before = fs::metadata(&scratch.0).unwrap().modified().unwrap();
        fs::write(scratch.0.join("10.0.0.4"), "pod\r\neth0").unwrap();
        fs::File::open(&scratch.0).unwrap().set_modified(before).unwrap();
        assert_eq!(its("pod"), [address("10.0.0.2")]);
        // Nothing is believed of a lease that it does not say itself.
        fs::write(scratch.0.join("10.0.0.2"), "stranger\r\neth0").unwrap();
        assert!(its("pod").is_empty());
    }

    #[test]
    fn a_lease_of_the_same_moment_is_seen() {
        // A tmpfs, whose clock is a coarse one.
        let scratch = Scratch::below(Path::new("/dev/shm"), "moment");
        let its = |container| Leases::lock(&scratch.0, Instant::now()).unwrap().of(container, "eth0").unwrap();
        assert!(its("pod").is_empty());
        for _ in 0..100 {
            let leases = Leases::lock(&scratch.0, Instant::now()).unwrap();
            leases.reserve(address("10.0.0.2"), 0, "pod", "eth0").unwrap();
            drop(leases);
            // As by the Go plugin, and by one of ours that is killed before it says so.
            fs::write(scratch.0.join("fd00::2"), "pod\r\neth0").unwrap();
            assert_eq!(its("pod").len(), 2);
            Leases::lock(&scratch.0, Instant::now()).unwrap().free_all("pod", "eth0").unwrap();
        }
    }

    #[test]
    fn what_the_go_plugin_does_meanwhile_is_seen() {
        let scratch = Scratch::new("meanwhile");
        let its = |container| Leases::lock(&scratch.0, Instant::now()).unwrap().of(container, "eth0").unwrap();
        Leases::lock(&scratch.0, Instant::now()).unwrap().reserve(address("10.0.0.2"), 0, "pod", "eth0").unwrap();
        assert_eq!(its("pod"), [address("10.0.0.2")]);
        fs::write(scratch.0.join("10.0.0.3"), "theirs\r\neth0").unwrap();
        assert_eq!(its("theirs"), [address("10.0.0.3")]);
        fs::remove_file(scratch.0.join("10.0.0.2")).unwrap();
        assert!(its("pod").is_empty());
        Leases::lock(&scratch.0, Instant::now()).unwrap().free_all("theirs", "eth0").unwrap();
        assert!(its("theirs").is_empty());
        // Written anew where most of it is of the past.
        let leases = Leases::lock(&scratch.0, Instant::now()).unwrap();
        for _ in 0..250 {
            leases.reserve(address("10.0.0.9"), 0, "brief", "eth0").unwrap();
            assert!(leases.free(address("10.0.0.9"), "brief", "eth0"));
        }
        assert!(leases.of("brief", "eth0").unwrap().is_empty());
        assert!(fs::metadata(scratch.0.join(".owners")).unwrap().len() < 200);
    }
}
