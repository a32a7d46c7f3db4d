//! Containers whose cgroups are systemd's scopes. Where systemd is not what runs the host, that is an error with a name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use runtime_core::container::{ErrorKind, destroy};
use serde_json::json;

use super::bundle::{Bundle, runtime};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("systemd_driver_without_systemd_says_so", absent),
    ("cgroups_path_that_names_no_systemd_unit_is_refused", no_unit),
    ("systemd_scope_is_in_its_slices_with_its_limits", limits),
    ("systemd_scope_holds_init_and_exec_in_every_hierarchy", members),
    ("limits_that_systemd_does_not_know_are_set", unknown_to_systemd),
    ("limits_and_devices_survive_a_reload_of_systemd", reload),
    ("updated_limits_are_told_to_systemd", update),
    ("systemd_scope_is_gone_when_its_container_is", deleted),
    ("systemd_scope_of_a_failed_create_is_gone", failed),
    ("destroy_finds_the_systemd_scope_from_the_record", destroyed),
    ("systemd_scope_of_this_name_is_not_taken_over", taken),
    ("failed_systemd_scope_of_this_name_makes_place", failed_before),
];

/// The slices are not taken away by containers; nothing else is in these.
const SLICE: &str = "berthtests-pods.slice";

fn needs_systemd() -> Result<(), Stop> {
    if !runs() {
        return Err(Stop::CannotRun("needs systemd as pid 1"));
    }
    Ok(())
}

fn runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A container of the systemd driver, and its unit.
fn scope() -> (Bundle, String) {
    let mut bundle = Bundle::new();
    bundle.options.systemd_cgroup = true;
    let path = format!("{SLICE}:t:{}", bundle.id);
    let unit = format!("t-{}.scope", bundle.id);
    (bundle.set("/linux/cgroupsPath", json!(path)), unit)
}

/// A file of the scope's cgroup: by its controller and name on v1, by its name on v2.
fn file(unit: &str, v1: (&str, &str), v2: &str) -> PathBuf {
    let below = Path::new("berthtests.slice").join(SLICE).join(unit);
    let root = Path::new("/sys/fs/cgroup");
    if is_v2() { root.join(below).join(v2) } else { root.join(v1.0).join(below).join(v1.1) }
}

