//! What can be done to a task, in which state: create, start, kill, pause, resume, ps, metrics, ls, delete.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use berth_tests::containerd::IMAGE;
use berth_tests::scene::Scene;
use serde_json::Value;
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Both:
        signals_reach_init,
        kill_all_reaches_every_process,
        a_paused_task_stands_still_and_resumes,
        a_paused_task_can_be_killed,
        operations_in_the_wrong_state_fail,
        unknown_tasks_are_not_found,
        a_created_task_waits_for_its_start,
        a_stopped_task_keeps_its_exit_code,
        a_forced_delete_kills,
        ps_lists_every_process,
        metrics_have_the_cgroups_figures,
        metrics_of_the_api_have_the_same_fields,
        tasks_are_listed,
        a_deleted_task_can_be_made_again,
        attach_gets_the_output_that_follows,
        two_waiters_hear_of_the_same_end,
        a_task_that_ends_at_once_is_not_lost,
    ]
}

fn signals_reach_init(scene: &Scene<'_>) -> Result<()> {
    for (name, signal) in
        [("a", "USR1"), ("b", "SIGTERM"), ("c", "9"), ("d", "SIGUSR1"), ("e", "37"), ("f", "SIGRTMIN+3")]
    {
        let id = scene.sleeper(&[], name)?;
        scene.see(signal, scene.ctr(&["task", "kill", "-s", signal, &id])?);
        scene.wait_for_status(name, "STOPPED")?;
        scene.see("delete", scene.ctr(&["task", "delete", &id])?);
        scene.ctr(&["container", "delete", &id])?.success()?;
    }
    let id = scene.sleeper(&[], "g")?;
    scene.see("none, to one that runs", scene.ctr(&["task", "kill", "-s", "0", &id])?);
    scene.see("a real-time one, to all", scene.ctr(&["task", "kill", "-a", "-s", "37", &id])?);
    scene.wait_for_status("g", "STOPPED")?;
    scene.see("none, to one that ran", scene.ctr(&["task", "kill", "-s", "0", &id])?.code);
    scene.discard("g")
}

fn kill_all_reaches_every_process(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    let stubborn = "trap '' TERM; sleep 1000 & while :; do wait; sleep 1; done";
    scene.ctr(&["task", "exec", "-d", "--exec-id", "e", &id, "sh", "-c", stubborn])?.success()?;
    scene.see("kill -a", scene.ctr(&["task", "kill", "-a", "-s", "KILL", &id])?);
    scene.wait_for_status("a", "STOPPED")?;
    scene.see("kill -a of a stopped task", scene.ctr(&["task", "kill", "-a", "-s", "KILL", &id])?.code);
    scene.see("delete", scene.ctr(&["task", "delete", &id])?);
    scene.ctr(&["container", "delete", &id])?.success()?;
    let id = scene.sleeper(&[], "b")?;
    scene
        .ctr(&[
            "task",
            "exec",
            "-d",
            "--exec-id",
            "e",
            &id,
            "sh",
            "-c",
            "trap 'exit 3' USR1; while :; do sleep 1000 & wait $!; done",
        ])?
        .success()?;
    std::thread::sleep(Duration::from_millis(300));
    scene.see("kill -a USR1", scene.ctr(&["task", "kill", "-a", "-s", "USR1", &id])?);
    scene.wait_for_status("b", "STOPPED")?;
    scene.see("delete", scene.ctr(&["task", "delete", &id])?);
    scene.ctr(&["container", "delete", &id])?.success()?;
    Ok(())
}

/// How much a container's counter has moved in a while.
fn progress(scene: &Scene<'_>, file: &std::path::Path) -> Result<bool> {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    let _ = scene;
    let before = read();
    std::thread::sleep(Duration::from_millis(500));
    Ok(before != read())
}

fn a_paused_task_stands_still_and_resumes(scene: &Scene<'_>) -> Result<()> {
    let directory = scene.scratch()?;
    let flag = format!("type=bind,src={},dst=/mnt,options=bind:rw", directory.display());
    let counter = "trap 'exit 15' TERM; while :; do echo $((i+=1)) > /mnt/count; sleep 0.05; done";
    scene.run(&["-d", "--mount", &flag], "a", &["sh", "-c", counter])?.success()?;
    let (id, count) = (scene.id("a"), directory.join("count"));
    std::thread::sleep(Duration::from_millis(300));
    ensure!(progress(scene, &count)?, "it never counted");
    scene.see("pause", scene.ctr(&["task", "pause", &id])?);
    scene.see("status", scene.status("a")?);
    ensure!(!progress(scene, &count)?, "it counts while it is paused");
    scene.see("pause again", scene.ctr(&["task", "pause", &id])?.code);
    scene.see("resume", scene.ctr(&["task", "resume", &id])?);
    scene.see("status", scene.status("a")?);
    ensure!(progress(scene, &count)?, "it does not count after resume");
    scene.see("resume again", scene.ctr(&["task", "resume", &id])?.code);
    scene.discard("a")
}

