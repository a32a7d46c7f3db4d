//! On the real v1 hierarchies of this host, in cgroups of their own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use oci_spec::runtime::LinuxResources;
use runtime_core::cgroup::{Cgroup, CgroupPath, Error, Stats};
use rustix::process::Signal;

use super::inmate::Inmate;
use super::{Check, readable, trial};

/// A cgroup that is gone when the test is over, with what lives in it.
struct Scratch {
    path: CgroupPath,
    parent: String,
    name: String,
}

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = format!("berth-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = "c1".to_owned();
        let path = CgroupPath::parse(Some(&format!("/{parent}/{name}")), "unused").unwrap();
        Scratch { path, parent, name }
    }

    fn create(&self, resources: &str) -> Result<Cgroup, Error> {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        Cgroup::create(&self.path, Some(&resources))
    }

    fn dir(&self, controller: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(controller).join(&self.parent).join(&self.name)
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let path = self.dir(controller).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")).trim().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = Cgroup::open(&self.path) {
            let _ = cgroup.signal_all(Signal::KILL);
            let _ = cgroup.remove();
        }
        for controller in controllers() {
            let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(controller).join(&self.parent));
        }
    }
}

fn controllers() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "unified").collect()
}

pub fn trials(check: Check) -> Vec<Trial> {
    vec![
        trial("v1_cgroup_is_made_in_every_hierarchy_and_removed_from_all", check, made_everywhere),
        trial("v1_limits_are_in_force", check, limits),
        trial("v1_memory_and_swap_can_be_raised_and_lowered", check, memory_order),
        trial("v1_quota_and_period_can_be_changed_in_any_direction", check, cpu_order),
        trial("v1_cpuset_is_filled_from_the_parent", check, cpuset),
        trial("v1_device_rules_are_in_force", check, device_rules),
        trial("v1_missing_controller_is_named_and_nothing_is_left", check, missing_controller),
        trial("v1_existing_cgroup_is_taken_over_only_if_empty", check, taken_over),
        trial("v1_processes_enter_and_are_listed_with_those_below", check, listed),
        trial("v1_frozen_cgroup_stands_still_until_thawed", check, frozen),
        trial("v1_kill_ends_a_frozen_cgroup", check, kill_frozen),
        trial("v1_kill_outruns_forks", check, kill_forks),
        trial("v1_remove_waits_for_the_killed_and_takes_children_along", check, remove_waits),
        trial("v1_remove_of_an_inhabited_cgroup_says_so", check, remove_busy),
        trial("v1_statistics_are_read", check, statistics),
        trial("v1_oom_kill_is_told_once", check, oom),
        trial("v1_end_of_a_cgroup_is_no_oom", check, oom_end),
        trial("v1_open_finds_what_is_left_of_a_cgroup", check, open_partial),
    ]
}

fn made_everywhere() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    for controller in controllers() {
        assert!(scratch.dir(&controller).is_dir(), "{controller}");
    }
    cgroup.remove()?;
    for controller in controllers() {
        assert!(!scratch.dir(&controller).exists(), "{controller}");
    }
    cgroup.remove()?;
    assert!(Cgroup::open(&scratch.path)?.is_none());
    assert!(cgroup.pids()?.is_empty());
    Ok(())
}

fn limits() -> Result<(), Failed> {
    let scratch = Scratch::new();
    scratch.create(
        r#"{"memory":{"limit":67108864,"reservation":33554432,"swap":134217728,"swappiness":30,
              "disableOOMKiller":true},
            "cpu":{"shares":512,"quota":50000,"period":200000,"burst":10000,"cpus":"0","mems":"0"},
            "pids":{"limit":77}}"#,
    )?;
    for (controller, file, expected) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.swappiness", "30"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "200000"),
        ("cpu", "cpu.cfs_burst_us", "10000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "77"),
    ] {
        assert_eq!(scratch.read(controller, file), expected, "{file}");
    }
    assert!(scratch.read("memory", "memory.oom_control").contains("oom_kill_disable 1"));
    Ok(())
}

