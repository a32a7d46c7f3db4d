//! `linux.netDevices`: devices of the host that become the container's.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::errno::text;
use crate::netlink::{self, Netlink};
use crate::step::NetDevice;

/// A device that did not become the container's.
#[derive(Debug, thiserror::Error)]
#[error("linux.netDevices {name:?}: {act}: {}", text(*source))]
pub struct Error {
    /// On the host.
    pub name: String,
    /// What failed.
    pub act: &'static str,
    /// Why.
    pub source: Errno,
}

/// Moves devices into the network namespace of `pid`, of which `inside` is a netlink socket. Their addresses go with them,
/// as OCI wants, and they are up there.
pub(crate) fn hand_over(devices: &[NetDevice], pid: Pid, inside: BorrowedFd<'_>) -> Result<(), Error> {
    devices.iter().try_for_each(|device| {
        hand_one_over(device, pid, Netlink(inside)).map_err(|(act, source)| Error {
            name: device.name.clone(),
            act,
            source,
        })
    })
}

fn hand_one_over(device: &NetDevice, pid: Pid, inside: Netlink<'_>) -> Result<(), (&'static str, Errno)> {
    let failed = |act| move |errno| (act, errno);
    let socket = netlink::open().map_err(failed("open a netlink socket"))?;
    let host = Netlink(socket.as_fd());
    let links = host.links().map_err(failed("list the devices of the host"))?;
    let found = links.iter().find(|(_, name)| name == device.name.as_bytes());
    let (index, _) = *found.ok_or(("find the device", Errno::NODEV))?;
    // Before it goes down: that is the end of those of IPv6.
    let addresses = host.addresses(index).map_err(failed("list its addresses"))?;
    host.set_up(index, false).map_err(failed("take it down"))?;
    // The name may be a template, and the index another one there.
    let list = || inside.links().map_err(failed("list the devices of the container"));
    let before = list()?;
    let pid = pid.as_raw_nonzero().get().cast_unsigned();
    host.move_to(index, pid, device.inside.as_bytes()).map_err(failed("move it to the container"))?;
    let moved = list()?.into_iter().find(|link| !before.contains(link));
    let (index, _) = moved.ok_or(("find it in the container", Errno::NODEV))?;
    for address in &addresses {
        inside.add_address(index, address).map_err(failed("give it its addresses back"))?;
    }
    inside.set_up(index, true).map_err(failed("bring it up"))
}
