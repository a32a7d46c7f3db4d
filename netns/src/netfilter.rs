//! nfnetlink: what the parts of netfilter have in common. Messages are written here byte by byte.

use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use crate::netlink::Refused;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Attributes, one behind the other, padded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.put(kind, &[text.as_bytes(), b"\0"].concat())
    }

    pub(crate) fn number(&mut self, kind: u16, number: u32) -> &mut Self {
        self.put(kind, &number.to_be_bytes())
    }

    /// Without NLA_F_NESTED, as the kernel says it itself; these parts of it do not ask for the flag.
    pub(crate) fn nest(&mut self, kind: u16, inner: &Self) -> &mut Self {
        self.put(kind, &inner.0)
    }

    /// A comment as nft(8) keeps it: type 0, length, text.
    pub(crate) fn comment(&mut self, kind: u16, comment: &str) -> &mut Self {
        let text = &comment.as_bytes()[..comment.len().min(254)];
        self.put(kind, &[&[0, text.len() as u8 + 1], text, b"\0"].concat())
    }
}

/// A socket to netfilter in the namespace where it was opened.
#[derive(Debug)]
pub(crate) struct Netfilter {
    socket: OwnedFd,
    pub(crate) sequence: u32,
}

/// One message; `resource` is of batches alone.
pub(crate) fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    bytes.extend((20 + attributes.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// The attributes of a buffer, their flags stripped.
pub(crate) fn each(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A string attribute.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// What an NLMSG_ERROR says. None: it is an acknowledgement.
pub(crate) fn errno(bytes: &[u8]) -> Option<Errno> {
    let code = bytes.get(16..)?.first_chunk().map(|code| i32::from_ne_bytes(*code))?;
    (code != 0).then(|| Errno::from_raw_os_error(code.wrapping_neg()))
}

fn kind(bytes: &[u8]) -> i32 {
    i32::from(u16::from_ne_bytes([bytes[4], bytes[5]]))
}

impl Netfilter {
    /// In the namespace of the calling thread.
    pub(crate) fn here() -> Result<Self, Refused> {
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Refused> {
        retry_on_intr(|| send(&self.socket, bytes, SendFlags::empty()))?;
        Ok(())
    }

    /// The messages of one datagram, each with its header.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<Vec<Vec<u8>>, Refused> {
        let (length, _) = retry_on_intr(|| recv(&self.socket, &mut *buffer, RecvFlags::empty()))?;
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while let Some(size) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            messages.push(rest.get(..size).filter(|bytes| bytes.len() >= 16).ok_or(Errno::BADMSG)?.to_vec());
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }

    /// The attributes of all of something, each object's; of what is not there, none. One that changed while it was
    /// read is read again.
    pub(crate) fn dump(&mut self, of: u16, family: u8, filter: &Attributes) -> Result<Vec<Vec<u8>>, Refused> {
        let mut buffer = vec![0; 64 << 10];
        'again: loop {
            self.sequence += 1;
            self.send(&message(of, DUMP, self.sequence, family, 0, &filter.0))?;
            let (mut objects, mut whole) = (Vec::new(), true);
            loop {
                for bytes in self.receive(&mut buffer)? {
                    if bytes[8..12] != self.sequence.to_ne_bytes() {
                        continue;
                    }
                    whole &= u16::from_ne_bytes([bytes[6], bytes[7]]) & libc::NLM_F_DUMP_INTR as u16 == 0;
                    match kind(&bytes) {
                        libc::NLMSG_DONE if whole => return Ok(objects),
                        libc::NLMSG_DONE => continue 'again,
                        libc::NLMSG_ERROR => match errno(&bytes) {
                            None => {}
                            Some(Errno::NOENT) => return Ok(Vec::new()),
                            Some(Errno::INTR | Errno::AGAIN) => continue 'again,
                            Some(errno) => return Err(errno.into()),
                        },
                        _ => objects.push(bytes.get(20..).unwrap_or_default().to_vec()),
                    }
                }
            }
        }
    }

    /// One request that changes something, or asks for one thing, whose attributes are answered.
    pub(crate) fn ask(&mut self, of: u16, family: u8, attributes: &Attributes) -> Result<Vec<u8>, Refused> {
        self.sequence += 1;
        self.send(&message(of, ACK, self.sequence, family, 0, &attributes.0))?;
        let (mut buffer, mut answer) = (vec![0; 8 << 10], Vec::new());
        loop {
            for bytes in self.receive(&mut buffer)? {
                if bytes[8..12] != self.sequence.to_ne_bytes() {
                    continue;
                }
                match kind(&bytes) {
                    libc::NLMSG_ERROR => return errno(&bytes).map_or(Ok(answer), |errno| Err(errno.into())),
                    _ => answer = bytes.get(20..).unwrap_or_default().to_vec(),
                }
            }
        }
    }
}
