//! What becomes of pods when their shim, their processes or containerd itself end at a bad moment.
//!
//! After a kill -9 of the shim the Go shim leaves its socket behind on every version, and with 2.1 a shim whose pause
//! process died or even containers, so what is asked of Berth there cannot be compared.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_tests::command::poll;
use berth_tests::cri::kubelet::{Kubelet, play};
use berth_tests::cri::v1::{ContainerState, PodSandboxState};
use berth_tests::cri::{Error, Pod, daemon};
use berth_tests::scene::{Runtime, Scene};
use berth_tests::version::Version;
use rustix::process::{Pid, Signal, kill_process};

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = crate::scenarios![BerthPods:
        a_pod_whose_shim_was_killed_is_removed,
        a_pod_whose_shim_was_killed_in_a_create_is_removed,
        a_pod_whose_pause_process_was_killed_is_removed,
        other_pods_do_not_notice_a_killed_shim,
    ];
    scenarios.extend(crate::scenarios![Alone:
        pods_outlive_a_restart_of_containerd,
        pods_outlive_a_killed_containerd,
        what_ended_without_containerd_is_told_after,
        a_shim_killed_without_containerd_is_cleaned_up_after,
        a_shim_killed_at_any_moment_leaves_nothing,
        containerd_killed_at_any_moment_leaves_nothing,
    ]);
    scenarios
}

fn kill(pid: i32) -> Result<()> {
    kill_process(Pid::from_raw(pid).context("pid 0")?, Signal::KILL).with_context(|| format!("kill {pid}"))
}

/// StopPodSandbox and RemovePodSandbox as kubelet does them: again, when they fail.
fn dispose(k: &Kubelet<'_>, sandbox: &str) -> Result<()> {
    let mut last = None;
    let done = poll(Duration::from_secs(20), || {
        let outcome = k.cri.stop_pod(sandbox).and_then(|()| k.cri.remove_pod(sandbox));
        outcome.map_err(|error| last = Some(error)).ok()
    });
    done.with_context(|| format!("the pod cannot be removed: {last:?}"))
}

fn is_gone(pid: i32) -> bool {
    poll(Duration::from_secs(10), || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).is_some()
}

fn not_ready(k: &Kubelet<'_>, sandbox: &str) -> Result<bool> {
    let state = || k.cri.pod_status(sandbox).map(|answer| answer.status.unwrap_or_default().state());
    let wanted = poll(Duration::from_secs(10), || (state().ok()? == PodSandboxState::SandboxNotready).then_some(()));
    Ok(wanted.is_some())
}

fn a_pod_whose_shim_was_killed_is_removed(k: &Kubelet<'_>) -> Result<()> {
    let (sandbox, one) = k.one_sleeper()?;
    let pod = k.pod("pod")?;
    let two = k.create(&sandbox, &pod, &k.sleeper(&pod, "never"))?;
    let (shim, init, pause) = (k.only_shim(&sandbox, &[&one])?, k.pid(&one)?, k.pause_pid(&sandbox)?);
    kill(shim)?;
    let status = k.cri.wait_for(&one, ContainerState::ContainerExited)?;
    k.see("container", format!("{:?} {} {}", status.state(), status.exit_code, status.reason));
    k.see("sandbox is not ready", not_ready(k, &sandbox)?);
    ensure!(is_gone(init) && is_gone(pause), "processes outlived the cleanup: {init} {pause}");
    k.see("exec", format!("{:?}", k.cri.sh(&one, "true").map_err(|error| error.code)));
    ensure!(k.cri.start(&two).is_err(), "a container was started in a pod without a shim");
    k.cri.stop(&one, 5)?;
    dispose(k, &sandbox)?;
    ensure!(k.cgroup.children().is_empty(), "cgroups are left: {:?}", k.cgroup.children());
    Ok(())
}

/// At several moments of a StartContainer; whatever it says, the pod can be removed and nothing is left.
fn a_pod_whose_shim_was_killed_in_a_create_is_removed(k: &Kubelet<'_>) -> Result<()> {
    for delay in [0, 5, 15, 30, 60] {
        let pod = k.pod(&format!("after-{delay}"))?;
        let sandbox = k.run(&pod)?;
        let shim = k.only_shim(&sandbox, &[])?;
        let one = k.create(&sandbox, &pod, &k.sleeper(&pod, "one"))?;
        std::thread::scope(|scope| {
            let killing = scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(delay));
                kill(shim)
            });
            let _either_way = k.cri.start(&one);
            killing.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })?;
        dispose(k, &sandbox)?;
    }
    k.check_nothing_left()
}

