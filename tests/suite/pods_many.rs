//! Many pods, other handlers, and what only newer containerds can ask for.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, anyhow, ensure};
use berth_tests::cri::Cri;
use berth_tests::cri::kubelet::Kubelet;
use berth_tests::cri::v1::MountPropagation::PropagationPrivate;
use berth_tests::cri::v1::{IdMapping, NamespaceMode, UserNamespace};
use berth_tests::version::Version;

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = crate::scenarios![Pods: a_debug_container_joins_a_containers_processes];
    scenarios.extend(crate::scenarios![BerthPods:
        a_handler_with_options_runs_a_pod,
        a_handler_with_a_path_runs_a_pod,
        ten_pods_come_and_go_at_once,
        a_pod_may_have_a_user_namespace,
    ]);
    scenarios
}

/// As `kubectl debug --target` asks.
fn a_debug_container_joins_a_containers_processes(k: &Kubelet<'_>) -> Result<()> {
    let (sandbox, target) = k.one_sleeper()?;
    let pod = k.pod("pod")?;
    let debug = k.sleeper(&pod, "debug").secured(|s| {
        let namespaces = s.namespace_options.get_or_insert_default();
        namespaces.set_pid(NamespaceMode::Target);
        namespaces.target_id.clone_from(&target);
        s.capabilities.get_or_insert_default().add_capabilities = vec!["SYS_PTRACE".to_owned()];
    });
    let debug = k.start(&sandbox, &pod, &debug)?;
    k.wait_for_line("debug", "ready")?;
    let script = "tr '\\0' ' ' </proc/1/cmdline; cat /proc/1/root/etc/group; pgrep -x sleep | wc -l; echo $HOSTNAME";
    k.see("inside", format!("{:?}", k.cri.sh(&debug, script)?));
    let namespace = |id: &str| -> Result<_> { Ok(fs::read_link(format!("/proc/{}/ns/pid", k.pid(id)?))?) };
    assert_eq!(namespace(&debug)?, namespace(&target)?);
    k.only_shim(&sandbox, &[&target, &debug])?;
    // The end of the target's init is the end of its pid namespace, and so of whoever joined it.
    k.cri.stop(&target, 10)?;
    let ended = k.cri.wait_for(&debug, berth_tests::cri::v1::ContainerState::ContainerExited)?;
    k.see("ended", format!("{} {} {}", k.cri.status(&target)?.exit_code, ended.exit_code, ended.reason));
    // And the other way round the target goes on.
    let again = k.start(&sandbox, &pod, &k.sleeper(&pod, "again"))?;
    k.wait_for_line("again", "ready")?;
    let brief = k.script(&pod, "brief", "exit 9").secured(|s| {
        let namespaces = s.namespace_options.get_or_insert_default();
        namespaces.set_pid(NamespaceMode::Target);
        namespaces.target_id.clone_from(&again);
    });
    k.see("brief", k.told(&sandbox, &pod, &brief)?);
    k.see("target", format!("{:?}", k.cri.sh(&again, "echo alive")?));
    Ok(())
}

fn pod_of(k: &Kubelet<'_>, handler: &str) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run_with(&pod, handler)?;
    let one = k.start(&sandbox, &pod, &k.sleeper(&pod, "one"))?;
    k.wait_for_line("one", "ready")?;
    let two = k.start(&sandbox, &pod, &k.sleeper(&pod, "two"))?;
    let output = k.cri.sh(&one, "echo fine; exit 3")?;
    assert_eq!((output.stdout.as_str(), output.code), ("fine\n", 3));
    let shim = k.only_shim(&sandbox, &[&one, &two])?;
    let name = fs::read_to_string(format!("/proc/{shim}/cmdline"))?;
    ensure!(name.contains("berth"), "the shim is {name}");
    ensure!(k.cri.stats(&one)?.memory.is_some(), "no statistics");
    k.cri.stop(&one, 10)?;
    assert_eq!(k.cri.status(&one)?.exit_code, 15);
    Ok(())
}

