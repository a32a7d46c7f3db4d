//! On the real v1 hierarchies of this host, in cgroups of their own.

use std::path::Path;
use std::time::Duration;

use libtest_mimic::Failed;
use oci_spec::runtime::LinuxResources;
use runtime_core::cgroup::stats::v1::Metrics;
use runtime_core::cgroup::{Cgroup, CgroupPath, Error, Stats};

use super::inmate::Inmate;
use super::scratch::Scratch;
use super::{Test, eventually, readable};

pub const TESTS: [Test; 11] = [
    ("limits_are_in_force", limits),
    ("memory_and_swap_can_be_raised_and_lowered", memory_order),
    ("quota_and_period_can_be_changed_in_any_direction", cpu_order),
    ("cpuset_is_filled_from_the_parent", cpuset),
    ("device_rules_are_listed", device_list),
    ("device_rules_are_replaced_above_another_cgroup", device_rules_above),
    ("processes_enter_and_are_listed_with_those_below", listed),
    ("statistics_are_read", statistics),
    ("oom_kill_is_told_once", oom),
    ("end_of_a_cgroup_is_no_oom", oom_end),
    ("open_finds_what_is_left_of_a_cgroup", open_partial),
];

fn device_rules_above() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let rules = |minor: u32| {
        format!(
            r#"{{"devices":[{{"allow":false,"access":"rwm"}},
                {{"allow":true,"type":"c","major":1,"minor":{minor},"access":"r"}}]}}"#
        )
    };
    scratch.create(&rules(11))?;
    let below = scratch.dir("devices").join("below");
    std::fs::create_dir(&below)?;
    scratch.create(&rules(12))?;
    for list in [scratch.read("devices", "devices.list"), std::fs::read_to_string(below.join("devices.list"))?] {
        assert!(!list.contains("c 1:11 ") && !list.contains('a'), "{list}");
    }
    assert!(scratch.read("devices", "devices.list").contains("c 1:12 r"));
    std::fs::remove_dir(&below)?;
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
    let _inmate = Inmate::grown(&cgroup, "sleep 100; :");
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

fn device_list() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let _cgroup = scratch.create(
        r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#,
    )?;
    let list = scratch.read("devices", "devices.list");
    assert!(list.contains("c 1:3 rwm") && list.contains("c 1:11 r\n") && list.contains("b *:* m"), "{list}");
    assert!(!list.contains("a *:*"), "{list}");
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

fn open_partial() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let _cgroup = Cgroup::create(&scratch.path, None)?;
    std::fs::remove_dir(scratch.dir("memory"))?;
    Cgroup::open(&scratch.path)?.ok_or("nothing found")?.remove()?;
    assert!(!scratch.dir("devices").exists());
    Ok(())
}

fn statistics() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"memory":{"limit":67108864},"pids":{"limit":50},"cpu":{"quota":10000}}"#)?;
    let _inmate = Inmate::grown(&cgroup, "while :; do :; done");
    // The kernel sums up memory events when there are many, and then not at once.
    let counted = |stats: &Metrics| {
        stats.cpu.throttling.throttled_time > 0 && stats.memory.as_ref().is_some_and(|memory| memory.total_pg_fault > 0)
    };
    let read = || match cgroup.stats() {
        Ok(Stats::V1(stats)) => Some(stats).filter(|stats| counted(stats)),
        _ => None,
    };
    let stats = eventually(read).ok_or("not counted")?;
    let pids = stats.pids.ok_or("no pids")?;
    assert_eq!((pids.current, pids.limit), (1, 50));
    let memory = stats.memory.ok_or("no memory")?;
    assert_eq!(memory.usage.limit, 67_108_864);
    assert!(memory.usage.usage > 0 && memory.usage.max >= memory.usage.usage);
    assert_eq!(memory.hierarchical_memory_limit, 67_108_864);
    assert!(stats.cpu.usage.total > 0);
    assert!(!stats.cpu.usage.per_cpu.is_empty());
    assert!(stats.cpu.throttling.periods > 0 && stats.cpu.throttling.throttled_periods > 0);
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
