//! Limits and devices: what a flag asks for, read back from the cgroup, and held.

use crate::{Scenario, skip};
use anyhow::{Result, ensure};
use berth_tests::leftovers::hierarchies;
use berth_tests::scene::Scene;
use berth_tests::version::Version;
use serde_json::{Value, json};
use std::fs;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Both:
        a_memory_limit_is_set_and_holds,
        cpu_limits_are_set,
        cpu_sets_are_set,
        limits_of_the_spec_are_set,
        a_pids_limit_holds,
        only_the_default_devices_are_allowed,
        a_device_is_added_with_its_access,
        device_rules_of_the_spec_are_set,
        a_cgroup_of_the_users_own_is_used,
        without_a_cgroup_path_there_is_a_cgroup_all_the_same,
        the_cgroup_has_a_view_of_its_own,
        limits_can_be_changed_while_it_runs,
    ]
}

/// Writes down a cgroup file of a container's, from whichever hierarchy has it.
fn see_cgroup(scene: &Scene<'_>, name: &str, file: &str) {
    let group = scene.containerd.namespace().to_owned() + "/" + &scene.id(name);
    for hierarchy in hierarchies() {
        let path = hierarchy.join(&group).join(file);
        if let Ok(text) = fs::read_to_string(&path) {
            // Of devices.list the order is that in which the rules were written, which means nothing.
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            scene.see(&format!("{file} in {}", hierarchy.display()), lines.join("\n"));
        }
    }
}

fn a_memory_limit_is_set_and_holds(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&["--memory-limit", "33554432"], "a")?;
    for file in ["memory.limit_in_bytes", "memory.max", "memory.memsw.limit_in_bytes", "memory.oom_control"] {
        see_cgroup(scene, "a", file);
    }
    scene.discard("a")?;
    let eater = ["sh", "-c", "echo eating; tail /dev/zero; echo $?"];
    scene.see("a child is killed", scene.run(&["--rm", "--memory-limit", "33554432"], "b", &eater)?.stdout);
    let eater = ["tail", "/dev/zero"];
    scene.see("init is killed", scene.run(&["--rm", "--memory-limit", "33554432"], "c", &eater)?);
    Ok(())
}

fn cpu_limits_are_set(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&["--cpus", "0.5", "--cpu-shares", "512"], "a")?;
    scene.sleeper(&["--cpu-quota", "20000", "--cpu-period", "80000"], "b")?;
    for name in ["a", "b"] {
        for file in ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares", "cpu.max", "cpu.weight"] {
            see_cgroup(scene, name, file);
        }
        scene.discard(name)?;
    }
    Ok(())
}

fn cpu_sets_are_set(scene: &Scene<'_>) -> Result<()> {
    if scene.version() != Version::V2 {
        return skip("only ctr 2.x has --cpuset-cpus; limits_of_the_spec_are_set does the same");
    }
    scene.sleeper(&["--cpuset-cpus", "1", "--cpuset-mems", "0"], "a")?;
    see_cgroup(scene, "a", "cpuset.cpus");
    see_cgroup(scene, "a", "cpuset.mems");
    scene.discard("a")
}

/// What a sleeping container with resources of the spec runs; killed by TERM.
const SLEEP: [&str; 3] = ["sh", "-c", "trap 'exit 15' TERM; sleep 1000 & wait"];

fn limits_of_the_spec_are_set(scene: &Scene<'_>) -> Result<()> {
    let resources = |spec: &mut Value| {
        let resources = &mut spec["linux"]["resources"];
        resources["cpu"] = json!({ "shares": 100, "quota": 30000, "period": 60000, "cpus": "0-1", "mems": "0" });
        resources["memory"] = json!({ "limit": 50_331_648, "reservation": 25_165_824, "swap": 67_108_864, "swappiness": 10, "disableOOMKiller": false });
        resources["pids"] = json!({ "limit": 77 });
        resources["blockIO"] =
            json!({ "weight": 500, "throttleReadBpsDevice": [{ "major": 7, "minor": 0, "rate": 1_048_576 }] });
    };
    scene.see("run", scene.run_spec(&["-d"], "a", &SLEEP, resources)?);
    for file in ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.cpus", "cpuset.mems", "pids.max"] {
        see_cgroup(scene, "a", file);
    }
    for file in
        ["memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness"]
    {
        see_cgroup(scene, "a", file);
    }
    for file in ["blkio.weight", "blkio.bfq.weight", "blkio.throttle.read_bps_device"] {
        see_cgroup(scene, "a", file);
    }
    scene.discard("a")
}

fn a_pids_limit_holds(scene: &Scene<'_>) -> Result<()> {
    let few = |spec: &mut Value| spec["linux"]["resources"]["pids"] = json!({ "limit": 5 });
    let script = "for i in 1 2 3 4 5 6 7; do sleep 100 & done; jobs | wc -l; exit 0";
    let outcome = scene.run_spec(&["--rm"], "a", &["sh", "-c", script], few)?;
    ensure!(outcome.stderr.contains("can't fork"), "the limit does not hold: {outcome}");
    scene.see("exit code", outcome.code);
    Ok(())
}

const DEVICES: &str = "cd /dev; find . | sort | while read f; do stat -c '%A %u %g %t:%T %N' $f; done";

