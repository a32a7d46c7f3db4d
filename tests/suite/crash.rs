//! kill -9 of the shim, of containerd, of both, at any moment: nothing is lost that lives, nothing is left that died.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use berth_tests::command::DEADLINE;
use berth_tests::containerd::{Config, Containerd};
use berth_tests::scene::{Runtime, Scene, strs};
use berth_tests::version::Version;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn scenarios() -> Vec<Scenario> {
    let mut all = crate::scenarios![Alone:
        a_restart_of_containerd_loses_nothing,
        a_crash_of_containerd_loses_nothing,
        a_task_that_ends_while_containerd_is_down_is_told,
        shims_that_die_while_containerd_is_down_are_cleaned_up,
        kills_at_random_moments_leave_nothing,
    ];
    all.extend(crate::scenarios![Berth:
        a_killed_shim_leaves_nothing_after_delete,
        a_killed_shim_of_a_paused_task_leaves_nothing,
        a_killed_shim_does_not_hang_its_clients,
        a_killed_init_is_an_exit_like_any,
    ]);
    all
}

/// A daemon of the scenario's own, and its scene.
fn alone(version: Version, play: impl FnOnce(&Scene<'_>) -> Result<()>) -> Result<()> {
    let containerd = Containerd::start(version, &Config::default())?;
    let scene = Scene::new(&containerd, Runtime::Berth);
    scene.leave_fifos_to_clients();
    let outcome = play(&scene);
    scene.finish(outcome).map(drop)
}

fn kill(pid: i32) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid).context("no process has this id")?, Signal::KILL)?)
}

fn a_restart_of_containerd_loses_nothing(version: Version) -> Result<()> {
    alone(version, |scene| survives(scene, || scene.containerd.stop()))
}

fn a_crash_of_containerd_loses_nothing(version: Version) -> Result<()> {
    alone(version, |scene| survives(scene, || scene.containerd.kill()))
}

/// A running, a paused, a created and an exited task, and an exec, across an end of the daemon.
fn survives(scene: &Scene<'_>, end: impl FnOnce() -> Result<()>) -> Result<()> {
    scene.sleeper(&[], "running")?;
    scene.ctr(&["task", "exec", "-d", "--exec-id", "long", &scene.id("running"), "sleep", "1000"])?.success()?;
    scene.sleeper(&[], "paused")?;
    scene.ctr(&["task", "pause", &scene.id("paused")])?.success()?;
    scene.run(&["-d"], "exited", &["sh", "-c", "exit 42"])?.success()?;
    scene.wait_for_status("exited", "STOPPED")?;
    let pids = [scene.pid("running")?, scene.pid("paused")?];
    end()?;
    std::thread::sleep(Duration::from_millis(500));
    scene.containerd.launch()?;
    for (name, status) in [("running", "RUNNING"), ("paused", "PAUSED"), ("exited", "STOPPED")] {
        ensure!(scene.status(name)? == status, "{name} was {status} and is {:?}", scene.status(name)?);
    }
    ensure!(pids == [scene.pid("running")?, scene.pid("paused")?], "the processes are others");
    let exec =
        scene.ctr(&["task", "exec", "--exec-id", "new", &scene.id("running"), "echo", "still here"])?.success()?;
    ensure!(exec.stdout == "still here\n", "{exec}");
    scene.ctr(&["task", "kill", "--exec-id", "long", "-s", "KILL", &scene.id("running")])?.success()?;
    scene.ctr(&["task", "resume", &scene.id("paused")])?.success()?;
    ensure!(scene.status("paused")? == "RUNNING", "the paused task does not resume");
    let exited = scene.ctr(&["task", "delete", &scene.id("exited")])?;
    ensure!(exited.stderr.contains("42"), "the exit code was forgotten: {exited}");
    scene.ctr(&["container", "delete", &scene.id("exited")])?.success()?;
    scene.ctr(&["task", "kill", &scene.id("running")])?.success()?;
    scene.wait_for_status("running", "STOPPED")?;
    let ended = scene.ctr(&["task", "delete", &scene.id("running")])?;
    ensure!(ended.stderr.contains("15"), "{ended}");
    scene.ctr(&["container", "delete", &scene.id("running")])?.success()?;
    scene.discard("paused")
}

