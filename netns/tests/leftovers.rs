//! What stays behind after namespaces have come and gone. One test: it counts what its process has.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use netns::{Namespace, remove};

fn count(directory: &str) -> usize {
    fs::read_dir(directory).unwrap().count()
}

fn mounts(of: &str) -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(of)).count()
}

#[test]
fn nothing_stays_behind() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped, needs root: nothing_stays_behind");
        return;
    }
    let name = format!("berth-netns-leftovers-{}", std::process::id());
    let directory = std::env::temp_dir().join(&name);
    let round = || {
        let namespace = Namespace::create().unwrap();
        namespace.bring_loopback_up().unwrap();
        let path = namespace.pin(&directory, "pod").unwrap();
        assert!(namespace.pin(&directory, "pod").is_err());
        assert_eq!(mounts(&name), 1);
        Namespace::open(&path).unwrap().enter(|| ()).unwrap();
        assert!(Namespace::open(&directory).is_err());
        remove(&path).unwrap();
    };
    round();
    let (descriptors, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    for _ in 0..30 {
        round();
    }
    assert_eq!(count("/proc/self/fd"), descriptors);
    // A joined thread may be a moment away from its end.
    let deadline = Instant::now() + Duration::from_secs(5);
    while count("/proc/self/task") != threads && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(count("/proc/self/task"), threads);
    assert_eq!(mounts(&name), 0);
    // Fails if there is a file left.
    fs::remove_dir(&directory).unwrap();
}