fn a_pod_whose_pause_process_was_killed_is_removed(k: &Kubelet<'_>) -> Result<()> {
    let (sandbox, one) = k.one_sleeper()?;
    kill(k.pause_pid(&sandbox)?)?;
    k.see("sandbox is not ready", not_ready(k, &sandbox)?);
    let status = k.cri.status(&one)?;
    k.see("container", format!("{:?} {}", status.state(), status.exit_code));
    k.see("exec", format!("{:?}", k.cri.sh(&one, "echo still here").map_err(|error| error.code)));
    k.cri.stop(&one, 10)?;
    k.see("stopped", k.cri.status(&one)?.exit_code);
    k.cri.stop_pod(&sandbox)?;
    k.cri.remove_pod(&sandbox)?;
    Ok(())
}

fn other_pods_do_not_notice_a_killed_shim(k: &Kubelet<'_>) -> Result<()> {
    let (first, second) = (k.pod("first")?, k.pod("second")?);
    let (doomed, kept) = (k.run(&first)?, k.run(&second)?);
    let one = k.start(&doomed, &first, &k.sleeper(&first, "one"))?;
    let two = k.start(&kept, &second, &k.sleeper(&second, "two"))?;
    k.wait_for_line("two", "ready")?;
    kill(k.only_shim(&doomed, &[&one])?)?;
    k.cri.wait_for(&one, ContainerState::ContainerExited)?;
    k.see("the other", format!("{:?}", k.cri.sh(&two, "echo alive")?));
    dispose(k, &doomed)?;
    k.see("the other", format!("{:?}", k.cri.sh(&two, "echo alive")?));
    k.only_shim(&kept, &[&two])?;
    k.cri.stop(&two, 10)?;
    k.see("its exit", k.cri.status(&two)?.exit_code);
    Ok(())
}

