//! Containers of an ordinary user.

use anyhow::{Result, ensure};
use berth_tests::command::{self, DEADLINE, Outcome};
use berth_tests::scene::Skip;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::{fs, path::Path};

use super::Fact;
use super::stage::{Stage, refused};

/// Nobody's.
const USER: u32 = 61_234;

pub fn facts() -> Vec<Fact> {
    crate::facts![a_user_runs_enters_kills_and_deletes, a_user_needs_a_user_namespace, limits_are_not_lost_silently]
}

/// The command as the user, with the states in a directory of the user's.
fn user(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(stage.path("berth"));
    command.args(arguments).current_dir(stage.directory.join("bundle"));
    command.env("XDG_RUNTIME_DIR", stage.path("runtime")).uid(USER).gid(USER);
    command.stdin(Stdio::null());
    command
}

fn run(stage: &Stage, arguments: &[&str]) -> Result<Outcome> {
    command::run(&mut user(stage, arguments), DEADLINE)
}

fn detached(stage: &Stage, arguments: &[&str]) -> Result<Outcome> {
    let output = fs::File::create(stage.path("output"))?;
    let mut child = user(stage, arguments).stdout(output.try_clone()?).stderr(output).spawn()?;
    let code = command::wait_for(&mut child, DEADLINE)?.map_or(-1, command::code);
    Ok(Outcome { code, stdout: String::new(), stderr: fs::read_to_string(stage.path("output"))? })
}

/// Everything is the user's, who may have user namespaces, and reach the binary.
fn give(stage: &Stage) -> Result<()> {
    let namespaces = fs::read_to_string("/proc/sys/user/max_user_namespaces")?;
    if namespaces.trim() == "0" {
        return Err(Skip("no user namespaces on this host".to_owned()).into());
    }
    fs::remove_file(stage.path("bundle/config.json"))?;
    // The build may be in a directory of root's own.
    let berth = stage.path("berth");
    let binary = fs::canonicalize(&berth)?;
    fs::remove_file(&berth)?;
    fs::copy(binary, &berth)?;
    fs::create_dir(stage.path("runtime"))?;
    give_tree(&stage.directory)?;
    Ok(fs::set_permissions(&stage.directory, fs::Permissions::from_mode(0o755))?)
}

fn give_tree(path: &Path) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give_tree(&entry?.path())?;
        }
    }
    Ok(())
}

fn spec(stage: &Stage, script: &str) -> Result<()> {
    let config = stage.path("bundle/config.json");
    let _ = fs::remove_file(&config);
    run(stage, &["spec", "--rootless"])?.success()?;
    stage.spec(|spec| {
        spec["root"]["readonly"] = false.into();
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = serde_json::json!(["sh", "-c", script]);
        spec["process"]["env"] = serde_json::json!(["PATH=/bin"]);
    })?;
    Ok(chown(config, Some(USER), Some(USER))?)
}

fn a_user_runs_enters_kills_and_deletes(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    give(stage)?;
    spec(stage, "id -u; cat /proc/self/uid_map; touch /made; exit 5")?;
    let outcome = run(stage, &["run", id])?;
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    ensure!(outcome.code == 5 && words == ["0", "0", &USER.to_string(), "1"], "{outcome}");
    use std::os::unix::fs::MetadataExt;
    ensure!(fs::metadata(stage.path("bundle/rootfs/made"))?.uid() == USER);

    spec(stage, "sleep 1000")?;
    detached(stage, &["create", id])?.success()?;
    ensure!(run(stage, &["state", id])?.success()?.stdout.contains("\"created\""));
    run(stage, &["start", id])?.success()?;
    let outcome = run(stage, &["exec", id, "sh", "-c", "id -u; readlink /proc/self/ns/user; exit 4"])?;
    let own = fs::read_link("/proc/self/ns/user")?;
    ensure!(outcome.code == 4 && outcome.stdout.starts_with("0\n"), "{outcome}");
    ensure!(!outcome.stdout.contains(&*own.to_string_lossy()), "{outcome}");
    ensure!(run(stage, &["list", "-q"])?.success()?.stdout == format!("{id}\n"));
    let state: serde_json::Value = serde_json::from_str(&run(stage, &["state", id])?.stdout)?;
    let pids: Vec<i64> = serde_json::from_str(&run(stage, &["ps", "-f", "json", id])?.success()?.stdout)?;
    ensure!(state["pid"].as_i64().is_some_and(|pid| pids.contains(&pid)), "{state} {pids:?}");
    refused(run(stage, &["delete", id])?, 1, "that is not stopped")?;
    run(stage, &["kill", id, "KILL"])?.success()?;
    stage
        .until("it has ended", || run(stage, &["state", id]).is_ok_and(|state| state.stdout.contains("\"stopped\"")))?;
    run(stage, &["delete", id])?.success()?;
    detached(stage, &["run", "-d", id])?.success()?;
    run(stage, &["delete", "--force", id])?.success()?;
    refused(run(stage, &["state", id])?, 1, "container does not exist")
}

fn a_user_needs_a_user_namespace(stage: &Stage) -> Result<()> {
    give(stage)?;
    run(stage, &["spec"])?.success()?;
    stage.spec(|spec| spec["process"]["terminal"] = false.into())?;
    refused(run(stage, &["run", &stage.id("c")])?, 1, "rootless container requires user namespaces")
}

fn limits_are_not_lost_silently(stage: &Stage) -> Result<()> {
    give(stage)?;
    spec(stage, "exit 0")?;
    stage.spec(|spec| spec["linux"]["resources"] = serde_json::json!({ "pids": { "limit": 10 } }))?;
    refused(run(stage, &["run", &stage.id("c")])?, 1, "permission denied")
}
