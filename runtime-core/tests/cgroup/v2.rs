//! On a cgroup2 without the controllers that v1 holds here (of those that are left, hugetlb). Each
//! test runs in a process of its own whose private mount namespace has it on /sys/fs/cgroup.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use oci_spec::runtime::LinuxResources;
use runtime_core::cgroup::{Cgroup, CgroupPath, Error, Stats};
use rustix::process::Signal;

use super::inmate::Inmate;
use super::{Check, trial};

const INSIDE: &str = "CGROUP_TEST_SEES_V2";

type Test = (&'static str, fn() -> Result<(), Failed>);

const TESTS: [Test; 11] = [
    ("v2_cgroup_is_made_and_removed", made),
    ("v2_device_program_is_in_force", devices),
    ("v2_device_program_of_a_reused_cgroup_is_replaced", devices_replaced),
    ("v2_frozen_cgroup_stands_still_until_thawed", frozen),
    ("v2_kill_ends_a_frozen_cgroup_and_remove_waits", killed),
    ("v2_remove_takes_children_along", children),
    ("v2_remove_of_an_inhabited_cgroup_says_so", busy),
    ("v2_controller_that_is_not_there_is_named", missing_controller),
    ("v2_controllers_are_enabled_down_the_tree", enabled),
    ("v2_parent_with_processes_is_named", parent_with_processes),
    ("v2_statistics_are_read", statistics),
];

/// True in such a process.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

pub fn trials() -> Vec<Trial> {
    TESTS.into_iter().map(|(name, test)| trial(name, None, test)).collect()
}

/// The tests as processes of their own.
pub fn wrapped(check: Check) -> Vec<Trial> {
    let wrap = |(name, _): Test| match check {
        None => Trial::test(name, move || run_inside(name)),
        check => trial(name, check, || Ok(())),
    };
    TESTS.into_iter().map(wrap).collect()
}

fn run_inside(name: &str) -> Result<(), Failed> {
    // Where v2 is the host's, its mount is seen again; beside v1 it is its unused hierarchy.
    const SCRIPT: &str = "umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
    command.arg(std::env::current_exe()?).args(["--exact", name]).env(INSIDE, "1").stdin(Stdio::null());
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.contains("1 passed") {
        return Ok(());
    }
    Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into())
}

struct Scratch {
    path: CgroupPath,
    parent: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = format!("berth-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = CgroupPath::parse(Some(&format!("/{parent}/c1")), "unused").unwrap();
        Scratch { path, parent: Path::new("/sys/fs/cgroup").join(parent) }
    }

    fn create(&self, resources: &str) -> Result<Cgroup, Error> {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        Cgroup::create(&self.path, Some(&resources))
    }

    fn dir(&self) -> PathBuf {
        self.parent.join("c1")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = Cgroup::open(&self.path) {
            let _ = cgroup.signal_all(Signal::KILL);
            let _ = cgroup.remove();
        }
        let _ = std::fs::remove_dir(&self.parent);
    }
}

fn made() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    assert!(scratch.dir().is_dir());
    assert!(cgroup.watch_oom()?.is_none());
    let _inmate = Inmate::run(&cgroup, "exec sleep 100");
    assert_eq!(cgroup.pids()?.len(), 1);
    assert!(matches!(Cgroup::create(&scratch.path, None), Err(Error::InUse { .. })));
    drop(_inmate);
    cgroup.remove()?;
    cgroup.remove()?;
    assert!(Cgroup::open(&scratch.path)?.is_none() && cgroup.pids()?.is_empty());
    Ok(())
}

const KMSG: &str = r#"{"devices":[{"allow":false,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;

fn devices() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(KMSG)?;
    let mut inmate = Inmate::run(&cgroup, ": </dev/null && : </dev/kmsg && ! (: >/dev/kmsg) 2>/dev/null");
    assert!(inmate.0.wait()?.success());
    Ok(())
}

