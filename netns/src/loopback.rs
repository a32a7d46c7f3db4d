//! One rtnetlink request. rtnetlink(7)

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// `struct nlmsghdr` and `struct ifinfomsg`.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 16;

/// The kernel makes `lo` first, as number 1, in every namespace.
const LOOPBACK: i32 = 1;

/// Sets IFF_UP on `lo` in the calling thread's namespace.
pub(crate) fn bring_up() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    retry_on_intr(|| send(&socket, &request(), SendFlags::empty()))?;
    let mut reply = [0; 512];
    let (length, _) = retry_on_intr(|| recv(&socket, &mut reply[..], RecvFlags::empty()))?;
    acknowledged(&reply[..length])
}

/// RTM_NEWLINK that changes nothing but IFF_UP.
fn request() -> [u8; REQUEST] {
    let up = libc::IFF_UP as u32;
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    request[20..24].copy_from_slice(&LOOPBACK.to_ne_bytes());
    request[24..28].copy_from_slice(&up.to_ne_bytes());
    request[28..].copy_from_slice(&up.to_ne_bytes());
    request
}

/// What an NLMSG_ERROR says: 0 or a negative errno behind the header.
fn acknowledged(reply: &[u8]) -> Result<(), Errno> {
    let (header, rest) = reply.split_first_chunk::<HEADER>().ok_or(Errno::BADMSG)?;
    let error = rest.first_chunk().ok_or(Errno::BADMSG)?;
    if header[4..6] != (libc::NLMSG_ERROR as u16).to_ne_bytes() {
        return Err(Errno::BADMSG);
    }
    match i32::from_ne_bytes(*error) {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: i32, error: i32) -> Vec<u8> {
        let mut reply = vec![0; HEADER];
        reply[4..6].copy_from_slice(&(kind as u16).to_ne_bytes());
        reply.extend(error.to_ne_bytes());
        reply
    }

    #[test]
    fn a_reply_of_zero_is_an_acknowledgement_and_any_other_an_errno() {
        assert_eq!(acknowledged(&reply(libc::NLMSG_ERROR, 0)), Ok(()));
        assert_eq!(acknowledged(&reply(libc::NLMSG_ERROR, -libc::EPERM)), Err(Errno::PERM));
    }

    #[test]
    fn what_is_no_reply_is_a_bad_message() {
        assert_eq!(acknowledged(&[]), Err(Errno::BADMSG));
        assert_eq!(acknowledged(&reply(libc::NLMSG_ERROR, 0)[..18]), Err(Errno::BADMSG));
        assert_eq!(acknowledged(&reply(libc::NLMSG_DONE, 0)), Err(Errno::BADMSG));
    }
}
