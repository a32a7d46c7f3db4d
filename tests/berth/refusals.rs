//! What is refused, and in which words and form.

use anyhow::{Result, ensure};
use berth_tests::scene::Skip;
use serde_json::Value;
use std::fs;

use super::Fact;
use super::stage::{Stage, refused};

pub fn facts() -> Vec<Fact> {
    crate::facts![
        lines_that_make_no_sense,
        ids_that_are_none,
        containers_that_are_none,
        specs_that_are_none,
        errors_go_to_the_log_as_json,
        checkpoints_are_refused,
        a_spec_is_not_overwritten,
        a_state_that_is_not_ours_is_told,
        rdt_needs_a_resctrl,
    ]
}

fn lines_that_make_no_sense(stage: &Stage) -> Result<()> {
    refused(stage.run(&["nonsense"])?, 3, "No help topic for 'nonsense'")?;
    refused(stage.run(&["run", "--nonsense", "x"])?, 1, "--nonsense")?;
    refused(stage.run(&["start"])?, 1, "requires exactly 1 argument")?;
    refused(stage.run(&["start", "a", "b"])?, 1, "requires exactly 1 argument")?;
    refused(stage.run(&["kill", "a", "b", "c"])?, 1, "requires a maximum of 2 argument")?;
    fs::create_dir(stage.directory.join("states"))?;
    refused(stage.run(&["list", "--format", "yaml"])?, 1, "invalid format option")?;
    refused(stage.run(&["--log-format", "xml", "list"])?, 1, "invalid log-format")?;
    refused(stage.run(&["--cgroup-manager", "x", "list"])?, 1, "invalid cgroup-manager")?;
    refused(stage.run(&["--rootless", "perhaps", "list"])?, 1, "invalid value")?;
    refused(stage.run(&["--root", "/", "list"])?, 1, "--root argument should not be set to /")?;
    ensure!(stage.run(&["--version"])?.success()?.stdout.starts_with("berth version"));
    ensure!(stage.run(&["exec", "--help"])?.success()?.stdout.contains("--preserve-fds"));
    for verb in ["checkpoint", "create", "restore", "spec", "update"] {
        let help = stage.run(&[verb, "-h"])?.success()?.stdout;
        ensure!(help.starts_with("NAME:") && help.contains(&format!("berth {verb}")), "{help}");
    }
    ensure!(stage.run(&["--help"])?.success()?.stdout.contains("features"));
    Ok(())
}

fn ids_that_are_none(stage: &Stage) -> Result<()> {
    for id in ["a/b", "..", ".", "a b", "a\n", "ä"] {
        refused(stage.run(&["create", id])?, 1, "invalid container ID format")?;
        refused(stage.run(&["delete", "--force", id])?, 1, "invalid container ID format")?;
    }
    refused(stage.run(&["state", ""])?, 1, "container id cannot be empty")
}

fn containers_that_are_none(stage: &Stage) -> Result<()> {
    let id = &stage.id("none");
    for verb in ["start", "state", "kill", "delete", "ps", "pause", "resume", "update", "events"] {
        refused(stage.run(&[verb, id])?, 1, "container does not exist")?;
    }
    stage.run(&["delete", "--force", id])?.success()?;
    stage.run(&["delete", "-f", id])?.success().map(drop)
}

fn specs_that_are_none(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    let config = stage.path("bundle/config.json");
    let whole = fs::read_to_string(&config)?;
    refused(stage.run(&["create", "--bundle", "/nonsense", id])?, 1, "no such file or directory")?;
    fs::write(&config, "{")?;
    refused(stage.run(&["create", id])?, 1, "parse")?;
    fs::write(&config, &whole)?;
    stage.spec(|spec| spec["process"]["cwd"] = "tmp".into())?;
    refused(stage.run(&["create", id])?, 1, "Cwd must be an absolute path")?;
    stage.spec(|spec| spec["process"]["args"] = Value::Array(Vec::new()))?;
    stage.spec(|spec| spec["process"]["cwd"] = "/".into())?;
    refused(stage.run(&["create", id])?, 1, "args must not be empty")?;
    stage.spec(|spec| spec["process"] = Value::Null)?;
    refused(stage.run(&["create", id])?, 1, "process property must not be empty")?;
    fs::write(&config, whole)?;
    stage.spec(|spec| spec["root"]["path"] = "nonsense".into())?;
    refused(stage.run(&["create", id])?, 1, "no such file or directory")
}

fn errors_go_to_the_log_as_json(stage: &Stage) -> Result<()> {
    let log = stage.path("log");
    let outcome = stage.run(&["--log", &log, "--log-format", "json", "state", "none"])?;
    ensure!((outcome.code, outcome.stderr.as_str()) == (1, "container does not exist\n"), "{outcome}");
    let line: Value = serde_json::from_str(fs::read_to_string(&log)?.trim())?;
    ensure!(
        line["level"] == "error" && line["msg"] == "container does not exist" && line["time"].is_string(),
        "{line}"
    );
    stage.run(&["--log", &log, "--debug", "list"])?.failure()?;
    ensure!(fs::read_to_string(&log)?.contains("level=debug"));
    Ok(())
}

fn checkpoints_are_refused(stage: &Stage) -> Result<()> {
    refused(stage.run(&["checkpoint", "--work-path", "x", "c"])?, 1, "not supported: --work-path x c")?;
    refused(stage.run(&["restore", "c"])?, 1, "not supported")
}

fn a_spec_is_not_overwritten(stage: &Stage) -> Result<()> {
    refused(stage.run(&["spec"])?, 1, "File config.json exists. Remove it first")?;
    let features: Value = serde_json::from_str(&stage.run(&["features"])?.success()?.stdout)?;
    ensure!(features["linux"]["seccomp"]["enabled"] == true, "{features}");
    Ok(())
}

fn a_state_that_is_not_ours_is_told(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    let state = stage.directory.join("states").join(id);
    fs::create_dir_all(&state)?;
    fs::write(state.join("state.json"), "{}")?;
    refused(stage.run(&["state", id])?, 1, "is not a state file of berth")?;
    ensure!(stage.run(&["list"])?.success()?.stderr.contains("is not a state file of berth"));
    Ok(fs::remove_dir_all(state)?)
}

fn rdt_needs_a_resctrl(stage: &Stage) -> Result<()> {
    if fs::read_to_string("/proc/self/mounts")?.contains(" resctrl ") {
        return Err(Skip("this host has a resctrl".into()).into());
    }
    stage.spec(|spec| spec["linux"]["intelRdt"] = serde_json::json!({ "closID": "x", "schemata": ["L3:0=f"] }))?;
    refused(stage.run(&["run", &stage.id("c")])?, 1, "no resctrl file system is mounted on /sys/fs/resctrl")
}