fn devices_replaced() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let closed = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&closed, "! (: </dev/kmsg) 2>/dev/null");
    assert!(inmate.0.wait()?.success());
    // Were both programs in force, the stricter would win.
    let open = scratch.create(KMSG)?;
    let mut inmate = Inmate::run(&open, ": </dev/kmsg");
    assert!(inmate.0.wait()?.success());
    Ok(())
}

fn frozen() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&cgroup, "while :; do :; done");
    cgroup.freeze()?;
    cgroup.freeze()?;
    let events = std::fs::read_to_string(scratch.dir().join("cgroup.events"))?;
    assert!(events.contains("frozen 1"));
    let before = inmate.ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(before, inmate.ticks());
    cgroup.thaw()?;
    cgroup.signal_all(Signal::TERM)?;
    assert!(inmate.ended());
    Ok(())
}

fn killed() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&cgroup, "sleep 100 & sleep 100 & wait");
    cgroup.freeze()?;
    cgroup.signal_all(Signal::KILL)?;
    cgroup.remove()?;
    assert!(inmate.ended());
    cgroup.signal_all(Signal::KILL)?;
    Ok(())
}

fn children() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    std::fs::create_dir_all(scratch.dir().join("a/b"))?;
    let mut inmate = Inmate::run(&cgroup, "sleep 0.2");
    std::fs::write(scratch.dir().join("a/b/cgroup.procs"), inmate.pid().to_string())?;
    cgroup.remove()?;
    assert!(!scratch.dir().exists());
    assert!(inmate.ended());
    Ok(())
}

fn busy() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let _inmate = Inmate::run(&cgroup, "exec sleep 100");
    assert!(matches!(cgroup.remove(), Err(Error::Busy { .. })));
    Ok(())
}

fn missing_controller() -> Result<(), Failed> {
    let scratch = Scratch::new();
    match scratch.create(r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#) {
        Err(Error::NoController { controller: "rdma", .. }) => {}
        other => return Err(format!("{other:?}").into()),
    }
    assert!(!scratch.parent.exists());
    Ok(())
}

/// A hugetlb limit that this host can keep, if it can keep any.
fn huge_limit() -> Option<String> {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok()?;
    let sizes = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
    (controllers.contains("hugetlb") && sizes)
        .then(|| r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#.to_owned())
}

fn enabled() -> Result<(), Failed> {
    let Some(limit) = huge_limit() else { return Ok(()) };
    let scratch = Scratch::new();
    let _cgroup = scratch.create(&limit)?;
    let read = |file: &str| std::fs::read_to_string(scratch.dir().join(file));
    assert_eq!(read("hugetlb.2MB.max")?.trim(), "4194304");
    assert_eq!(read("hugetlb.2MB.rsvd.max")?.trim(), "4194304");
    Ok(())
}

fn parent_with_processes() -> Result<(), Failed> {
    let Some(limit) = huge_limit() else { return Ok(()) };
    let scratch = Scratch::new();
    std::fs::create_dir(&scratch.parent)?;
    let mut inmate = Inmate::run_at(&scratch.parent.join("cgroup.procs"), "exec sleep 100");
    match scratch.create(&limit) {
        Err(Error::Enable { controller, path, .. }) => {
            assert_eq!(controller, "hugetlb");
            assert!(Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')) == scratch.parent);
        }
        other => return Err(format!("{other:?}").into()),
    }
    assert!(!scratch.dir().exists());
    inmate.0.kill()?;
    assert!(inmate.ended());
    Ok(())
}

fn statistics() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let _inmate = Inmate::run(&cgroup, "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; exec sleep 100");
    std::thread::sleep(Duration::from_millis(300));
    let Stats::V2(stats) = cgroup.stats()? else { return Err("not v2".into()) };
    assert!(stats.cpu.usage_usec > 0);
    drop(_inmate);
    cgroup.remove()?;
    assert!(matches!(cgroup.stats(), Err(Error::Read { .. })));
    Ok(())
}
