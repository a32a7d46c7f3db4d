//! One scenario with one runtime on one daemon. What it sees is written down; the suite runs the same scenario with
//! runc and with Berth and compares the two records.

use crate::command::{DEADLINE, Outcome, Running};
use crate::containerd::{Containerd, IMAGE, unique_name};
use crate::leftovers::Leftovers;
use crate::terminal::Terminal;
use crate::version::Version;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whose containers a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The containerd's own Go shim with Debian's runc.
    Runc,
    /// Ours; `$BERTH_RUNTIME` names another, for work on the scenarios themselves.
    Berth,
}

impl Runtime {
    /// What `ctr run --runtime` takes.
    pub fn name(self) -> String {
        match self {
            Runtime::Runc => "io.containerd.runc.v2".into(),
            Runtime::Berth => std::env::var("BERTH_RUNTIME").unwrap_or("io.containerd.berth.v2".into()),
        }
    }
}

/// An error that says that the scenario cannot be run here, and why.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// How long what a scenario made may take to go away after its last command: a shim's exit is not waited for by ctr.
const GONE: Duration = Duration::from_secs(15);

/// A scenario's view of its daemon.
pub struct Scene<'a> {
    /// The daemon; other scenes use it at the same time, unless the scenario started its own.
    pub containerd: &'a Containerd,
    /// Whose containers these are.
    pub runtime: Runtime,
    tag: String,
    ids: RefCell<Vec<String>>,
    seen: RefCell<Vec<(String, String)>>,
    fifos_stay: Cell<bool>,
}

