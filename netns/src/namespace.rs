use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;

use crate::{Error, loopback, pin, sys};

/// `NSFS_MAGIC` of linux/magic.h: the file system of /proc/PID/ns and of what is bound from there.
pub(crate) const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A network namespace, alive for as long as this descriptor, a pin, a socket or a process holds it.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> Self {
        namespace.0
    }
}

impl Namespace {
    /// A new namespace without a name. It has one interface, `lo`, and that is down.
    pub fn create() -> Result<Self, Error> {
        on_thread(|| {
            sys::unshare_network().map_err(Error::Create)?;
            Self::own().map_err(Error::Create)
        })?
    }

    /// The namespace of the calling thread.
    pub(crate) fn own() -> Result<Self, Errno> {
        let own = File::open("/proc/thread-self/ns/net");
        Ok(Self(own.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?.into()))
    }

    /// The namespace behind a path: a pin, or /proc/PID/ns/net.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Open { path: path.to_owned(), source };
        // NONBLOCK: a fifo under that name must not hold us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        if rustix::fs::fstatfs(&file).map_err(failed)?.f_type != NSFS_MAGIC
            || sys::namespace_type(file.as_fd()).map_err(failed)? != libc::CLONE_NEWNET
        {
            return Err(Error::NotANamespace { path: path.to_owned() });
        }
        Ok(Self(file))
    }

    /// Gives the namespace the name `directory/name`, which keeps it alive until [`remove`](crate::remove). Makes
    /// the directory where it is missing; a name that is taken is an error, and then nothing has changed.
    pub fn pin(&self, directory: &Path, name: &str) -> Result<PathBuf, Error> {
        pin::pin(self.as_fd(), directory, name)
    }

    /// Runs `act` inside the namespace, on a thread that ends with it, and waits. Sockets that it opens stay in the
    /// namespace, whoever uses them, and keep it alive.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread(|| {
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(self.as_fd(), kind).map_err(Error::Enter)?;
            Ok(act())
        })?
    }

    /// Brings `lo` up; the kernel then gives it 127.0.0.1 and ::1.
    pub fn bring_loopback_up(&self) -> Result<(), Error> {
        self.enter(loopback::bring_up)?.map_err(Error::Loopback)
    }
}

/// Runs `act` on a thread of its own. A panic in it goes on in the caller.
fn on_thread<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, act).map_err(Error::Thread)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