fn a_task_that_ends_while_containerd_is_down_is_told(version: Version) -> Result<()> {
    alone(version, |scene| {
        scene.sleeper(&[], "a")?;
        let pid = scene.pid("a")?;
        scene.containerd.kill()?;
        kill_process(Pid::from_raw(pid).context("no pid")?, Signal::USR1)?;
        std::thread::sleep(Duration::from_millis(500));
        scene.containerd.launch()?;
        scene.wait_for_status("a", "STOPPED")?;
        let ended = scene.ctr(&["task", "delete", &scene.id("a")])?;
        ensure!(ended.stderr.contains("10"), "{ended}");
        scene.ctr(&["container", "delete", &scene.id("a")])?.success()?;
        Ok(())
    })
}

fn shims_that_die_while_containerd_is_down_are_cleaned_up(version: Version) -> Result<()> {
    alone(version, |scene| {
        let (a, b) = (scene.sleeper(&[], "a")?, scene.sleeper(&[], "b")?);
        scene.ctr(&["task", "pause", &b])?.success()?;
        let shims = [scene.containerd.shim_pid(&a)?, scene.containerd.shim_pid(&b)?];
        scene.containerd.kill()?;
        shims.into_iter().try_for_each(kill)?;
        scene.containerd.launch()?;
        // containerd runs `delete` for both before it answers; the containers' records are the user's to delete.
        for id in [a, b] {
            let _ = scene.ctr(&["task", "delete", "--force", &id])?;
            scene.ctr(&["container", "delete", &id])?.success()?;
        }
        scene.check_nothing_left()
    })
}

fn a_killed_shim_leaves_nothing_after_delete(scene: &Scene<'_>) -> Result<()> {
    scene.leave_fifos_to_clients();
    let id = scene.sleeper(&[], "a")?;
    scene
        .ctr(&["task", "exec", "-d", "--exec-id", "e", &id, "sh", "-c", "trap '' TERM; while :; do sleep 1; done"])?
        .success()?;
    kill(scene.containerd.shim_pid(&id)?)?;
    // containerd sees the connection close and runs `delete`.
    scene.check_processes_gone()?;
    scene.discard("a")
}

fn a_killed_shim_of_a_paused_task_leaves_nothing(scene: &Scene<'_>) -> Result<()> {
    scene.leave_fifos_to_clients();
    let id = scene.sleeper(&[], "a")?;
    scene.ctr(&["task", "pause", &id])?.success()?;
    kill(scene.containerd.shim_pid(&id)?)?;
    scene.check_processes_gone()?;
    scene.discard("a")
}

fn a_killed_shim_does_not_hang_its_clients(scene: &Scene<'_>) -> Result<()> {
    scene.leave_fifos_to_clients();
    let running = scene.run_start(&["--rm"], "a", &["sleep", "1000"])?;
    scene.wait_for_status("a", "RUNNING")?;
    let id = scene.id("a");
    let exec = scene.containerd.ctr_start(&["task", "exec", "--exec-id", "e", &id, "sleep", "1000"])?;
    std::thread::sleep(Duration::from_millis(700));
    kill(scene.containerd.shim_pid(&id)?)?;
    let (running, exec) = (running.wait(DEADLINE)?, exec.wait(DEADLINE)?);
    ensure!(running.code != 0 && exec.code != 0, "run: {running}\nexec: {exec}");
    scene.discard("a")
}

fn a_killed_init_is_an_exit_like_any(scene: &Scene<'_>) -> Result<()> {
    let running = scene.run_start(&["--rm"], "a", &["sleep", "1000"])?;
    scene.wait_for_status("a", "RUNNING")?;
    kill(scene.pid("a")?)?;
    ensure!(running.wait(DEADLINE)?.code == 137);
    Ok(())
}

