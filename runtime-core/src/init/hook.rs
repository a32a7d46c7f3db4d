//! Hooks that run in the container's namespaces: a process of the child's own, with the child's rights.

use std::ffi::c_char;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::time::{ClockId, clock_gettime};

use super::{Init, dev};
use crate::channel::report_hook_failed;
use crate::hooks::{Ending, SAID};
use crate::plan::InitPlan;
use crate::step::{HookKind, HookStep, Step};
use crate::sys::{self, Cloned};

/// `{"pid":` and the most digits that a pid has.
const PID: usize = 7 + 10;

/// The arguments and the environment of a hook, as execve(2) takes them: gathered before the clone.
pub(super) struct Arguments {
    args: Vec<*const c_char>,
    env: Option<Vec<*const c_char>>,
}

/// Those of every hook that the child runs, in their order.
pub(super) fn arguments(plan: &InitPlan) -> Vec<Arguments> {
    let of = |step: &Step| match step {
        Step::Hook(hook) => {
            Some(Arguments { args: hook.args.pointers(), env: hook.env.as_ref().map(|env| env.pointers()) })
        }
        _ => None,
    };
    plan.steps.iter().filter_map(of).collect()
}

impl Init<'_> {
    pub(super) fn run_hook(&mut self, hook: &HookStep) -> Result<(), Errno> {
        let state = state(hook)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Who lives on after the hook shall not hold us.
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
        let index = self.hooks_run;
        self.hooks_run += 1;
        match sys::fork()? {
            Cloned::Child => self.become_hook(hook, index, state.as_fd(), write.as_fd()),
            Cloned::Parent { pidfd, .. } => {
                drop(write);
                let mut said = Said { pipe: read, text: [0; SAID], length: 0 };
                let in_time = wait(pidfd.as_fd(), &mut said, hook.timeout)?;
                if !in_time {
                    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
                }
                let ending = ending(pidfd.as_fd())?;
                said.read();
                let ending = match (in_time, ending) {
                    (true, 0) => return Ok(()),
                    (true, status) => Ending::Status(status),
                    (false, _) => Ending::TimedOut,
                };
                report_hook_failed(self.channel(), self.step, ending, said.text.get(..said.length).unwrap_or_default());
                sys::exit(1)
            }
        }
    }

    /// The hook's own process. What goes wrong here it tells itself, before we can tell its end.
    fn become_hook(&self, hook: &HookStep, index: usize, state: BorrowedFd<'_>, said: BorrowedFd<'_>) -> ! {
        let errno = match self.prepare_hook(hook, state, said) {
            Err(errno) => errno,
            Ok(()) => match self.hooks.get(index) {
                Some(Arguments { args, env }) => sys::execve(&hook.path, args, env.as_ref().unwrap_or(&self.env)),
                None => Errno::BADF,
            },
        };
        report_hook_failed(self.channel(), self.step, Ending::NotRun(errno), &[]);
        sys::exit(1)
    }

    fn prepare_hook(&self, hook: &HookStep, state: BorrowedFd<'_>, said: BorrowedFd<'_>) -> Result<(), Errno> {
        if hook.kind == HookKind::CreateContainer {
            rustix::process::fchdir(self.root()?)?;
            // That of the program comes later.
            rustix::process::umask(Mode::from_raw_mode(0o022));
        }
        dev::stdio_from([state, said, said])?;
        if self.filtered {
            // All but what the program gets was marked before the filter came.
            (3..self.first_of_ours()).for_each(sys::close_quietly);
        } else {
            sys::close_from(3)?;
        }
        sys::reset_signals(self.ignored_signals)
    }
}

/// The state with the pid that we have where we are, as a file that stands at its beginning.
fn state(hook: &HookStep) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(c"state", MemfdFlags::CLOEXEC)?;
    let mut buffer = [0; PID + 1];
    let pid = pid_field(rustix::process::getpid().as_raw_nonzero().get().cast_unsigned(), &mut buffer);
    let written = rustix::io::pwrite(&file, pid, 0)? + rustix::io::pwrite(&file, &hook.state, pid.len() as u64)?;
    if written == pid.len() + hook.state.len() { Ok(file) } else { Err(Errno::IO) }
}

/// `{"pid":42,`
fn pid_field(pid: u32, buffer: &mut [u8; PID + 1]) -> &[u8] {
    let mut digits = [0; 10];
    let mut first = digits.len();
    let mut rest = pid;
    while first > 0 {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let parts = [&b"{\"pid\":"[..], digits.get(first..).unwrap_or_default(), b","];
    let mut length = 0;
    for (to, from) in buffer.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
        length += 1;
    }
    buffer.get(..length).unwrap_or_default()
}

/// The beginning of what a hook writes; the rest is read and forgotten.
struct Said {
    pipe: OwnedFd,
    text: [u8; SAID],
    length: usize,
}

impl Said {
    /// False when nobody can write any more.
    fn read(&mut self) -> bool {
        let mut rest = [0; SAID];
        loop {
            let room = self.text.get_mut(self.length..).filter(|room| !room.is_empty());
            let kept = room.is_some();
            match rustix::io::read(&self.pipe, room.unwrap_or(&mut rest)) {
                Ok(0) => return false,
                Ok(read) if kept => self.length += read,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }
}

/// Whether the hook ended in time.
fn wait(pidfd: BorrowedFd<'_>, said: &mut Said, seconds: Option<u32>) -> Result<bool, Errno> {
    let deadline = seconds.map(|seconds| now() + i64::from(seconds) * 1000);
    let mut open = true;
    loop {
        let left = deadline.map(|deadline| (deadline - now()).max(0));
        let timeout = left.map(|left| Timespec { tv_sec: left / 1000, tv_nsec: left % 1000 * 1_000_000 });
        let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN), PollFd::new(&said.pipe, PollFlags::IN)];
        // A closed pipe is ready for ever.
        let watched = if open { &mut fds[..] } else { &mut fds[..1] };
        match poll(watched, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
            Ok(0) => return Ok(false),
            Ok(_) if !watched[0].revents().is_empty() => return Ok(true),
            Ok(_) => {}
        }
        open = said.read();
    }
}

/// Milliseconds of the monotonic clock.
fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Takes the hook's status: the exit code, or 128 plus the number of the signal that ended it.
fn ending(pidfd: BorrowedFd<'_>) -> Result<u32, Errno> {
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Err(Errno::INTR) | Ok(None) => {}
            Err(errno) => return Err(errno),
            Ok(Some(status)) => {
                let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                return Ok(code.unwrap_or(255).cast_unsigned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_is_written_in_decimal() {
        for (pid, expected) in [(1, "{\"pid\":1,"), (40, "{\"pid\":40,"), (u32::MAX, "{\"pid\":4294967295,")] {
            assert_eq!(pid_field(pid, &mut [0; PID + 1]), expected.as_bytes());
        }
    }
}
