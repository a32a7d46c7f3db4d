//! On a cgroup2 without the controllers that v1 holds here (of those that are left, hugetlb). Each
//! test runs in a process of its own whose private mount namespace has it on /sys/fs/cgroup.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use runtime_core::cgroup::{Cgroup, Error, Stats};

use super::inmate::Inmate;
use super::scratch::Scratch;
use super::{Check, Test, eventually, readable};

const INSIDE: &str = "CGROUP_TEST_SEES_V2";

/// What needs no controller, or hugetlb at most.
const TESTS: [Test; 5] = [
    ("controllers_are_enabled_down_the_tree", enabled),
    ("parent_with_processes_is_named", parent_with_processes),
    ("home_of_a_process_is_found_below", home),
    ("cgroup_beside_a_threaded_one_is_refused", threaded),
    ("statistics_are_read", statistics),
];

/// What needs a host, or guest, whose controllers are all on v2.
const CONTROLLED: [Test; 6] = [
    ("limits_are_in_force", limits),
    ("limits_can_be_raised_and_lowered", update),
    ("update_below_usage_is_refused_if_asked_to", check_before_update),
    ("unified_resources_are_written", unified),
    ("oom_kill_is_told_once", oom),
    ("statistics_of_controllers_are_read", controlled_statistics),
];

fn controlled() -> Check {
    let read = |at: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(at)).unwrap_or_default();
    let all = read("cgroup.controllers") + &read("unified/cgroup.controllers");
    let has = |name: &&str| all.split_whitespace().any(|word| word == *name);
    (!["cpu", "cpuset", "memory", "pids"].iter().all(has)).then_some("needs all controllers on v2")
}

/// True in such a process.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The tests, each with the reason why it cannot run here, if there is one.
pub fn tests() -> impl Iterator<Item = (Test, Check)> {
    let controlled = controlled();
    let free = super::both::TESTS.into_iter().chain(TESTS).map(|test| (test, None));
    free.chain(CONTROLLED.into_iter().map(move |test| (test, controlled)))
}

/// Runs the test `name` in such a process.
pub fn run_inside(name: &str) -> Result<(), Failed> {
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
    let read = |file: &str| std::fs::read_to_string(scratch.dir("").join(file));
    assert_eq!(read("hugetlb.2MB.max")?.trim(), "4194304");
    assert_eq!(read("hugetlb.2MB.rsvd.max")?.trim(), "4194304");
    Ok(())
}

fn parent_with_processes() -> Result<(), Failed> {
    let Some(limit) = huge_limit() else { return Ok(()) };
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.parent(""))?;
    let mut inmate = Inmate::run_at(&scratch.parent("").join("cgroup.procs"), "exec sleep 100");
    match scratch.create(&limit) {
        Err(Error::Enable { controller, path, .. }) => {
            assert_eq!(controller, "hugetlb");
            assert!(Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')) == scratch.parent(""));
        }
        other => return Err(format!("{other:?}").into()),
    }
    assert!(!scratch.dir("").exists());
    inmate.0.kill()?;
    assert!(inmate.ended());
    Ok(())
}

fn statistics() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let inmate = Inmate::run(&cgroup, "while :; do :; done");
    let used = || match cgroup.stats() {
        Ok(Stats::V2(stats)) => Some(stats).filter(|stats| stats.cpu.usage_usec > 0),
        _ => None,
    };
    eventually(used).ok_or("no time used")?;
    drop(inmate);
    cgroup.remove()?;
    assert!(matches!(cgroup.stats(), Err(Error::Read { .. })));
    Ok(())
}

fn home() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let inmate = Inmate::run(&cgroup, "exec sleep 100");
    let pid = rustix::process::Pid::from_raw(inmate.pid()).ok_or("no pid")?;
    assert!(cgroup.home_of(pid)?.is_none());
    std::fs::create_dir_all(scratch.dir("").join("a/b"))?;
    std::fs::write(scratch.dir("").join("a/b/cgroup.procs"), inmate.pid().to_string())?;
    let home = cgroup.home_of(pid)?.ok_or("not found")?;
    let _other = Inmate::run(&home, "exec sleep 100");
    assert_eq!((home.pids()?.len(), cgroup.pids()?.len()), (2, 2));
    // `c1x` begins like `c1` and is another cgroup.
    let neighbour = scratch.parent("").join("c1x");
    std::fs::create_dir(&neighbour)?;
    let mut stranger = Inmate::run_at(&neighbour.join("cgroup.procs"), "exec sleep 100");
    let pid = rustix::process::Pid::from_raw(stranger.pid()).ok_or("no pid")?;
    assert!(matches!(cgroup.home_of(pid), Err(Error::NotBelow { .. })));
    stranger.0.kill()?;
    assert!(stranger.ended());
    std::fs::remove_dir(&neighbour)?;
    Ok(())
}

