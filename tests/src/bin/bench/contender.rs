//! Who is compared.

use anyhow::{Context, Result, bail};
use berth_tests::command::{self, DEADLINE};
use berth_tests::containerd::{Containerd, IMAGE};
use berth_tests::scene::Runtime;
use berth_tests::version;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A runtime, as `ctr run` is asked for it.
pub struct Contender {
    /// How tables name it.
    pub name: &'static str,
    runtime: String,
    /// The OCI runtime that containerd's own shim runs.
    binary: Option<PathBuf>,
    /// The program is a copy that takes specs of a later version than the original does.
    altered: bool,
}

fn crun() -> PathBuf {
    version::cache().join("tools/usr/bin/crun")
}

/// What the daemon, and so its shims, need in their environment: crun's libraries lie beside it.
pub fn environment() -> Vec<(String, String)> {
    let library = version::cache().join("tools/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    vec![("LD_LIBRARY_PATH".into(), library.to_string_lossy().into_owned())]
}

impl Contender {
    /// All who may take part, Berth first.
    pub fn all() -> Vec<Contender> {
        let go = |name, binary| Contender { name, runtime: Runtime::Runc.name(), binary: Some(binary), altered: false };
        vec![
            Contender { name: "Berth", runtime: Runtime::Berth.name(), binary: None, altered: false },
            go("runc", version::runc()),
            go("crun", crun()),
        ]
    }

    /// Whether this is Berth.
    pub fn is_ours(&self) -> bool {
        self.binary.is_none()
    }

    /// The OCI runtime's program, where that is not the shim itself.
    pub fn binary(&self) -> Option<&Path> {
        self.binary.as_deref()
    }

    /// The version of its program, for the head of the table.
    pub fn version(&self) -> Option<String> {
        let mut command = Command::new(self.binary.as_ref()?);
        let answer = command::run(command.arg("--version").envs(environment()), DEADLINE).ok()?;
        let version = answer.stdout.lines().next()?.to_owned();
        Some(if self.altered { format!("{version} (its check of ociVersion relaxed)") } else { version })
    }

    /// Runs one container with it; says aloud why it is left out if that fails.
    pub fn is_usable(&mut self, containerd: &Containerd) -> bool {
        let mut probed = self.probe(containerd);
        if probed.as_ref().is_err_and(|error| format!("{error:#}").contains("unknown version specified")) {
            probed = self.accept_later_specs(containerd).and_then(|()| self.probe(containerd));
        }
        if let Err(error) = &probed {
            eprintln!("{} is left out: {error:#}", self.name);
        }
        probed.is_ok()
    }

    fn probe(&self, containerd: &Containerd) -> Result<()> {
        // No id is used by two contenders: a shim that is about to end answers for the next one of the same id.
        let id = format!("probe-{}", self.name);
        let tried = command::run(&mut self.run(containerd, &id, &["true"]), DEADLINE);
        let succeeded = tried.and_then(command::Outcome::success);
        if succeeded.is_err() {
            let _ = containerd.ctr(&["container", "rm", &id]);
        }
        succeeded.map(drop)
    }

    /// Debian's crun takes only specs that call themselves 1.0, or hold that text, as 1.1.0 does; containerd 2 writes
    /// 1.2. Nothing else keeps it from running them: a copy that looks for `1.` instead runs at the same speed.
    fn accept_later_specs(&mut self, containerd: &Containerd) -> Result<()> {
        let original = self.binary.as_ref().context("Berth has no program of its own")?;
        let mut program = fs::read(original)?;
        let places: Vec<usize> =
            program.windows(5).enumerate().filter(|(_, bytes)| bytes == b"\x001.0\0").map(|(at, _)| at).collect();
        let [place] = places[..] else { bail!("{} has {} places for 1.0", original.display(), places.len()) };
        program[place + 3] = 0;
        let copy = containerd.directory().join("bin").join(self.name);
        fs::write(&copy, program)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        self.binary = Some(copy);
        self.altered = true;
        Ok(())
    }

    /// `ctr run --rm`.
    pub fn run(&self, containerd: &Containerd, id: &str, command: &[&str]) -> Command {
        self.ctr_run(containerd, "--rm", id, command)
    }

    /// `ctr run --detach`.
    pub fn start(&self, containerd: &Containerd, id: &str) -> Result<()> {
        let mut command = self.ctr_run(containerd, "--detach", id, &["sleep", "100000"]);
        command::run(&mut command, DEADLINE)?.success().with_context(|| format!("start {id} with {}", self.name))?;
        Ok(())
    }

    /// The id of the container that execs run in.
    pub fn host(&self) -> String {
        format!("host-{}", self.name)
    }

    /// `ctr task exec` of `true` in that container.
    pub fn exec(&self, containerd: &Containerd, id: &str) -> Command {
        containerd.ctr_command(&["task", "exec", "--exec-id", id, &self.host(), "true"])
    }

    fn ctr_run(&self, containerd: &Containerd, how: &str, id: &str, command: &[&str]) -> Command {
        let mut ctr = containerd.ctr_command(&["run", how, "--runtime", &self.runtime]);
        if let Some(binary) = &self.binary {
            ctr.arg("--runc-binary").arg(binary);
        }
        ctr.args([IMAGE, id]).args(command);
        ctr
    }
}

/// Ends and removes a container that was started detached.
pub fn remove(containerd: &Containerd, id: &str) -> Result<()> {
    containerd.ctr(&["task", "rm", "--force", id])?;
    containerd.ctr(&["container", "rm", id])?.success()?;
    Ok(())
}

/// How long a command takes, from before its fork to after its end, in milliseconds. It must succeed.
pub fn timed(command: &mut Command) -> Result<f64> {
    Ok(timed_answer(command, Stdio::null())?.0)
}

/// The same, and what went to a piped stdout.
pub fn timed_answer(command: &mut Command, stdout: Stdio) -> Result<(f64, String)> {
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let pid = Pid::from_raw(child.id() as i32).context("read the client's pid")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let patience = Timespec::try_from(DEADLINE)?;
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience))?;
    let elapsed = begin.elapsed();
    if ended == 0 {
        let _ = child.kill();
        let _ = child.wait();
        bail!("{command:?} still ran after {DEADLINE:?}");
    }
    // What it says fits into the pipe, so it did not wait for a reader.
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok((elapsed.as_secs_f64() * 1000.0, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// What a spaced series waits before each command: long enough for all that a deletion leaves to the background.
pub const SPACE: Duration = Duration::from_millis(200);
