//! Network namespaces of a real kernel. Needs root.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use netns::{Error, Namespace, remove};
use rustix::io::Errno;

/// A directory of this test's own, removed with the pins in it.
struct Scratch(PathBuf);

impl Scratch {
    /// None, said aloud, where the test cannot run.
    fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped, needs root: {test}");
            return None;
        }
        let path = std::env::temp_dir().join(format!("berth-netns-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Some(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = remove(&entry.path());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn inode(namespace: impl AsFd) -> u64 {
    rustix::fs::fstat(namespace).unwrap().st_ino
}

fn own_inode() -> u64 {
    inode(fs::File::open("/proc/thread-self/ns/net").unwrap())
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Whether `lo` is up where the calling thread is.
fn loopback_answers() -> bool {
    UdpSocket::bind("127.0.0.1:0").is_ok_and(|socket| socket.connect("127.0.0.1:9").is_ok())
}

#[test]
fn a_created_namespace_is_another_and_the_caller_stays_in_its_own() {
    let Some(_scratch) = Scratch::new("create") else { return };
    let before = own_inode();
    let (one, two) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    assert_ne!(inode(&one), inode(&two));
    assert_ne!(inode(&one), before);
    assert_eq!(one.enter(own_inode).unwrap(), inode(&one));
    assert_eq!(own_inode(), before);
}

#[test]
fn a_created_namespace_has_lo_alone_and_it_comes_up() {
    let Some(_scratch) = Scratch::new("loopback") else { return };
    let namespace = Namespace::create().unwrap();
    let links = || fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().skip(2).count();
    assert_eq!(namespace.enter(links).unwrap(), 1);
    assert!(!namespace.enter(loopback_answers).unwrap());
    namespace.bring_loopback_up().unwrap();
    namespace.bring_loopback_up().unwrap();
    assert!(namespace.enter(loopback_answers).unwrap());
}

#[test]
fn a_socket_stays_in_the_namespace_where_it_was_opened() {
    let Some(_scratch) = Scratch::new("socket") else { return };
    let (one, two) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let bind = || UdpSocket::bind("0.0.0.0:7").unwrap();
    // The same port twice: they are in different namespaces.
    let sockets = [one.enter(bind).unwrap(), two.enter(bind).unwrap()];
    assert_eq!(sockets.map(|socket| socket.local_addr().unwrap().port()), [7, 7]);
}

#[test]
fn a_pin_keeps_the_namespace_and_opens_as_it() {
    let Some(scratch) = Scratch::new("pin") else { return };
    let namespace = Namespace::create().unwrap();
    let made = scratch.path("deep/er");
    let path = namespace.pin(&made, "pod").unwrap();
    assert_eq!(path, made.join("pod"));
    let id = inode(&namespace);
    drop(namespace);
    let opened = Namespace::open(&path).unwrap();
    assert_eq!(inode(&opened), id);
    assert_eq!(opened.enter(own_inode).unwrap(), id);
    remove(&path).unwrap();
    assert!(!path.exists() && !is_mounted(&path));
    assert_eq!(opened.enter(own_inode).unwrap(), id);
}

#[test]
fn a_name_that_is_taken_is_left_as_it_is() {
    let Some(scratch) = Scratch::new("taken") else { return };
    let (one, two) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let path = one.pin(&scratch.0, "pod").unwrap();
    let error = two.pin(&scratch.0, "pod").unwrap_err();
    assert!(matches!(&error, Error::CreateFile { source: Errno::EXIST, .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("create {}", path.display()));
    assert_eq!(inode(Namespace::open(&path).unwrap()), inode(&one));
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let Some(scratch) = Scratch::new("names") else { return };
    let namespace = Namespace::create().unwrap();
    for name in ["", ".", "..", "a/b", "/a", "a\0b"] {
        assert!(matches!(namespace.pin(&scratch.0, name), Err(Error::Name { .. })), "{name:?}");
    }
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let Some(scratch) = Scratch::new("undone") else { return };
    let file = scratch.path("file");
    fs::write(&file, "").unwrap();
    let error = Namespace::create().unwrap().pin(&file, "pod").unwrap_err();
    assert_eq!(error.to_string(), format!("create {}", file.display()));
    assert_eq!(fs::read(&file).unwrap(), b"");
}

#[test]
fn remove_is_idempotent_and_cleans_up_after_a_crash() {
    let Some(scratch) = Scratch::new("remove") else { return };
    remove(&scratch.path("never")).unwrap();
    remove(&scratch.path("no/directory")).unwrap();
    // A crash between the file and the mount.
    fs::write(scratch.path("half"), "").unwrap();
    remove(&scratch.path("half")).unwrap();
    assert!(!scratch.path("half").exists());
    let path = Namespace::create().unwrap().pin(&scratch.0, "pod").unwrap();
    remove(&path).unwrap();
    remove(&path).unwrap();
}

#[test]
fn remove_follows_links_to_the_directory_but_not_the_name() {
    let Some(scratch) = Scratch::new("links") else { return };
    let path = Namespace::create().unwrap().pin(&scratch.path("real"), "pod").unwrap();
    symlink("real", scratch.path("alias")).unwrap();
    symlink("pod", scratch.path("real/link")).unwrap();
    assert!(matches!(remove(&scratch.path("alias/link")), Err(Error::NotANamespace { .. })));
    assert!(is_mounted(&path));
    remove(&scratch.path("alias/pod")).unwrap();
    assert!(!path.exists() && !is_mounted(&path));
}

#[test]
fn what_is_no_network_namespace_is_neither_opened_nor_removed() {
    let Some(scratch) = Scratch::new("others") else { return };
    fs::write(scratch.path("text"), "keep me").unwrap();
    fs::create_dir(scratch.path("directory")).unwrap();
    for name in ["text", "directory"] {
        let path = scratch.path(name);
        let refused = [remove(&path).unwrap_err(), Namespace::open(&path).unwrap_err()];
        for error in refused {
            assert_eq!(error.to_string(), format!("{} is not a network namespace", path.display()));
        }
        assert!(path.exists());
    }
    for other in ["/proc/self/ns/uts", "/proc/self/status", "/dev/null"] {
        assert!(matches!(Namespace::open(Path::new(other)), Err(Error::NotANamespace { .. })), "{other}");
    }
    let missing = Namespace::open(&scratch.path("missing")).unwrap_err();
    assert!(matches!(missing, Error::Open { source: Errno::NOENT, .. }), "{missing:?}");
    fs::remove_file(scratch.path("text")).unwrap();
}