fn threaded() -> Result<(), Failed> {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.parent("").join("t"))?;
    std::fs::write(scratch.parent("").join("t/cgroup.type"), "threaded")?;
    let result = Cgroup::create(&scratch.path, None);
    std::fs::remove_dir(scratch.parent("").join("t"))?;
    match result {
        Err(Error::Threaded { mode, .. }) => assert_eq!(mode, "domain invalid"),
        other => return Err(format!("{other:?}").into()),
    }
    assert!(!scratch.dir("").exists());
    Ok(())
}

fn limits() -> Result<(), Failed> {
    let scratch = Scratch::new();
    scratch.create(
        r#"{"memory":{"limit":67108864,"reservation":33554432,"swap":134217728},
            "cpu":{"shares":512,"quota":50000,"period":200000,"burst":10000,"cpus":"0","mems":"0"},
            "pids":{"limit":77}}"#,
    )?;
    for (file, expected) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "67108864"),
        ("cpu.weight", "59"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "77"),
    ] {
        assert_eq!(scratch.read("", file), expected, "{file}");
    }
    Ok(())
}

fn update() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"memory":{"limit":67108864,"swap":67108864},"cpu":{"quota":20000}}"#)?;
    assert_eq!(scratch.read("", "memory.swap.max"), "0");
    for (limit, swap, expected) in [(134_217_728, 268_435_456, "134217728"), (33_554_432, 33_554_432, "0")] {
        cgroup.update(&serde_json::from_value(serde_json::json!({"memory":{"limit":limit,"swap":swap}}))?)?;
        assert_eq!(scratch.read("", "memory.swap.max"), expected);
    }
    cgroup.update(&serde_json::from_str(r#"{"memory":{"limit":-1},"cpu":{"quota":100000,"burst":50000}}"#)?)?;
    assert_eq!((scratch.read("", "memory.max"), scratch.read("", "memory.swap.max")), ("max".into(), "max".into()));
    assert_eq!(
        (scratch.read("", "cpu.max").as_str(), scratch.read("", "cpu.max.burst").as_str()),
        ("100000 100000", "50000")
    );
    Ok(())
}

fn check_before_update() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = Cgroup::create(&scratch.path, None)?;
    let _inmate = Inmate::grown(&cgroup, "sleep 100; :");
    let result = cgroup.update(&serde_json::from_str(r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#)?);
    assert!(matches!(result, Err(Error::BelowUsage { limit: 4096, .. })), "{result:?}");
    assert_eq!(scratch.read("", "memory.max"), "max");
    Ok(())
}

fn unified() -> Result<(), Failed> {
    let scratch = Scratch::new();
    scratch.create(r#"{"unified":{"memory.high":"50331648","pids.max":"11"}}"#)?;
    assert_eq!((scratch.read("", "memory.high").as_str(), scratch.read("", "pids.max").as_str()), ("50331648", "11"));
    match Scratch::new().create(r#"{"unified":{"memory.nonsense":"1"}}"#) {
        Err(Error::NoController { controller: "memory", file }) if file == "memory.nonsense" => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn oom() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"memory":{"limit":16777216,"swap":16777216}}"#)?;
    let mut watch = cgroup.watch_oom()?.ok_or("no watch")?;
    assert!(!watch.triggered());
    let mut inmate = Inmate::run(&cgroup, "exec tail /dev/zero");
    assert!(inmate.ended());
    let mut told = 0;
    while readable(&watch, Duration::from_secs(1)) {
        told += u32::from(watch.triggered());
    }
    assert_eq!(told, 1);
    cgroup.remove()?;
    assert!(!watch.triggered());
    Ok(())
}

fn controlled_statistics() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let cgroup = scratch.create(r#"{"memory":{"limit":67108864},"pids":{"limit":50},"cpu":{"quota":10000}}"#)?;
    let _inmate = Inmate::grown(&cgroup, "while :; do :; done");
    let read = || match cgroup.stats() {
        Ok(Stats::V2(stats)) => Some(stats).filter(|stats| stats.cpu.throttled_usec > 0 && stats.memory.pgfault > 0),
        _ => None,
    };
    let stats = eventually(read).ok_or("not counted")?;
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 50));
    assert_eq!((stats.memory.usage_limit, stats.memory.swap_limit), (67_108_864, u64::MAX));
    assert!(stats.memory.usage > 0 && stats.memory.max_usage >= stats.memory.usage);
    assert!(stats.cpu.nr_periods > 0 && stats.cpu.nr_throttled > 0);
    assert_eq!(stats.memory_events.ok_or("no events")?.oom_kill, 0);
    Ok(())
}