fn a_paused_task_can_be_killed(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    scene.ctr(&["task", "pause", &id])?.success()?;
    scene.see("delete while paused", scene.ctr(&["task", "delete", &id])?.failure()?);
    scene.see("kill", scene.ctr(&["task", "kill", "-s", "KILL", &id])?);
    scene.wait_for_status("a", "STOPPED")?;
    scene.see("delete", scene.ctr(&["task", "delete", &id])?);
    scene.ctr(&["container", "delete", &id])?.success()?;
    Ok(())
}

fn operations_in_the_wrong_state_fail(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    scene.see("start while running", scene.ctr(&["task", "start", &id])?.failure()?.code);
    scene.ctr(&["task", "kill", "-s", "KILL", &id])?.success()?;
    scene.wait_for_status("a", "STOPPED")?;
    for (what, arguments) in [
        ("pause", ["task", "pause"]),
        ("resume", ["task", "resume"]),
        ("kill", ["task", "kill"]),
        ("start", ["task", "start"]),
    ] {
        scene.see(what, scene.ctr(&[arguments[0], arguments[1], &id])?.failure()?.code);
    }
    let words = scene.ctr(&["task", "kill", &id])?.stderr;
    ensure!(words.contains("already finished"), "{words}");
    scene.discard("a")
}

fn unknown_tasks_are_not_found(scene: &Scene<'_>) -> Result<()> {
    let id = scene.id("none");
    for verb in ["kill", "pause", "resume", "ps", "metrics", "delete", "start"] {
        scene.see(verb, scene.ctr(&["task", verb, &id])?.failure()?);
    }
    scene.see("exec", scene.ctr(&["task", "exec", "--exec-id", "e", &id, "true"])?.failure()?);
    let id = scene.sleeper(&[], "a")?;
    for verb in ["kill", "delete"] {
        let outcome = scene.ctr(&["task", verb, "--exec-id", "none", &id])?.failure()?;
        ensure!(
            outcome.stderr.contains("none") && outcome.stderr.contains("not exist"),
            "{verb} of an exec: {outcome}"
        );
    }
    scene.discard("a")
}

fn a_created_task_waits_for_its_start(scene: &Scene<'_>) -> Result<()> {
    let (id, runtime) = (scene.id("a"), scene.runtime.name());
    scene.ctr(&["container", "create", "--runtime", &runtime, IMAGE, &id, "/srv/exit-6"])?.success()?;
    scene.see("not started", scene.status("a")?);
    scene.see("start", scene.ctr(&["task", "start", &id])?);
    scene.see("deleted after it", scene.status("a")?);
    scene.see("start again", scene.ctr(&["task", "start", "-d", &id])?.code);
    scene.wait_for_status("a", "STOPPED")?;
    scene.see("delete", scene.ctr(&["task", "delete", &id])?);
    scene.ctr(&["container", "delete", &id])?.success()?;
    Ok(())
}

fn a_stopped_task_keeps_its_exit_code(scene: &Scene<'_>) -> Result<()> {
    scene.run(&["-d"], "a", &["sh", "-c", "exit 42"])?.success()?;
    scene.wait_for_status("a", "STOPPED")?;
    std::thread::sleep(Duration::from_secs(1));
    scene.see("status", scene.status("a")?);
    let deleted = scene.ctr(&["task", "delete", &scene.id("a")])?;
    ensure!(deleted.stderr.contains("42"), "{deleted}");
    scene.see("deleted", deleted);
    scene.ctr(&["container", "delete", &scene.id("a")])?.success()?;
    Ok(())
}

fn a_forced_delete_kills(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    scene.see("delete -f", scene.ctr(&["task", "delete", "-f", &id])?);
    scene.see("status", scene.status("a")?);
    scene.ctr(&["container", "delete", &id])?.success()?;
    Ok(())
}

/// A table without its widths.
fn words(table: &str) -> String {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

fn ps_lists_every_process(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    scene.ctr(&["task", "exec", "-d", "--exec-id", "e", &id, "sh", "-c", "sleep 1000; true"])?.success()?;
    std::thread::sleep(Duration::from_millis(500));
    let listed = scene.ctr(&["task", "ps", &id])?.success()?.stdout;
    let init = scene.pid("a")?.to_string();
    ensure!(
        listed.lines().any(|line| line.split_whitespace().next() == Some(&init)),
        "init {init} is not listed:\n{listed}"
    );
    scene.see("processes", listed.lines().count() - 1);
    // Sorted by pid; pids wrap around.
    let mut rows: Vec<String> =
        words(&listed.replace(|c: char| c.is_ascii_digit(), "")).lines().map(str::to_owned).collect();
    rows.sort();
    scene.see("with an exec's id", rows.join("\n"));
    scene.ctr(&["task", "pause", &id])?.success()?;
    scene.see("while paused", scene.ctr(&["task", "ps", &id])?.success()?.stdout.lines().count());
    scene.discard("a")
}

fn metrics_have_the_cgroups_figures(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&["--memory-limit", "67108864"], "a")?;
    let table = scene.ctr(&["task", "metrics", &id])?.success()?.stdout;
    let names: Vec<&str> =
        table.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != id).collect();
    scene.see("names", names.join("\n"));
    let used: u64 = table
        .lines()
        .find_map(|line| line.strip_prefix("memory.usage_in_bytes"))
        .context("no memory.usage_in_bytes")?
        .trim()
        .parse()?;
    ensure!((10_000..67_108_864).contains(&used), "memory.usage_in_bytes is {used}");
    scene.discard("a")
}

