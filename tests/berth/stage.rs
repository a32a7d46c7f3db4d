//! A bundle, a root for states, and the command, all below a directory whose name nothing else bears.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_tests::command::{self, DEADLINE, Outcome, poll};
use berth_tests::containerd::unique_name;
use berth_tests::leftovers::Leftovers;
use berth_tests::{image, version};
use serde_json::Value;

/// Whose command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Berth,
    Runc,
}

/// Where a trial plays.
pub struct Stage {
    /// Below it is everything.
    pub directory: PathBuf,
    name: String,
    program: PathBuf,
}

impl Stage {
    /// A bundle whose program sleeps.
    pub fn new(runtime: Runtime) -> Result<Stage> {
        let name = unique_name();
        let directory = std::env::temp_dir().join(&name);
        fs::create_dir_all(directory.join("bundle/rootfs"))?;
        image::unpack(&directory.join("bundle/rootfs"))?;
        let program = match runtime {
            Runtime::Runc => version::runc(),
            Runtime::Berth => {
                let link = directory.join("berth");
                std::os::unix::fs::symlink(version::shim()?.canonicalize()?, &link)?;
                link
            }
        };
        let stage = Stage { directory, name, program };
        stage.run(&["spec", "--bundle", &stage.path("bundle")])?.success()?;
        let id = stage.id("x");
        stage.spec(|spec| {
            spec["process"]["terminal"] = false.into();
            spec["process"]["args"] = serde_json::json!(["sleep", "1000"]);
            spec["process"]["env"] = serde_json::json!(["PATH=/bin"]);
            spec["root"]["readonly"] = false.into();
            spec["linux"]["cgroupsPath"] = format!("/{id}").into();
        })?;
        Ok(stage)
    }

    /// The id of a container.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// A path below the directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Changes config.json.
    pub fn spec(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.directory.join("bundle/config.json");
        let mut spec = serde_json::from_slice(&fs::read(&path)?)?;
        change(&mut spec);
        Ok(fs::write(&path, spec.to_string())?)
    }

    /// A program for the container, by a shell.
    pub fn script(&self, script: &str) -> Result<()> {
        self.spec(|spec| spec["process"]["args"] = serde_json::json!(["sh", "-c", script]))
    }

    /// The command with its root.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.directory.join("states")).args(arguments);
        command.current_dir(self.directory.join("bundle")).env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        command::run(&mut self.command(arguments), DEADLINE)
    }

    /// Runs it with nothing of ours as its output: what a container inherits would keep our pipes open.
    pub fn detached(&self, arguments: &[&str]) -> Result<Outcome> {
        let output = self.directory.join("output");
        let file = fs::File::create(&output)?;
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        let status = command::wait_for(&mut child, DEADLINE)?;
        let code = status.map(command::code).with_context(|| format!("{arguments:?} did not end"))?;
        Ok(Outcome { code, stdout: String::new(), stderr: fs::read_to_string(&output)? })
    }

    /// What `state` says.
    pub fn state(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&["state", id])?.success()?.stdout)?)
    }

    /// Waits for a status.
    pub fn expect(&self, id: &str, status: &str) -> Result<()> {
        let seen = || self.state(id).ok().filter(|state| state["status"] == status).map(drop);
        poll(Duration::from_secs(20), seen).with_context(|| format!("{id} is not {status}: {:?}", self.state(id)))
    }

    /// A fact that has to come true.
    pub fn until(&self, what: &str, check: impl Fn() -> bool) -> Result<()> {
        poll(Duration::from_secs(20), || check().then_some(())).with_context(|| what.to_owned())
    }

    /// Deletes what the trial left to us, and looks for what nobody may leave.
    pub fn finish(&self, outcome: Result<()>) -> Result<()> {
        for state in fs::read_dir(self.directory.join("states")).into_iter().flatten().flatten() {
            let id = state.file_name().to_string_lossy().into_owned();
            self.run(&["delete", "--force", &id])?.success()?;
        }
        let states = fs::read_dir(self.directory.join("states")).map_or(0, Iterator::count);
        fs::remove_dir_all(&self.directory)?;
        let find = || Leftovers::find(&[&self.name], &[], Path::new("/nonexistent"));
        let left = Leftovers::wait_until_empty(Duration::from_secs(10), find);
        left.remove();
        outcome?;
        if !left.is_empty() || states > 0 {
            bail!("{states} states and this was left:\n{left}");
        }
        Ok(())
    }
}

/// A command that has to fail with this text, and with this code.
pub fn refused(outcome: Outcome, code: i32, text: &str) -> Result<()> {
    if outcome.code == code && outcome.stderr.contains(text) {
        return Ok(());
    }
    bail!("expected code {code} and {text:?}, got {outcome}")
}