/// Small and seeded: a failure can be repeated. Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.subsec_nanos().into());
        Random(std::env::var("BERTH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn kills_at_random_moments_leave_nothing(version: Version) -> Result<()> {
    let random = Random::new();
    let seed = random.0;
    alone(version, |scene| random_kills(scene, random)).with_context(|| format!("BERTH_SEED={seed}"))
}

fn random_kills(scene: &Scene<'_>, mut random: Random) -> Result<()> {
    let over = AtomicBool::new(false);
    let runtime = scene.runtime.name();
    let names = ["w0", "w1", "w2"];
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let image = berth_tests::containerd::IMAGE;
    let work_of = |name: &str| {
        let create = words(&["run", "-d", "--runtime", &runtime, image, &scene.id(name), "sleep", "1000"]);
        [create, words(&["task", "exec"]), words(&["task", "delete", "--force"])]
    };
    let plans: Vec<_> = names.iter().map(|name| (scene.id(name), work_of(name))).collect();
    let containerd = scene.containerd;
    std::thread::scope(|threads| {
        let workers: Vec<_> =
            plans.iter().map(|(id, plan)| threads.spawn(|| repeat(containerd, id, plan, &over))).collect();
        let kills = (0..20).try_for_each(|_| {
            std::thread::sleep(Duration::from_millis(50 + random.below(500)));
            if random.below(4) == 0 {
                containerd.kill()?;
                std::thread::sleep(Duration::from_millis(random.below(200)));
                remove_half_removed_bundles(containerd);
                return containerd.launch();
            }
            let id = &plans[random.below(plans.len() as u64) as usize].0;
            // It may just not be there.
            let _ = containerd.shim_pid(id).and_then(kill);
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked"))?;
        }
        kills
    })?;
    // Recovery: what a user or the kubelet does, and a restart of the daemon for what it lost track of.
    recover(scene, &plans.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())?;
    // A shim that dies between its address and containerd's first connection is cleaned up by nobody, whosever it is;
    // its socket must not be in the way of the next of that name, which takes it over and away.
    for name in names {
        let outcome = scene.sh(&[], name, "echo again")?.success()?;
        ensure!(outcome.stdout == "again\n", "{outcome}");
    }
    scene.check_nothing_left()
}

/// Runs a container, an exec in it, and deletes both, again and again.
fn repeat(containerd: &Containerd, id: &str, plan: &[Vec<String>; 3], over: &AtomicBool) -> Result<()> {
    let patience = Duration::from_secs(40);
    let [create, exec, delete] = plan;
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        round += 1;
        let exec_id = format!("e{round}");
        // Errors are what a killed daemon or shim gives; a hang is not, and fails here.
        containerd.ctr_within(patience, &strs(create))?;
        containerd.ctr_within(patience, &[&strs(exec)[..], &["--exec-id", &exec_id, id, "true"]].concat())?;
        containerd.ctr_within(patience, &[&strs(delete)[..], &[id]].concat())?;
        containerd.ctr_within(patience, &["container", "delete", id])?;
    }
    Ok(())
}

/// containerd renames a bundle to .ID and removes that. Killed in between it never returns to it, and cannot remove
/// the next bundle of that name; no shim can help.
fn remove_half_removed_bundles(containerd: &Containerd) {
    let entries = containerd.bundle("any").parent().map(std::fs::read_dir);
    for entry in entries.into_iter().flatten().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn recover(scene: &Scene<'_>, ids: &[&str]) -> Result<()> {
    let clear = || -> Result<()> {
        for id in ids {
            scene.containerd.ctr_within(Duration::from_secs(40), &["task", "delete", "--force", id])?;
            scene.containerd.ctr_within(Duration::from_secs(40), &["container", "delete", id])?;
            // ctr makes the snapshot before the container; a daemon killed in between leaves one that is nobody's.
            scene.ctr(&["snapshot", "delete", id])?;
        }
        Ok(())
    };
    clear()?;
    scene.containerd.stop()?;
    remove_half_removed_bundles(scene.containerd);
    scene.containerd.launch()?;
    clear()?;
    let listed = scene.ctr(&["task", "ls"])?.success()?.stdout;
    ensure!(!listed.contains(scene.tag()), "tasks are still listed:\n{listed}");
    let listed = scene.ctr(&["container", "ls", "-q"])?.success()?.stdout;
    ensure!(!listed.contains(scene.tag()), "containers are still listed:\n{listed}");
    Ok(())
}
