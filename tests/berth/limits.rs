//! update, events.

use anyhow::{Result, ensure};
use berth_tests::command::{self, DEADLINE};
use berth_tests::scene::Skip;
use serde_json::Value;
use std::fs;

use super::Fact;
use super::stage::{Stage, refused};

pub fn facts() -> Vec<Fact> {
    crate::facts![update_changes_limits, update_refuses_what_is_no_limit, events_tell_what_is_used]
}

/// A file of the memory controller, in the version that the host has.
fn memory_limit(id: &str) -> Result<String> {
    let v1 = format!("/sys/fs/cgroup/memory/{id}/memory.limit_in_bytes");
    let v2 = format!("/sys/fs/cgroup/{id}/memory.max");
    let text = fs::read_to_string(v1).or_else(|_| fs::read_to_string(v2));
    Ok(text.map_err(|_| Skip("no memory controller".to_owned()))?.trim().to_owned())
}

fn update_changes_limits(stage: &Stage) -> Result<()> {
    let id = &stage.id("x");
    stage.detached(&["run", "-d", id])?.success()?;
    stage.run(&["update", "--memory", "32m", "--pids-limit", "50", id])?.success()?;
    ensure!(memory_limit(id)? == "33554432");
    stage.run(&["update", id, "--memory=64MiB"])?.success()?;
    ensure!(memory_limit(id)? == "67108864");
    let file = stage.path("resources.json");
    fs::write(&file, r#"{"memory":{"limit":50331648}}"#)?;
    stage.run(&["update", "-r", &file, id])?.success()?;
    ensure!(memory_limit(id)? == "50331648");
    let mut command = stage.command(&["update", "--resources", "-", id]);
    command::start(command.stdin(fs::File::open(&file)?))?.wait(DEADLINE)?.success()?;
    stage.run(&["update", "--memory", "-1", id])?.success()?;
    ensure!(memory_limit(id)? != "50331648");
    Ok(())
}

fn update_refuses_what_is_no_limit(stage: &Stage) -> Result<()> {
    let id = &stage.id("x");
    refused(stage.run(&["update", "--memory", "1m", id])?, 1, "container does not exist")?;
    stage.detached(&["run", "-d", id])?.success()?;
    refused(stage.run(&["update", "--memory", "much", id])?, 1, "invalid value")?;
    refused(stage.run(&["update", "--blkio-weight", "70000", id])?, 1, "parse")?;
    refused(stage.run(&["update", "-r", "/nonsense", id])?, 1, "no such file or directory")?;
    refused(stage.run(&["update", "--l3-cache-schema", "x", id])?, 1, "RDT")?;
    stage.run(&["kill", id, "KILL"])?.success()?;
    stage.expect(id, "stopped")?;
    refused(stage.run(&["update", "--memory", "1m", id])?, 1, "container not running")
}

fn events_tell_what_is_used(stage: &Stage) -> Result<()> {
    let id = &stage.id("x");
    stage.detached(&["run", "-d", id])?.success()?;
    let event: Value = serde_json::from_str(&stage.run(&["events", "--stats", id])?.success()?.stdout)?;
    ensure!(event["type"] == "stats" && event["id"] == **id && event["data"]["pids"]["current"] == 1, "{event}");
    ensure!(event["data"]["memory"]["usage"]["usage"].as_u64() > Some(0), "{event}");
    refused(stage.run(&["events", "--interval", "0s", id])?, 1, "must be greater than 0")?;
    let mut follow = stage.command(&["events", "--interval", "100ms", id]);
    let follow = command::start(follow.stdin(std::process::Stdio::null()))?;
    follow.expect(&["stats", "stats"])?;
    stage.run(&["kill", id, "KILL"])?.success()?;
    follow.wait(DEADLINE)?.success()?;
    refused(stage.run(&["events", "--stats", id])?, 1, "is not running")
}
