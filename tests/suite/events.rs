//! `ctr events`: which there are, in which order, with which fields.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use berth_tests::command::{DEADLINE, Running};
use berth_tests::scene::{Runtime, Scene};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Both:
        a_run_is_told_in_order,
        execs_are_told_before_their_container_ends,
        pause_resume_and_kill_are_told,
        an_oom_kill_is_told,
        a_failed_start_is_told,
    ]
}

/// `ctr events`, until it is asked what it has heard of a container.
struct Listener(Running);

impl Listener {
    fn start(scene: &Scene<'_>) -> Result<Listener> {
        let listener = Listener(scene.containerd.ctr_start(&["events"])?);
        // ctr does not say when it is subscribed.
        std::thread::sleep(Duration::from_millis(700));
        Ok(listener)
    }

    /// Writes down the task events that name the container: topic and fields, pids and times taken out.
    fn stop(self, scene: &Scene<'_>, name: &str) -> Result<()> {
        // containerd's own, published when all is over; then a shim's last may still be on its way.
        self.0.expect(&["/containers/delete", &scene.id(name)])?;
        std::thread::sleep(Duration::from_millis(500));
        let pid = Pid::from_raw(self.0.pid()).context("ctr events has no pid")?;
        kill_process(pid, Signal::TERM)?; // who runs us in the background ignores INT
        let heard = self.0.wait(DEADLINE)?.stdout;
        let id = scene.id(name);
        let mut told = Vec::new();
        for line in heard.lines().filter(|line| line.contains(&id) && line.contains(" /tasks/")) {
            let (head, event) = line.split_at(line.find('{').context("an event without fields")?);
            let topic = head.split_whitespace().last().unwrap_or_default();
            let mut event: Value = serde_json::from_str(event)?;
            if let Some(fields) = event.as_object_mut() {
                for (name, value) in fields {
                    match name.as_str() {
                        "pid" => ensure!(value.as_u64() > Some(0), "{topic} has the pid {value}"),
                        "exited_at" => ensure!(value.to_string().len() > 5, "{topic} ended at {value}"),
                        _ => continue,
                    }
                    *value = "some".into();
                }
                // The snapshot's number and directories.
                if let Some(rootfs) = fields_of(&mut event, "rootfs") {
                    *rootfs = "some".into();
                }
                if let Some(io) = fields_of(&mut event, "io") {
                    *io = io
                        .as_object()
                        .map(|io| io.keys().cloned().collect::<Vec<_>>().join(" "))
                        .unwrap_or_default()
                        .into();
                }
            }
            told.push(format!("{topic} {event}"));
        }
        // The Go shim may end before it has told of its last delete; ours must not.
        let deletes = told.iter().filter(|event| event.starts_with("/tasks/delete")).count();
        let ends = told.iter().filter(|event| event.starts_with("/tasks/start")).count();
        ensure!(
            scene.runtime == Runtime::Runc || deletes == ends,
            "{deletes} deletes of {ends} started:\n{}",
            told.join("\n")
        );
        told.retain(|event| !event.starts_with("/tasks/delete"));
        scene.see("events", told.join("\n"));
        Ok(())
    }
}

fn fields_of<'a>(event: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    event.as_object_mut()?.get_mut(name)
}

fn a_run_is_told_in_order(scene: &Scene<'_>) -> Result<()> {
    let listener = Listener::start(scene)?;
    scene.sh(&[], "a", "exit 11")?;
    listener.stop(scene, "a")
}

fn execs_are_told_before_their_container_ends(scene: &Scene<'_>) -> Result<()> {
    let listener = Listener::start(scene)?;
    let id = scene.sleeper(&[], "a")?;
    scene.ctr(&["task", "exec", "--exec-id", "first", &id, "sh", "-c", "exit 3"])?;
    scene.ctr(&["task", "exec", "-d", "--exec-id", "second", &id, "sleep", "1000"])?.success()?;
    scene.ctr(&["task", "exec", "--exec-id", "third", &id, "no-such-program"])?.failure()?;
    scene.ctr(&["task", "kill", "-s", "KILL", &id])?.success()?;
    scene.wait_for_status("a", "STOPPED")?;
    scene.discard("a")?;
    listener.stop(scene, "a")
}

fn pause_resume_and_kill_are_told(scene: &Scene<'_>) -> Result<()> {
    let listener = Listener::start(scene)?;
    let id = scene.sleeper(&[], "a")?;
    scene.ctr(&["task", "pause", &id])?.success()?;
    scene.ctr(&["task", "resume", &id])?.success()?;
    scene.ctr(&["task", "kill", "-s", "TERM", &id])?.success()?;
    scene.wait_for_status("a", "STOPPED")?;
    scene.discard("a")?;
    listener.stop(scene, "a")
}

fn an_oom_kill_is_told(scene: &Scene<'_>) -> Result<()> {
    let listener = Listener::start(scene)?;
    scene.see("run", scene.run(&["--rm", "--memory-limit", "33554432"], "a", &["tail", "/dev/zero"])?.code);
    listener.stop(scene, "a")
}

fn a_failed_start_is_told(scene: &Scene<'_>) -> Result<()> {
    let listener = Listener::start(scene)?;
    scene.run(&["--rm"], "a", &["no-such-program"])?.failure()?;
    listener.stop(scene, "a")
}
