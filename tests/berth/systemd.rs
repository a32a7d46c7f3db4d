//! `--systemd-cgroup` where systemd runs the host: in the guests.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use berth_tests::command::{self, DEADLINE, Outcome};
use berth_tests::scene::Skip;

use super::Fact;
use super::stage::{Stage, refused};

pub fn facts() -> Vec<Fact> {
    crate::facts![
        systemd_has_the_scope_of_a_container_from_run_to_delete,
        systemd_is_told_of_an_update,
        systemd_has_no_scope_of_a_container_that_could_not_be_made,
    ]
}

const SLICE: &str = "berthtests-command.slice";

/// The unit of a container whose config.json asks for one.
fn unit(stage: &Stage) -> Result<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Skip("needs systemd as pid 1".into()).into());
    }
    let id = stage.id("c");
    stage.spec(|spec| spec["linux"]["cgroupsPath"] = format!("{SLICE}:t:{id}").into())?;
    Ok(format!("t-{id}.scope"))
}

fn run(stage: &Stage, words: &[&str]) -> Result<Outcome> {
    let words = [&["--systemd-cgroup"], words].concat();
    // What a container inherits would keep our pipes open.
    if words.contains(&"-d") { stage.detached(&words) } else { stage.run(&words) }
}

/// What systemd says of a property.
fn property(unit: &str, name: &str) -> Result<String> {
    let mut systemctl = Command::new("systemctl");
    let said = command::run(systemctl.args(["show", "--value", "--property", name, unit]), DEADLINE)?.success()?;
    Ok(said.stdout.trim().to_owned())
}

fn is_in(unit: &str, cgroups: &str) -> bool {
    cgroups.lines().any(|line| line.ends_with(&format!("/berthtests.slice/{SLICE}/{unit}")))
}

fn systemd_has_the_scope_of_a_container_from_run_to_delete(stage: &Stage) -> Result<()> {
    let (unit, id) = (&unit(stage)?, &stage.id("c"));
    run(stage, &["run", "-d", id])?.success()?;
    ensure!(property(unit, "ActiveState")? == "active");
    let pid = stage.state(id)?["pid"].to_string();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure!(is_in(unit, &cgroups), "{cgroups}");
    let entered = run(stage, &["exec", id, "sleep", "0.1"])?;
    ensure!(entered.code == 0, "{entered}");
    run(stage, &["exec", "-d", "--pid-file", &stage.path("pid"), id, "sleep", "1000"])?.success()?;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", fs::read_to_string(stage.path("pid"))?))?;
    ensure!(is_in(unit, &cgroups), "{cgroups}");
    run(stage, &["kill", id, "KILL"])?.success()?;
    stage.expect(id, "stopped")?;
    run(stage, &["delete", id])?.success()?;
    ensure!(property(unit, "LoadState")? == "not-found");
    Ok(())
}

fn systemd_is_told_of_an_update(stage: &Stage) -> Result<()> {
    let (unit, id) = (&unit(stage)?, &stage.id("c"));
    run(stage, &["run", "-d", id])?.success()?;
    run(stage, &["update", "--pids-limit", "57", "--memory", "64m", id])?.success()?;
    ensure!(property(unit, "TasksMax")? == "57");
    let memory = [property(unit, "MemoryMax")?, property(unit, "MemoryLimit")?];
    ensure!(memory.contains(&"67108864".to_owned()), "{memory:?}");
    run(stage, &["delete", "--force", id])?.success().map(drop)
}

fn systemd_has_no_scope_of_a_container_that_could_not_be_made(stage: &Stage) -> Result<()> {
    let (unit, id) = (&unit(stage)?, &stage.id("c"));
    stage.spec(|spec| spec["process"]["args"] = serde_json::json!(["/no/such/program"]))?;
    refused(run(stage, &["run", id])?, 1, "no such file or directory")?;
    ensure!(property(unit, "LoadState")? == "not-found");
    stage.spec(|spec| spec["linux"]["cgroupsPath"] = "/a/b".into())?;
    refused(run(stage, &["run", id])?, 1, "cgroupsPath")
}
