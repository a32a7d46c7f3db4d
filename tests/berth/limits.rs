//! update, events.

use anyhow::{Result, ensure};
use berth_tests::command::{self, DEADLINE};
use berth_tests::scene::Skip;
use serde_json::Value;
use std::fs;

use super::Fact;
use super::stage::{Stage, refused};

pub fn facts() -> Vec<Fact> {
    crate::facts![
        update_changes_limits,
        update_refuses_what_is_no_limit,
        events_tell_what_is_used,
        events_tell_of_an_oom_kill,
        a_cgroup_that_is_frozen_or_lived_in_is_refused,
        what_is_not_given_is_told,
    ]
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

fn a_cgroup_that_is_frozen_or_lived_in_is_refused(stage: &Stage) -> Result<()> {
    let (id, other) = (&stage.id("x"), &stage.id("y"));
    let v1 = format!("/sys/fs/cgroup/freezer/{id}");
    let is_v1 = std::path::Path::new("/sys/fs/cgroup/freezer").exists();
    let (directory, file, frozen, thawed) = match is_v1 {
        true => (v1, "freezer.state", "FROZEN", "THAWED"),
        false => (format!("/sys/fs/cgroup/{id}"), "cgroup.freeze", "1", "0"),
    };
    fs::create_dir(&directory)?;
    fs::write(format!("{directory}/{file}"), frozen)?;
    for verb in ["create", "run"] {
        refused(stage.run(&[verb, id])?, 1, "container's cgroup unexpectedly frozen")?;
    }
    ensure!(fs::read_to_string(format!("{directory}/{file}"))?.trim() == frozen, "it was thawed");
    fs::write(format!("{directory}/{file}"), thawed)?;
    stage.detached(&["run", "-d", id])?.success()?;
    refused(stage.run(&["create", other])?, 1, "container's cgroup is not empty: 1 process(es) found")?;
    refused(stage.run(&["state", other])?, 1, "container does not exist")?;
    stage.expect(id, "running")
}

fn what_is_not_given_is_told(stage: &Stage) -> Result<()> {
    let id = &stage.id("x");
    stage.spec(|spec| {
        let sets = &mut spec["process"]["capabilities"];
        sets["bounding"] = serde_json::json!(["CAP_KILL", "TEST_CAP"]);
        sets["inheritable"] = serde_json::json!(["CAP_KILL"]);
        sets["ambient"] = serde_json::json!(["CAP_KILL", "CAP_CHOWN"]);
    })?;
    stage.script("grep CapAmb /proc/self/status")?;
    let outcome = stage.run(&["run", id])?.success()?;
    ensure!(outcome.stdout.contains("0000000000000020"), "{outcome}");
    for warning in
        ["ignoring unknown or unavailable capabilities: [TEST_CAP]", "can't raise ambient capability CAP_CHOWN: "]
    {
        ensure!(outcome.stderr.contains(&format!("level=warning msg=\"{warning}")), "{warning}: {outcome}");
    }
    Ok(())
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

fn events_tell_of_an_oom_kill(stage: &Stage) -> Result<()> {
    let id = &stage.id("x");
    stage.spec(|spec| spec["linux"]["resources"]["memory"] = serde_json::json!({ "limit": 16 << 20 }))?;
    stage.detached(&["run", "-d", id])?.success()?;
    memory_limit(id)?;
    let mut follow = stage.command(&["events", "--interval", "100ms", id]);
    let follow = command::start(follow.stdin(std::process::Stdio::null()))?;
    // It watches when it tells of anything.
    let begin = format!("{{\"type\":\"stats\",\"id\":\"{id}\",\"data\":{{");
    follow.expect(&[&begin])?;
    let hog = stage.run(&["exec", id, "tail", "/dev/zero"])?;
    ensure!(hog.code == 137, "{hog}");
    follow.expect(&[&format!("{{\"type\":\"oom\",\"id\":\"{id}\"}}")])?;
    stage.run(&["kill", id, "KILL"])?.success()?;
    follow.wait(DEADLINE)?.success().map(drop)
}
