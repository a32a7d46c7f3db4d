//! One process of a container, init or exec, as RPCs see it: its state, who waits for it, its stdio.

use crate::error::Error;
use crate::state::{Operation, Refusal, State};
use crate::stdio;
use runtime_core::children::{Exit, send_signal};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// What the client said about stdio, told back to it by State.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Path or empty.
    pub stdin: String,
    /// Path, URI or empty.
    pub stdout: String,
    /// Path, URI or empty.
    pub stderr: String,
    /// A terminal was asked for.
    pub terminal: bool,
}

/// An init or an exec, as RPCs see it.
pub struct Process {
    /// As the client named them.
    pub streams: Streams,
    state: watch::Sender<State>,
    /// It has got SIGKILL.
    killed: AtomicBool,
    /// Set once, when the kernel has made it.
    born: OnceLock<Born>,
    io: Mutex<Channel>,
}

/// A process's stdio.
#[derive(Default)]
struct Channel {
    io: Option<Arc<stdio::Io>>,
    /// The client has no more to say. It may say so while the stdio is still being opened.
    stdin_closed: bool,
}

/// A process that the kernel knows.
struct Born {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Not made yet.
    pub fn new(streams: Streams) -> Process {
        Process {
            streams,
            state: watch::Sender::new(State::Created),
            killed: AtomicBool::new(false),
            born: OnceLock::new(),
            io: Mutex::default(),
        }
    }

    /// Remembers the process that was made for it.
    pub fn born(&self, pid: Pid, pidfd: OwnedFd) {
        // A process is made once: a second start is refused by its state.
        let _ = self.born.set(Born { pid, pidfd });
    }

    /// Its pid, if it was made.
    pub fn id(&self) -> Option<Pid> {
        self.born.get().map(|born| born.pid)
    }

    /// Its pid; 0, which is how containerd says none, before it is made.
    pub fn pid(&self) -> u32 {
        self.id().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// Its state now.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Begins an operation if the state allows it.
    pub fn begin(&self, operation: Operation) -> Result<(), Error> {
        if operation == Operation::Pause && self.killed.load(Ordering::Relaxed) {
            return Err(Refusal::of_killed(operation).into());
        }
        let mut result = Ok(());
        self.state.send_if_modified(|state| match state.admit(operation) {
            Ok(next) => {
                *state = next;
                next.is_transient()
            }
            Err(refusal) => {
                result = Err(refusal.into());
                false
            }
        });
        result
    }

    /// Ends an operation. A stop is final.
    pub fn settle(&self, next: State) {
        self.state.send_if_modified(|state| {
            let open = state.exit().is_none();
            if open {
                *state = next;
            }
            open
        });
    }

    /// Lets nobody wait any longer for one that will not be started. One that has ended keeps its exit.
    pub fn never_runs(&self) {
        self.settle(State::Stopped(Exit { status: 255, at: SystemTime::now() }));
    }

    /// Waits until no operation holds the state.
    pub async fn settled(&self) -> State {
        self.wait_for(|state| !state.is_transient()).await
    }

    /// Waits until it has ended.
    pub async fn exited(&self) -> Exit {
        loop {
            if let Some(exit) = self.wait_for(|state| state.exit().is_some()).await.exit() {
                return exit;
            }
        }
    }

    async fn wait_for(&self, wanted: impl Fn(State) -> bool) -> State {
        // The sender is ours and outlives the receiver, so this does not fail.
        match self.state.subscribe().wait_for(|state| wanted(*state)).await {
            Ok(state) => *state,
            Err(_) => self.state(),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let Some(born) = self.born.get() else { return Err(Error::NotStarted) };
        if self.state().exit().is_some() {
            return Err(Error::Finished);
        }
        send_signal(born.pidfd.as_fd(), signal).map_err(|source| match source {
            Errno::SRCH => Error::Finished,
            _ => Error::Signal { signal, pid: born.pid.as_raw_nonzero().get(), source },
        })?;
        if signal == libc::SIGKILL {
            self.set_killed();
        }
        Ok(())
    }

    /// It has got SIGKILL, or is about to.
    pub fn set_killed(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }

    /// Its stdio, while it is open.
    pub fn io(&self) -> Option<Arc<stdio::Io>> {
        lock(&self.io).io.clone()
    }

    /// Gives it its stdio.
    pub fn set_io(&self, io: Arc<stdio::Io>) {
        let mut channel = lock(&self.io);
        if channel.stdin_closed {
            io.close_stdin();
        }
        channel.io = Some(io);
    }

    /// Ends its stdin when the client has ended its own.
    pub fn close_stdin(&self) {
        let mut channel = lock(&self.io);
        channel.stdin_closed = true;
        if let Some(io) = &channel.io {
            io.close_stdin();
        }
    }

    /// Waits for its output to be taken, then closes it.
    pub async fn close_io(&self, patience: std::time::Duration) {
        let Some(io) = self.io() else { return };
        if tokio::time::timeout(patience, io.drained()).await.is_err() {
            tracing::warn!("output is still held open by another process and is closed now");
        }
        io.close().await;
        lock(&self.io).io.take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const EXIT: Exit = Exit { status: 137, at: UNIX_EPOCH };

    #[test]
    fn a_stop_is_final() {
        let process = Process::new(Streams::default());
        process.begin(Operation::Start).unwrap();
        process.settle(State::Stopped(EXIT));
        process.settle(State::Running);
        assert!(process.state().exit().is_some());
        assert!(matches!(process.begin(Operation::Start), Err(Error::Refused(_))));
    }

    #[tokio::test]
    async fn an_exit_waits_for_the_start_to_be_told() {
        let process = Process::new(Streams::default());
        process.begin(Operation::Start).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(10), process.settled()).await.is_err());
        process.settle(State::Running);
        assert!(matches!(process.settled().await, State::Running));
        process.settle(State::Stopped(EXIT));
        assert_eq!(process.exited().await, EXIT);
    }

    #[test]
    fn what_was_never_made_cannot_be_signalled() {
        let process = Process::new(Streams::default());
        assert!(matches!(process.signal(libc::SIGKILL), Err(Error::NotStarted)));
        assert_eq!(process.pid(), 0);
    }
}
