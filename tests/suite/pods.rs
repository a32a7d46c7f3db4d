//! Pods by CRI: containers that share a sandbox and one shim.

use std::fs;

use anyhow::{Context, Result, ensure};
use berth_tests::cri::kubelet::Kubelet;
use berth_tests::cri::v1::{ContainerState, NamespaceMode, PodSandboxState};
use berth_tests::cri::{Pod, logs};

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Pods:
        two_containers_share_one_shim,
        a_container_is_made_again,
        containers_share_the_pods_namespaces,
        a_pod_may_share_its_pid_namespace,
        a_pod_may_use_the_hosts_namespaces,
        a_pod_has_its_own_network,
        logs_are_in_cris_format,
        a_container_that_cannot_start_says_why,
        a_running_pod_is_stopped_and_removed_with_its_containers,
        twelve_containers_start_at_once,
    ]
}

fn two_containers_share_one_shim(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    k.see("pod", k.cri.pod_status(&sandbox)?.status.unwrap_or_default().state);
    let one = k.start(&sandbox, &pod, &k.sleeper(&pod, "one"))?;
    let two = k.create(&sandbox, &pod, &k.script(&pod, "two", "echo started as $WHO; exit 3").env("WHO", "two"))?;
    let created = k.cri.status(&two)?;
    assert_eq!((created.state(), created.started_at), (ContainerState::ContainerCreated, 0));
    k.cri.start(&two)?;

    let ended = k.cri.wait_for(&two, ContainerState::ContainerExited)?;
    k.see("two", format!("{:?} {} {} {}", ended.state(), ended.exit_code, ended.reason, ended.message));
    // Not started_at <= finished_at: containerd takes the former after the start, the latter is the shim's.
    ensure!(ended.created_at < ended.started_at.min(ended.finished_at), "out of order: {ended:?}");
    let running = k.cri.status(&one)?;
    k.see("one", format!("{:?} {:?}", running.state(), k.cri.sh(&one, "echo $0 from $PWD; cat /proc/1/comm; exit 9")?));
    k.see("one's log", logs::text(&k.log("two")?, "stdout"));
    k.only_shim(&sandbox, &[&one])?;

    k.cri.stop(&one, 10)?;
    k.see("stopped", k.cri.status(&one)?.exit_code);
    k.cri.remove(&two)?;
    k.cri.remove(&one)?;
    ensure!(k.cri.status(&one).is_err(), "a removed container has a status");
    k.cri.stop_pod(&sandbox)?;
    let stopped = k.cri.pod_status(&sandbox)?.status.unwrap_or_default();
    assert_eq!(stopped.state(), PodSandboxState::SandboxNotready);
    k.cri.stop_pod(&sandbox)?; // idempotent
    k.cri.remove_pod(&sandbox)?;
    k.cri.remove_pod(&sandbox)?;
    ensure!(k.cgroup.children().is_empty(), "cgroups are left: {:?}", k.cgroup.children());
    Ok(())
}

fn a_container_is_made_again(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let (script, codes) = ("echo attempt $ATTEMPT; touch /tmp/left || exit 1; ls /tmp; exit $ATTEMPT", [0, 1, 2]);
    let mut ids = Vec::new();
    for attempt in codes {
        let again = k.script(&pod, "again", script).attempt(attempt).env("ATTEMPT", &attempt.to_string());
        let id = k.start(&sandbox, &pod, &again)?;
        let ended = k.cri.wait_for(&id, ContainerState::ContainerExited)?;
        k.see("again", format!("{} {} {:?}", ended.exit_code, ended.reason, ended.metadata));
        ids.push(id);
        // kubelet keeps the last one, for its logs, and removes the one before
        if let [.., before, _] = ids.as_slice() {
            k.cri.remove(before)?;
        }
    }
    k.see("log", logs::text(&k.log("again")?, "stdout"));
    Ok(())
}

/// The namespaces of a process, as `kind:[inode]` lines.
fn namespaces(pid: &str) -> Result<Vec<String>> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let links = kinds.iter().map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
    links.map(|link| Ok(link.context("read a namespace link")?.display().to_string())).collect()
}

/// Two containers of a pod: which of their namespaces are each other's, the sandbox's and the host's.
fn relations(k: &Kubelet<'_>, pod: &Pod) -> Result<(String, String)> {
    let sandbox = k.run(pod)?;
    let one = k.start(&sandbox, pod, &k.sleeper(pod, "one"))?;
    let two = k.start(&sandbox, pod, &k.sleeper(pod, "two"))?;
    let (ours, pause) = (namespaces("self")?, namespaces(&k.pause_pid(&sandbox)?.to_string())?);
    let (first, second) = (namespaces(&k.pid(&one)?.to_string())?, namespaces(&k.pid(&two)?.to_string())?);
    let mut text = String::new();
    for index in 0..ours.len() {
        let kind = ours[index].split(':').next().unwrap_or_default();
        let same = |a: &[String], b: &[String]| if a[index] == b[index] { "same" } else { "other" };
        text += &format!(
            "{kind}: containers {}, with the sandbox {}, with the host {}; sandbox with the host {}\n",
            same(&first, &second),
            same(&first, &pause),
            same(&first, &ours),
            same(&pause, &ours),
        );
    }
    k.see("namespaces", &text);
    k.only_shim(&sandbox, &[&one, &two])?;
    Ok((sandbox, one))
}

