//! Who answers the system calls that a seccomp profile leaves to others: `listenerPath`, seccomp_unotify(2).

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use rustix::process::Pid;
use serde::Serialize;

use crate::errno::text;
use crate::state::{OCI_VERSION, State};

/// An agent that was not told of a container.
#[derive(Debug, thiserror::Error)]
#[error("failed to connect with seccomp agent {}: {}", path.display(), text(*source))]
pub struct Error {
    /// `linux.seccomp.listenerPath`
    pub path: PathBuf,
    /// Why.
    pub source: Errno,
}

/// An agent, as a profile names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    path: PathBuf,
    metadata: String,
}

/// `ContainerProcessState` of config-linux.md.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'static str,
    /// What the descriptors are that come along.
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a State,
}

impl Listener {
    /// The one of a profile, if it has one.
    pub(crate) fn of(profile: &LinuxSeccomp) -> Option<Self> {
        let path = profile.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty())?;
        Some(Self { path: path.clone(), metadata: profile.listener_metadata().clone().unwrap_or_default() })
    }

    /// Hands the listener of a process over, with who it is.
    pub(crate) fn send(&self, listener: BorrowedFd<'_>, pid: Pid, state: &State) -> Result<(), Error> {
        let pid = pid.as_raw_nonzero().get();
        let state = ProcessState { oci_version: OCI_VERSION, fds: ["seccompFd"], pid, metadata: &self.metadata, state };
        let json = serde_json::to_vec(&state).unwrap_or_default();
        send(&self.path, &json, listener).map_err(|source| Error { path: self.path.clone(), source })
    }
}

/// The descriptor goes with the first byte.
fn send(path: &Path, mut text: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let fds = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    while !text.is_empty() {
        match sendmsg(&socket, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => {
                text = text.get(sent?..).unwrap_or_default();
                control.clear();
            }
        }
    }
    Ok(())
}
