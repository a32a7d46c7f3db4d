//! Standard input, output and error of a process that a command makes, and the descriptors it gets beside them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_core::container::Stdio;
use rustix::pipe::{PipeFlags, pipe_with};

use super::flags::Given;
use super::{Error, sys};

/// What stays with a command that stays with its process.
#[derive(Debug)]
pub enum Ours {
    /// Nothing: it has our own, or its master comes later.
    Nothing,
    /// What is to be written to its input, and read from its output and error.
    Pipes([OwnedFd; 3]),
}

/// The stdio of a process. One that is left alone has ours; one that is stayed with has pipes, because what it gets becomes
/// its user's, and what we were given shall not.
pub fn open(terminal: bool, detach: bool) -> Result<(Stdio, Ours), Error> {
    if terminal {
        return Ok((Stdio::Terminal, Ours::Nothing));
    }
    if detach {
        let own = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(Error::system("duplicate stdio"));
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        return Ok((Stdio::Files([own(stdin.as_fd())?, own(stdout.as_fd())?, own(stderr.as_fd())?]), Ours::Nothing));
    }
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(Error::system("make a pipe"));
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    Ok((Stdio::Files([stdin, stdout, stderr]), Ours::Pipes([to_stdin, from_stdout, from_stderr])))
}

/// How many descriptors from 3 on the program gets: those of socket activation, then as many as `--preserve-fds` says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preserved {
    /// In all.
    pub count: u32,
    /// `$LISTEN_FDS`. sd_listen_fds(3)
    pub listen: u32,
}

impl Preserved {
    /// What the flags and, for a container's first process, the environment say.
    pub fn of(given: &Given, activation: bool) -> Result<Self, Error> {
        let asked: u32 = given.number("preserve-fds")?.unwrap_or(0);
        let listen = if activation { listen_fds() } else { 0 };
        let count = asked.checked_add(listen).filter(|count| *count < 1 << 20);
        let count = count.ok_or_else(|| Error::Usage("too many descriptors to preserve".to_owned()))?;
        for index in 0..count {
            let open = i32::try_from(3 + index).ok().and_then(sys::inherited);
            if open.is_none() {
                return Err(Error::State(format!(
                    "unable to stat preserved-fd {index} (of {count}): no such file or directory"
                )));
            }
        }
        Ok(Self { count, listen })
    }
}

/// They are for whoever has the pid that the environment names.
fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let ours = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id());
    if ours { number("LISTEN_FDS").unwrap_or(0) } else { 0 }
}
