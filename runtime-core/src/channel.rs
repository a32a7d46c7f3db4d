//! The socket between a child and its parent: small fixed messages, and descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Pid;

use crate::hooks::{Ending, SAID};

/// What a child tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// The maps of my new user namespace, please; then [`Channel::go`].
    MapIds,
    /// I went on as this process, which is your child (and the old one ends).
    Born(Child),
    /// The master of my terminal.
    Console(OwnedFd),
    /// Everything is mounted: the hooks of your namespaces, please; then [`Channel::go`].
    Hooks,
    /// This descriptor of mine is a seccomp listener: hand it on, please; then [`Channel::go`].
    Listener(i32),
    /// By this netlink socket you reach my network namespace: my devices, please; then [`Channel::go`].
    NetDevices(OwnedFd),
    /// This tree is mine: give it the owners of its step, please; then [`Channel::go`].
    Idmap {
        /// Index of the step.
        step: usize,
        /// Detached.
        tree: OwnedFd,
    },
    /// All is ready, I wait at the gate.
    Ready,
    /// A hook failed that I ran, and I am gone.
    HookFailed {
        /// Index of the step.
        step: usize,
        /// What became of it.
        ending: Ending,
        /// The beginning of what it wrote.
        said: String,
    },
    /// A step failed, and I am gone.
    Failed {
        /// Index of the step.
        step: usize,
        /// Why.
        errno: Errno,
    },
}

/// A child born inside another pid namespace.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

const MAP_IDS: u32 = 1;
const BORN: u32 = 2;
const CONSOLE: u32 = 3;
const READY: u32 = 4;
const FAILED: u32 = 5;
const HOOKS: u32 = 6;
const HOOK_FAILED: u32 = 7;
const LISTENER: u32 = 8;
const NET_DEVICES: u32 = 9;
const IDMAP: u32 = 10;

/// How an [`Ending`] is one number: a status, or one of these with an errno.
const TIMED_OUT: u32 = 1 << 30;
const NOT_RUN: u32 = 1 << 31;

/// Kind and two operands.
type Message = [u32; 3];
const SIZE: usize = size_of::<Message>();

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// The parent's end and the child's, both close-on-exec.
    pub(crate) fn pair() -> Result<(Self, Self), Errno> {
        let (parent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(parent), Self(child)))
    }

    /// The parent's end of a connection that was made otherwise.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The descriptor.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Parent: opens the gate, or says that the maps are written.
    pub(crate) fn go(&self) -> Result<(), Errno> {
        send(self.as_fd(), [0; 3], None)
    }

    /// Parent: the next report; `None` when every copy of the child's end is closed: it executed, or it died.
    pub(crate) fn report(&self) -> Result<Option<Report>, Errno> {
        let mut said = [0; SAID];
        let Some((message, fd, length)) = receive(self.as_fd(), &mut said)? else { return Ok(None) };
        let report = match (message, fd) {
            ([MAP_IDS, ..], _) => Report::MapIds,
            ([BORN, pid, _], Some(pidfd)) => {
                Report::Born(Child { pid: Pid::from_raw(pid.cast_signed()).ok_or(Errno::PROTO)?, pidfd })
            }
            ([CONSOLE, ..], Some(master)) => Report::Console(master),
            ([LISTENER, number, _], _) => Report::Listener(number.cast_signed()),
            ([NET_DEVICES, ..], Some(socket)) => Report::NetDevices(socket),
            ([IDMAP, step, _], Some(tree)) => Report::Idmap { step: step as usize, tree },
            ([HOOKS, ..], _) => Report::Hooks,
            ([READY, ..], _) => Report::Ready,
            ([HOOK_FAILED, step, ending], _) => Report::HookFailed {
                step: step as usize,
                ending: ending_from(ending),
                said: String::from_utf8_lossy(said.get(..length).unwrap_or_default()).into_owned(),
            },
            ([FAILED, step, errno], _) => {
                Report::Failed { step: step as usize, errno: Errno::from_raw_os_error(errno.cast_signed()) }
            }
            _ => return Err(Errno::PROTO),
        };
        Ok(Some(report))
    }
}

/// Child: asks for the maps and waits until they are there.
pub(crate) fn ask_for_maps(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    send(channel, [MAP_IDS, 0, 0], None)?;
    wait_for_go(channel)
}

/// Child: hands up the process that goes on in its place.
pub(crate) fn report_born(channel: BorrowedFd<'_>, pid: Pid, pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    send(channel, [BORN, pid.as_raw_nonzero().get().cast_unsigned(), 0], Some(pidfd))
}

