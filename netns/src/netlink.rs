//! rtnetlink(7), asked and answered in turn. A socket stays in the namespace where it was opened, whoever uses it.

mod ask;
pub(crate) mod queue;

use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::cni::fault::{Code, Fault};
use crate::{Error, Namespace, sys};

pub(crate) use ask::{Family, Link, Policy, Via};
pub(crate) use queue::Bucket;

/// As much as the kernel puts into one datagram of a dump.
const BUFFER: usize = 32 << 10;

/// How often a dump is begun again that changed while it was read.
const INTERRUPTED: usize = 20;

/// What the kernel says about a request that it does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{errno}{}", if why.is_empty() { String::new() } else { format!(" ({why})") })]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
    /// Its words, where it has some.
    pub(crate) why: String,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, why: String::new() }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::new(Code::INTERNAL, format!("netlink: {refused}"))
    }
}

/// A socket to the kernel's routing part of one namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// In the namespace of the calling thread.
    pub(crate) fn here() -> Result<Self, Refused> {
        // NETLINK_ROUTE is 0, the protocol of whoever names none.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        // Words in errors, and dumps of what was asked for alone. A kernel without them is less helpful, not wrong.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            let _ = sys::enable_netlink_option(&socket, option);
        }
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// In that namespace.
    pub(crate) fn inside(namespace: &Namespace) -> Result<Self, Refused> {
        let why = "enter the network namespace".to_owned();
        match namespace.enter(Self::here) {
            Ok(socket) => socket,
            Err(Error::Enter(errno)) => Err(Refused { errno, why }),
            Err(_) => Err(Refused { errno: Errno::AGAIN, why }),
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refused> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry_on_intr(|| send(&self.socket, &bytes, SendFlags::empty()))?;
        Ok(())
    }

    /// Reads what answers the last request, up to its end, and whether it is whole.
    fn answers(&mut self) -> Result<(Vec<RouteNetlinkMessage>, bool), Refused> {
        let (mut answers, mut whole) = (Vec::new(), true);
        loop {
            let (length, _) = retry_on_intr(|| recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()))?;
            let mut rest = &self.buffer[..length];
            while rest.len() >= 16 {
                let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let bytes = rest.get(..size).filter(|bytes| bytes.len() >= 16).ok_or(Errno::BADMSG)?;
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
                if bytes[8..12] != self.sequence.to_ne_bytes() {
                    continue;
                }
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                    .map_err(|error| Refused { errno: Errno::BADMSG, why: error.to_string() })?;
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok((answers, whole)),
                    NetlinkPayload::Error(error) => {
                        let Some(code) = error.code else { return Ok((answers, whole)) };
                        let errno = Errno::from_raw_os_error(code.get().wrapping_neg());
                        return Err(Refused { errno, why: words(bytes) });
                    }
                    _ => {}
                }
            }
        }
    }

    /// One request that changes something, or asks for one thing.
    pub(crate) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Refused> {
        self.send(message, NLM_F_ACK | flags)?;
        Ok(self.answers()?.0)
    }

    /// All of something. A list that changed under the kernel's hands may lack entries, so it is read again.
    pub(crate) fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Refused> {
        for _ in 0..INTERRUPTED {
            self.send(message.clone(), NLM_F_DUMP)?;
            if let (answers, true) = self.answers()? {
                return Ok(answers);
            }
        }
        Err(Refused { errno: Errno::AGAIN, why: "the list changes faster than it is read".to_owned() })
    }
}

/// NLMSGERR_ATTR_MSG of an NLMSG_ERROR, which stands behind the request's header (or the request, where it is not capped).
fn words(error: &[u8]) -> String {
    const CAPPED: u16 = 0x100;
    const ACK_TLVS: u16 = 0x200;
    let number = |at: usize| error.get(at..at + 2).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let flags = number(6);
    if flags & ACK_TLVS == 0 {
        return String::new();
    }
    // nlmsghdr, the errno, and the request's nlmsghdr: its length says what else of it is there.
    let request = if flags & CAPPED != 0 { 16 } else { usize::from(number(20)) };
    let mut at = 20 + request.next_multiple_of(4);
    while let (length @ 4.., kind) = (usize::from(number(at)), number(at + 2)) {
        if kind == 1 {
            let text = error.get(at + 4..at + length).unwrap_or_default();
            return String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
        }
        at += length.next_multiple_of(4);
    }
    String::new()
}
