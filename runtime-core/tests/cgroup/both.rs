//! What a cgroup does on every version.

use std::time::Duration;

use libtest_mimic::Failed;
use runtime_core::cgroup::{Cgroup, CgroupPath, Error};
use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::Test;
use super::inmate::Inmate;
use super::scratch::{Scratch, hierarchies};

pub const TESTS: [Test; 11] = [
    ("cgroup_is_made_in_every_hierarchy_and_removed_from_all", made_everywhere),
    ("existing_cgroup_is_taken_over_only_if_empty", taken_over),
    ("missing_controller_is_named_and_nothing_is_left", missing_controller),
    ("device_rules_are_in_force", device_rules),
    ("frozen_cgroup_stands_still_until_thawed", frozen),
    ("kill_ends_a_frozen_cgroup", kill_frozen),
    ("kill_outruns_forks", kill_forks),
    ("remove_waits_for_the_killed_and_takes_children_along", remove_waits),
    ("remove_of_a_deep_tree_takes_no_more_stack_than_of_a_flat_one", remove_deep),
    ("remove_of_an_inhabited_cgroup_says_so", remove_busy),
    ("path_in_a_state_file_leads_back", state_file),
];

fn made_everywhere() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    for controller in hierarchies() {
        assert!(scratch.dir(&controller).is_dir(), "{controller}");
    }
    cgroup.remove()?;
    for controller in hierarchies() {
        assert!(!scratch.dir(&controller).exists(), "{controller}");
    }
    cgroup.remove()?;
    cgroup.signal_all(libc::SIGKILL)?;
    assert!(Cgroup::open(&scratch.path)?.is_none());
    assert!(cgroup.pids()?.is_empty());
    Ok(())
}

fn taken_over() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let first = Cgroup::create(&scratch.path, None)?;
    first.freeze()?;
    // It would swallow the next one's processes.
    assert!(matches!(Cgroup::create(&scratch.path, None), Err(Error::Frozen { .. })));
    first.thaw()?;
    let second = Cgroup::create(&scratch.path, None)?;
    let _inmate = Inmate::run(&second, "exec sleep 100");
    assert!(matches!(Cgroup::create(&scratch.path, None), Err(Error::InUse { count: 1, .. })));
    assert!(hierarchies().iter().all(|hierarchy| scratch.dir(hierarchy).is_dir()));
    Ok(())
}

fn missing_controller() -> Result<(), Failed> {
    let scratch = Scratch::new();
    // No processor has pages of this size.
    match scratch.create(r#"{"hugepageLimits":[{"pageSize":"3MB","limit":0}]}"#) {
        Err(Error::NoController { controller: "hugetlb", file }) if file.starts_with("hugetlb.3MB.") => {}
        other => return Err(format!("{other:?}").into()),
    }
    assert!(!hierarchies().iter().any(|hierarchy| scratch.parent(hierarchy).exists()));
    Ok(())
}

const KMSG: &str = r#"{"devices":[{"allow":false,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;

const UNWRITTEN_KMSG: &str = r#"{"devices":[{"allow":true,"access":"rwm"},
    {"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]}"#;

fn device_rules() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let closed = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&closed, ": </dev/null && ! (: </dev/kmsg) 2>/dev/null");
    assert!(inmate.0.wait()?.success());
    // The rules of a cgroup that was there are replaced: were both in force, the stricter would win.
    let open = scratch.create(KMSG)?;
    let mut inmate = Inmate::run(&open, ": </dev/null && : </dev/kmsg && ! (: >/dev/kmsg) 2>/dev/null");
    assert!(inmate.0.wait()?.success());
    // Who may not write may not open to read and write.
    let unwritten = scratch.create(UNWRITTEN_KMSG)?;
    let mut inmate = Inmate::run(&unwritten, ": <>/dev/null && : </dev/kmsg && ! (: <>/dev/kmsg) 2>/dev/null");
    assert!(inmate.0.wait()?.success());
    Ok(())
}

fn frozen() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&cgroup, "while :; do :; done");
    cgroup.freeze()?;
    cgroup.freeze()?;
    let before = inmate.ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(before, inmate.ticks());
    cgroup.thaw()?;
    cgroup.signal_all(libc::SIGTERM)?;
    assert!(inmate.ended());
    Ok(())
}

fn kill_frozen() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&cgroup, "sleep 100 & sleep 100 & wait");
    cgroup.freeze()?;
    cgroup.signal_all(libc::SIGKILL)?;
    cgroup.remove()?;
    assert!(inmate.ended());
    Ok(())
}

fn kill_forks() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    // Forks without end, but no more than some at a time.
    let mut inmate = Inmate::run(&cgroup, "for i in 1 2 3; do (while :; do (:); done) & done; wait");
    std::thread::sleep(Duration::from_millis(100));
    cgroup.signal_all(libc::SIGKILL)?;
    assert!(inmate.ended());
    cgroup.remove()?;
    Ok(())
}

fn remove_waits() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let below = scratch.dir("devices").join("a/b");
    std::fs::create_dir_all(&below)?;
    let mut inmate = Inmate::run(&cgroup, "sleep 0.2");
    std::fs::write(below.join("cgroup.procs"), inmate.pid().to_string())?;
    cgroup.remove()?;
    assert!(inmate.ended());
    assert!(!hierarchies().iter().any(|hierarchy| scratch.dir(hierarchy).exists()));
    Ok(())
}

/// Whoever may make cgroups inside would end the shim of the whole pod otherwise, or keep the container for ever.
fn remove_deep() -> Result<(), Failed> {
    const DEPTH: usize = 2000;
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(scratch.dir("devices"), flags, Mode::empty())?;
    for _ in 0..DEPTH {
        mkdirat(&at, "deeper", Mode::RWXU)?;
        at = openat(&at, "deeper", flags, Mode::empty())?;
    }
    let mut inmate = Inmate::run(&cgroup, "exec sleep 100");
    let procs = openat(&at, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&procs, inmate.pid().to_string().as_bytes())?;
    let end = move || {
        let found = cgroup.pids()?;
        cgroup.signal_all(libc::SIGKILL)?;
        cgroup.remove().map(|()| found.len())
    };
    let ended = std::thread::Builder::new().stack_size(128 << 10).spawn(end)?.join();
    assert_eq!(ended.map_err(|_| "it panicked")??, 1);
    assert!(inmate.ended());
    assert!(!scratch.dir("devices").exists());
    Ok(())
}

fn remove_busy() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let _inmate = Inmate::run(&cgroup, "exec sleep 100");
    assert!(matches!(cgroup.remove(), Err(Error::Busy { .. })));
    Ok(())
}

fn state_file() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let path: CgroupPath = serde_json::from_str(&serde_json::to_string(cgroup.path())?)?;
    Cgroup::open(&path)?.ok_or("nothing found")?.remove()?;
    assert!(!hierarchies().iter().any(|hierarchy| scratch.dir(hierarchy).exists()));
    Ok(())
}