fn containers_share_the_pods_namespaces(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = relations(k, &k.pod("pod")?)?;
    k.see("pid 1", k.cri.sh(&one, "cat /proc/1/comm")?.stdout);
    k.cri.sh(&one, "echo shared >/dev/shm/file")?;
    // Not its flags: containerd binds it with `rw`, and so it has no other, as with runc since 1.2; the suite's is older.
    k.see("shm", k.cri.sh(&one, "grep /dev/shm /proc/mounts | cut -d' ' -f2-3; stat -c %a /dev/shm")?.stdout);
    Ok(())
}

fn a_pod_may_share_its_pid_namespace(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?.namespaces(|n| n.set_pid(NamespaceMode::Pod));
    let (sandbox, one) = relations(k, &pod)?;
    k.see("pid 1", k.cri.sh(&one, "cat /proc/1/comm")?.stdout);
    // What a container leaves behind in the pod's pid namespace ends with it: init's death does not kill it there.
    let daemon = k.start(&sandbox, &pod, &k.script(&pod, "daemon", "setsid sleep 4321 & sleep 0.3; exit 4"))?;
    let ended = k.cri.wait_for(&daemon, ContainerState::ContainerExited)?;
    k.see("daemon", format!("{} {}", ended.exit_code, ended.reason));
    k.see("left of it", k.cri.sh(&one, "pgrep -f 'sleep 4321' | grep -vx $$ | wc -l")?.stdout);
    Ok(())
}

fn a_pod_may_use_the_hosts_namespaces(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?.namespaces(|n| {
        n.set_pid(NamespaceMode::Node);
        n.set_ipc(NamespaceMode::Node);
    });
    let (sandbox, one) = relations(k, &pod)?;
    assert_eq!(k.cri.sh(&one, "hostname")?.stdout.trim(), fs::read_to_string("/proc/sys/kernel/hostname")?.trim());
    let inside = k.cri.sh(&one, "readlink /proc/self/ns/pid")?.stdout;
    assert_eq!(inside.trim(), fs::read_link("/proc/self/ns/pid")?.display().to_string());
    let daemon = k.start(&sandbox, &pod, &k.script(&pod, "daemon", "setsid sleep 4321 & sleep 0.3; exit 4"))?;
    k.cri.wait_for(&daemon, ContainerState::ContainerExited)?;
    Ok(())
}

fn a_pod_has_its_own_network(k: &Kubelet<'_>) -> Result<()> {
    let mut pod = k.pod("pod")?.namespaces(|n| n.set_network(NamespaceMode::Pod));
    pod.config.hostname = "berth-pod".to_owned();
    pod.config.dns_config.get_or_insert_default().servers = vec!["192.0.2.53".to_owned()];
    let linux = pod.config.linux.get_or_insert_default();
    linux.sysctls.insert("net.ipv4.ip_local_port_range".to_owned(), "12000 13000".to_owned());
    linux.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
    let (sandbox, one) = relations(k, &pod)?;
    let script = "hostname; ip -o link | cut -d: -f2 | sort; ip -o addr show lo; cat /etc/resolv.conf; cat /etc/hosts; \
                  cat /etc/hostname; cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced";
    k.see("inside", k.cri.sh(&one, script)?.stdout);
    let network = k.cri.pod_status(&sandbox)?.status.unwrap_or_default().network.unwrap_or_default();
    k.see("address", network.ip);
    // A server in one container is reached from the other.
    k.cri.sh(&one, "nc -l -p 8000 -e echo hello >/dev/null 2>&1 &")?;
    let client = k.start(&sandbox, &pod, &k.script(&pod, "client", "nc -w 5 127.0.0.1 8000 </dev/null"))?;
    k.cri.wait_for(&client, ContainerState::ContainerExited)?;
    k.see("client", logs::text(&k.log("client")?, "stdout"));
    Ok(())
}

