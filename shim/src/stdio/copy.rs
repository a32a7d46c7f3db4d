//! Moving bytes from one descriptor to another: pipe to fifo inside the kernel, by splice(2), anything else through a
//! small buffer on the stack. Nothing is polled and no buffer is held while there is nothing to move.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::watch;

use super::fifo::file_type;
use super::sys::{self, Readable};

/// At most so much moves at once: a pipe's usual size.
const CHUNK: usize = 64 << 10;
/// PIPE_BUF: a pipe that can be written to takes so much whole.
const BUFFER: usize = 4096;
/// How long a client may take to begin reading what it was handed last, and how often that is looked at.
const TAKEN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1));
/// After a stop at most so many chunks are still handed on: what the pipe held, but not what a survivor keeps writing.
const LAST_CHUNKS: usize = 32;

/// A descriptor that bytes come from.
pub enum Source {
    /// A pipe or fifo.
    Pipe(AsyncFd<OwnedFd>),
    /// The master of a pseudo-terminal.
    Console(Arc<AsyncFd<OwnedFd>>),
    /// A file, always ready.
    File(OwnedFd),
}

impl Source {
    /// Takes a pipe, fifo or file that was opened non-blocking.
    pub fn new(fd: OwnedFd) -> std::io::Result<Self> {
        let kind = file_type(&fd)?;
        match sys::register(fd, Interest::READABLE) {
            Ok(fd) if kind == FileType::Fifo => Ok(Self::Pipe(fd)),
            Ok(fd) => Ok(Self::Console(Arc::new(fd))),
            Err(refused) => match refused.into_parts() {
                (fd, error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Self::File(fd)),
                (_, error) => Err(error),
            },
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pipe(fd) => fd.get_ref().as_fd(),
            Self::Console(fd) => fd.get_ref().as_fd(),
            Self::File(fd) => fd.as_fd(),
        }
    }

    async fn readable(&self) -> std::io::Result<Option<AsyncFdReadyGuard<'_, OwnedFd>>> {
        match self {
            Self::Pipe(fd) => fd.readable().await.map(Some),
            Self::Console(fd) => fd.readable().await.map(Some),
            Self::File(_) => Ok(None),
        }
    }
}

/// A descriptor that bytes go to.
pub enum Sink {
    /// Nobody wants them.
    Null,
    /// A pipe or fifo.
    Pipe(OwnedFd),
    /// The master of a pseudo-terminal.
    Console(Arc<AsyncFd<OwnedFd>>),
    /// A file. Where it takes no more (a full disk), bytes are lost rather than the container stopped.
    File(OwnedFd),
}

impl Sink {
    /// Takes a pipe, fifo or file that was opened non-blocking.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        Ok(match file_type(&fd)? {
            FileType::Fifo => Self::Pipe(fd),
            _ => Self::File(fd),
        })
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Null => Ok(bytes.len()),
            Self::Pipe(fd) => rustix::io::write(fd, bytes),
            Self::Console(fd) => rustix::io::write(fd.get_ref(), bytes),
            Self::File(fd) => match rustix::io::write(fd, bytes) {
                Err(Errno::AGAIN) => Err(Errno::AGAIN),
                Err(_) => Ok(bytes.len()),
                written => written,
            },
        }
    }

    /// Waits until there is room. Registered only for the wait: sinks are seldom full.
    async fn writable(&self) -> std::io::Result<()> {
        match self {
            Self::Null => Ok(()),
            Self::Console(fd) => {
                // The write said EAGAIN before this, so what readiness says of before is outdated.
                fd.writable().await?.clear_ready();
                if rustix::event::poll(
                    &mut [rustix::event::PollFd::new(fd.get_ref(), rustix::event::PollFlags::OUT)],
                    Some(&rustix::event::Timespec::default()),
                )? == 0
                {
                    fd.writable().await?.retain_ready();
                }
                Ok(())
            }
            Self::Pipe(fd) | Self::File(fd) => sys::writable(fd.as_fd()).await,
        }
    }
}

/// How one attempt to move bytes went.
#[derive(Debug, PartialEq, Eq)]
enum Moved {
    Some,
    /// The source has nothing yet.
    Empty,
    /// The sink has no room.
    Full,
    /// The source has ended.
    All,
}

/// One direction of stdio.
pub struct Copy {
    source: Source,
    sink: Sink,
    /// Read but not yet written.
    pending: Vec<u8>,
}

