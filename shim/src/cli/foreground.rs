//! Staying with a process: its input and output are copied, our signals are its signals, its exit is ours.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_core::children::{Child, Children};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::stdio::Ours;
use super::{Error, console, sys};

/// POSIX: this much can be written to a pipe that has become writable, without waiting.
const CHUNK: usize = 4096;

/// A command that will stay. From its beginning on signals wait for the process.
#[derive(Debug)]
pub struct Foreground {
    signals: OwnedFd,
}

impl Foreground {
    /// Takes the signals.
    pub fn enter() -> Result<Self, Error> {
        Ok(Self { signals: sys::signals().map_err(Error::system("take signals"))? })
    }

    /// Until the process has ended, whose exit code comes back.
    pub fn stay(&self, child: &Child, ours: Ours, children: &Children) -> Result<u8, Error> {
        let failed = Error::system;
        let raw = child.console.as_ref().and_then(|_| console::Raw::enter());
        let mut pumps = pumps(child, ours).map_err(failed("copy the terminal"))?;
        if let Some(master) = &child.console {
            console::keep_newlines(master.as_fd());
            console::resize(master.as_fd());
        }
        let exit = loop {
            if let Some(exit) = child.reap(children).map_err(failed("wait for the process"))? {
                break exit;
            }
            self.turn(child, &mut pumps).map_err(failed("wait for the process"))?;
            while let Some(signal) = sys::next_signal(&self.signals) {
                forward(signal, child, children);
            }
        };
        // What it wrote before its end is there to be read. What others write that it left is not waited for.
        for pump in pumps.iter_mut().filter(|pump| pump.is_output) {
            while pump.copy() {}
        }
        drop(raw);
        Ok(u8::try_from(exit.status).unwrap_or(u8::MAX))
    }

    /// Waits for something to do, and copies.
    fn turn(&self, child: &Child, pumps: &mut [Pump]) -> Result<(), Errno> {
        let mut fds = vec![PollFd::new(&child.pidfd, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let open: Vec<usize> =
            (0..pumps.len()).filter(|index| pumps.get(*index).is_some_and(|pump| !pump.done)).collect();
        for pump in open.iter().filter_map(|index| pumps.get(*index)) {
            fds.push(pump.waits_for());
        }
        rustix::io::retry_on_intr(|| poll(&mut fds, None::<&Timespec>))?;
        let ready: Vec<usize> = open
            .into_iter()
            .zip(&fds[2..])
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(index, _)| index)
            .collect();
        for index in ready {
            if let Some(pump) = pumps.get_mut(index) {
                pump.copy();
            }
        }
        Ok(())
    }
}

fn forward(signal: i32, child: &Child, children: &Children) {
    match signal {
        libc::SIGCHLD => children.reap_orphans(),
        libc::SIGWINCH if child.console.is_some() => {
            if let Some(master) = &child.console {
                console::resize(master.as_fd());
            }
        }
        // It may have ended by now.
        signal => {
            let _ = child.signal(signal);
        }
    }
}

fn pumps(child: &Child, ours: Ours) -> Result<Vec<Pump>, Errno> {
    let own = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    match (&child.console, ours) {
        (Some(master), _) => Ok(vec![
            Pump::new(own(stdin.as_fd())?, own(master.as_fd())?, false)?,
            Pump::new(own(master.as_fd())?, own(stdout.as_fd())?, true)?,
        ]),
        (None, Ours::Pipes([to_stdin, from_stdout, from_stderr])) => Ok(vec![
            Pump::new(own(stdin.as_fd())?, to_stdin, false)?,
            Pump::new(from_stdout, own(stdout.as_fd())?, true)?,
            Pump::new(from_stderr, own(stderr.as_fd())?, true)?,
        ]),
        (None, Ours::Nothing) => Ok(Vec::new()),
    }
}

/// Copies from one descriptor to another, a chunk at a time.
struct Pump {
    from: OwnedFd,
    /// Closed with the pump's end, so that who reads there finds the end as well.
    to: Option<OwnedFd>,
    chunk: Vec<u8>,
    is_output: bool,
    done: bool,
}

impl Pump {
    /// Of what we were given ourselves the flags are left alone: others have it too.
    fn new(from: OwnedFd, to: OwnedFd, is_output: bool) -> Result<Self, Errno> {
        if is_output {
            rustix::fs::fcntl_setfl(&from, rustix::fs::fcntl_getfl(&from)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { from, to: Some(to), chunk: Vec::new(), is_output, done: false })
    }

    fn waits_for(&self) -> PollFd<'_> {
        match &self.to {
            Some(to) if !self.chunk.is_empty() => PollFd::new(to, PollFlags::OUT),
            _ => PollFd::new(&self.from, PollFlags::IN),
        }
    }

    /// Reads or writes once; false if there is no more for now.
    fn copy(&mut self) -> bool {
        let Some(to) = self.to.as_ref().filter(|_| !self.done) else { return false };
        let result = if self.chunk.is_empty() {
            let mut chunk = vec![0; CHUNK];
            rustix::io::read(&self.from, &mut chunk).inspect(|read| {
                chunk.truncate(*read);
                self.chunk = chunk;
            })
        } else {
            rustix::io::write(to, &self.chunk).inspect(|written| drop(self.chunk.drain(..*written)))
        };
        match result {
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            Ok(1..) => true,
            // The end, of either side: a terminal says EIO.
            Ok(0) | Err(_) => {
                self.done = true;
                self.to = None;
                false
            }
        }
    }
}
