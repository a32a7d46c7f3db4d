//! vrf: the pod's interface joins a VRF of the pod, which is made for the first and goes with the last.

use std::net::IpAddr;

use netlink_packet_route::link::{InfoData, InfoVrf};
use netlink_packet_route::route::{RouteProtocol, RouteScope};

use super::{Call, Native};
use crate::change::{Change, Kind, NewLink, Place, Work, attempt};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;
use crate::netlink::{Family, Link, Netlink, Via};

pub(super) const PLUGIN: Native = Native { oldest: "0.3.1", ..Native::new("vrf", add, delete, check) };

/// The kernel's own tables: default, main and local.
const RESERVED: std::ops::RangeInclusive<u32> = 253..=255;

const MAIN: u32 = 254;

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

/// The table of a VRF; None where a link is none. Pure.
fn table(link: &Link) -> Option<u32> {
    let Some(InfoData::Vrf(data)) = &link.data else { return None };
    data.iter().find_map(|info| match info {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let name = call.fields().string("vrfname")?;
    let name = name.ok_or_else(|| config("configuration is expected to have a valid vrf name"))?;
    super::valid_interface_name(&name).map_err(|_| config(format!("invalid vrf name {name:?}")))?;
    let wanted = call.fields().number::<u32>("table")?.filter(|table| *table != 0);
    let previous = call.previous()?.ok_or_else(|| config("missing prevResult from earlier plugin"))?;
    attempt(call, |work| {
        work.lock()?;
        let table = ensure(work, &name, wanted)?;
        join(call, work, &name, table)
    })?;
    Ok(previous)
}

/// The VRF, made where it is missing, and its table.
fn ensure(work: &mut Work<'_>, name: &str, wanted: Option<u32>) -> Result<u32, Fault> {
    if let Some(link) = work.pod()?.link(name)? {
        let table = table(&link).ok_or_else(|| config(format!("{name:?} is there already and is not a VRF")))?;
        return match wanted {
            Some(wanted) if wanted != table => {
                Err(config(format!("VRF {name} already exist with different routing table {table}")))
            }
            _ => Ok(table),
        };
    }
    let table = wanted.unwrap_or(free(&work.pod()?.links()?));
    let kind = Kind::Vrf { table };
    work.apply([Change::Create(NewLink { name: name.to_owned(), kind, mtu: 0, mac: None, shared: false })])?;
    Ok(table)
}

/// The first table that no VRF has. Pure.
fn free(links: &[Link]) -> u32 {
    let taken: Vec<_> = links.iter().filter_map(table).collect();
    (1..).find(|table| !RESERVED.contains(table) && !taken.contains(table)).unwrap_or(1)
}

/// The kernel takes routes away from an interface that joins, and IPv6 addresses too unless it was told to keep them.
fn join(call: &Call<'_>, work: &mut Work<'_>, name: &str, table: u32) -> Result<(), Fault> {
    let link = work.link(Place::Pod, call.if_name)?;
    if let Some(master) = link.master {
        let master = work.pod()?.link_by_index(master)?.map(|master| master.name).unwrap_or_default();
        return Err(config(format!("interface {} has already a master set: {master}", call.if_name)));
    }
    let addresses = work.pod()?.addresses(link.index, Family::V6)?;
    let mut own = Vec::new();
    for family in Family::BOTH {
        own.extend(work.pod()?.routes(family)?.into_iter().filter(|via| via.link == Some(link.index) && moves(via)));
    }
    work.apply(moved(call.if_name, name, table, &addresses, &own))
}

/// Whether somebody made a route, which the kernel does not make again. Pure.
fn moves(via: &Via) -> bool {
    let header = &via.message.header;
    via.table == MAIN && header.scope == RouteScope::Universe && header.protocol != RouteProtocol::Kernel
}

/// Pure.
fn moved(link: &str, master: &str, table: u32, addresses: &[Cidr], own: &[Via]) -> Vec<Change> {
    let local = |cidr: &&Cidr| !matches!(cidr.address, IpAddr::V6(address) if address.is_unicast_link_local());
    let take = own.iter().map(|via| Change::Via { via: via.clone(), there: false });
    let joined = Change::Master { link: link.to_owned(), master: Some(master.to_owned()) };
    let address = |cidr: &Cidr| Change::Address { place: Place::Pod, link: link.to_owned(), cidr: *cidr, again: true };
    let again = own.iter().map(|via| Change::Via { via: via.in_table(table), there: true });
    take.chain([joined]).chain(addresses.iter().filter(local).map(address)).chain(again).collect()
}

/// The interface leaves, if it is there and in that VRF, and the VRF goes if nobody is left.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    let Some(name) = call.fields().string("vrfname").ok().flatten() else { return Ok(()) };
    if super::namespace(call.netns)?.is_none() {
        return Ok(());
    }
    let mut work = Work::begin(call)?;
    work.lock()?;
    let Some(vrf) = work.pod()?.link(&name)?.filter(|link| table(link).is_some()) else { return Ok(()) };
    let links = work.pod()?.links()?;
    let (mine, others): (Vec<_>, Vec<_>) =
        links.iter().filter(|link| link.master == Some(vrf.index)).partition(|link| link.name == call.if_name);
    work.apply(mine.iter().map(|link| Change::Master { link: link.name.clone(), master: None }))?;
    if others.is_empty() {
        work.apply([Change::Delete(Place::Pod, name)])?;
    }
    Ok(())
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    call.previous()?.ok_or_else(|| config("missing prevResult from earlier plugin"))?;
    let name = call.fields().string("vrfname")?.unwrap_or_default();
    let missing = || Fault::new(Code::NETNS, format!("failed to open netns {:?}", call.netns));
    let mut pod = Netlink::inside(&super::namespace(call.netns)?.ok_or_else(missing)?)?;
    let vrf = pod.link(&name)?.filter(|link| table(link).is_some());
    let vrf = vrf.ok_or_else(|| Fault::new(Code::INTERNAL, format!("there is no VRF {name:?} in the pod")))?;
    match pod.link(call.if_name)? {
        Some(link) if link.master == Some(vrf.index) => Ok(()),
        _ => {
            let message = format!("failed to find {} associated to vrf {name}", call.if_name);
            Err(Fault::new(Code::INTERNAL, message))
        }
    }
}
