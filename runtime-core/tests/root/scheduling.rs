//! How the kernel treats a process: scheduler, priorities, CPUs, memory, personality, clocks.

use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use super::bundle::{Bundle, Live, shell};
use super::identity::field;
use super::namespaces::with_user_namespace;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("scheduler_is_the_spec's_and_an_exec's_own", scheduler),
    ("io_priority_is_the_spec's_for_execs_too", io_priority),
    ("exec_runs_on_the_cpus_that_it_may", affinity),
    ("container_is_not_confined_to_the_cpus_of_its_maker", unconfined),
    ("personality_is_the_spec's_for_execs_too", personality),
    ("memory_policy_is_the_spec's", memory_policy),
    ("clocks_of_a_time_namespace_have_their_offsets", clocks),
    ("time_namespace_is_joined_by_path", joined_clocks),
    ("what_the_kernel_refuses_is_named", refused),
];

/// Nice value and policy of whoever reads. proc_pid_stat(5)
const STAT: &str = "cut -d' ' -f19,41 /proc/self/stat";

fn scheduler() -> Result<(), Stop> {
    let bundle = Bundle::new().sh(&format!("{STAT}; echo up; exec sleep 100"));
    let bundle = bundle.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}));
    let mut live = bundle.start()?;
    assert_eq!(live.init.up(), "7 3");
    assert_eq!(live.sh(STAT)?.success()?, "7 3");
    let mut process = shell(&format!("{STAT}; true"));
    process["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    // The flag is for the shell's children, who are as anybody.
    assert!(live.exec(&process)?.wait().success()?.starts_with("0 0"));
    process["scheduler"] = json!({"policy": "SCHED_IDLE"});
    process["args"] = json!(["cut", "-d ", "-f19,41", "/proc/self/stat"]);
    assert_eq!(live.exec(&process)?.wait().success()?, "0 5");
    Ok(())
}

fn io_priority() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("busybox ionice -p $$; echo up; exec sleep 100");
    let bundle = bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
    let mut live = bundle.start()?;
    assert_eq!(live.init.up(), "best-effort: prio 6");
    assert_eq!(live.sh("busybox ionice -p $$")?.success()?, "best-effort: prio 6");
    let mut process = shell("busybox ionice -p $$");
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    assert!(live.exec(&process)?.wait().success()?.starts_with("idle"));
    Ok(())
}

fn affinity() -> Result<(), Stop> {
    let cpus = fs::read_to_string("/sys/devices/system/cpu/online")?;
    if cpus.trim() == "0" {
        return Err(Stop::CannotRun("this host has one CPU"));
    }
    let all = field(&fs::read_to_string("/proc/self/status")?, "Cpus_allowed_list");
    let live = Bundle::new().sh("sleep 100").start()?;
    let allowed = |live: &Live, affinity: Value| -> Result<String, Stop> {
        let mut process = shell("cat /proc/self/status");
        process["execCPUAffinity"] = affinity;
        Ok(field(&live.exec(&process)?.wait().success()?, "Cpus_allowed_list"))
    };
    assert_eq!(allowed(&live, json!({"initial": "0", "final": "1"}))?, "1");
    // The kernel keeps what a process had asked for when it is moved. cpusets(7), since Linux 6.2
    for initial in ["0", "1"] {
        assert_eq!(allowed(&live, json!({"initial": initial}))?, initial);
    }
    let Err(Stop::Failed(error)) = allowed(&live, json!({"initial": "8000"})) else { return Err("it was run".into()) };
    assert_eq!(error, "set CPU affinity to 8000: invalid argument");
    assert_eq!(field(&fs::read_to_string("/proc/self/status")?, "Cpus_allowed_list"), all);
    assert_eq!(allowed(&live, json!({"final": "0"}))?, "0");
    assert_eq!(allowed(&live, json!({"final": "0-1"}))?, "0-1");
    assert_eq!(allowed(&live, json!(null))?, all);
    // The container's is for execs that have none, and not for its init.
    let bundle = Bundle::new().sh("cat /proc/self/status; echo up; exec sleep 100");
    let mut live = bundle.set("/process/execCPUAffinity", json!({"final": "1"})).start()?;
    assert_eq!(field(&live.init.up(), "Cpus_allowed_list"), all);
    assert_eq!(allowed(&live, json!(null))?, "1");
    Ok(())
}