/// Plays a scenario that hurts its daemon with these handlers, on a daemon of its own, and compares.
fn alone(version: Version, runtimes: &[Runtime], body: impl Fn(&Kubelet<'_>) -> Result<()>) -> Result<()> {
    let containerd = daemon::start(version)?;
    let mut records = Vec::new();
    for runtime in runtimes {
        let scene = Scene::new(&containerd, *runtime);
        let outcome = play(&scene, &body);
        records.push(scene.finish(outcome)?);
    }
    records.windows(2).try_for_each(|pair| crate::compare(&pair[0], &pair[1]))
}

const BOTH: &[Runtime] = &[Runtime::Runc, Runtime::Berth];

/// Waits until CRI answers, as kubelet does after a restart.
fn again(k: &Kubelet<'_>) -> Result<()> {
    k.scene.containerd.launch()?;
    let ready = || k.cri.conditions().ok()?.iter().all(|c| c.r#type != "RuntimeReady" || c.status).then_some(());
    poll(Duration::from_secs(20), ready).context("CRI is not ready after the restart")
}

fn pods_outlive_a_restart_of_containerd(version: Version) -> Result<()> {
    alone(version, BOTH, |k| outlive(k, || k.scene.containerd.stop()))
}

fn pods_outlive_a_killed_containerd(version: Version) -> Result<()> {
    alone(version, BOTH, |k| outlive(k, || k.scene.containerd.kill()))
}

fn outlive(k: &Kubelet<'_>, end: impl Fn() -> Result<()>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "trap 'exit 15' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done";
    let ticker = k.start(&sandbox, &pod, &k.script(&pod, "ticker", script))?;
    let reader = "while read line; do echo you said $line; [ $line = bye ] && exit 21; done; exit 1";
    let reader = k.start(&sandbox, &pod, &k.script(&pod, "reader", reader).stdin(false))?;
    let ended = k.start(&sandbox, &pod, &k.script(&pod, "ended", "exit 5"))?;
    k.cri.wait_for(&ended, ContainerState::ContainerExited)?;
    let created = k.create(&sandbox, &pod, &k.sleeper(&pod, "created"))?;
    let shim = k.only_shim(&sandbox, &[&ticker, &reader])?;
    k.wait_for_line("ticker", "3")?;

    for round in ["first", "second"] {
        end()?;
        std::thread::sleep(Duration::from_millis(1500));
        again(k)?;
        for (name, id) in [("ticker", &ticker), ("reader", &reader), ("ended", &ended), ("created", &created)] {
            let status = k.cri.status(id)?;
            k.see(round, format!("{name}: {:?} {} {}", status.state(), status.exit_code, status.reason));
        }
        assert_eq!(k.only_shim(&sandbox, &[&ticker, &reader])?, shim, "another shim");
        k.see("exec", format!("{:?}", k.cri.sh(&ticker, "echo fine; exit 3")?));
        // What it wrote meanwhile and what it writes now are in the log, in order and once.
        let last = k.log("ticker")?.len();
        k.wait_for_line("ticker", &(last + 5).to_string())?;
        let numbers: Vec<String> = k.log("ticker")?.into_iter().map(|line| line.text).collect();
        let expected: Vec<String> = (0..numbers.len()).map(|number| number.to_string()).collect();
        ensure!(numbers == expected, "after the {round} restart the log is {numbers:?}");
        let mut session = k.cri.attach(&reader, true, false)?;
        session.ask(format!("{round}\n").as_bytes(), &format!("you said {round}"))?;
        ensure!(k.cri.stats(&ticker)?.memory.is_some(), "no statistics after the restart");
    }
    k.cri.start(&created)?;
    k.wait_for_line("created", "ready")?;
    k.only_shim(&sandbox, &[&ticker, &reader, &created])?;
    for id in [&ticker, &created] {
        k.cri.stop(id, 10)?;
        k.see("stopped", k.cri.status(id)?.exit_code);
    }
    k.cri.stop_pod(&sandbox)?;
    k.cri.remove_pod(&sandbox)?;
    Ok(())
}

fn what_ended_without_containerd_is_told_after(version: Version) -> Result<()> {
    alone(version, BOTH, |k| {
        let pod = k.pod("pod")?;
        let sandbox = k.run(&pod)?;
        let mut ids = Vec::new();
        for (name, script, code) in [
            ("code", "sleep 2; echo last words; exit 7", 7),
            ("memory", "sleep 2; exec tail /dev/zero", 137),
            ("much", "sleep 2; head -c 30000 /dev/zero | tr '\\0' x; echo; exit 8", 8),
        ] {
            let container = k.script(&pod, name, script).limited(|r| r.memory_limit_in_bytes = 24 << 20);
            ids.push((name, code, k.start(&sandbox, &pod, &container)?));
        }
        k.scene.containerd.kill()?;
        std::thread::sleep(Duration::from_secs(4));
        again(k)?;
        for (name, code, id) in &ids {
            let status = k.cri.wait_for(id, ContainerState::ContainerExited)?;
            k.see(name, format!("{:?}", status.state()));
            // 255 is containerd's word for unknown, which is all it learns of the Go shim.
            let unknown = k.scene.runtime == Runtime::Runc && status.exit_code == 255;
            ensure!(unknown || status.exit_code == *code, "{name}: {status:?}");
        }
        k.see("sandbox", format!("{:?}", k.cri.pod_status(&sandbox)?.status.unwrap_or_default().state()));
        let next = k.start(&sandbox, &pod, &k.sleeper(&pod, "next"))?;
        k.only_shim(&sandbox, &[&next])?;
        Ok(())
    })
}

fn a_shim_killed_without_containerd_is_cleaned_up_after(version: Version) -> Result<()> {
    alone(version, &[Runtime::Berth], |k| {
        let (sandbox, one) = k.one_sleeper()?;
        let (shim, init) = (k.only_shim(&sandbox, &[&one])?, k.pid(&one)?);
        k.scene.containerd.kill()?;
        kill(shim)?;
        again(k)?;
        let status = k.cri.status(&one)?;
        if status.state() == ContainerState::ContainerRunning {
            bail!("a container without a shim is said to run");
        }
        ensure!(is_gone(init), "its process {init} outlived the cleanup");
        dispose(k, &sandbox)
    })
}

/// A pod's whole life; what fails, fails.
fn live(k: &Kubelet<'_>, pod: &Pod) -> Result<()> {
    let sandbox = k.run(pod)?;
    let one = k.start(&sandbox, pod, &k.sleeper(pod, "one"))?;
    let two = k.start(&sandbox, pod, &k.script(pod, "two", "sleep 0.05"))?;
    k.cri.sh(&one, "true")?;
    k.cri.wait_for(&two, ContainerState::ContainerExited)?;
    k.cri.stop(&one, 1)?;
    k.cri.stop_pod(&sandbox)?;
    Ok(k.cri.remove_pod(&sandbox)?)
}

/// Removes every pod there is, as kubelet does with pods that nobody wants.
fn dispose_all(k: &Kubelet<'_>) -> Result<()> {
    let pods = poll(Duration::from_secs(20), || k.cri.pods().ok()).context("CRI does not answer")?;
    pods.iter().try_for_each(|pod| dispose(k, &pod.id))
}

/// The servers of a daemon's shims, with the ids that they were started for.
fn shims(address: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let arguments = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&str> = arguments.split('\0').collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
        // A `start` that is killed before it has told containerd of its server, nobody can clean up after.
        if ["start", "delete"].iter().any(|act| words.contains(act)) {
            continue;
        }
        if let (Some(id), Some(true)) = (after("-id"), after("-address").map(|word| *word == address)) {
            found.push((pid, (*id).to_owned()));
        }
    }
    found
}

/// Moments from before the shim is there to after the pod is gone, the same in every run.
const MOMENTS: [u64; 12] = [3, 20, 35, 50, 70, 95, 120, 160, 200, 260, 330, 420];

fn a_shim_killed_at_any_moment_leaves_nothing(version: Version) -> Result<()> {
    alone(version, &[Runtime::Berth], move |k| {
        let address = k.scene.containerd.socket().display().to_string();
        for (round, moment) in MOMENTS.into_iter().enumerate() {
            let pod = k.pod(&format!("pod{round}"))?;
            let (killed, gone) = std::thread::scope(|scope| {
                let killing = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(moment));
                    let shims = shims(&address);
                    shims.iter().for_each(|(pid, _)| drop(kill(*pid)));
                    shims
                });
                let gone = match live(k, &pod) {
                    Ok(()) => true,
                    Err(error) => error.downcast_ref::<Error>().is_some_and(|error| error.method == "RunPodSandbox"),
                };
                killing.join().map_err(|_| anyhow::anyhow!("a thread panicked")).map(|killed| (killed, gone))
            })?;
            for (_, id) in &killed {
                k.note(id);
                // containerd runs no `delete` for a shim that it could not connect to, and has run it for one that
                // waits, after its last container, for a `start` that might come: its socket is all that stays.
                if gone {
                    let _ = std::fs::remove_file(k.socket(id));
                }
            }
            dispose_all(k).with_context(|| format!("killed {killed:?} after {moment} ms"))?;
            k.check_nothing_left().with_context(|| format!("killed {killed:?} after {moment} ms"))?;
        }
        let kept = shims(&address);
        ensure!(kept.is_empty(), "shims are left: {kept:?}");
        Ok(())
    })
}

fn containerd_killed_at_any_moment_leaves_nothing(version: Version) -> Result<()> {
    alone(version, &[Runtime::Berth], move |k| {
        let address = k.scene.containerd.socket().display().to_string();
        for (round, moment) in MOMENTS.into_iter().enumerate() {
            let pod = k.pod(&format!("pod{round}"))?;
            let containerd = k.scene.containerd;
            std::thread::scope(|scope| {
                let killing = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(moment));
                    containerd.kill()
                });
                let _whatever = live(k, &pod);
                killing.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
            })?;
            let running = shims(&address);
            running.iter().for_each(|(_, id)| k.note(id));
            again(k)?;
            dispose_all(k).with_context(|| format!("with shims {running:?} after {moment} ms"))?;
            if version == Version::V1_6 {
                // 1.6 keeps a shim that had no task when containerd was killed, and knows of no way to end it.
                for (pid, id) in shims(&address) {
                    kill(pid)?;
                    let _ = std::fs::remove_file(k.socket(&id));
                }
            }
            k.check_nothing_left().with_context(|| format!("with shims {running:?} after {moment} ms"))?;
        }
        Ok(())
    })
}