fn a_handler_with_options_runs_a_pod(k: &Kubelet<'_>) -> Result<()> {
    pod_of(k, "berth-options")
}

fn a_handler_with_a_path_runs_a_pod(k: &Kubelet<'_>) -> Result<()> {
    if k.scene.version() == Version::V1_6 {
        return crate::skip("containerd 1.6 has runtime_path in its configuration but does not use it");
    }
    pod_of(k, "berth-path")
}

/// One pod's life with a client of its own; the ids of what was made.
fn live(cri: &Cri, k: &(String, berth_tests::cri::Pod), containers: &[berth_tests::cri::Container]) -> Result<()> {
    let (handler, pod) = k;
    let sandbox = cri.run_pod(pod, handler)?;
    let mut ids = Vec::new();
    for container in containers {
        let id = cri.create(&sandbox, pod, container)?;
        cri.start(&id)?;
        let output = cri.sh(&id, "echo $0; exit 4")?;
        ensure!(output.code == 4, "{output:?}");
        ids.push(id);
    }
    cri.stop(&ids[0], 0)?;
    cri.stop_pod(&sandbox)?;
    cri.remove_pod(&sandbox)?;
    Ok(())
}

fn ten_pods_come_and_go_at_once(k: &Kubelet<'_>) -> Result<()> {
    let socket = k.scene.containerd.socket();
    let mut pods = Vec::new();
    for index in 0..10 {
        let pod = k.pod(&format!("pod{index}"))?;
        let containers = [0, 1].map(|c| k.sleeper(&pod, &format!("pod{index}-c{c}")));
        pods.push(((k.handler().to_owned(), pod), containers));
    }
    std::thread::scope(|scope| {
        let socket = &socket;
        let living: Vec<_> = pods
            .iter()
            .map(|(pod, containers)| scope.spawn(move || live(&Cri::new(socket)?, pod, containers)))
            .collect();
        for thread in living {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

fn a_pod_may_have_a_user_namespace(k: &Kubelet<'_>) -> Result<()> {
    if k.scene.version() == Version::V1_6 {
        return crate::skip("containerd 1.6 knows no user namespaces of pods");
    }
    let mapping = || vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    let pod = k.pod("pod")?.namespaces(|n| {
        n.set_network(NamespaceMode::Pod);
        let mut users = UserNamespace { uids: mapping(), gids: mapping(), ..Default::default() };
        users.set_mode(NamespaceMode::Pod);
        n.userns_options = Some(users);
    });
    let sandbox = k.run(&pod)?;
    let volume = k.scene.scratch()?.join("volume");
    fs::create_dir_all(&volume)?;
    let mut container = k.sleeper(&pod, "one").mount(&volume, "/data", PropagationPrivate, false);
    // 1.7 refuses a volume with maps.
    let mapped = k.scene.version() == Version::V2;
    for mount in container.config.mounts.iter_mut().filter(|_| mapped) {
        (mount.uid_mappings, mount.gid_mappings) = (mapping(), mapping());
    }
    let one = k.start(&sandbox, &pod, &container)?;
    k.wait_for_line("one", "ready")?;
    let output =
        k.cri.sh(&one, "cat /proc/self/uid_map | tr -s ' '; id -u; touch /root/mine; stat -c %u /root/mine /etc")?;
    assert_eq!(output.stdout, " 0 100000 65536\n0\n0\n0\n", "{output:?}");
    if mapped {
        let output = k.cri.sh(&one, "stat -c %u /data; touch /data/mine; stat -c %u /data/mine")?;
        assert_eq!(output.stdout, "0\n0\n", "{output:?}");
        assert_eq!(fs::metadata(volume.join("mine"))?.uid(), 0);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", k.pid(&one)?))?;
    let uid = status.lines().find(|line| line.starts_with("Uid:")).context("no Uid")?;
    assert_eq!(uid, "Uid:\t100000\t100000\t100000\t100000");
    k.only_shim(&sandbox, &[&one])?;
    k.cri.stop(&one, 10)?;
    assert_eq!(k.cri.status(&one)?.exit_code, 15);
    Ok(())
}