fn memory_order() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"memory":{"limit":67108864,"swap":67108864}}"#)?;
    for (limit, swap) in
        [(134217728i64, 268435456i64), (33554432, 33554432), (67108864, 134217728), (-1, -1), (67108864, 67108864)]
    {
        cgroup.update(&serde_json::from_value(serde_json::json!({"memory":{"limit":limit,"swap":swap}}))?)?;
        if limit > 0 {
            assert_eq!(scratch.read("memory", "memory.limit_in_bytes"), limit.to_string());
            assert_eq!(scratch.read("memory", "memory.memsw.limit_in_bytes"), swap.to_string());
        }
    }
    let _inmate = Inmate::run(&cgroup, "x=$(head -c 2000000 /dev/zero | tr '\\0' x); exec sleep 100");
    let result = cgroup.update(&serde_json::from_str(r#"{"memory":{"limit":4096}}"#)?);
    assert!(matches!(result, Err(Error::BelowUsage { limit: 4096, .. })), "{result:?}");
    cgroup.update(&serde_json::from_str(r#"{"memory":{"limit":-1}}"#)?)?;
    assert!(scratch.read("memory", "memory.memsw.limit_in_bytes").len() > 15);
    Ok(())
}

fn cpu_order() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let parent = CgroupPath::parse(Some(&format!("/{}", scratch.parent)), "")?;
    let outer: LinuxResources = serde_json::from_str(r#"{"cpu":{"quota":50000,"period":100000}}"#)?;
    let _outer = Cgroup::create(&parent, Some(&outer))?;
    // Half a cpu is all that the parent gives, so a shorter period alone would be too much.
    let cgroup = scratch.create(r#"{"cpu":{"quota":50000,"period":100000}}"#)?;
    cgroup.update(&serde_json::from_str(r#"{"cpu":{"quota":5000,"period":10000}}"#)?)?;
    assert_eq!(scratch.read("cpu", "cpu.cfs_period_us"), "10000");
    assert_eq!(scratch.read("cpu", "cpu.cfs_quota_us"), "5000");
    cgroup.update(&serde_json::from_str(r#"{"cpu":{"quota":100000,"period":200000,"burst":100000}}"#)?)?;
    assert_eq!(scratch.read("cpu", "cpu.cfs_period_us"), "200000");
    Ok(())
}

fn cpuset() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let _cgroup = Cgroup::create(&scratch.path, None)?;
    let root = |file: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup/cpuset").join(file)).unwrap();
    assert_eq!(scratch.read("cpuset", "cpuset.cpus"), root("cpuset.cpus").trim());
    assert_eq!(scratch.read("cpuset", "cpuset.mems"), root("cpuset.mems").trim());
    Ok(())
}

fn device_rules() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(
        r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#,
    )?;
    let list = scratch.read("devices", "devices.list");
    assert!(list.contains("c 1:3 rwm") && list.contains("c 1:11 r\n") && list.contains("b *:* m"), "{list}");
    assert!(!list.contains("a *:*"), "{list}");
    let mut allowed = Inmate::run(&cgroup, ": </dev/null && : </dev/kmsg");
    assert!(allowed.0.wait()?.success());
    let other = Scratch::new();
    let mut refused = Inmate::run(&Cgroup::create(&other.path, None)?, ": </dev/null && ! (: </dev/kmsg) 2>/dev/null");
    assert!(refused.0.wait()?.success());
    Ok(())
}

fn missing_controller() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let result = scratch.create(r#"{"hugepageLimits":[{"pageSize":"3MB","limit":0}]}"#);
    match result {
        Err(Error::NoController { controller: "hugetlb", file }) if file == "hugetlb.3MB.limit_in_bytes" => {}
        other => return Err(format!("{other:?}").into()),
    }
    for controller in controllers() {
        assert!(!scratch.dir(&controller).parent().unwrap().exists(), "{controller}");
    }
    Ok(())
}

fn taken_over() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let first = Cgroup::create(&scratch.path, None)?;
    first.freeze()?;
    let second = Cgroup::create(&scratch.path, None)?;
    assert_eq!(scratch.read("freezer", "freezer.state"), "THAWED");
    let _inmate = Inmate::run(&second, "exec sleep 100");
    assert!(matches!(Cgroup::create(&scratch.path, None), Err(Error::InUse { .. })));
    assert!(scratch.dir("memory").is_dir());
    Ok(())
}

fn listed() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let inmate = Inmate::run(&cgroup, "exec sleep 100");
    let below = scratch.dir("devices").join("below");
    std::fs::create_dir(&below)?;
    let other = Inmate::run(&cgroup, "exec sleep 100");
    std::fs::write(below.join("cgroup.procs"), other.pid().to_string())?;
    let mut pids: Vec<i32> = cgroup.pids()?.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    pids.sort_unstable();
    let mut expected = [inmate.pid(), other.pid()];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", inmate.pid()))?;
    let here = format!(":/{}/{}", scratch.parent, scratch.name);
    let missing: Vec<_> = cgroups.lines().filter(|l| !l.starts_with("0:") && !l.ends_with(&here)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}

fn frozen() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&cgroup, "while :; do :; done");
    cgroup.freeze()?;
    cgroup.freeze()?;
    let before = inmate.ticks();
    cgroup.signal_all(Signal::TERM)?;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(before, inmate.ticks());
    assert!(inmate.0.try_wait()?.is_none());
    cgroup.thaw()?;
    assert!(inmate.ended());
    Ok(())
}

fn kill_frozen() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let mut inmate = Inmate::run(&cgroup, "exec sleep 100");
    cgroup.freeze()?;
    cgroup.signal_all(Signal::KILL)?;
    assert!(inmate.ended());
    cgroup.remove()?;
    Ok(())
}

fn kill_forks() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"pids":{"limit":40}}"#)?;
    let mut inmate = Inmate::run(&cgroup, "f() { (f) & while :; do (:) & done; } 2>/dev/null; f");
    std::thread::sleep(Duration::from_millis(100));
    cgroup.signal_all(Signal::KILL)?;
    assert!(inmate.ended());
    cgroup.remove()?;
    Ok(())
}

