//! Moving bytes from one descriptor to another: pipe to fifo inside the kernel, by splice(2), anything else through a
//! small buffer on the stack. Nothing is polled and no buffer is held while there is nothing to move.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::fifo::{self, file_type};
use super::sys::{self, Readable};

/// At most so much moves at once: a pipe's usual size.
const CHUNK: usize = 64 << 10;
/// PIPE_BUF: a pipe that can be written to takes so much whole.
const BUFFER: usize = 4096;
/// A flush hands on at most so many chunks are still handed on: what the pipe held, but not what a survivor keeps writing.
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
    /// A client's fifo, open for reading too.
    Fifo(OwnedFd),
    /// A pipe.
    Pipe(OwnedFd),
    /// The master of a pseudo-terminal.
    Console(Arc<AsyncFd<OwnedFd>>),
    /// A file. Where it takes no more (a full disk), bytes are lost rather than the container stopped.
    File(OwnedFd),
}

impl Sink {
    /// Takes a fifo or file that was opened non-blocking.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        Ok(match file_type(&fd)? {
            FileType::Fifo => Self::Fifo(fd),
            _ => Self::File(fd),
        })
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Null => Ok(bytes.len()),
            Self::Fifo(fd) | Self::Pipe(fd) => rustix::io::write(fd, bytes),
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
            Self::Fifo(fd) | Self::Pipe(fd) | Self::File(fd) => sys::writable(fd.as_fd()).await,
        }
    }
}

/// How one attempt to move bytes went.
#[derive(Debug, PartialEq, Eq)]
enum Moved {
    /// So many bytes reached the sink.
    Some(usize),
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
    /// How many bytes the sink got.
    moved: u64,
    /// There is no more to read.
    ended: bool,
}

impl Copy {
    pub fn new(source: Source, sink: Sink) -> Self {
        Self { source, sink, pending: Vec::new(), moved: 0, ended: false }
    }

    /// Copies until the source ends or an end fails. May be dropped at any moment and called again.
    pub async fn until_end(&mut self) -> std::io::Result<()> {
        loop {
            // Readiness is taken before the attempt, so that what arrives meanwhile is not cleared with it.
            let ready = self.source.readable().await?;
            match attempt(&self.source, &self.sink, &mut self.pending)? {
                Moved::Some(count) => self.moved += count as u64,
                Moved::Empty => ready.into_iter().for_each(|mut ready| ready.clear_ready()),
                Moved::Full => self.sink.writable().await?,
                Moved::All => return Ok(()),
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    /// The same, whatever becomes of the sink: a container never stalls, or dies of SIGPIPE, because its log reader did.
    pub async fn drain(&mut self) {
        while !self.ended {
            match self.until_end().await {
                Err(_) if !matches!(self.sink, Sink::Null) => self.sink = Sink::Null,
                Ok(()) | Err(_) => self.ended = true,
            }
        }
    }

    /// Hands on what is there already, as far as the sink takes it without waiting.
    pub fn flush(&mut self) {
        for _ in 0..LAST_CHUNKS {
            match attempt(&self.source, &self.sink, &mut self.pending) {
                Ok(Moved::Some(count)) => self.moved += count as u64,
                _ => return,
            }
        }
    }

    /// Whether [`Copy::drain`] has come to the end.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it comes from a terminal.
    pub fn is_from_console(&self) -> bool {
        matches!(self.source, Source::Console(_))
    }

    /// How many bytes were written to the source so far, moved or not.
    pub fn written(&self) -> u64 {
        let waiting = rustix::io::ioctl_fionread(self.source.fd()).unwrap_or(0);
        self.moved + self.pending.len() as u64 + waiting
    }

    /// How many bytes the client has read so far; what has no client is read when it is moved.
    pub fn taken(&self) -> u64 {
        self.moved.saturating_sub(self.unread())
    }

    fn unread(&self) -> u64 {
        match &self.sink {
            Sink::Fifo(fd) | Sink::Pipe(fd) => rustix::io::ioctl_fionread(fd).unwrap_or(0),
            Sink::Null | Sink::Console(_) | Sink::File(_) => 0,
        }
    }

    /// Whether somebody is there to take it.
    pub fn has_reader(&mut self) -> bool {
        match &mut self.sink {
            Sink::Fifo(fd) => fifo::has_reader(fd).unwrap_or(true),
            _ => true,
        }
    }

    /// Resolves when what the client has not read will be kept without us: a fifo that nobody has open keeps nothing,
    /// and a containerd that is away may come back for it.
    pub async fn kept(&mut self) {
        if self.unread() == 0 || self.has_reader() {
            return;
        }
        if let Sink::Fifo(fd) = &mut self.sink {
            let _ = fifo::next_reader(fd).await;
        }
    }
}

fn attempt(source: &Source, sink: &Sink, pending: &mut Vec<u8>) -> Result<Moved, Errno> {
    match (source, sink) {
        (Source::Pipe(from), Sink::Fifo(to) | Sink::Pipe(to)) => splice_once(from.get_ref().as_fd(), to.as_fd()),
        _ => read_and_write(source, sink, pending),
    }
}

fn splice_once(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Moved, Errno> {
    match splice(from, None, to, None, CHUNK, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
        Ok(0) => Ok(Moved::All),
        Ok(count) => Ok(Moved::Some(count)),
        Err(Errno::INTR) => Ok(Moved::Some(0)),
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
                Ok(Moved::Some(written))
            }
            Err(Errno::INTR) => Ok(Moved::Some(0)),
            Err(Errno::AGAIN) => Ok(Moved::Full),
            Err(error) => Err(error),
        };
    }
    let mut buffer = [0; BUFFER];
    let read = match rustix::io::read(source.fd(), &mut buffer) {
        Ok(0) => return Ok(Moved::All),
        Ok(read) => read,
        Err(Errno::INTR) => return Ok(Moved::Some(0)),
        Err(Errno::AGAIN) => return Ok(Moved::Empty),
        // The last process closed the terminal. pty(7)
        Err(Errno::IO) if matches!(source, Source::Console(_)) => return Ok(Moved::All),
        Err(error) => return Err(error),
    };
    match sink.write(&buffer[..read]) {
        Ok(written) => {
            *pending = buffer[written..read].to_vec();
            Ok(Moved::Some(written))
        }
        Err(Errno::AGAIN | Errno::INTR) => {
            *pending = buffer[..read].to_vec();
            Ok(Moved::Full)
        }
        Err(error) => Err(error),
    }
}