/// The names of all fields of a JSON value, with a path, in order.
fn fields(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| fields(value, &format!("{path}.{name}"), into)),
        Value::Array(list) => match list.first() {
            Some(first) => fields(first, &format!("{path}[]"), into),
            None => into.push(format!("{path}[]")),
        },
        _ => into.push(path.to_owned()),
    }
}

fn metrics_of_the_api_have_the_same_fields(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&["--memory-limit", "67108864", "--cpus", "0.5"], "a")?;
    scene
        .ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])?
        .success()?;
    let json: Value =
        serde_json::from_str(&scene.ctr(&["task", "metrics", "--format", "json", &id])?.success()?.stdout)?;
    let mut names = Vec::new();
    fields(&json, "", &mut names);
    // A zero is left out: of these it depends on the moment whether they are one.
    let changing = ["throttl", "failcnt", "usage.kernel", "usage.user"];
    names.retain(|name| !changing.iter().any(|part| name.contains(part)));
    scene.see("fields", names.join("\n"));
    let limit = &json["memory"]["usage"]["limit"];
    ensure!(limit == 67_108_864, "the limit in the metrics is {limit}");
    ensure!(json["cpu"]["usage"]["total"].as_u64() > Some(1_000_000), "cpu {}", json["cpu"]["usage"]);
    ensure!(json["pids"]["current"].as_u64() == Some(2), "pids {}", json["pids"]);
    scene.discard("a")
}

fn tasks_are_listed(scene: &Scene<'_>) -> Result<()> {
    let (a, b) = (scene.sleeper(&[], "a")?, scene.sleeper(&[], "b")?);
    let quiet = scene.ctr(&["task", "ls", "-q"])?.success()?.stdout;
    ensure!(quiet.lines().any(|line| line == a) && quiet.lines().any(|line| line == b), "{quiet}");
    let info = scene.ctr(&["container", "info", &a])?.success()?.stdout;
    let info: Value = serde_json::from_str(&info)?;
    scene.see("runtime", &info["Runtime"]["Name"]);
    scene.discard("a")?;
    scene.see("the other", scene.status("b")?);
    scene.discard("b")
}

fn a_deleted_task_can_be_made_again(scene: &Scene<'_>) -> Result<()> {
    for round in 0..3 {
        scene.see("run", scene.sh(&[], "same", &format!("echo {round}; exit {round}"))?);
    }
    Ok(())
}

fn attach_gets_the_output_that_follows(scene: &Scene<'_>) -> Result<()> {
    let script = "trap 'exit 4' USR1; while :; do echo tick; sleep 0.2 & wait $!; done";
    let id = scene.id("a");
    let running = scene.run_start(&[], "a", &["sh", "-c", script])?;
    scene.wait_for_status("a", "RUNNING")?;
    running.kill()?;
    std::thread::sleep(Duration::from_millis(500));
    scene.see("it lives on", scene.status("a")?);
    let attached = scene.containerd.ctr_start(&["task", "attach", &id])?;
    attached.expect(&["tick"])?;
    scene.ctr(&["task", "kill", "-s", "USR1", &id])?.success()?;
    let outcome = attached.wait(Duration::from_secs(30))?;
    ensure!(outcome.stdout.contains("tick"), "nothing came: {outcome}");
    scene.see("exit code", outcome.code);
    scene.discard("a")
}

fn two_waiters_hear_of_the_same_end(scene: &Scene<'_>) -> Result<()> {
    // Two clients at one task's fifos: which removes them is a race of theirs.
    scene.leave_fifos_to_clients();
    let first = scene.run_start(&["--rm"], "a", &["sh", "-c", "trap 'exit 8' USR1; echo up; sleep 1000 & wait"])?;
    first.expect(&["up"])?;
    let second = scene.containerd.ctr_start(&["task", "attach", &scene.id("a")])?;
    std::thread::sleep(Duration::from_millis(700));
    scene.ctr(&["task", "kill", "-s", "USR1", &scene.id("a")])?.success()?;
    // Both delete the task then, and one of them comes too late; what it says of that is up to the race.
    let codes = [first.wait(Duration::from_secs(30))?.code, second.wait(Duration::from_secs(30))?.code];
    ensure!(codes.contains(&8), "{codes:?}");
    Ok(())
}

fn a_task_that_ends_at_once_is_not_lost(scene: &Scene<'_>) -> Result<()> {
    for round in 0..8 {
        let outcome = scene.run(&["--rm"], &format!("r{round}"), &["sh", "-c", &format!("exit {round}")])?;
        ensure!(outcome.code == round, "round {round}: {outcome}");
    }
    Ok(())
}
