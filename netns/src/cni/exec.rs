//! Running a plugin's binary: configuration on its standard input, a result or an error on its standard output.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;

use super::fault::{Code, Fault};
use crate::sys;

/// How often a binary that somebody is just writing is tried again, a second apart, as libcni does.
const BUSY: usize = 5;

/// How long output is read that a plugin left to others when it ended.
const ORPHANED_OUTPUT: Duration = Duration::from_secs(1);

/// The most that a plugin may print.
const MOST_OUTPUT: usize = 16 << 20;

/// The binary of a plugin: the first regular file of its name in these directories.
pub fn find(kind: &str, directories: &[PathBuf]) -> Result<PathBuf, Fault> {
    if kind.is_empty() || kind.contains('/') {
        return Err(Fault::new(Code::CONFIG, format!("invalid plugin name: {kind}")));
    }
    let candidates = directories.iter().map(|directory| directory.join(kind));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let searched: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
        Fault::new(Code::INTERNAL, format!("failed to find plugin {kind:?} in path [{}]", searched.join(" ")))
    })
}

/// The same, but for links to the program that this process is.
pub(crate) fn find_other(kind: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    let identity = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let own = identity(Path::new("/proc/self/exe"));
    let candidates = directories.iter().map(|directory| directory.join(kind));
    candidates.into_iter().find(|path| path.is_file() && identity(path) != own)
}

/// What a plugin that ended well printed on its standard output.
pub fn run(path: &Path, environment: &[(&str, OsString)], input: &[u8], deadline: Instant) -> Result<Vec<u8>, Fault> {
    let mut command = Command::new(path);
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    let printed = complete(command, "netplugin", input, deadline)?;
    answer(printed.status, printed.stdout, &printed.stderr)
}

/// How a program ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs a program to its end. One that is not done in time is killed, with all that it started in its process group.
pub(crate) fn complete(mut command: Command, who: &str, input: &[u8], deadline: Instant) -> Result<Printed, Fault> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    sys::die_with_thread(&mut command);
    let mut tries = 0;
    let mut child = loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY && Instant::now() < deadline =>
            {
                tries += 1;
                thread::sleep(Duration::from_secs(1).min(deadline.saturating_duration_since(Instant::now())));
            }
            child => {
                let path = Path::new(command.get_program()).display();
                break child.map_err(|error| Fault::io(format!("run {path}"), &error))?;
            }
        }
    };
    converse(&mut child, input, deadline).map_err(|errno| {
        end(&mut child);
        match errno {
            Errno::TIMEDOUT => Fault::new(Code::INTERNAL, format!("{who} did not end in time and was killed")),
            Errno::MSGSIZE => Fault::new(Code::INTERNAL, format!("{who} printed without end and was killed")),
            errno => Fault::errno(format!("talk to {who}"), errno),
        }
    })
}

/// Kills the program's process group and takes its status.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

fn nonblocking(fd: Option<impl Into<OwnedFd>>) -> Result<OwnedFd, Errno> {
    let fd = fd.ok_or(Errno::BADF)?.into();
    rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    Ok(fd)
}

/// Writes, reads and waits at once, so that no pipe that is full can hold either side.
fn converse(child: &mut Child, input: &[u8], deadline: Instant) -> Result<Printed, Errno> {
    let io = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut stdin = Some(nonblocking(child.stdin.take())?);
    let mut outputs = [Some(nonblocking(child.stdout.take())?), Some(nonblocking(child.stderr.take())?)];
    let mut texts = [Vec::new(), Vec::new()];
    let (mut rest, mut ended, mut deadline) = (input, false, deadline);
    while !ended || outputs.iter().any(Option::is_some) {
        let mut fds = Vec::with_capacity(4);
        fds.extend((!ended).then(|| PollFd::new(&pidfd, PollFlags::IN)));
        fds.extend(stdin.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(outputs.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).map_err(|_| Errno::INVAL)?;
        match poll(&mut fds, Some(&left)) {
            Ok(0) if ended => break,
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let exited = !ended && fds[0].revents().contains(PollFlags::IN);
        if let Some(fd) = &stdin
            && wrote(fd, &mut rest)
        {
            stdin = None;
        }
        for (output, text) in outputs.iter_mut().zip(&mut texts) {
            if let Some(fd) = output
                && read(fd, text)?
            {
                *output = None;
            }
        }
        if exited {
            (ended, stdin) = (true, None);
            deadline = deadline.min(Instant::now() + ORPHANED_OUTPUT);
        }
    }
    let [stdout, stderr] = texts;
    Ok(Printed { status: child.wait().map_err(io)?, stdout, stderr })
}

/// Writes what can be written; true when there is no more to write, or nobody to read it.
fn wrote(fd: &OwnedFd, rest: &mut &[u8]) -> bool {
    while !rest.is_empty() {
        match rustix::io::write(fd, rest) {
            Ok(count) => *rest = &rest[count..],
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => {}
            Err(_) => return true,
        }
    }
    true
}

/// Reads what is there; true at the end.
fn read(fd: &OwnedFd, text: &mut Vec<u8>) -> Result<bool, Errno> {
    let mut buffer = [0; 8192];
    loop {
        match rustix::io::read(fd.as_fd(), &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(_) if text.len() > MOST_OUTPUT => return Err(Errno::MSGSIZE),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn answer(status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Result<Vec<u8>, Fault> {
    if status.success() {
        return Ok(stdout);
    }
    if stdout.is_empty() {
        let message = match stderr {
            [] => format!("netplugin failed with no error message: {status}"),
            stderr => format!("netplugin failed: {:?}: {status}", String::from_utf8_lossy(stderr)),
        };
        return Err(Fault::new(Code::INTERNAL, message));
    }
    let fault = serde_json::from_slice::<Value>(&stdout).ok().as_ref().and_then(Fault::from_json);
    Err(fault.unwrap_or_else(|| {
        let printed: String = String::from_utf8_lossy(&stdout).chars().take(1000).collect();
        Fault::new(Code::INTERNAL, format!("netplugin failed but error parsing its diagnostic message {printed:?}"))
    }))
}