/// Child: waits until the parent knows of it, by [`report_born`].
pub(crate) fn wait_until_known(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    wait_for_go(channel)
}

/// Child: hands up the master of its terminal.
pub(crate) fn report_console(channel: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<(), Errno> {
    send(channel, [CONSOLE, 0, 0], Some(master))
}

/// Child: asks for the hooks of the parent's namespaces and waits until they have run.
pub(crate) fn ask_for_hooks(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    send(channel, [HOOKS, 0, 0], None)?;
    wait_for_go(channel)
}

/// Child: ready; waits until the gate opens. `CONNRESET` if the parent is gone.
pub(crate) fn wait_at_gate(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    report_ready(channel)?;
    wait_for_go(channel)
}

/// Child: ready.
pub(crate) fn report_ready(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    send(channel, [READY, 0, 0], None)
}

/// Child: whether the other end says go; false if it is gone.
pub(crate) fn receive_go(channel: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(receive(channel, &mut [])?.is_some())
}

/// Child: last words. By write(2), which profiles leave to programs where they deny sendmsg(2).
pub(crate) fn report_failed(channel: BorrowedFd<'_>, step: usize, errno: Errno) {
    // A parent that is gone cannot be told.
    let _ = rustix::io::write(channel, &bytes([FAILED, step as u32, errno.raw_os_error().cast_unsigned()]));
}

/// Child: names a seccomp listener that is to be handed on, and waits for that. By write(2) alone: every other call may wait
/// for an answer from the listener, which nobody has before.
pub(crate) fn hand_on_listener(channel: BorrowedFd<'_>, number: u32) -> Result<(), Errno> {
    let message = bytes([LISTENER, number, 0]);
    if rustix::io::write(channel, &message)? != message.len() {
        return Err(Errno::IO);
    }
    wait_for_go(channel)
}

/// Child: asks for its network devices and waits until they are there.
pub(crate) fn ask_for_net_devices(channel: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<(), Errno> {
    send(channel, [NET_DEVICES, 0, 0], Some(socket))?;
    wait_for_go(channel)
}

/// Child: asks for other owners of a tree and waits until it has them.
pub(crate) fn ask_for_idmap(channel: BorrowedFd<'_>, step: usize, tree: BorrowedFd<'_>) -> Result<(), Errno> {
    send(channel, [IDMAP, step as u32, 0], Some(tree))?;
    wait_for_go(channel)
}

/// Child: last words, of a hook.
pub(crate) fn report_hook_failed(channel: BorrowedFd<'_>, step: usize, ending: Ending, said: &[u8]) {
    let ending = match ending {
        Ending::Status(status) => status,
        Ending::TimedOut => TIMED_OUT,
        Ending::NotRun(errno) => NOT_RUN | errno.raw_os_error().cast_unsigned(),
    };
    let _ = send_with(channel, [HOOK_FAILED, step as u32, ending], said, None);
}

fn ending_from(number: u32) -> Ending {
    match number {
        NOT_RUN.. => Ending::NotRun(Errno::from_raw_os_error((number & !NOT_RUN).cast_signed())),
        TIMED_OUT.. => Ending::TimedOut,
        status => Ending::Status(status),
    }
}

fn wait_for_go(channel: BorrowedFd<'_>) -> Result<(), Errno> {
    if receive_go(channel)? { Ok(()) } else { Err(Errno::CONNRESET) }
}

fn bytes(message: Message) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (to, from) in bytes.chunks_exact_mut(4).zip(message) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    bytes
}

fn send(channel: BorrowedFd<'_>, message: Message, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    send_with(channel, message, &[], fd)
}

fn send_with(channel: BorrowedFd<'_>, message: Message, text: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let bytes = bytes(message);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(channel, &[IoSlice::new(&bytes), IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// A message, a descriptor that came with it, and how many bytes of `text` did.
fn receive(channel: BorrowedFd<'_>, text: &mut [u8]) -> Result<Option<(Message, Option<OwnedFd>, usize)>, Errno> {
    let mut bytes = [0; SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes), IoSliceMut::new(text)];
    let received = loop {
        match recvmsg(channel, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The other end closed while a message of ours was unread.
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    let mut message = [0; 3];
    for (to, from) in message.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *to = u32::from_ne_bytes(*from);
    }
    Ok(Some((message, fd, received.bytes.saturating_sub(SIZE))))
}