fn read(unit: &str, v1: (&str, &str), v2: &str) -> Result<String, Stop> {
    let path = file(unit, v1, v2);
    let text = fs::read_to_string(&path).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

fn systemctl(arguments: &[&str]) -> Result<String, Stop> {
    let output = Command::new("systemctl").args(arguments).output()?;
    if !output.status.success() {
        return Err(Stop::Failed(format!("systemctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn property(unit: &str, name: &str) -> Result<String, Stop> {
    systemctl(&["show", "-P", name, unit])
}

fn is_gone(unit: &str) -> Result<(), Stop> {
    assert_eq!(property(unit, "LoadState")?, "not-found");
    for hierarchy in [("memory", ""), ("devices", ""), ("freezer", ""), ("systemd", "")] {
        let path = file(unit, hierarchy, "");
        assert!(!path.exists(), "{}", path.display());
    }
    Ok(())
}

fn absent() -> Result<(), Stop> {
    if runs() {
        return Err(Stop::CannotRun("needs another pid 1 than systemd"));
    }
    let (bundle, unit) = scope();
    let error = bundle.create().err().ok_or("it was created")?;
    let expected = format!("start unit {unit}: systemd does not run here: /run/systemd/system is missing");
    assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::FailedPrecondition));
    // The path alone asks for it too.
    let mut bundle = bundle;
    bundle.options.systemd_cgroup = false;
    assert!(bundle.refused()?.contains("systemd does not run here"));
    Ok(())
}

fn no_unit() -> Result<(), Stop> {
    for (path, why) in [("/a/b", "it is not SLICE:PREFIX:NAME"), ("a:b:c", "its first part is no slice")] {
        let (bundle, _) = scope();
        let text = bundle.set("/linux/cgroupsPath", json!(path)).refused()?;
        assert_eq!(text, format!("cgroupsPath {path:?} names no unit for the systemd cgroup driver: {why}"));
    }
    Ok(())
}

fn limited() -> (Bundle, String) {
    let (bundle, unit) = scope();
    let resources = json!({"memory": {"limit": 67_108_864}, "cpu": {"shares": 512, "quota": 12345, "period": 100_000},
        "pids": {"limit": 77}, "devices": [{"allow": false, "access": "rwm"}]});
    (bundle.set("/linux/resources", resources), unit)
}

/// What both the unit and the cgroup say.
fn check_limits(unit: &str, memory: &str) -> Result<(), Stop> {
    let (limit, weight) =
        if is_v2() { ("MemoryMax", ("CPUWeight", "59")) } else { ("MemoryLimit", ("CPUShares", "512")) };
    assert_eq!(property(unit, limit)?, memory);
    assert_eq!(property(unit, weight.0)?, weight.1);
    assert_eq!(property(unit, "TasksMax")?, "77");
    assert_eq!(property(unit, "CPUQuotaPerSecUSec")?, "130ms");
    assert_eq!(read(unit, ("memory", "memory.limit_in_bytes"), "memory.max")?, memory);
    assert_eq!(read(unit, ("cpu", "cpu.shares"), "cpu.weight")?, weight.1);
    assert_eq!(read(unit, ("pids", "pids.max"), "pids.max")?, "77");
    let quota = read(unit, ("cpu", "cpu.cfs_quota_us"), "cpu.max")?;
    assert_eq!(quota, if is_v2() { "13000 100000" } else { "13000" });
    Ok(())
}

fn limits() -> Result<(), Stop> {
    needs_systemd()?;
    let (mut bundle, unit) = limited();
    // The form of the path alone chooses the driver as well.
    bundle.options.systemd_cgroup = false;
    let _live = bundle.args(&["sleep", "100"]).start()?;
    check_limits(&unit, "67108864")?;
    assert_eq!(property(&unit, "Slice")?, SLICE);
    assert_eq!(property(&unit, "Delegate")?, "yes");
    assert_eq!(property(&unit, "CollectMode")?, "inactive-or-failed");
    assert_eq!(property(&unit, "ActiveState")?, "active");
    assert_eq!(property(&unit, "DevicePolicy")?, "strict");
    Ok(())
}

fn members() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = scope();
    let live = bundle.args(&["sleep", "100"]).start()?;
    let exec = live.exec(&super::bundle::shell("exec sleep 100"))?;
    for pid in [live.init.pid(), exec.pid()] {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let here = format!(":/berthtests.slice/{SLICE}/{unit}");
        // The kernel's own unified hierarchy of a v1 host is in use only on a hybrid one.
        let elsewhere: Vec<_> = cgroups.lines().filter(|line| !line.ends_with(&here)).collect();
        assert!(elsewhere.iter().all(|line| *line == "0::/" && !is_v2()), "{elsewhere:?}");
    }
    // Nobody else: who was there before is gone.
    let procs = read(&unit, ("devices", "cgroup.procs"), "cgroup.procs")?;
    assert_eq!(procs.lines().count(), 2, "{procs}");
    live.container.cgroup().freeze()?;
    live.container.cgroup().thaw()?;
    Ok(())
}

fn unknown_to_systemd() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = scope();
    let resources = json!({"cpu": {"quota": 20000, "burst": 5000}, "memory": {"limit": 67_108_864, "swap": 67_108_864},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]});
    let _live = bundle.set("/linux/resources", resources).args(&["sleep", "100"]).start()?;
    assert_eq!(read(&unit, ("hugetlb", "hugetlb.2MB.limit_in_bytes"), "hugetlb.2MB.max")?, "4194304");
    assert_eq!(read(&unit, ("cpu", "cpu.cfs_burst_us"), "cpu.max.burst")?, "5000");
    let swap = read(&unit, ("memory", "memory.memsw.limit_in_bytes"), "memory.swap.max")?;
    assert_eq!(swap, if is_v2() { "0" } else { "67108864" });
    Ok(())
}

