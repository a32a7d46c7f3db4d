//! What a pod's containers may use and what they have used: limits, updates, statistics, the OOM killer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::command::poll;
use berth_tests::cri::kubelet::Kubelet;
use berth_tests::cri::v1::{ContainerState, ContainerStats, LinuxContainerResources};

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Pods:
        limits_are_set_and_updated,
        statistics_tell_what_was_used,
        init_killed_for_memory_is_oom_killed,
        a_child_killed_for_memory_leaves_init_alone,
        oom_score_is_set,
    ]
}

/// What the container reads of its own cgroup, on v1 or v2.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes \
    cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus cpuset/cpuset.mems \
    memory.max memory.swap.max cpu.weight cpu.max cpuset.cpus cpuset.mems 2>/dev/null";

fn limits_are_set_and_updated(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let container = k.sleeper(&pod, "limited").limited(|r| {
        r.memory_limit_in_bytes = 64 << 20;
        r.cpu_shares = 512;
        r.cpu_quota = 20_000;
        r.cpu_period = 100_000;
        r.cpuset_cpus = "0".to_owned();
    });
    let limited = k.start(&sandbox, &pod, &container)?;
    k.see("created with", k.cri.sh(&limited, LIMITS)?.stdout);
    let steps = [
        LinuxContainerResources { memory_limit_in_bytes: 128 << 20, ..Default::default() },
        LinuxContainerResources { memory_limit_in_bytes: 48 << 20, ..Default::default() },
        LinuxContainerResources { cpu_shares: 256, cpu_quota: 50_000, ..Default::default() },
        LinuxContainerResources { cpu_quota: -1, cpuset_cpus: "0-1".to_owned(), ..Default::default() },
    ];
    for step in steps {
        k.cri.update(&limited, step)?;
        k.see("updated to", k.cri.sh(&limited, LIMITS)?.stdout);
        k.see("status", format!("{:?}", k.cri.status(&limited)?.resources));
    }
    // An update of a container that is not started yet holds when it is.
    let early = k.create(&sandbox, &pod, &k.sleeper(&pod, "early"))?;
    k.cri.update(&early, LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() })?;
    k.cri.start(&early)?;
    k.see("early", k.cri.sh(&early, LIMITS)?.stdout);
    let unlimited = k.start(&sandbox, &pod, &k.sleeper(&pod, "unlimited"))?;
    k.see("unlimited", k.cri.sh(&unlimited, LIMITS)?.stdout);
    Ok(())
}

/// Which fields there are, and those of which the scenario knows the value.
fn shape(stats: &ContainerStats) -> Result<String> {
    let cpu = stats.cpu.as_ref().context("no CPU statistics")?;
    let memory = stats.memory.as_ref().context("no memory statistics")?;
    let used = cpu.usage_core_nano_seconds.context("no CPU time")?.value;
    let working = memory.working_set_bytes.context("no working set")?.value;
    ensure!(used > 1_000_000, "it used {used} ns only");
    ensure!((20 << 20..64 << 20).contains(&working), "its working set is {working} bytes");
    let fields = [
        ("available", memory.available_bytes.is_some()),
        ("usage", memory.usage_bytes.is_some_and(|value| value.value > 20 << 20)),
        ("rss", memory.rss_bytes.is_some()),
        ("page faults", memory.page_faults.is_some_and(|value| value.value > 0)),
        ("major page faults", memory.major_page_faults.is_some()),
        ("writable layer", stats.writable_layer.is_some()),
        ("time of cpu", cpu.timestamp > 0),
        ("time of memory", memory.timestamp > 0),
    ];
    Ok(format!("{fields:?}"))
}

