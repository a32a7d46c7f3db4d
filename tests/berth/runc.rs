//! The same lines for runc and for Berth: the same exit codes and the same output.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use berth_tests::command::Outcome;
use berth_tests::scene::Skip;
use berth_tests::version;
use serde_json::Value;

use super::Fact;
use super::stage::{Runtime, Stage};

pub fn facts() -> Vec<Fact> {
    crate::facts![a_life_is_as_with_runc, a_spec_is_as_runcs, events_have_every_key_of_runcs]
}

fn beside(ours: &Stage, play: fn(&Stage) -> Result<Vec<String>>) -> Result<()> {
    if !version::runc().exists() {
        return Err(Skip("runc is not fetched: run tests/setup".to_owned()).into());
    }
    let theirs = Stage::new(Runtime::Runc)?;
    let seen = play(&theirs);
    let seen = theirs.finish(seen.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}"))).and(seen)?;
    let own = play(ours)?;
    if seen != own {
        bail!("runc:\n{}\nberth:\n{}", seen.join("\n"), own.join("\n"));
    }
    Ok(())
}

/// What does not depend on when and where.
fn told(stage: &Stage, what: &str, outcome: &Outcome) -> String {
    let name = stage.id("");
    // Of an error runc 1.1 and 1.5 differ in the beginning alone; its last words are what callers look for.
    let last = outcome.stderr.trim().trim_end_matches('"').rsplit(": ").next().unwrap_or_default();
    let last = last.rsplit("msg=\"").next().unwrap_or_default();
    format!("{what}: {} [{}] [{}]", outcome.code, outcome.stdout, last).replace(&name, "")
}

fn a_life_is_as_with_runc(stage: &Stage) -> Result<()> {
    beside(stage, |stage| {
        let id = &stage.id("c");
        let mut seen = Vec::new();
        let mut tell = |what: &str, outcome: Outcome| seen.push(told(stage, what, &outcome));
        tell("none", stage.run(&["state", id])?);
        tell("kill none", stage.run(&["kill", id])?);
        tell("delete none", stage.run(&["delete", id])?);
        tell("delete -f none", stage.run(&["delete", "-f", id])?);
        tell("create", stage.detached(&["create", id])?);
        tell("again", stage.run(&["create", id])?);
        tell("exec early", stage.run(&["exec", id, "echo", "hello"])?);
        tell("start", stage.run(&["start", id])?);
        tell("start again", stage.run(&["start", id])?);
        tell("delete running", stage.run(&["delete", id])?);
        tell("exec", stage.run(&["exec", "-e", "A=1", id, "sh", "-c", "echo $A; id; exit 3"])?);
        tell("exec user", stage.run(&["exec", "-u", "1000:1000", id, "id"])?);
        tell("bad signal", stage.run(&["kill", id, "BOGUS"])?);
        tell("resume", stage.run(&["resume", id])?);
        tell("pause", stage.run(&["pause", id])?);
        tell("exec paused", stage.run(&["exec", id, "id"])?);
        tell("resume paused", stage.run(&["resume", id])?);
        tell("list", stage.run(&["list", "-q"])?);
        tell("kill", stage.run(&["kill", id, "KILL"])?);
        stage.expect(id, "stopped")?;
        tell("kill stopped", stage.run(&["kill", id])?);
        tell("start stopped", stage.run(&["start", id])?);
        tell("exec stopped", stage.run(&["exec", id, "id"])?);
        tell("delete", stage.run(&["delete", id])?);
        tell("list nothing", stage.run(&["list", "-q"])?);
        stage.script("echo out; exit 42")?;
        tell("run", stage.run(&["run", id])?);
        Ok(seen)
    })
}

fn a_spec_is_as_runcs(stage: &Stage) -> Result<()> {
    if !version::runc().exists() {
        return Err(Skip("runc is not fetched: run tests/setup".to_owned()).into());
    }
    for flags in [&["spec"][..], &["spec", "--rootless"]] {
        let write = |stage: &Stage| {
            std::fs::remove_file(stage.path("bundle/config.json"))?;
            stage.run(flags)?.success()?;
            let mut spec: Value = serde_json::from_slice(&std::fs::read(stage.path("bundle/config.json"))?)?;
            // Of its name and version; 1.1 gave ambient capabilities, which 1.5 does no more.
            spec["hostname"] = Value::Null;
            spec["ociVersion"] = Value::Null;
            spec["process"]["capabilities"]["ambient"] = Value::Null;
            anyhow::Ok(spec)
        };
        let theirs = Stage::new(Runtime::Runc)?;
        let seen = write(&theirs);
        theirs.finish(Ok(()))?;
        let (runc, ours) = (seen?, write(stage)?);
        ensure!(runc == ours, "{flags:?}:\n{runc:#}\n{ours:#}");
    }
    Ok(())
}

fn events_have_every_key_of_runcs(stage: &Stage) -> Result<()> {
    if !version::runc().exists() {
        return Err(Skip("runc is not fetched: run tests/setup".to_owned()).into());
    }
    let keys = |stage: &Stage| {
        let id = &stage.id("c");
        // What is zero is left out by runc.
        stage.script("echo > /there; while :; do :; done")?;
        stage.detached(&["run", "-d", id])?.success()?;
        stage.until("it runs", || stage.directory.join("bundle/rootfs/there").exists())?;
        let event: Value = serde_json::from_str(&stage.run(&["events", "--stats", id])?.success()?.stdout)?;
        stage.run(&["delete", "--force", id])?.success()?;
        let mut keys = BTreeSet::new();
        collect(&event["data"], "", &mut keys);
        anyhow::Ok(keys)
    };
    let theirs = Stage::new(Runtime::Runc)?;
    let seen = keys(&theirs);
    theirs.finish(Ok(()))?;
    let (runc, ours) = (seen?, keys(stage)?);
    let missing: Vec<&String> = runc.difference(&ours).collect();
    ensure!(missing.is_empty() && runc.contains(".cpu.usage.total"), "{missing:?} of {runc:?}");
    Ok(())
}

/// The paths of all keys; of a list, those of its elements.
fn collect(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    keys.insert(path.to_owned());
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| collect(value, &format!("{path}.{key}"), keys)),
        Value::Array(array) => array.iter().for_each(|value| collect(value, path, keys)),
        _ => {}
    }
}