fn reload() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = limited();
    let live = bundle.args(&["sleep", "100"]).start()?;
    let rules = || -> Result<String, Stop> {
        // A node is made before the rules deny to use it; /dev/mem is nobody's.
        let script = "mknod /tmp/mem c 1 1 2>/dev/null; (: </tmp/mem) 2>&1; : </dev/null && echo null";
        Ok(live.sh(script)?.stdout)
    };
    let before = rules()?;
    assert!(before.contains("Operation not permitted") && before.ends_with("null\n"), "{before}");
    for command in ["daemon-reload", "daemon-reexec"] {
        systemctl(&[command])?;
        check_limits(&unit, "67108864")?;
        assert_eq!(rules()?, before, "{command}");
    }
    Ok(())
}

fn update() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = limited();
    let live = bundle.args(&["sleep", "100"]).start()?;
    live.container.update(&serde_json::from_value(json!({"memory": {"limit": 134_217_728}}))?)?;
    check_limits(&unit, "134217728")?;
    systemctl(&["daemon-reload"])?;
    check_limits(&unit, "134217728")?;
    live.container.update(&serde_json::from_value(json!({"cpu": {"quota": -1}, "pids": {"limit": -1}}))?)?;
    assert_eq!(read(&unit, ("pids", "pids.max"), "pids.max")?, "max");
    assert_eq!(property(&unit, "CPUQuotaPerSecUSec")?, "infinity");
    Ok(())
}

fn deleted() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = scope();
    let bundle = bundle.args(&["sleep", "100"]);
    let live = bundle.start()?;
    assert_eq!(property(&unit, "LoadState")?, "loaded");
    live.container.delete()?;
    is_gone(&unit)?;
    live.container.delete()?;
    // Its name is free at once.
    let again = bundle.create()?;
    drop((again, live));
    is_gone(&unit)
}

fn failed() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = scope();
    bundle.args(&["/no/such/program"]).refused()?;
    is_gone(&unit)?;
    let (bundle, unit) = scope();
    let resources = json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]});
    let text = bundle.set("/linux/resources", resources).refused()?;
    assert!(text.contains("hugetlb.3MB"), "{text}");
    is_gone(&unit)
}

fn destroyed() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = scope();
    let mut live = bundle.args(&["sleep", "100"]).start()?;
    let record = fs::read_to_string(live.bundle().join("berth.json"))?;
    assert!(record.contains(&unit), "{record}");
    destroy(live.bundle(), &runtime().children)?;
    is_gone(&unit)?;
    assert_eq!(live.init.wait().status, 128 + 9);
    Ok(())
}

fn taken() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = scope();
    let live = bundle.args(&["sleep", "100"]).start()?;
    let (other, _) = scope();
    let path = format!("{SLICE}:t:{}", unit.trim_start_matches("t-").trim_end_matches(".scope"));
    let error = other.set("/linux/cgroupsPath", json!(path)).create().err().ok_or("it was created")?;
    assert!(error.to_string().starts_with(&format!("start unit {unit}: ")), "{error}");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    // It is still there.
    assert_eq!(live.sh("echo in")?.success()?, "in");
    assert_eq!(property(&unit, "ActiveState")?, "active");
    Ok(())
}

/// A scope that is kept when it failed, as those of others are.
fn failed_before() -> Result<(), Stop> {
    needs_systemd()?;
    let (bundle, unit) = scope();
    let run = ["--scope", "--unit", &unit, "--slice", SLICE, "-p", "RuntimeMaxSec=1ms", "sleep", "100"];
    Command::new("systemd-run").args(run).output()?;
    for _ in 0..100 {
        if property(&unit, "ActiveState")? == "failed" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(property(&unit, "ActiveState")?, "failed");
    assert_eq!(bundle.args(&["echo", "in"]).says()?, "in");
    Ok(())
}
