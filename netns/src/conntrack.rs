//! Connections that the kernel tracks. One that began before a port was led elsewhere goes on as it began, which a
//! datagram's never ends; so they are forgotten.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::netfilter::{Attributes, Netfilter, each};
use crate::netlink::{Family, Refused};
use crate::nft::HostPort;

/// NFNL_SUBSYS_CTNETLINK, and messages and attributes of linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const ORIGINAL: u16 = 1;
const ZONE: u16 = 18;
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// Forgets the connections of a family to any of these ports, as they were before translation.
pub(crate) fn forget(family: Family, ports: &[HostPort]) -> Result<(), Refused> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut socket = Netfilter::here()?;
    for connection in socket.dump(GET, family.table(), &Attributes::default())? {
        let Some(tuple) = attribute(&connection, ORIGINAL) else { continue };
        if !destination(tuple).is_some_and(|to| ports.iter().any(|port| port.meets(&to))) {
            continue;
        }
        let mut which = Attributes::default();
        which.put(ORIGINAL | NESTED, tuple);
        if let Some(zone) = attribute(&connection, ZONE) {
            which.put(ZONE, zone);
        }
        match socket.ask(DELETE, family.table(), &which) {
            // It ended by itself.
            Err(Refused { errno: Errno::NOENT, .. }) => {}
            done => drop(done?),
        }
    }
    Ok(())
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    each(bytes).find(|(one, _)| *one == kind).map(|(_, value)| value)
}

/// Where a tuple leads: CTA_TUPLE_IP (1) and CTA_TUPLE_PROTO (2).
fn destination(tuple: &[u8]) -> Option<HostPort> {
    let (ip, transport) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
    let v4 = || attribute(ip, 2).and_then(|value| <[u8; 4]>::try_from(value).ok()).map(IpAddr::from);
    let v6 = || attribute(ip, 4).and_then(|value| <[u8; 16]>::try_from(value).ok()).map(IpAddr::from);
    Some(HostPort {
        protocol: *attribute(transport, 1)?.first()?,
        port: u16::from_be_bytes(*attribute(transport, 3)?.first_chunk()?),
        address: v4().or_else(v6),
    })
}