fn logs_are_in_cris_format(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    // It waits, because containerd 1.6 stops reading when it hears of the exit, whatever is still in the fifo.
    let script = "echo out; echo err >&2; printf 'no newline'; seq 1 20000; head -c 100000 /dev/zero | tr '\\0' x; \
                  echo; echo all said; while [ ! -e /tmp/go ]; do sleep 0.1; done";
    let writer = k.start(&sandbox, &pod, &k.script(&pod, "writer", script))?;
    k.wait_for_line("writer", "all said")?;
    k.cri.sh(&writer, "touch /tmp/go")?;
    k.cri.wait_for(&writer, ContainerState::ContainerExited)?;
    let lines = k.log("writer")?;
    let stdout = logs::text(&lines, "stdout");
    let numbers: String = (2..=20000).map(|n| format!("{n}\n")).collect();
    let expected = format!("out\nno newline1\n{numbers}{}\nall said\n", "x".repeat(100_000));
    let same = stdout.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
    ensure!(stdout == expected, "{} of {} bytes, the first {same} as expected", stdout.len(), expected.len());
    assert_eq!(logs::text(&lines, "stderr"), "err\n");
    ensure!(lines.iter().any(|line| !line.full), "a long line was not split");

    // After a rotation, what comes next is in the new file.
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done";
    let ticker = k.start(&sandbox, &pod, &k.script(&pod, "ticker", script))?;
    k.wait_for_line("ticker", "3")?;
    let (current, old) = (k.logs()?.join("ticker.log"), k.logs()?.join("old.log"));
    fs::rename(&current, &old)?;
    k.cri.reopen_log(&ticker)?;
    let last = k.log("old")?.len();
    k.wait_for_line("ticker", &(last + 3).to_string())?;
    Ok(())
}

fn a_container_that_cannot_start_says_why(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    for (name, command, words) in [
        ("missing", "/no/such/program", "no such file or directory"),
        ("unfound", "no-such-program", "executable file not found in $PATH"),
        ("plain", "/srv/plain", "permission denied"),
        ("directory", "/etc", "\"/etc\": "), // permission denied or is a directory, as runc's version has it
    ] {
        let mut container = k.script(&pod, name, "");
        container.config.command = vec![command.to_owned()];
        let id = k.create(&sandbox, &pod, &container)?;
        let error = k.cri.start(&id).err().with_context(|| format!("{command} was started"))?;
        ensure!(error.message.contains(words) && error.message.contains(command), "{command}: {error}");
        let status = k.cri.status(&id)?;
        k.see(name, format!("{:?} {} {}", status.state(), status.exit_code, status.reason));
        ensure!(status.message.contains(words), "{command}: {status:?}");
    }
    let mut container = k.script(&pod, "cwd", "pwd; stat -c '%u %a' .");
    container.config.working_dir = "/made/for/it".to_owned();
    let id = k.start(&sandbox, &pod, &container)?;
    k.cri.wait_for(&id, ContainerState::ContainerExited)?;
    k.see("cwd", logs::text(&k.log("cwd")?, "stdout"));
    // The pod is as good as before.
    let good = k.start(&sandbox, &pod, &k.sleeper(&pod, "good"))?;
    k.only_shim(&sandbox, &[&good])?;
    Ok(())
}

fn a_running_pod_is_stopped_and_removed_with_its_containers(k: &Kubelet<'_>) -> Result<()> {
    let stopped = k.pod("stopped")?;
    let sandbox = k.run(&stopped)?;
    let one = k.start(&sandbox, &stopped, &k.sleeper(&stopped, "one"))?;
    let stubborn = k.script(&stopped, "stubborn", "trap '' TERM; while :; do sleep 1000; done");
    let two = k.start(&sandbox, &stopped, &stubborn)?;
    k.cri.stop_pod(&sandbox)?;
    for id in [&one, &two] {
        let status = k.cri.status(id)?;
        k.see("after StopPodSandbox", format!("{:?} {}", status.state(), status.exit_code));
    }
    // Removed without being stopped, a container that was never started among its own.
    let removed = k.pod("removed")?;
    let sandbox = k.run(&removed)?;
    k.start(&sandbox, &removed, &k.sleeper(&removed, "one"))?;
    k.create(&sandbox, &removed, &k.sleeper(&removed, "never"))?;
    k.cri.remove_pod(&sandbox)?;
    Ok(())
}

fn twelve_containers_start_at_once(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let mut ids = Vec::new();
    for index in 0..12 {
        ids.push(k.create(&sandbox, &pod, &k.sleeper(&pod, &format!("c{index}")))?);
    }
    let socket = k.scene.containerd.socket();
    std::thread::scope(|scope| {
        let starting: Vec<_> = ids
            .iter()
            .map(|id| {
                let socket = &socket;
                scope.spawn(move || -> Result<String> {
                    let cri = berth_tests::cri::Cri::new(socket)?;
                    cri.start(id)?;
                    let output = cri.sh(id, "cat /proc/1/comm; exit 6")?;
                    cri.stop(id, 10)?;
                    Ok(format!("{} {} {}", output.stdout, output.code, cri.status(id)?.exit_code))
                })
            })
            .collect();
        for thread in starting {
            let seen = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            k.see("each", seen);
        }
        Ok(())
    })
}
