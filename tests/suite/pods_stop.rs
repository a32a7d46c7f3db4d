//! How containers of a pod end: by themselves, by StopContainer and its grace, by a signal.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use berth_tests::cri::Cri;
use berth_tests::cri::kubelet::Kubelet;
use berth_tests::cri::v1::ContainerState;

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Pods:
        a_handler_of_term_ends_within_the_grace,
        what_ignores_term_is_killed_after_the_grace,
        no_grace_kills_at_once,
        stopping_twice_is_stopping_once,
        exit_codes_and_signals_are_told,
        a_stop_ends_the_whole_container,
        a_stop_ends_its_execs,
        stops_of_one_container_at_once_all_succeed,
    ]
}

fn a_handler_of_term_ends_within_the_grace(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "trap 'echo bye; sleep 1; exit 42' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
    let polite = k.start(&sandbox, &pod, &k.script(&pod, "polite", script))?;
    k.wait_for_line("polite", "ready")?;
    let started = Instant::now();
    k.cri.stop(&polite, 20)?;
    ensure!((1..10).contains(&started.elapsed().as_secs()), "it took {:?}", started.elapsed());
    let status = k.cri.status(&polite)?;
    k.see("ended", format!("{:?} {} {}", status.state(), status.exit_code, status.reason));
    k.wait_for_line("polite", "bye")
}

fn what_ignores_term_is_killed_after_the_grace(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "trap '' TERM; echo ready; while :; do sleep 1000; done";
    let stubborn = k.start(&sandbox, &pod, &k.script(&pod, "stubborn", script))?;
    k.wait_for_line("stubborn", "ready")?;
    let started = Instant::now();
    k.cri.stop(&stubborn, 2)?;
    ensure!((2..10).contains(&started.elapsed().as_secs()), "it took {:?}", started.elapsed());
    let status = k.cri.status(&stubborn)?;
    k.see("ended", format!("{:?} {} {}", status.state(), status.exit_code, status.reason));
    Ok(())
}

fn no_grace_kills_at_once(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let started = Instant::now();
    k.cri.stop(&one, 0)?;
    ensure!(started.elapsed() < Duration::from_secs(8), "it took {:?}", started.elapsed());
    let status = k.cri.status(&one)?;
    k.see("ended", format!("{:?} {} {}", status.state(), status.exit_code, status.reason));
    Ok(())
}

fn stopping_twice_is_stopping_once(k: &Kubelet<'_>) -> Result<()> {
    let (sandbox, one) = k.one_sleeper()?;
    k.cri.stop(&one, 10)?;
    k.cri.stop(&one, 10)?;
    k.see("exit code", k.cri.status(&one)?.exit_code);
    k.cri.remove(&one)?;
    k.cri.remove(&one)?;
    k.cri.stop_pod(&sandbox)?;
    k.see("left", k.cri.containers()?.iter().filter(|container| container.pod_sandbox_id == sandbox).count());
    Ok(())
}

fn exit_codes_and_signals_are_told(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    for (name, script) in [
        ("zero", "exit 0"),
        ("last", "exit 255"),
        ("aborted", "trap - ABRT; kill -ABRT $$; sleep 1; exit 1"),
        ("orphan", "(setsid sh -c 'sleep 0.2; echo orphan' &); sleep 0.1; exit 6"),
        ("forks", "for i in 1 2 3 4 5 6 7 8 9; do (setsid true &); done; exit 7"),
    ] {
        k.see(name, k.told(&sandbox, &pod, &k.script(&pod, name, script))?);
    }
    // Init of a pid namespace is killed from outside only: by the host.
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::USR1] {
        let name = format!("signal{}", signal.as_raw());
        let one = k.start(&sandbox, &pod, &k.sleeper(&pod, &name))?;
        k.wait_for_line(&name, "ready")?;
        let pid = rustix::process::Pid::from_raw(k.pid(&one)?).ok_or_else(|| anyhow!("pid 0"))?;
        rustix::process::kill_process(pid, signal)?;
        let status = k.cri.wait_for(&one, ContainerState::ContainerExited)?;
        k.see(&name, format!("{} {}", status.exit_code, status.reason));
    }
    Ok(())
}

fn a_stop_ends_the_whole_container(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "for i in 1 2 3 4 5; do setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & done; \
                  trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
    let many = k.start(&sandbox, &pod, &k.script(&pod, "many", script))?;
    k.wait_for_line("many", "ready")?;
    k.cri.stop(&many, 10)?;
    k.see("exit code", k.cri.status(&many)?.exit_code);
    ensure!(k.cgroup.children().iter().all(|path| !path.ends_with(&many)), "a cgroup of the container is left");
    Ok(())
}

fn a_stop_ends_its_execs(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let mut session = k.cri.exec_stream(&one, &["sh", "-c", "echo here; sleep 1000"], false, false)?;
    session.read_until("here")?;
    let mut terminal = k.cri.exec_stream(&one, &["sh", "-c", "echo here; sleep 1000"], true, true)?;
    terminal.read_until("here")?;
    k.cri.stop(&one, 10)?;
    k.see("exec", format!("{:?}", session.finish()?));
    k.see("exec with a terminal", format!("{:?}", terminal.finish()?));
    k.see("container", k.cri.status(&one)?.exit_code);
    Ok(())
}

fn stops_of_one_container_at_once_all_succeed(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let socket = k.scene.containerd.socket();
    std::thread::scope(|scope| {
        let (socket, one) = (&socket, &one);
        let stopping: Vec<_> = (0..6)
            .map(|index| scope.spawn(move || -> Result<()> { Ok(Cri::new(socket)?.stop(one, 5 * (index % 2))?) }))
            .collect();
        for thread in stopping {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        assert_eq!(k.cri.status(one)?.state(), ContainerState::ContainerExited);
        Ok(())
    })
}
