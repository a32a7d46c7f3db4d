//! Logging processes: `binary://` and `binary-v2://`. The container writes into their pipes itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use runtime_core::children::Children;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;

use super::uri::LoggerCommand;
use super::{Error, sys};

/// How long a logger may take to say that it is ready.
const READY: Duration = Duration::from_secs(30);
/// How long a logger may take to end by itself once its pipes may have ended, before SIGTERM asks it to.
const FLUSH: Duration = Duration::from_millis(100);
/// How long it may take after SIGTERM, before SIGKILL.
const TERMINATE: Duration = Duration::from_secs(12);

/// A running logger. Dropped, it is asked to end, and made to.
pub struct Logger {
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

/// The write ends of a logger's pipes, for the container.
pub struct Ends {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Logger {
    /// Starts a logger and waits until it is ready.
    pub async fn start(
        route: LoggerCommand,
        id: &str,
        namespace: &str,
        children: &Arc<Children>,
    ) -> Result<(Self, Ends), Error> {
        let must_say_ready = route.must_say_ready;
        let path = route.program.clone();
        let failed = |source: io::Error| Error::Logger { path: path.clone(), source };
        let (stdout, to_stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let (stderr, to_stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let (wait, ready) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;

        let mut command = Command::new(&route.program);
        command.args(&route.arguments).env_clear().env("CONTAINER_ID", id).env("CONTAINER_NAMESPACE", namespace);
        let above = |fd: &OwnedFd| fcntl_dupfd_cloexec(fd, sys::FIRST_PASSED).map_err(|e| failed(e.into()));
        sys::pass(&mut command, [above(&stdout)?, above(&stderr)?, above(&ready)?]);
        let registry = Arc::clone(children);
        let spawned = tokio::task::spawn_blocking(move || registry.command(&mut command)).await;
        let child = spawned.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(failed)?;
        // Six pipe ends held until here: 3, 4 and 5 were taken, so none of them was std's own pipe. See sys::pass.
        drop((stdout, stderr, ready));

        let logger = Self::supervise(child, Arc::clone(children)).map_err(failed)?;
        logger.wait_until_ready(wait, must_say_ready, &path).await?;
        Ok((logger, Ends { stdout: to_stdout, stderr: to_stderr }))
    }

    fn supervise(mut child: Child, children: Arc<Children>) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
        let pidfd = pidfd.and_then(|fd| Ok(sys::register(fd, Interest::READABLE)?));
        let pidfd = match pidfd {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                children.forget(pid);
                return Err(error);
            }
        };
        let (stop, mut stopped) = watch::channel(false);
        let (report, ended) = watch::channel(false);
        tokio::spawn(async move {
            let exited = tokio::select! {
                _ = pidfd.readable() => true,
                // Also when the Logger is dropped.
                _ = stopped.wait_for(|stop| *stop) => false,
            };
            if !exited {
                end(&pidfd).await;
            }
            // It has exited: this does not block.
            let _ = child.wait();
            children.forget(pid);
            report.send_replace(true);
        });
        Ok(Self { stop, ended })
    }

    /// One byte, or for `binary` the end of the pipe, says that a logger is ready.
    async fn wait_until_ready(&self, wait: OwnedFd, must_say: bool, path: &std::path::Path) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Logger { path: path.to_owned(), source };
        let wait = sys::register(wait, Interest::READABLE).map_err(|e| failed(e.into()))?;
        let readable = timeout(READY, wait.readable()).await.map_err(|e| failed(e.into()))?;
        readable.map_err(failed)?.retain_ready();
        match rustix::io::read(wait.get_ref(), &mut [0; 1]) {
            Ok(0) if must_say => Err(Error::LoggerNotReady { path: path.to_owned() }),
            Ok(_) => Ok(()),
            Err(source) => Err(failed(source.into())),
        }
    }

    /// Ends the logger and returns when it is gone.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

/// Lets a logger read the rest, asks it to end, kills it; returns when it has exited.
async fn end(pidfd: &AsyncFd<OwnedFd>) {
    if timeout(FLUSH, pidfd.readable()).await.is_ok() {
        return;
    }
    let _ = pidfd_send_signal(pidfd.get_ref().as_fd(), Signal::TERM);
    if timeout(TERMINATE, pidfd.readable()).await.is_ok() {
        return;
    }
    let _ = pidfd_send_signal(pidfd.get_ref().as_fd(), Signal::KILL);
    let _ = pidfd.readable().await;
}
