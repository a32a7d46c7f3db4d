//! A process's stdin, stdout and stderr: between what containerd's client named and what the container holds.
//!
//! ```text
//!   client ── fifo ──▶ [splice] ──▶ pipe ──▶ container     stdin, with a writer of ours until CloseIO
//!   client ◀── fifo ── [splice] ◀── pipe ◀── container     stdout, stderr; each fifo opened O_RDWR by us
//!   client ◀─▶ fifos ─ [read, write] ─ pty master ◀─▶ pty  a terminal; stderr unused
//!   logger ◀── pipe ◀── container                          binary://, binary-v2://: nothing of ours in between
//! ```
//!
//! An output ends, and its fifo with it, when the last process of the container closed its end. When something keeps
//! it open after the process ended, [`Io::drained`] waits on and [`Io::close`] ends it: how long to wait between is the
//! caller's to say. That a process has ended is told when [`Io::taken`] says so.

mod copy;
mod error;
mod fifo;
mod logger;
mod output;
mod sys;
#[cfg(test)]
mod tests;
mod uri;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use runtime_core::children::Children;
use runtime_core::container::Stdio;
use rustix::fs::{Gid, OFlags, Uid, fchown, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use copy::{Copy, Sink, Source};
pub use error::Error;
use logger::Logger;
use output::{Counts, Output, Phase};
use uri::Route;

/// A container's output pipe holds so much, as splice leaves a small write in a slot of its own and the fifo's sixteen
/// slots then hold little while no client reads. The fifo itself is the client's.
const PIPE_SIZE: usize = 128 << 10;

/// What a Create or Exec request says about stdio.
pub struct Config {
    /// Path of the stdin fifo, or empty.
    pub stdin: String,
    /// URI or path for stdout, or empty. Its scheme decides for all output.
    pub stdout: String,
    /// Path for stderr, or empty.
    pub stderr: String,
    /// The process gets a terminal instead of pipes.
    pub terminal: bool,
    /// Owner of the pipes that the container gets.
    pub uid: u32,
    /// Group of the pipes that the container gets.
    pub gid: u32,
    /// The container's id, for a logger.
    pub id: String,
    /// containerd's namespace, for a logger.
    pub namespace: String,
    /// Where a logger is registered as a child of ours.
    pub children: Arc<Children>,
}

/// One process's stdio, as long as the process is known to containerd. Dropped, everything it holds is released.
pub struct Io {
    phase: watch::Sender<Phase>,
    outputs: watch::Sender<Counts>,
    stdin: Mutex<Stdin>,
    console: Mutex<Console>,
    logger: Option<Logger>,
}

/// Our side of stdin.
#[derive(Default)]
struct Stdin {
    /// What is not connected yet, and where it will go: a console's comes later.
    waiting: Option<(fifo::Input, Option<Sink>)>,
    /// CloseIO has come.
    closed: bool,
    /// Keeps the fifo from ending when a client detaches, until CloseIO.
    keeper: Option<OwnedFd>,
    task: Option<AbortHandle>,
}

enum Console {
    /// No terminal was asked for, or it is gone.
    None,
    /// The container does not run yet.
    Waiting(Box<Waiting>),
    Attached(Weak<AsyncFd<OwnedFd>>),
}

/// What waits for the console.
struct Waiting {
    sink: Sink,
    output: Output,
    size: Option<Winsize>,
}

/// Where the two outputs go.
enum Outputs {
    Copied { stdout: Option<Sink>, stderr: Option<Sink> },
    Logged(logger::Ends),
}

impl Io {
    /// Opens what the client named, but for stdin, and makes what the container gets. Output fifos wait for their
    /// reader.
    pub async fn open(config: &Config) -> Result<(Self, Stdio), Error> {
        let route = Route::parse(&config.stdin, &config.stdout, &config.stderr)?;
        let input = uri::path(&config.stdin)?.map(fifo::Input::find).transpose()?;
        let (logger, outputs) = open_outputs(route, config).await?;
        let io = Self {
            phase: watch::Sender::new(Phase::Runs),
            outputs: watch::Sender::default(),
            stdin: Mutex::default(),
            console: Mutex::new(Console::None),
            logger,
        };
        let stdio = if config.terminal {
            let output = Output::new(&io.outputs);
            let sink = terminal_sink(outputs)?;
            lock(&io.stdin).waiting = input.map(|input| (input, None));
            *lock(&io.console) = Console::Waiting(Box::new(Waiting { sink, output, size: None }));
            Stdio::Terminal
        } else {
            Stdio::Files(io.pipes(input, outputs, config)?)
        };
        Ok((io, stdio))
    }

    /// Makes the container's three descriptors and starts copying.
    fn pipes(&self, input: Option<fifo::Input>, outputs: Outputs, config: &Config) -> Result<[OwnedFd; 3], Error> {
        let fd0 = match input {
            Some(input) => {
                let (theirs, ours) = pipe("stdin", config)?;
                lock(&self.stdin).waiting = Some((input, Some(Sink::Pipe(ours))));
                theirs
            }
            None => fifo::null()?,
        };
        let (fd1, fd2) = match outputs {
            Outputs::Logged(ends) => {
                own("stdout", &ends.stdout, config)?;
                own("stderr", &ends.stderr, config)?;
                (ends.stdout, ends.stderr)
            }
            Outputs::Copied { stdout, stderr } => {
                (self.output("stdout", stdout, config)?, self.output("stderr", stderr, config)?)
            }
        };
        Ok([fd0, fd1, fd2])
    }

    fn output(&self, stream: &'static str, sink: Option<Sink>, config: &Config) -> Result<OwnedFd, Error> {
        let Some(sink) = sink else { return fifo::null() };
        let (ours, theirs) = pipe_of(stream, config, |(reader, writer)| (reader, writer))?;
        let _ = fcntl_setpipe_size(&theirs, PIPE_SIZE); // more than the user may have: less will do
        let source = Source::new(ours).map_err(|source| Error::Pipe { stream, source })?;
        self.start_output(source, sink, Output::new(&self.outputs));
        Ok(theirs)
    }

    fn start_output(&self, source: Source, sink: Sink, output: Output) {
        tokio::spawn(output::run(Copy::new(source, sink), self.phase.subscribe(), output));
    }

    /// Opens the client's stdin and starts copying; called when the process is about to run. Not before: the client may
    /// write from here on, and `ctr`, when it has said all before its task is there, forgets to close.
    pub fn connect_stdin(&self) -> Result<(), Error> {
        let mut stdin = lock(&self.stdin);
        let Some((input, Some(sink))) = stdin.waiting.take() else { return Ok(()) };
        let fifo::OpenInput { reader, writer } = input.open()?;
        // Opened even if it is dropped here: a fifo that never had a writer does not end. fifo(7)
        stdin.keeper = writer.filter(|_| !stdin.closed);
        let source = Source::new(reader).map_err(|source| input.error(source))?;
        stdin.task = Some(self.copy_input(source, sink));
        Ok(())
    }

    /// Copies stdin until it ends. A terminal then ends too.
    fn copy_input(&self, source: Source, sink: Sink) -> AbortHandle {
        let hang_up = matches!(sink, Sink::Console(_)).then(|| self.phase.clone());
        let task = tokio::spawn(async move {
            let mut copy = Copy::new(source, sink);
            let ended = copy.until_end().await;
            drop(copy);
            if let (Some(phase), Ok(())) = (hang_up, ended) {
                phase.send_replace(Phase::Closed);
            }
        });
        task.abort_handle()
    }

    /// Takes the master of the process's pseudo-terminal and starts copying.
    pub fn attach_console(&self, master: OwnedFd) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Console { act: "attach", source };
        let mut console = lock(&self.console);
        let Console::Waiting(waiting) = std::mem::replace(&mut *console, Console::None) else { return Ok(()) };
        let Waiting { sink, output, size } = *waiting;
        if let Some(size) = size {
            tcsetwinsize(&master, size).map_err(|e| failed(e.into()))?;
        }
        nonblocking(&master).map_err(failed)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let master = Arc::new(sys::register(master, both).map_err(|e| failed(e.into()))?);
        *console = Console::Attached(Arc::downgrade(&master));
        if let Some((_, sink @ None)) = &mut lock(&self.stdin).waiting {
            *sink = Some(Sink::Console(Arc::clone(&master)));
        }
        self.start_output(Source::Console(master), sink, output);
        Ok(())
    }

    /// Sets the terminal's size in characters. One that is not there yet gets it when it comes; no terminal is no error.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        match &mut *lock(&self.console) {
            Console::None => Ok(()),
            Console::Waiting(waiting) => {
                waiting.size = Some(size);
                Ok(())
            }
            Console::Attached(master) => match master.upgrade() {
                Some(master) => tcsetwinsize(master.get_ref(), size)
                    .map_err(|source| Error::Console { act: "resize", source: source.into() }),
                None => Ok(()),
            },
        }
    }

    /// Drops our writer of the stdin fifo: stdin ends when the client has closed its own.
    pub fn close_stdin(&self) {
        let mut stdin = lock(&self.stdin);
        stdin.closed = true;
        stdin.keeper = None;
    }

    /// The process has ended. Resolves when its clients have taken what it wrote, or take nothing any more: then its
    /// exit may be told.
    pub async fn taken(&self) {
        self.go_on_to(Phase::Ended);
        self.outputs_are(|counts| counts.untaken == 0).await;
    }

    /// The client deletes the process, and nobody else will come for its output. Resolves when every output has ended:
    /// no process holds its end, all was handed on, our descriptors are closed. A logger's pipes are no output of ours.
    pub async fn drained(&self) {
        self.go_on_to(Phase::Deleted);
        self.outputs_are(|counts| counts.open == 0).await;
    }

    /// Ends everything, whoever still holds the other ends: hands on what the pipes hold as far as it is taken without
    /// waiting, closes, and stops the logger (SIGTERM, SIGKILL after 12 s). Returns when that is done; idempotent.
    pub async fn close(&self) {
        self.stop_copying();
        self.drained().await;
        if let Some(logger) = &self.logger {
            logger.close().await;
        }
    }

    async fn outputs_are(&self, wanted: impl Fn(Counts) -> bool) {
        // The sender is ours, so this does not fail.
        let _ = self.outputs.subscribe().wait_for(|counts| wanted(*counts)).await;
    }

    fn go_on_to(&self, next: Phase) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, next.max(*phase)) != *phase);
    }

    fn stop_copying(&self) {
        self.go_on_to(Phase::Closed);
        let stdin = std::mem::take(&mut *lock(&self.stdin));
        if let Some(task) = stdin.task {
            task.abort();
        }
        *lock(&self.console) = Console::None;
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.stop_copying();
    }
}