impl Copy {
    pub fn new(source: Source, sink: Sink) -> Self {
        Self { source, sink, pending: Vec::new() }
    }

    /// Copies until the source ends, an end fails, or `stop` becomes true; then what is there already is still handed
    /// on as far as the sink takes it.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) -> std::io::Result<()> {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            ended = self.until_end() => return ended,
        }
        for _ in 0..LAST_CHUNKS {
            if self.attempt()? != Moved::Some {
                break;
            }
        }
        Ok(())
    }

    /// Copies until the source ends, whatever becomes of the sink: a container never stalls, or dies of SIGPIPE,
    /// because its log reader did.
    pub async fn run_output(mut self, stop: watch::Receiver<bool>) {
        if self.run(stop.clone()).await.is_err() && !matches!(self.sink, Sink::Null) {
            self.sink = Sink::Null;
            let _ = self.run(stop.clone()).await;
        }
        self.taken(stop).await;
    }

    /// Waits, not for long, until the client has read what its fifo holds. containerd's client gives up a fifo whose
    /// opening it has not noticed yet when the process is deleted (containerd/fifo, `Close` before `opened`), and with
    /// it what was written: after a process of a millisecond, on a busy machine, that is not rare.
    async fn taken(&self, mut stop: watch::Receiver<bool>) {
        let Sink::Pipe(fifo) = &self.sink else { return };
        let read = async {
            while rustix::io::ioctl_fionread(fifo).is_ok_and(|unread| unread > 0) {
                tokio::time::sleep(TAKEN.1).await;
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            _ = tokio::time::timeout(TAKEN.0, read) => {}
        }
    }

    async fn until_end(&mut self) -> std::io::Result<()> {
        loop {
            // Readiness is taken before the attempt, so that what arrives meanwhile is not cleared with it.
            let ready = self.source.readable().await?;
            match attempt(&self.source, &self.sink, &mut self.pending)? {
                Moved::Some => {}
                Moved::Empty => ready.into_iter().for_each(|mut ready| ready.clear_ready()),
                Moved::Full => self.sink.writable().await?,
                Moved::All => return Ok(()),
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    fn attempt(&mut self) -> Result<Moved, Errno> {
        attempt(&self.source, &self.sink, &mut self.pending)
    }
}

fn attempt(source: &Source, sink: &Sink, pending: &mut Vec<u8>) -> Result<Moved, Errno> {
    match (source, sink) {
        (Source::Pipe(from), Sink::Pipe(to)) => splice_once(from.get_ref().as_fd(), to.as_fd()),
        _ => read_and_write(source, sink, pending),
    }
}

fn splice_once(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Moved, Errno> {
    match splice(from, None, to, None, CHUNK, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
        Ok(0) => Ok(Moved::All),
        Ok(_) | Err(Errno::INTR) => Ok(Moved::Some),
        // EAGAIN does not say which of the two is not ready.
        Err(Errno::AGAIN) => Ok(match sys::readable(from)? {
            Readable::Data => Moved::Full,
            Readable::HungUp => Moved::All,
            Readable::No => Moved::Empty,
        }),
        Err(error) => Err(error),
    }
}

fn read_and_write(source: &Source, sink: &Sink, pending: &mut Vec<u8>) -> Result<Moved, Errno> {
    if !pending.is_empty() {
        return match sink.write(pending) {
            Ok(written) => {
                pending.drain(..written);
                Ok(Moved::Some)
            }
            Err(Errno::INTR) => Ok(Moved::Some),
            Err(Errno::AGAIN) => Ok(Moved::Full),
            Err(error) => Err(error),
        };
    }
    let mut buffer = [0; BUFFER];
    let read = match rustix::io::read(source.fd(), &mut buffer) {
        Ok(0) => return Ok(Moved::All),
        Ok(read) => read,
        Err(Errno::INTR) => return Ok(Moved::Some),
        Err(Errno::AGAIN) => return Ok(Moved::Empty),
        // The last process closed the terminal. pty(7)
        Err(Errno::IO) if matches!(source, Source::Console(_)) => return Ok(Moved::All),
        Err(error) => return Err(error),
    };
    match sink.write(&buffer[..read]) {
        Ok(written) => {
            *pending = buffer[written..read].to_vec();
            Ok(Moved::Some)
        }
        Err(Errno::AGAIN | Errno::INTR) => {
            *pending = buffer[..read].to_vec();
            Ok(Moved::Full)
        }
        Err(error) => Err(error),
    }
}