fn statistics_tell_what_was_used(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    // 20 MiB in a tmpfs and some work, and then no more.
    let script = "head -c 20971520 /dev/zero >/dev/shm/block; md5sum /dev/shm/block; echo ready; sleep 1000";
    let user = k.script(&pod, "user", script).limited(|r| r.memory_limit_in_bytes = 64 << 20);
    let user = k.start(&sandbox, &pod, &user)?;
    let idle = k.start(&sandbox, &pod, &k.sleeper(&pod, "idle"))?;
    k.wait_for_line("user", "ready")?;
    let (before, stats) = (k.cri.stats(&user)?, k.cri.stats(&user)?);
    k.see("one", shape(&stats)?);
    let time = |stats: &ContainerStats| stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.map(|v| v.value));
    ensure!(time(&before) <= time(&stats), "CPU time went back: {before:?} {stats:?}");

    let listed = k.cri.pod_container_stats(&sandbox)?;
    let mut ids: Vec<String> = listed.iter().filter_map(|stats| Some(stats.attributes.as_ref()?.id.clone())).collect();
    ids.sort_by_key(|id| *id != user);
    assert_eq!(ids, [user.clone(), idle.clone()]);
    for stats in listed.iter().filter(|stats| stats.attributes.as_ref().is_some_and(|a| a.id == user)) {
        k.see("listed", shape(stats)?);
    }

    let pod_stats = k.cri.pod_stats(&sandbox)?.linux.context("no Linux statistics of the pod")?;
    let used = pod_stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).context("no CPU time of the pod")?.value;
    let memory = pod_stats.memory.and_then(|memory| memory.usage_bytes).context("no memory of the pod")?.value;
    ensure!(Some(used) >= time(&stats) && memory > 20 << 20, "the pod used {used} ns and {memory} bytes");
    k.see("containers of the pod", pod_stats.containers.len());
    k.see("processes of the pod", pod_stats.process.and_then(|p| p.process_count).map_or(0, |count| count.value));

    // A container that has ended is no reason for the others to be without statistics.
    k.cri.stop(&idle, 5)?;
    k.see("listed after a stop", k.cri.pod_container_stats(&sandbox)?.len());
    k.see("of the stopped", k.cri.stats(&idle).map_or_else(|error| format!("{:?}", error.code), |_| "some".to_owned()));
    Ok(())
}

fn init_killed_for_memory_is_oom_killed(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    for name in ["hog", "again"] {
        let hog = k.script(&pod, name, "exec tail /dev/zero").limited(|r| r.memory_limit_in_bytes = 24 << 20);
        let hog = k.start(&sandbox, &pod, &hog)?;
        let status = k.cri.wait_for(&hog, ContainerState::ContainerExited)?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    }
    let fine = k.script(&pod, "fine", "exit 137").limited(|r| r.memory_limit_in_bytes = 24 << 20);
    k.see("137 without the killer", k.told(&sandbox, &pod, &fine)?);
    Ok(())
}

fn a_child_killed_for_memory_leaves_init_alone(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "tail /dev/zero; echo child $?; while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 3";
    let parent = k.script(&pod, "parent", script).limited(|r| r.memory_limit_in_bytes = 64 << 20);
    let parent = k.start(&sandbox, &pod, &parent)?;
    k.wait_for_line("parent", "child 137")?;
    k.see("after the child", format!("{:?}", k.cri.status(&parent)?.state()));
    k.see("an exec killed", k.cri.sh(&parent, "tail /dev/zero")?.code);
    // The word of it comes by an event of its own.
    let told = poll(Duration::from_secs(10), || (k.cri.status(&parent).ok()?.reason == "OOMKilled").then_some(()));
    k.see("told while it runs", told.is_some());
    k.cri.sh(&parent, "touch /tmp/go")?;
    let status = k.cri.wait_for(&parent, ContainerState::ContainerExited)?;
    k.see("ended", format!("{} {}", status.exit_code, status.reason));
    Ok(())
}

fn oom_score_is_set(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let container = k.sleeper(&pod, "likely").limited(|r| r.oom_score_adj = 777);
    let likely = k.start(&sandbox, &pod, &container)?;
    k.see("scores", k.cri.sh(&likely, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj")?.stdout);
    Ok(())
}
