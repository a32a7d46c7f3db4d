//! Opening what the client named: fifos, without ever blocking the reactor, and files.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_core::sources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Error;

/// How long a client may take to open its end of an output fifo.
pub const RENDEZVOUS: Duration = Duration::from_secs(30);

fn open_error(path: &Path, source: Errno) -> Error {
    Error::Open { path: path.to_owned(), source: source.into() }
}

/// The file type of an open descriptor.
pub fn file_type(fd: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

/// Opens an output. A fifo waits for its reader, up to `patience`, as the client opens it at its leisure and would lose
/// a short process's output otherwise. Then one O_RDWR descriptor is both our writer and the reader that keeps the
/// fifo alive while no client has it open: nothing is lost and nobody gets EPIPE while containerd restarts.
pub async fn output(path: &Path, patience: Duration) -> Result<OwnedFd, Error> {
    let nonblocking = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    // O_APPEND is for regular files and means nothing to a fifo.
    let writer = match open(path, OFlags::WRONLY | OFlags::APPEND | nonblocking, Mode::empty()) {
        Ok(writer) => writer,
        Err(Errno::NXIO) => wait_for_reader(path, patience).await?,
        Err(source) => return Err(open_error(path, source)),
    };
    match file_type(&writer).map_err(|source| open_error(path, source))? {
        FileType::Fifo => reopen(&writer, OFlags::RDWR | nonblocking).map_err(|source| open_error(path, source)),
        _ => Ok(writer),
    }
}

/// Opens what `fd` refers to once more, whatever became of its name.
fn reopen(fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty())
}

/// Whether anybody but us has a fifo open for reading. It is opened anew for that, as it is a reader itself.
pub fn has_reader(fifo: &mut OwnedFd) -> Result<bool, Errno> {
    *fifo = reopen(fifo, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)?;
    let mut polled = [PollFd::new(fifo, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default()))?;
    let read = !polled[0].revents().contains(PollFlags::ERR);
    *fifo = reopen(fifo, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC)?;
    Ok(read)
}

/// Waits until somebody opens a fifo of ours for reading. Meanwhile we only write to it.
pub async fn next_reader(fifo: &mut OwnedFd) -> Result<(), Errno> {
    *fifo = reopen(fifo, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)?;
    let anchor = reopen(fifo, OFlags::PATH | OFlags::CLOEXEC)?;
    Opening::begin(anchor)?.opened().await.map(drop)
}

/// Opens a fifo for writing when it has a reader.
async fn wait_for_reader(path: &Path, patience: Duration) -> Result<OwnedFd, Error> {
    let anchor = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| open_error(path, e))?;
    if file_type(&anchor).map_err(|e| open_error(path, e))? != FileType::Fifo {
        return Err(open_error(path, Errno::NXIO)); // a socket, say
    }
    let opening = Opening::begin(anchor).map_err(|e| open_error(path, e))?;
    match tokio::time::timeout(patience, opening.opened()).await {
        Ok(opened) => opened.map_err(|source| open_error(path, source)),
        Err(_) => Err(Error::NoReader { path: path.to_owned() }),
    }
}

/// A thread that waits in open(2) for a reader. Dropped before that came, it is let go by opening the other end.
struct Opening {
    anchor: Option<OwnedFd>,
    thread: Option<JoinHandle<Result<OwnedFd, Errno>>>,
}

impl Opening {
    fn begin(anchor: OwnedFd) -> Result<Self, Errno> {
        let theirs = rustix::io::fcntl_dupfd_cloexec(&anchor, 0)?;
        let thread = spawn_blocking(move || reopen(&theirs, OFlags::WRONLY | OFlags::CLOEXEC));
        Ok(Self { anchor: Some(anchor), thread: Some(thread) })
    }

    async fn opened(mut self) -> Result<OwnedFd, Errno> {
        let Some(thread) = &mut self.thread else { return Err(Errno::CANCELED) };
        let opened = thread.await;
        self.thread = None;
        opened.unwrap_or(Err(Errno::CANCELED))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let (Some(thread), Some(anchor)) = (self.thread.take(), self.anchor.take()) else { return };
        // Held until the thread is through: it may not have reached its open(2) yet.
        let other_end = reopen(&anchor, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC);
        tokio::spawn(async move {
            let _ = thread.await;
            drop(other_end);
        });
    }
}

/// A client's stdin before anybody reads it. It is not opened: to the client that is the sign to begin.
pub struct Input {
    anchor: OwnedFd,
    path: PathBuf,
}

/// An input that is open.
pub struct OpenInput {
    pub reader: OwnedFd,
    /// A writer of ours that keeps it from ending when a client detaches. None where the path is no fifo.
    pub writer: Option<OwnedFd>,
}

impl Input {
    /// Finds it, so that a wrong path is told at once.
    pub fn find(path: PathBuf) -> Result<Self, Error> {
        match open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(anchor) => Ok(Self { anchor, path }),
            Err(source) => Err(open_error(&path, source)),
        }
    }

    /// Opens both ends without waiting for anybody.
    pub fn open(&self) -> Result<OpenInput, Error> {
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let open_ends = || {
            let reader = reopen(&self.anchor, OFlags::RDONLY | flags)?;
            let writer = match file_type(&reader)? {
                FileType::Fifo => Some(reopen(&self.anchor, OFlags::WRONLY | flags)?),
                _ => None,
            };
            Ok(OpenInput { reader, writer })
        };
        open_ends().map_err(|source| open_error(&self.path, source))
    }

    /// The error of what could not be done with it.
    pub fn error(&self, source: std::io::Error) -> Error {
        Error::Open { path: self.path.clone(), source }
    }
}

/// Creates a log file and the directories above it, as `file://` asks.
pub fn create_file(path: &Path) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(|source| Error::CreateDirectory { path: parent.to_owned(), source })?;
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match open(path, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::NXIO) => Ok(()), // NXIO: a fifo that has no reader yet
        Err(source) => Err(open_error(path, source)),
    }
}

/// /dev/null, for a stream that nobody wants.
pub fn null() -> Result<OwnedFd, Error> {
    let path = Path::new("/dev/null");
    match sources::null() {
        // Who may not mount may not give it away either.
        Err(Errno::PERM) => open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()),
        opened => opened,
    }
    .map_err(|source| open_error(path, source))
}