/// Opens the client's side of the outputs.
async fn open_outputs(route: Route, config: &Config) -> Result<(Option<Logger>, Outputs), Error> {
    let (stdout, stderr) = match route {
        Route::Null => (None, None),
        Route::Streams { stdout, stderr } => (stdout, stderr),
        Route::File(path) => {
            fifo::create_file(&path)?;
            (Some(path.clone()), Some(path))
        }
        Route::Logger(command) => {
            let (logger, ends) = Logger::start(command, &config.id, &config.namespace, &config.children).await?;
            return Ok((Some(logger), Outputs::Logged(ends)));
        }
    };
    // A terminal has no stderr of its own.
    let stderr = stderr.filter(|_| !config.terminal);
    let (stdout, stderr) = tokio::try_join!(open_sink(stdout.as_deref()), open_sink(stderr.as_deref()))?;
    Ok((None, Outputs::Copied { stdout, stderr }))
}

async fn open_sink(path: Option<&Path>) -> Result<Option<Sink>, Error> {
    let Some(path) = path else { return Ok(None) };
    let fd = fifo::output(path, fifo::RENDEZVOUS).await?;
    let sink = Sink::new(fd).map_err(|source| Error::Open { path: path.to_owned(), source: source.into() })?;
    Ok(Some(sink))
}