impl<'a> Scene<'a> {
    /// A scene with nothing in it.
    pub fn new(containerd: &'a Containerd, runtime: Runtime) -> Scene<'a> {
        Scene {
            containerd,
            runtime,
            tag: unique_name(),
            ids: RefCell::default(),
            seen: RefCell::default(),
            fifos_stay: Cell::new(false),
        }
    }

    /// The name that all of this scene's ids and files hold, and nothing else does.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Which containerd it is.
    pub fn version(&self) -> Version {
        self.containerd.version()
    }

    /// A container id of this scene, from a name.
    pub fn id(&self, name: &str) -> String {
        let id = format!("{}-{name}", self.tag);
        let mut ids = self.ids.borrow_mut();
        if !ids.contains(&id) {
            ids.push(id.clone());
        }
        id
    }

    /// A directory of this scene's own, on the host.
    pub fn scratch(&self) -> Result<PathBuf> {
        let directory = self.containerd.directory().join("tmp").join(&self.tag);
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// The arguments of `ctr run` with this scene's runtime and the image.
    pub fn run_arguments(&self, flags: &[&str], name: &str, argv: &[&str]) -> Vec<String> {
        let runtime = self.runtime.name();
        let mut arguments = vec!["run".to_owned(), "--runtime".into(), runtime];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        arguments.extend([IMAGE.to_owned(), self.id(name)]);
        arguments.extend(argv.iter().map(|argument| (*argument).to_owned()));
        arguments
    }

    /// `ctr run FLAGS image ID ARGV`, to its end.
    pub fn run(&self, flags: &[&str], name: &str, argv: &[&str]) -> Result<Outcome> {
        self.ctr(&strs(&self.run_arguments(flags, name, argv)))
    }

    /// `ctr run --rm FLAGS image ID sh -c SCRIPT`, to its end.
    pub fn sh(&self, flags: &[&str], name: &str, script: &str) -> Result<Outcome> {
        let flags: Vec<&str> = ["--rm"].iter().chain(flags).copied().collect();
        self.run(&flags, name, &["sh", "-c", script])
    }

    /// The same, started and not waited for.
    pub fn run_start(&self, flags: &[&str], name: &str, argv: &[&str]) -> Result<Running> {
        self.containerd.ctr_start(&strs(&self.run_arguments(flags, name, argv)))
    }

    /// The same on a terminal; the flags must hold `-t`.
    pub fn run_on_terminal(&self, flags: &[&str], name: &str, argv: &[&str]) -> Result<Terminal> {
        Terminal::start(&mut self.containerd.ctr_command(&strs(&self.run_arguments(flags, name, argv))))
    }

    /// The image's files in a directory of this scene's own.
    pub fn rootfs(&self) -> Result<PathBuf> {
        let directory = self.scratch()?.join("rootfs");
        if !directory.exists() {
            crate::image::unpack(&directory)?;
        }
        Ok(directory)
    }

    /// `ctr run FLAGS --config` with the daemon's default spec as `change` has changed it. Its root is
    /// [`Scene::rootfs`], its cgroup the one that `ctr run` would choose.
    pub fn run_spec(
        &self,
        flags: &[&str],
        name: &str,
        argv: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Outcome> {
        let file = self.spec(name, argv, change)?;
        let (runtime, file, id) = (self.runtime.name(), file.to_string_lossy().into_owned(), self.id(name));
        let mut arguments = vec!["run", "--runtime", &runtime];
        arguments.extend(flags);
        arguments.extend(["--config", &file, &id]);
        self.ctr(&arguments)
    }

    /// Writes such a spec to a file.
    pub fn spec(&self, name: &str, argv: &[&str], change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
        let mut spec: Value = serde_json::from_str(&self.ctr(&["oci", "spec"])?.success()?.stdout)?;
        spec["root"] = json!({ "path": self.rootfs()? });
        spec["process"]["args"] = json!(argv);
        spec["process"]["env"] = json!(["PATH=/bin"]);
        spec["linux"]["cgroupsPath"] = format!("/{}/{}", self.containerd.namespace(), self.id(name)).into();
        change(&mut spec);
        let file = self.scratch()?.join(format!("{name}.json"));
        fs::write(&file, spec.to_string())?;
        Ok(file)
    }

    /// A detached container that sleeps until TERM (exit code 15), RTMIN+3 (37) or USR1 (10) ends it.
    pub fn sleeper(&self, flags: &[&str], name: &str) -> Result<String> {
        let file = self.scratch()?.join(format!("{name}.pid"));
        let flags: Vec<&str> =
            ["-d", "--pid-file", file.to_str().unwrap_or_default()].iter().chain(flags).copied().collect();
        self.run(&flags, name, &["sh", "-c", SLEEP])?.success()?;
        until_it_traps(fs::read_to_string(&file)?.trim().parse()?)?;
        Ok(self.id(name))
    }

    /// Kills a task, deletes it, and deletes its container.
    pub fn discard(&self, name: &str) -> Result<()> {
        let id = self.id(name);
        self.ctr(&["task", "delete", "--force", &id])
            .with_context(|| format!("delete task {name}"))?
            .success_or("not found")?;
        self.ctr(&["container", "delete", &id])?.success_or("not found")?;
        Ok(())
    }

    /// `ctr` with these arguments.
    pub fn ctr(&self, args: &[&str]) -> Result<Outcome> {
        self.containerd.ctr_within(DEADLINE, args)
    }

    /// Waits until a task has this status (`RUNNING`, `STOPPED`, …).
    pub fn wait_for_status(&self, name: &str, status: &str) -> Result<()> {
        let mut last = String::new();
        crate::command::poll(Duration::from_secs(20), || {
            last = self.status(name).unwrap_or_else(|error| format!("{error:#}"));
            (last == status).then_some(())
        })
        .with_context(|| format!("task {name} did not become {status}, it is {last}"))
    }

    /// A task's status as `ctr task ls` says it; empty if there is no such task.
    pub fn status(&self, name: &str) -> Result<String> {
        Ok(self.task_row(name)?.map(|row| row.1).unwrap_or_default())
    }

    /// The process id of a task's init.
    pub fn pid(&self, name: &str) -> Result<i32> {
        Ok(self.task_row(name)?.with_context(|| format!("task {name} is not listed"))?.0)
    }

    fn task_row(&self, name: &str) -> Result<Option<(i32, String)>> {
        let listed = self.ctr(&["task", "ls"])?.success()?.stdout;
        let id = self.id(name);
        let row = listed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.first() == Some(&id.as_str()));
        let Some(row) = row else { return Ok(None) };
        match row[..] {
            [_, pid, status] => Ok(Some((pid.parse()?, status.to_owned()))),
            _ => bail!("ctr task ls printed {row:?}"),
        }
    }

    /// Writes down what was seen, with the names of this scene taken out of it.
    pub fn see(&self, what: &str, seen: impl fmt::Display) {
        self.seen.borrow_mut().push((what.to_owned(), self.without_names(&seen.to_string())));
    }

    /// Writes down all that a command did.
    pub fn see_outcome(&self, what: &str, outcome: &Outcome) {
        self.see(what, outcome);
    }

    /// A text without the names that differ from scene to scene.
    pub fn without_names(&self, text: &str) -> String {
        without_times(text)
            .replace(&self.tag, "SCENE")
            .replace(&*self.containerd.directory().to_string_lossy(), "DIRECTORY")
            .replace(self.containerd.namespace(), "NAMESPACE")
            .replace(&self.runtime.name(), "RUNTIME")
    }

    /// What was written down.
    pub fn record(&self) -> Vec<(String, String)> {
        self.seen.borrow().clone()
    }

    /// Deletes all of this scene's tasks and containers, whatever there is of them.
    pub fn clear(&self) {
        for id in self.ids.borrow().iter() {
            let _ = self.containerd.ctr_within(Duration::from_secs(20), &["task", "delete", "--force", id]);
            let _ = self.containerd.ctr_within(Duration::from_secs(20), &["container", "delete", id]);
        }
    }

    /// Says that clients will not get to delete their tasks in peace, as where shims are killed. ctr's own fifos then
    /// stay behind with any shim, and are no leftovers.
    pub fn leave_fifos_to_clients(&self) {
        self.fifos_stay.set(true);
    }

    /// What still bears this scene's name.
    pub fn leftovers(&self) -> Leftovers {
        let mut left = self.containerd.leftovers(&[&self.tag], &self.ids.borrow());
        if self.fifos_stay.get() {
            left.files.retain(|file| !file.starts_with("/run/containerd/fifo"));
        }
        left
    }

    /// Fails if something that bears the scene's name does not go away.
    pub fn check_nothing_left(&self) -> Result<()> {
        let left = Leftovers::wait_until_empty(GONE, || self.leftovers());
        if !left.is_empty() {
            bail!("left behind:\n{left}");
        }
        Ok(())
    }

    /// Fails if a process, mount or cgroup of the scene's does not go away; files may stay.
    pub fn check_processes_gone(&self) -> Result<()> {
        let left = Leftovers::wait_until_empty(GONE, || Leftovers { files: Vec::new(), ..self.leftovers() });
        if !left.is_empty() {
            bail!("left behind:\n{left}");
        }
        for id in self.ids.borrow().iter() {
            let _ = fs::remove_file(self.containerd.shim_socket(id));
        }
        Ok(())
    }

    /// Ends the scene: its containers are deleted whatever happened, and nothing may be left by a scenario that
    /// succeeded.
    pub fn finish(self, outcome: Result<()>) -> Result<Vec<(String, String)>> {
        let _ = fs::remove_dir_all(self.containerd.directory().join("tmp").join(&self.tag));
        let outcome = outcome.and_then(|()| self.check_nothing_left());
        self.fifos_stay.set(false);
        if outcome.is_err() {
            self.clear();
        }
        self.leftovers().remove();
        match outcome {
            Err(error) if error.is::<Skip>() => Err(error),
            Err(error) => {
                let log = self.containerd.log(&self.tag);
                Err(anyhow!("with {:?}: {error:#}\nThe daemon's log on it:\n{log}", self.runtime))
            }
            Ok(()) => Ok(self.record()),
        }
    }
}

impl Outcome {
    /// Success, or a failure that says this.
    pub fn success_or(self, text: &str) -> Result<Outcome> {
        if self.code != 0 && !self.stderr.contains(text) { self.success() } else { Ok(self) }
    }
}

/// A text without the time stamps of ctr's own log.
fn without_times(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("time=\"").and_then(|rest| rest.split_once('"')) {
        Some((_, rest)) => format!("time{rest}"),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A script that sleeps until TERM (exit code 15), RTMIN+3 (37) or USR1 (10) ends it.
pub const SLEEP: &str =
    "trap 'exit 15' TERM; trap 'exit 37' 37; trap 'exit 10' USR1; while :; do sleep 1000 & wait $!; done";

/// Waits until [`SLEEP`] has set its traps: before, init ignores the signals.
pub fn until_it_traps(pid: u32) -> Result<()> {
    let traps = || {
        // An init of runc's is a Go program before it is the container's, and that catches every signal.
        fs::read_link(format!("/proc/{pid}/exe")).ok().filter(|exe| exe.ends_with("busybox"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        // USR1, which is set last.
        (caught & (1 << 9) != 0).then_some(())
    };
    crate::command::poll(DEADLINE, traps).with_context(|| format!("{pid} never set its traps"))
}

/// Held by what makes ctr shift the image's ids: it names the shifted snapshot after the image alone and fails if
/// another ctr is at it.
pub fn shifting_ids() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Borrowed arguments.
pub fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}