fn remove_waits() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    std::fs::create_dir_all(scratch.dir("memory").join("a/b"))?;
    let mut inmate = Inmate::run(&cgroup, "sleep 0.2 & wait; exit 3");
    cgroup.remove()?;
    assert!(inmate.ended());
    assert!(!scratch.dir("memory").exists());
    Ok(())
}

fn remove_busy() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let _inmate = Inmate::run(&cgroup, "exec sleep 100");
    assert!(matches!(cgroup.remove(), Err(Error::Busy { .. })));
    Ok(())
}

fn open_partial() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    std::fs::remove_dir(scratch.dir("memory"))?;
    let state = serde_json::to_string(cgroup.path())?;
    let path: CgroupPath = serde_json::from_str(&state)?;
    let found = Cgroup::open(&path)?.ok_or("nothing found")?;
    found.remove()?;
    assert!(!scratch.dir("devices").exists());
    Ok(())
}

fn statistics() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"memory":{"limit":67108864},"pids":{"limit":50},"cpu":{"quota":10000}}"#)?;
    let _inmate = Inmate::run(&cgroup, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 100");
    std::thread::sleep(Duration::from_millis(300));
    let Stats::V1(stats) = cgroup.stats()? else { return Err("not v1".into()) };
    let pids = stats.pids.ok_or("no pids")?;
    assert_eq!((pids.current, pids.limit), (1, 50));
    let memory = stats.memory.ok_or("no memory")?;
    assert_eq!(memory.usage.limit, 67_108_864);
    assert!(memory.usage.usage > 0 && memory.usage.max >= memory.usage.usage);
    assert_eq!(memory.hierarchical_memory_limit, 67_108_864);
    assert!(memory.total_pg_fault > 0);
    assert!(stats.cpu.usage.total > 0);
    assert_eq!(stats.cpu.usage.per_cpu.iter().sum::<u64>(), stats.cpu.usage.total);
    assert!(stats.cpu.throttling.periods > 0 && stats.cpu.throttling.throttled_time > 0);
    assert_eq!(stats.memory_oom_control.ok_or("no oom control")?.oom_kill, 0);
    Ok(())
}

fn oom() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"memory":{"limit":16777216,"swap":16777216}}"#)?;
    let mut watch = cgroup.watch_oom()?.ok_or("no watch")?;
    assert!(!watch.triggered());
    let mut inmate = Inmate::run(&cgroup, "exec tail /dev/zero");
    assert!(readable(&watch, Duration::from_secs(5)));
    assert!(watch.triggered());
    assert!(inmate.ended());
    assert!(!watch.triggered());
    Ok(())
}

fn oom_end() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let mut watch = cgroup.watch_oom()?.ok_or("no watch")?;
    cgroup.remove()?;
    assert!(readable(&watch, Duration::from_secs(5)));
    assert!(!watch.triggered());
    Ok(())
}
