//! How many system calls the whole of `berth run` takes, from its first execve to its last exit, the container's program
//! with it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use berth_tests::scene::Skip;

use super::Fact;
use super::stage::Stage;

pub fn facts() -> Vec<Fact> {
    crate::facts![whole_run_has_a_budget]
}

/// For a container with a procfs and nothing else, on cgroup v2.
const HELLO: usize = 365;
/// Each of the hierarchies of v1 takes so many more.
const V1: usize = 16;

fn whole_run_has_a_budget(stage: &Stage) -> Result<()> {
    stage.spec(|spec| {
        spec["process"]["args"] = serde_json::json!(["true"]);
        for field in ["maskedPaths", "readonlyPaths", "resources"] {
            spec["linux"][field] = serde_json::Value::Null;
        }
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] == "/proc");
        }
    })?;
    // The directory of the states is there, as on every host that has had a container.
    fs::create_dir_all(stage.directory.join("states"))?;
    let trace = stage.directory.join("trace");
    let run = stage.command(&["run", &stage.id("c")]);
    let mut strace = Command::new("strace");
    // In debug builds the standard library looks at every descriptor by fcntl(2) before it closes it.
    strace.args(["-f", "-c", "-U", "calls,name", "-e", "trace=!fcntl", "-o"]).arg(&trace).arg("--");
    strace.arg(run.get_program()).args(run.get_args()).current_dir(stage.directory.join("bundle"));
    let Ok(ended) = strace.stdin(Stdio::null()).status() else { return Err(Skip("strace is not there".into()).into()) };
    let counts = fs::read_to_string(&trace).context("read the counts")?;
    let total = counts.lines().find_map(|line| line.trim().strip_suffix("total")?.trim().parse::<usize>().ok());
    let total = total.with_context(|| counts.clone())?;
    let hierarchies = v1_hierarchies()?;
    let most = HELLO + V1 * hierarchies;
    eprintln!("{total} system calls, of {most} that there may be with {hierarchies} hierarchies of cgroup v1");
    ensure!(ended.success() && total > 100 && total <= most, "{counts}");
    Ok(())
}

fn v1_hierarchies() -> Result<usize> {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    Ok(if v2 { 0 } else { fs::read_dir("/sys/fs/cgroup")?.count() })
}
