//! Hooks that run in the runtime's own namespaces: prestart, createRuntime, poststart, poststop.
//!
//! Those that run in the container's are steps of its plan ([`crate::step::HookStep`]).

use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags};

use crate::children::{Child, Children};
use crate::errno::text;
use crate::plan::hooks::lists;
use crate::state::{Identity, Status};
use crate::step::HookKind;
use crate::sys::unblock_signals;

/// So much of what a failed hook said is told.
pub(crate) const SAID: usize = 1024;

/// A hook that did not succeed, in words that users of runc know.
#[derive(Debug, thiserror::Error)]
#[error("error running {hook}: {ending}{}", told(.said))]
pub struct Error {
    /// `createRuntime hook #1: /usr/bin/net`
    pub hook: String,
    /// What became of it.
    pub ending: Ending,
    /// The beginning of what it wrote.
    pub said: String,
}

/// What errors and plans call a hook: its list, its place there, its path.
pub(crate) fn name(kind: HookKind, index: usize, path: &str) -> String {
    format!("{} hook #{index}: {path}", kind.name())
}

/// How a hook ended that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It could not be executed.
    NotRun(Errno),
    /// With a status other than 0; 128 and more stands for a signal.
    Status(u32),
    /// It took too long, and was killed.
    TimedOut,
}

impl Display for Ending {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(errno) => f.write_str(&text(*errno)),
            Self::Status(status) => match status.checked_sub(128).and_then(signal) {
                Some(signal) => write!(f, "exit status {status} ({signal})"),
                None => write!(f, "exit status {status}"),
            },
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// What a status of 128 and more most likely says, in the words of signal(7) and Go.
fn signal(number: u32) -> Option<&'static str> {
    Some(match number.cast_signed() {
        libc::SIGABRT => "aborted",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGPIPE => "broken pipe",
        libc::SIGTERM => "terminated",
        libc::SIGSYS => "bad system call",
        _ => return None,
    })
}

fn told(said: &str) -> String {
    let said = said.trim();
    if said.is_empty() { String::new() } else { format!(", output: {said}") }
}

/// What hooks are run for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runner<'a> {
    pub(crate) container: Identity<'a>,
    pub(crate) children: &'a Children,
}

impl Runner<'_> {
    /// Runs the hooks of a kind in their order, up to the first that fails.
    pub(crate) fn run(&self, kind: HookKind, status: Status, pid: Option<Pid>) -> Result<(), Error> {
        self.each(kind, status, pid).collect()
    }

    /// Those between the mounts of a container and its pivot.
    pub(crate) fn create(&self, pid: Pid) -> Result<(), Error> {
        self.run(HookKind::Prestart, Status::Created, Some(pid))?;
        self.run(HookKind::CreateRuntime, Status::Created, Some(pid))
    }

    /// Runs every hook of a kind, whatever becomes of the others.
    pub(crate) fn run_all(&self, kind: HookKind, status: Status, pid: Option<Pid>) -> Vec<Error> {
        self.each(kind, status, pid).filter_map(Result::err).collect()
    }

    fn each(&self, kind: HookKind, status: Status, pid: Option<Pid>) -> impl Iterator<Item = Result<(), Error>> {
        let hooks = self.container.spec.hooks().as_ref().map(|hooks| of_kind(hooks, kind)).unwrap_or_default();
        let state = self.container.state(status, pid).json();
        hooks.iter().enumerate().map(move |(index, hook)| {
            let name = || name(kind, index, &hook.path().to_string_lossy());
            run(hook, &state, self.container.bundle, self.children).map_err(|(ending, said)| Error {
                hook: name(),
                ending,
                said,
            })
        })
    }
}

fn of_kind(hooks: &Hooks, kind: HookKind) -> &[Hook] {
    lists(hooks).into_iter().find(|(other, _)| *other == kind).map(|(_, list)| list).unwrap_or_default()
}

fn run(hook: &Hook, state: &str, bundle: &Path, children: &Children) -> Result<(), (Ending, String)> {
    let not_run = |errno| (Ending::NotRun(errno), String::new());
    let (said, output) = pipe_with(PipeFlags::CLOEXEC).map_err(not_run)?;
    // Who lives on after the hook shall not hold us.
    rustix::fs::fcntl_setfl(&said, OFlags::NONBLOCK).map_err(not_run)?;
    let failed = |error: io::Error| not_run(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let mut command = command(hook, state, bundle, output).map_err(failed)?;
    let child = start(&mut command, children).map_err(failed)?;
    drop(command);
    let mut said = Said { pipe: said.into(), text: Vec::new() };
    let in_time = wait(&child, &mut said, hook.timeout());
    if !in_time {
        child.kill();
    }
    let exit = child.wait(children).map_err(not_run)?;
    said.read();
    let ending = match exit.status {
        _ if !in_time => Ending::TimedOut,
        0 => return Ok(()),
        status => Ending::Status(status),
    };
    Err((ending, String::from_utf8_lossy(&said.text).into_owned()))
}

fn command(hook: &Hook, state: &str, bundle: &Path, output: OwnedFd) -> io::Result<Command> {
    // Not a pipe: a hook that does not read it shall not stop us.
    let stdin = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    stdin.write_all_at(state.as_bytes(), 0)?;
    let mut command = Command::new(hook.path());
    command.current_dir(bundle).stdin(stdin).stdout(output.try_clone()?).stderr(output);
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    // As with runc, a hook that says nothing of an environment has ours.
    if let Some(env) = hook.env() {
        command.env_clear();
        command.envs(env.iter().filter_map(|entry| entry.split_once('=')));
    }
    unblock_signals(&mut command);
    Ok(command)
}

/// Its status is ours to take, by a pidfd.
fn start(command: &mut Command, children: &Children) -> io::Result<Child> {
    let mut child = children.command(command)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Child { pid, pidfd, console: None, warnings: Vec::new() }),
        Err(errno) => {
            child.kill()?;
            child.wait()?;
            children.forget(pid);
            Err(errno.into())
        }
    }
}

/// The beginning of what a hook writes; the rest is read and forgotten.
struct Said {
    pipe: File,
    text: Vec<u8>,
}

impl Said {
    fn read(&mut self) {
        let mut buffer = [0; SAID];
        while let Ok(read @ 1..) = self.pipe.read(&mut buffer) {
            let room = SAID - self.text.len();
            self.text.extend_from_slice(&buffer[..read.min(room)]);
        }
    }
}

/// Whether it ended in time.
fn wait(child: &Child, said: &mut Said, seconds: Option<i64>) -> bool {
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let mut closed = false;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [
            PollFd::new(&child.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(said.pipe.as_fd(), if closed { PollFlags::empty() } else { PollFlags::IN }),
        ];
        // A closed pipe is ready for ever.
        let fds = if closed { &mut fds[..1] } else { &mut fds[..] };
        match poll(fds, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            Err(_) | Ok(0) => return false,
            Ok(_) if !fds[0].revents().is_empty() => return true,
            Ok(_) => closed = fds[1].revents().contains(PollFlags::HUP),
        }
        said.read();
    }
}
