//! Terminals: ours in raw mode, and descriptors handed over sockets.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use oci_spec::runtime::{BoxBuilder, Process};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::termios::{OptionalActions, OutputModes, Termios, Winsize};

use super::Error;

/// Sends a descriptor to whoever listens at a path, with its name as the message.
pub fn send(fd: BorrowedFd<'_>, name: &[u8], path: &Path) -> Result<(), Error> {
    let failed = |errno: Errno| Error::file("send a descriptor to", path)(errno);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).map_err(failed)?).map_err(failed)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(&socket, &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(failed)
}

/// Our terminal in raw mode: every key goes to the process. As it was again when this is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` if our input is no terminal.
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = rustix::termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // The lines of the container's terminal end as they were written: ending them for a screen is left to ours.
        raw.output_modes.insert(OutputModes::OPOST);
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The terminal of a process that is stayed with has the size of ours from its beginning, if its spec has no other.
pub fn size(process: &mut Process, detach: bool) {
    if detach || process.console_size().is_some() || !process.terminal().unwrap_or(false) {
        return;
    }
    let size = our_size().and_then(|size| {
        BoxBuilder::default().height(u64::from(size.ws_row)).width(u64::from(size.ws_col)).build().ok()
    });
    process.set_console_size(size);
}

fn our_size() -> Option<Winsize> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let ours = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    ours.into_iter().find_map(|fd| rustix::termios::tcgetwinsize(fd).ok())
}

/// Has a terminal leave the ends of lines alone, as everybody does who copies a container's: what is copied into a file has
/// them as they were written.
pub fn keep_newlines(master: BorrowedFd<'_>) {
    if let Ok(mut modes) = rustix::termios::tcgetattr(master) {
        modes.output_modes.remove(OutputModes::ONLCR);
        let _ = rustix::termios::tcsetattr(master, OptionalActions::Now, &modes);
    }
}

/// Gives a terminal the size of ours, if we have one.
pub fn resize(master: BorrowedFd<'_>) {
    if let Some(size) = our_size() {
        // A terminal whose process is gone has no size.
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}