fn unconfined() -> Result<(), Stop> {
    let all = sched_getaffinity(None)?;
    let mut first = CpuSet::new();
    first.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap_or_default());
    if first == all {
        return Err(Stop::CannotRun("this process may run on one CPU only"));
    }
    let outside = field(&fs::read_to_string("/proc/self/status")?, "Cpus_allowed_list");
    sched_setaffinity(None, &first)?;
    let inside = Bundle::new().sh("cat /proc/self/status; echo up; exec sleep 100").start().map(|mut live| {
        let init = field(&live.init.up(), "Cpus_allowed_list");
        (init, live.sh("cat /proc/self/status").map(|said| field(&said.stdout, "Cpus_allowed_list")))
    });
    sched_setaffinity(None, &all)?;
    let (init, exec) = inside?;
    assert_eq!((init, exec?), (outside.clone(), outside));
    Ok(())
}

fn personality() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("busybox uname -m; echo up; exec sleep 100");
    let mut live = bundle.set("/linux/personality", json!({"domain": "LINUX32"})).start()?;
    let (native, narrow) = (std::env::consts::ARCH, live.init.up());
    assert_ne!(narrow, native);
    assert_eq!(live.sh("busybox uname -m")?.success()?, narrow);
    let bundle = Bundle::new().sh("busybox uname -m").set("/linux/personality", json!({"domain": "LINUX"}));
    assert_eq!(bundle.says()?, native);
    Ok(())
}

fn memory_policy() -> Result<(), Stop> {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return Err(Stop::CannotRun("this kernel knows no NUMA"));
    }
    let bundle = Bundle::new().sh("head -1 /proc/self/numa_maps");
    let bundle = bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}));
    let said = bundle.says()?;
    assert_eq!(said.split_whitespace().nth(1), Some("bind:0"), "{said}");
    Ok(())
}

/// Ten years, which no host is up.
const LONG: u64 = 315_360_000;

fn uptime(text: &str) -> u64 {
    text.split('.').next().unwrap_or_default().parse().unwrap()
}

fn with_clocks(bundle: Bundle) -> Bundle {
    let offsets = json!({"boottime": {"secs": LONG, "nanosecs": 5}, "monotonic": {"secs": 7}});
    bundle.namespace("time", Some(json!({"type": "time"}))).set("/linux/timeOffsets", offsets)
}

fn clocks() -> Result<(), Stop> {
    let ours = fs::read_link("/proc/self/ns/time")?.display().to_string();
    let script = "cat /proc/uptime; readlink /proc/self/ns/time; echo $$; echo up; exec sleep 100";
    let plain: fn(Bundle) -> Bundle = |bundle| bundle;
    let host_pid: fn(Bundle) -> Bundle = |bundle| bundle.namespace("pid", None);
    for (change, own_pid) in [(plain, true), (with_user_namespace, true), (host_pid, false)] {
        let mut live = change(with_clocks(Bundle::new().sh(script))).start()?;
        let said = live.init.up();
        let lines: Vec<_> = said.lines().collect();
        assert!((LONG..2 * LONG).contains(&uptime(lines[0])), "{said}");
        assert_ne!(lines[1], ours);
        assert_eq!(lines[2] == "1", own_pid);
        let exec = live.sh("cat /proc/uptime; readlink /proc/self/ns/time")?.success()?;
        assert!(uptime(&exec) >= LONG && exec.lines().nth(1) == Some(lines[1]), "{exec}");
    }
    assert!(uptime(&fs::read_to_string("/proc/uptime")?) < LONG);
    Ok(())
}

fn joined_clocks() -> Result<(), Stop> {
    let holder = with_clocks(Bundle::new().sh("sleep 100")).start()?;
    let path = format!("/proc/{}/ns/time", holder.init.pid());
    let bundle = Bundle::new().sh("cat /proc/uptime").namespace("time", Some(json!({"type": "time", "path": path})));
    assert!(uptime(&bundle.says()?) >= LONG);
    Ok(())
}

fn refused() -> Result<(), Stop> {
    let said = Bundle::new().set("/process/scheduler", json!({"policy": "SCHED_ISO"})).refused()?;
    assert_eq!(said, "set scheduler 4 (nice 0, priority 0, flags 0x0): invalid argument");
    let said =
        with_clocks(Bundle::new()).set("/linux/timeOffsets/monotonic/secs", json!(-1_000_000_000_000_i64)).refused()?;
    assert!(said.starts_with("write ") && said.contains("timens_offsets"), "{said}");
    Ok(())
}
