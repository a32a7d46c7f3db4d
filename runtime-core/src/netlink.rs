//! rtnetlink(7): the few requests that moving a network device takes.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFF_UP: u32 = 1;
/// `struct nlmsghdr`, `struct ifinfomsg`, `struct ifaddrmsg`
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;
/// No answer is longer. netlink(7)
const ANSWER: usize = 32 << 10;

/// A socket of the network namespace that the calling thread is in. NETLINK_ROUTE is 0, the default.
pub(crate) fn open() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

/// An address of a device that was given to it to stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    family: u8,
    prefix: u8,
    address: Vec<u8>,
    local: Vec<u8>,
}

/// A network namespace, by a socket of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Netlink<'a>(pub(crate) BorrowedFd<'a>);

impl Netlink<'_> {
    /// The devices, by index and name.
    pub(crate) fn links(self) -> Result<Vec<(u32, Vec<u8>)>, Errno> {
        let links = self.request(RTM_GETLINK, NLM_F_DUMP, link(0, 0, 0))?;
        let link = |body: &Vec<u8>| {
            let name = attribute(body, LINK, IFLA_IFNAME)?;
            Some((number(body, 4)?, name.split(|byte| *byte == 0).next()?.to_vec()))
        };
        Ok(links.iter().filter_map(link).collect())
    }

    /// The addresses of a device that go with it: permanent ones, of the whole world.
    pub(crate) fn addresses(self, index: u32) -> Result<Vec<Address>, Errno> {
        let found = self.request(RTM_GETADDR, NLM_F_DUMP, vec![0; ADDRESS])?;
        let address = |body: &Vec<u8>| {
            let [family, prefix, flags, scope] = *body.first_chunk()?;
            let flags = attribute(body, ADDRESS, IFA_FLAGS).and_then(|flags| number(flags, 0)).unwrap_or(flags.into());
            let stays = flags & IFA_F_PERMANENT != 0 && scope == RT_SCOPE_UNIVERSE && number(body, 4) == Some(index);
            let address = attribute(body, ADDRESS, IFA_ADDRESS).filter(|_| stays)?.to_vec();
            let local = attribute(body, ADDRESS, IFA_LOCAL).map_or_else(|| address.clone(), <[u8]>::to_vec);
            Some(Address { family, prefix, address, local })
        };
        Ok(found.iter().filter_map(address).collect())
    }

    /// Takes a device down, or up.
    pub(crate) fn set_up(self, index: u32, up: bool) -> Result<(), Errno> {
        let flags = if up { IFF_UP } else { 0 };
        self.request(RTM_NEWLINK, NLM_F_ACK, link(index, flags, IFF_UP)).map(drop)
    }

    /// Moves a device into the network namespace of a process, under a name that nobody has there.
    pub(crate) fn move_to(self, index: u32, pid: u32, name: &[u8]) -> Result<(), Errno> {
        let mut body = link(index, 0, 0);
        push(&mut body, IFLA_IFNAME, &[name, b"\0"].concat());
        push(&mut body, IFLA_NET_NS_PID, &pid.to_ne_bytes());
        self.request(RTM_NEWLINK, NLM_F_ACK, body).map(drop)
    }

    /// Gives a device an address.
    pub(crate) fn add_address(self, index: u32, address: &Address) -> Result<(), Errno> {
        let mut body = vec![address.family, address.prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        push(&mut body, IFA_LOCAL, &address.local);
        push(&mut body, IFA_ADDRESS, &address.address);
        self.request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body).map(drop)
    }

    /// Sends a request; the bodies of what comes back, up to the end or the acknowledgement.
    fn request(self, kind: u16, flags: u16, body: Vec<u8>) -> Result<Vec<Vec<u8>>, Errno> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.0, &message, SendFlags::empty())?;
        let mut found = Vec::new();
        let mut buffer = vec![0; ANSWER];
        loop {
            let (length, _) = recv(self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let (Some(length), Some(kind)) = (number(rest, 0), rest.get(4..6)) {
                let length = (length as usize).clamp(HEADER, rest.len());
                let body = rest.get(HEADER..length).unwrap_or_default();
                match u16::from_ne_bytes([kind[0], kind[1]]) {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => match number(body, 0).map(u32::cast_signed) {
                        Some(0) => return Ok(found),
                        error => return Err(Errno::from_raw_os_error(error.map_or(libc::EIO, |error| -error))),
                    },
                    _ => found.push(body.to_vec()),
                }
                rest = rest.get(aligned(length)..).unwrap_or_default();
            }
        }
    }
}

/// `struct ifinfomsg`
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [0, index, flags, change].into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
}

/// The value of an attribute behind a body's fixed part.
fn attribute(body: &[u8], fixed: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = body.get(fixed..)?;
    loop {
        let &[l0, l1, k0, k1] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1])).max(4);
        if u16::from_ne_bytes([k0, k1]) == wanted {
            return rest.get(4..length);
        }
        rest = rest.get(aligned(length)..)?;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_is_found_behind_others() {
        let mut body = link(7, 0, 0);
        push(&mut body, 1, b"abcde");
        push(&mut body, IFLA_IFNAME, b"eth0\0");
        assert_eq!(attribute(&body, LINK, IFLA_IFNAME), Some(&b"eth0\0"[..]));
        assert_eq!(attribute(&body, LINK, 9), None);
        assert_eq!(number(&body, 4), Some(7));
    }

    #[test]
    fn broken_attributes_end_the_search() {
        assert_eq!(attribute(&[0, 0, 1, 0, 255, 255, 2, 0], 0, 3), None);
    }
}
