//! kill -9 of the shim along the making and taking of a network: nothing is left of it.

use crate::Scenario;
use crate::network::{Stage, on_stage, script_plugin};
use anyhow::{Context, Result, anyhow, ensure};
use berth_tests::command::{DEADLINE, Outcome, poll};
use berth_tests::scene::strs;
use berth_tests::version::Version;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Alone:
        a_shim_killed_along_create_leaves_no_network,
        a_shim_killed_along_delete_leaves_no_network,
        what_nobody_cleaned_up_is_collected,
    ]
}

fn kill_shim(stage: &Stage<'_>, id: &str) -> bool {
    let pid = stage.scene.containerd.shim_pid(id).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// What a user does after a crash, and what must be left then.
fn recover(stage: &Stage<'_>, name: &str) -> Result<()> {
    let scene = stage.scene;
    scene.check_processes_gone()?;
    let _ = scene.ctr(&["task", "delete", "--force", &scene.id(name)])?;
    scene.ctr(&["container", "delete", &scene.id(name)])?.success_or("not found")?;
    let _ = scene.ctr(&["snapshot", "delete", &scene.id(name)])?;
    stage.nothing_left()
}

fn a_shim_killed_along_create_leaves_no_network(version: Version) -> Result<()> {
    on_stage(version, |stage| {
        // Slow at its end, so that moments of wiring are met.
        script_plugin(stage, "slow", "sleep .15")?;
        let chain = fs::read_to_string(stage.directory.join("net.d/10-net.conflist"))?;
        let mut chain: Value = serde_json::from_str(&chain)?;
        let plugins = chain["plugins"].as_array_mut().context("a list")?;
        plugins.push(json!({"type":"slow"}));
        stage.network("20-slow", plugins.clone().into())?;
        let mut met = 0;
        for moment in 0..14 {
            let name = format!("k{moment}");
            let mut flags = stage.flags("options", &["io.berth.network=slow", "io.berth.network.ports=18080:80"]);
            flags.push("-d".to_owned());
            let running = stage.scene.run_start(&strs(&flags), &name, &["sleep", "1000"])?;
            let id = stage.scene.id(&name);
            let bundle = stage.scene.containerd.bundle(&id);
            poll(Duration::from_secs(20), || bundle.join("network").symlink_metadata().ok());
            std::thread::sleep(Duration::from_millis(20 * moment));
            let killed = kill_shim(stage, &id);
            let outcome = running.wait(DEADLINE)?;
            met += u32::from(killed && outcome.code != 0);
            recover(stage, &name).with_context(|| format!("killed {} ms after the record", 20 * moment))?;
        }
        ensure!(met >= 4, "only {met} creates were met");
        Ok(())
    })
}

fn a_shim_killed_along_delete_leaves_no_network(version: Version) -> Result<()> {
    on_stage(version, |stage| {
        for moment in 0..8 {
            let name = format!("k{moment}");
            let id = stage.scene.id(&name);
            let mut flags = stage.flags("options", &["io.berth.network.ports=18080:80"]);
            flags.push("-d".to_owned());
            stage.run(&flags, &name, "exec sleep 1000")?.success()?;
            let deleting = stage.scene.containerd.ctr_start(&["task", "delete", "--force", &id])?;
            std::thread::sleep(Duration::from_millis(6 * moment));
            kill_shim(stage, &id);
            deleting.wait(DEADLINE)?;
            recover(stage, &name).with_context(|| format!("killed {} ms after the client began", 6 * moment))?;
        }
        Ok(())
    })
}

/// containerd is dead too and forgets: the record is all there is.
fn what_nobody_cleaned_up_is_collected(version: Version) -> Result<()> {
    on_stage(version, |stage| {
        let scene = stage.scene;
        let mut flags = stage.flags("options", &["io.berth.network.ports=18080:80"]);
        flags.push("-d".to_owned());
        stage.run(&flags, "pod", "exec sleep 1000")?.success()?;
        let (id, init) = (scene.id("pod"), scene.pid("pod")?);
        scene.containerd.kill()?;
        ensure!(kill_shim(stage, &id), "no shim");
        let state = |wanted: &str| {
            let listed = || stage.berth(&["net", "ls", "--json"]).ok().filter(|outcome| outcome.code == 0);
            let is =
                |outcome: Outcome| Some(serde_json::from_str::<Value>(&outcome.stdout).ok()?[0]["state"] == wanted);
            poll(Duration::from_secs(10), || listed().and_then(is).filter(|is| *is))
                .ok_or_else(|| anyhow!("not {wanted}"))
        };
        state("orphaned")?;
        let collected = stage.berth(&["net", "gc"])?.success()?;
        ensure!(collected.stdout.is_empty(), "processes live there: {collected}");
        kill_process(Pid::from_raw(init).context("no pid")?, Signal::KILL)?;
        state("gone")?;
        ensure!(stage.berth(&["net", "check"])?.failure()?.stdout.contains("it is gone"));
        let collected = stage.berth(&["net", "gc", "--json"])?.success()?;
        ensure!(serde_json::from_str::<Value>(&collected.stdout)? == json!([{"pod": stage.pod("pod")}]), "{collected}");
        stage.nothing_left()?;
        scene.containerd.launch()?;
        recover(stage, "pod")
    })
}