fn only_the_default_devices_are_allowed(scene: &Scene<'_>) -> Result<()> {
    scene.see("in /dev", scene.sh(&[], "a", DEVICES)?.success()?);
    let script = "mknod /tmp/loop b 7 0; mknod /tmp/kmsg c 1 11; mknod /tmp/zero c 1 5; for d in loop kmsg zero; do (exec 3</tmp/$d); echo $d $?; done; \
        for d in null zero full random urandom tty ptmx; do (exec 3</dev/$d); echo $d $?; done; echo > /dev/full; echo $?";
    scene.see("made and opened", scene.sh(&[], "b", script)?);
    scene.sleeper(&[], "c")?;
    see_cgroup(scene, "c", "devices.list");
    scene.discard("c")
}

fn a_device_is_added_with_its_access(scene: &Scene<'_>) -> Result<()> {
    let script = "stat -c '%A %u %g %t:%T %n' /dev/fuse /dev/loop-control; (exec 3<>/dev/fuse) && echo opened";
    scene.see("--device", scene.sh(&["--device", "/dev/fuse"], "a", script)?);
    scene.sleeper(&["--device", "/dev/fuse"], "b")?;
    see_cgroup(scene, "b", "devices.list");
    scene.discard("b")?;
    scene.see("one that is not there", scene.sh(&["--device", "/dev/no-such"], "c", "true")?);
    Ok(())
}

fn device_rules_of_the_spec_are_set(scene: &Scene<'_>) -> Result<()> {
    let devices = |spec: &mut Value| {
        spec["linux"]["devices"] = json!([
            { "path": "/dev/deep/er/loop", "type": "b", "major": 7, "minor": 1, "fileMode": 0o640, "uid": 5, "gid": 6 },
            { "path": "/dev/queue", "type": "p", "fileMode": 0o600 },
        ]);
        spec["linux"]["resources"]["devices"] = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "b", "major": 7, "minor": 1, "access": "r" },
            { "allow": true, "type": "c", "access": "m" },
            { "allow": true, "type": "c", "major": 10, "access": "rw" },
        ]);
    };
    scene.see("run", scene.run_spec(&["-d"], "a", &SLEEP, devices)?);
    see_cgroup(scene, "a", "devices.list");
    scene.see("in /dev", scene.ctr(&["task", "exec", "--exec-id", "e", &scene.id("a"), "sh", "-c", DEVICES])?);
    let script = "(exec 3</dev/deep/er/loop) && echo read; (exec 3>/dev/deep/er/loop) && echo write";
    scene.see("opened", scene.ctr(&["task", "exec", "--exec-id", "f", &scene.id("a"), "sh", "-c", script])?);
    scene.discard("a")
}

fn a_cgroup_of_the_users_own_is_used(scene: &Scene<'_>) -> Result<()> {
    let group = format!("/{}/{}/deep", scene.containerd.namespace(), scene.id("group"));
    scene.sleeper(&["--cgroup", &group], "a")?;
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", scene.pid("a")?))?;
    scene.see("of init", cgroup);
    scene.discard("a")?;
    // The directory above is not the container's, and runc leaves it.
    for hierarchy in hierarchies() {
        let _ = fs::remove_dir(hierarchy.join(group.trim_start_matches('/')).parent().unwrap_or(&hierarchy));
    }
    Ok(())
}

fn without_a_cgroup_path_there_is_a_cgroup_all_the_same(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&["--cgroup", ""], "a")?;
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", scene.pid("a")?))?;
    ensure!(cgroup.lines().any(|line| line.contains(":pids:") && line.ends_with(&scene.id("a"))), "{cgroup}");
    scene.discard("a")
}

fn the_cgroup_has_a_view_of_its_own(scene: &Scene<'_>) -> Result<()> {
    scene.see("/proc/self/cgroup", scene.run(&["--rm"], "a", &["cat", "/proc/self/cgroup"])?);
    scene.see(
        "/sys/fs/cgroup",
        scene.sh(&[], "b", "ls /sys/fs/cgroup; ls /sys/fs/cgroup/memory | head -3; mkdir /sys/fs/cgroup/memory/x")?,
    );
    let namespace = |spec: &mut Value| {
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({ "type": "cgroup" }));
        }
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"] }));
        }
    };
    let script = "cat /proc/self/cgroup; ls /sys/fs/cgroup; head -n 1 /sys/fs/cgroup/pids/cgroup.procs; grep ' cgroup ' /proc/self/mountinfo | cut -d' ' -f4-6 | sort; mkdir /sys/fs/cgroup/pids/x";
    scene.see("with a namespace", scene.run_spec(&["--rm"], "c", &["sh", "-c", script], namespace)?);
    Ok(())
}

fn limits_can_be_changed_while_it_runs(scene: &Scene<'_>) -> Result<()> {
    // ctr has no update; the API is driven by `contract`. What can be changed from here is the cgroup's own.
    scene.sleeper(&["--memory-limit", "67108864"], "a")?;
    let metrics = scene.ctr(&["task", "metrics", "--format", "json", &scene.id("a")])?.success()?.stdout;
    let metrics: Value = serde_json::from_str(&metrics)?;
    scene.see("limit in the metrics", &metrics["memory"]["usage"]["limit"]);
    scene.discard("a")
}
