//! `$NOTIFY_SOCKET`: a container's program tells whoever manages us that it is ready. sd_notify(3)
//!
//! The program has a socket of its own for that, in a directory of the container's state that is bound into the container.
//! What it says there goes on to the manager, with the pid that is to be watched from then on; as with runc, that is all.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{MountBuilder, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::Error;

/// Below the container's state.
pub const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where the container has that directory.
const WITHIN: &str = "/run/notify";
/// For a manager that does not know of barriers.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// The manager's socket, as our environment has it.
#[derive(Debug)]
pub struct Manager(OsString);

impl Manager {
    /// `None` if nobody wants to know.
    pub fn of_environment() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).map(Self)
    }

    /// Has the program find its socket.
    pub fn announce(spec: &mut Spec, state: &Path) -> Result<(), Error> {
        let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
        let mount = MountBuilder::default().destination(WITHIN).source(state.join(DIRECTORY)).options(options);
        let mount = mount.build().map_err(|error| Error::State(format!("mount {WITHIN}: {error}")))?;
        spec.set_mounts(Some(spec.mounts().clone().into_iter().flatten().chain([mount]).collect()));
        if let Some(process) = spec.process_mut() {
            let socket = format!("NOTIFY_SOCKET={WITHIN}/{SOCKET}");
            process.set_env(Some(process.env().clone().into_iter().flatten().chain([socket]).collect()));
        }
        Ok(())
    }

    /// Listens for a container's program, by the directory of its state; `None` if it was made without.
    pub fn listen(self, state: &Path) -> Result<Option<Relay>, Error> {
        let directory = state.join(DIRECTORY);
        if !directory.is_dir() {
            return Ok(None);
        }
        let failed = |errno: Errno| Error::file("listen in", &directory)(errno);
        let socket = socket().map_err(failed)?;
        // By a descriptor: a path of any length would not fit into an address. unix(7)
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&directory, flags, Mode::empty()).map_err(failed)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
        let address = SocketAddrUnix::new(&path).map_err(failed)?;
        rustix::net::bind(&socket, &address).map_err(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o777))
            .map_err(Error::file("change the mode of", &path))?;
        Ok(Some(Relay { socket, manager: address_of(&self.0).map_err(Error::system("understand $NOTIFY_SOCKET"))? }))
    }
}

/// Hands on that a program is ready.
#[derive(Debug)]
pub struct Relay {
    socket: OwnedFd,
    manager: SocketAddrUnix,
}

impl Relay {
    /// Waits until the program is ready or has ended. `main` is to be watched from then on.
    pub fn wait(&self, program: BorrowedFd<'_>, main: Pid) -> Result<(), Error> {
        let failed = |errno| Error::system("wait for the program to be ready")(errno);
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(program, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(failed)?;
            let [said, ended] = fds.map(|fd| !fd.revents().is_empty());
            if said {
                if let Some(ready) = self.ready().map_err(failed)? {
                    return self.tell(&ready, main).map_err(Error::system("tell $NOTIFY_SOCKET"));
                }
            } else if ended {
                return Ok(());
            }
        }
    }

    /// What the next message says of being ready.
    fn ready(&self) -> Result<Option<Vec<u8>>, Errno> {
        let mut buffer = [0; 4096];
        let (message, _) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
        Ok(ready(buffer.get(..message).unwrap_or_default()).map(<[u8]>::to_vec))
    }

    fn tell(&self, ready: &[u8], main: Pid) -> Result<(), Errno> {
        let socket = socket()?;
        rustix::net::connect(&socket, &self.manager)?;
        for message in [ready, format!("MAINPID={}", main.as_raw_nonzero()).as_bytes()] {
            rustix::net::send(&socket, &[message, b"\n"].concat(), SendFlags::NOSIGNAL)?;
        }
        barrier(&socket)
    }
}

/// Returns when the manager has read what was sent before: it closes the descriptor then. sd_notify_barrier(3)
fn barrier(socket: &OwnedFd) -> Result<(), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [theirs.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"BARRIER=1")], &mut control, SendFlags::NOSIGNAL)?;
    drop(theirs);
    let mut fds = [PollFd::new(&ours, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE))).map(drop)
}

fn ready(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

/// A path, or an abstract name behind an `@`.
fn address_of(name: &OsStr) -> Result<SocketAddrUnix, Errno> {
    match name.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddrUnix::new_abstract_name(name),
        _ => SocketAddrUnix::new(name),
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_message_says_ready() {
        assert_eq!(ready(b"STATUS=up\nREADY=1\nX=y"), Some(&b"READY=1"[..]));
        assert_eq!(ready(b"READY=1"), Some(&b"READY=1"[..]));
        assert_eq!(ready(b"STATUS=READY=1\n"), None);
    }

    #[test]
    fn a_manager_may_have_an_abstract_name() {
        assert!(address_of(OsStr::new("@systemd")).unwrap().abstract_name().is_some());
        assert!(address_of(OsStr::new("/run/systemd/notify")).unwrap().path().is_some());
    }
}
