//! Many containers, one after another and at once.

use crate::Scenario;
use anyhow::{Result, ensure};
use berth_tests::command::DEADLINE;
use berth_tests::scene::{Scene, strs};
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Berth:
        a_hundred_in_a_row_leave_nothing,
        twenty_at_once_with_execs_leave_nothing,
        starts_and_kills_race,
        a_shim_keeps_no_descriptors,
    ]
}

fn a_hundred_in_a_row_leave_nothing(scene: &Scene<'_>) -> Result<()> {
    for number in 0..100 {
        let code = number % 4;
        let outcome = scene.sh(&[], &format!("n{number}"), &format!("echo {number}; exit {code}"))?;
        ensure!(outcome.code == code && outcome.stdout == format!("{number}\n"), "container {number}: {outcome}");
    }
    scene.check_nothing_left()
}

fn twenty_at_once_with_execs_leave_nothing(scene: &Scene<'_>) -> Result<()> {
    let names: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    let starting: Result<Vec<_>> = names
        .iter()
        .map(|name| scene.run_start(&["-d"], name, &["sh", "-c", "trap 'exit 15' TERM; sleep 1000 & wait"]))
        .collect();
    for started in starting? {
        started.wait(DEADLINE * 2)?.success()?;
    }
    let mut execs = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let id = scene.id(name);
        for number in 0..2 {
            let script = format!("echo {index}.{number}; sleep 0.{number}; exit {number}");
            let exec_id = format!("e{number}");
            execs.push((
                index,
                number,
                scene.containerd.ctr_start(&["task", "exec", "--exec-id", &exec_id, &id, "sh", "-c", &script])?,
            ));
        }
        // And one that still runs when its container ends.
        scene.ctr(&["task", "exec", "-d", "--exec-id", "long", &id, "sleep", "1000"])?.success()?;
    }
    for (index, number, exec) in execs {
        let outcome = exec.wait(DEADLINE * 2)?;
        ensure!(
            outcome.code == number && outcome.stdout == format!("{index}.{number}\n"),
            "exec {index}.{number}: {outcome}"
        );
    }
    for name in &names {
        scene.ctr(&["task", "kill", "-s", "TERM", &scene.id(name)])?.success()?;
    }
    for name in &names {
        scene.wait_for_status(name, "STOPPED")?;
        scene.discard(name)?;
    }
    scene.check_nothing_left()
}

fn starts_and_kills_race(scene: &Scene<'_>) -> Result<()> {
    for number in 0..15 {
        let name = format!("n{number}");
        let arguments = scene.run_arguments(&[], &name, &["sleep", "1000"]);
        let running = scene.containerd.ctr_start(&strs(&arguments))?;
        // Ever later into create and start.
        std::thread::sleep(Duration::from_millis(20 * number));
        let mut running = Some(running);
        let killed = berth_tests::command::poll(DEADLINE, || {
            let _ = scene.ctr(&["task", "kill", "-s", "KILL", &scene.id(&name)]);
            (!running.as_mut().is_some_and(|running| running.is_running())).then_some(())
        });
        ensure!(killed.is_some(), "container {number} could not be killed");
        if let Some(running) = running {
            running.wait(DEADLINE)?;
        }
        scene.discard(&name)?;
    }
    scene.check_nothing_left()
}

fn a_shim_keeps_no_descriptors(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    let shim = scene.containerd.shim_pid(&id)?;
    let count = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{shim}/fd"))?.count()) };
    let round = |number: usize| -> Result<()> {
        scene.ctr(&["task", "exec", "--exec-id", &format!("e{number}"), &id, "echo", "x"])?.success()?;
        scene.ctr(&["task", "exec", "--exec-id", &format!("f{number}"), &id, "no-such-program"])?.failure()?;
        scene.ctr(&["task", "metrics", &id])?.success()?;
        scene.ctr(&["task", "pause", &id])?.success()?;
        scene.ctr(&["task", "resume", &id])?.success()?;
        Ok(())
    };
    round(0)?;
    let before = count()?;
    for number in 1..8 {
        round(number)?;
    }
    let settled = berth_tests::command::poll(Duration::from_secs(5), || count().ok().filter(|now| *now <= before));
    ensure!(settled.is_some(), "the shim had {before} descriptors after one round and has {} after eight", count()?);
    let mut children = String::new();
    for thread in std::fs::read_dir(format!("/proc/{shim}/task"))? {
        children += &std::fs::read_to_string(thread?.path().join("children"))?;
    }
    ensure!(
        children.trim() == scene.pid("a")?.to_string(),
        "children of the shim, which should be init alone: {children}"
    );
    scene.discard("a")
}