/// Where a terminal's output goes. A logger then reads a pipe that we write.
fn terminal_sink(outputs: Outputs) -> Result<Sink, Error> {
    match outputs {
        Outputs::Copied { stdout, .. } => Ok(stdout.unwrap_or(Sink::Null)),
        Outputs::Logged(ends) => {
            nonblocking(&ends.stdout).map_err(|source| Error::Pipe { stream: "stdout", source })?;
            Ok(Sink::Pipe(ends.stdout))
        }
    }
}

/// A pipe to the container: its reading end, and our writing end, which does not block.
fn pipe(stream: &'static str, config: &Config) -> Result<(OwnedFd, OwnedFd), Error> {
    let (ours, theirs) = pipe_of(stream, config, |(reader, writer)| (writer, reader))?;
    Ok((theirs, ours))
}

/// A pipe, given as (ours, theirs) by `split`, owned by the container's user.
fn pipe_of(
    stream: &'static str,
    config: &Config,
    split: impl FnOnce((OwnedFd, OwnedFd)) -> (OwnedFd, OwnedFd),
) -> Result<(OwnedFd, OwnedFd), Error> {
    let ends = pipe_with(PipeFlags::CLOEXEC).map_err(|source| Error::Pipe { stream, source: source.into() })?;
    let (ours, theirs) = split(ends);
    nonblocking(&ours).map_err(|source| Error::Pipe { stream, source })?;
    own(stream, &theirs, config)?;
    Ok((ours, theirs))
}

/// Gives a pipe to the container's user, who may then open it again as /dev/stdout.
fn own(stream: &'static str, pipe: &OwnedFd, config: &Config) -> Result<(), Error> {
    if (config.uid, config.gid) == (0, 0) {
        return Ok(());
    }
    let owned = fchown(pipe, Some(Uid::from_raw(config.uid)), Some(Gid::from_raw(config.gid)));
    owned.map_err(|source| Error::Pipe { stream, source: source.into() })
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd.as_fd())?;
    Ok(fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?)
}

/// None of these locks is held over code that panics, or across an await.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long output may take after a process has ended, before [`Io::close`]: what containerd's own shim gives.
pub const DRAIN: Duration = Duration::from_secs(10);
