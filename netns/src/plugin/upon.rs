//! What macvlan, ipvlan and vlan do alike: an interface of the pod on another link, which is the host's or, with
//! `linkInContainer`, the pod's own.

use netlink_packet_route::link::{InfoData, InfoIpVlan, InfoMacVlan, InfoVlan};

use super::{Call, wire};
use crate::change::{Change, Kind, Layer, NewLink, Place, Set, Work};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Interface, Outcome};
use crate::netlink::{Family, Link, Netlink};

/// Where the link below is.
fn place(call: &Call<'_>) -> Result<Place, Fault> {
    Ok(if call.fields().boolean("linkInContainer")? { Place::Pod } else { Place::Host })
}

/// The link below: of that name, or the default route's.
pub(super) fn below(call: &Call<'_>, work: &mut Work<'_>, master: Option<String>) -> Result<Link, Fault> {
    let place = place(call)?;
    match master {
        Some(master) => work.link(place, &master),
        None => default_master(work.at(place)?),
    }
}

fn default_master(netlink: &mut Netlink) -> Result<Link, Fault> {
    const MAIN: u32 = 254;
    for family in Family::BOTH {
        let routes = netlink.routes(family)?;
        let default = routes.iter().find(|via| via.table == MAIN && via.destination.is_everything());
        let link = default.and_then(|via| via.link).map(|index| netlink.link_by_index(index)).transpose()?;
        if let Some(link) = link.flatten() {
            return Ok(link);
        }
    }
    Err(Fault::new(Code::CONFIG, "no default route interface found"))
}

/// The MTU that is asked for, 0 for the kernel's choice.
pub(super) fn mtu(call: &Call<'_>, below: &Link) -> Result<u32, Fault> {
    let mtu = call.fields().integer("mtu")?.unwrap_or_default();
    let refuse = || format!("invalid MTU {mtu}, must be [0, master MTU({})]", below.mtu);
    let valid = u32::try_from(mtu).ok().filter(|mtu| *mtu <= below.mtu);
    valid.ok_or_else(|| Fault::new(Code::CONFIG, refuse()))
}

/// Makes the pod's interface.
pub(super) fn create(
    call: &Call<'_>,
    work: &mut Work<'_>,
    below: Link,
    layer: Layer,
    mtu: u32,
    mac: Option<Vec<u8>>,
) -> Result<Interface, Fault> {
    wire::requires_name(call, work)?;
    // The kernel looks for the name among the host's, so it gets its own one in the pod.
    let name = wire::veth_name(call, 0)?;
    let kind = Kind::Upon { master: below.name, of: place(call)?, layer };
    let link = NewLink { name: name.clone(), kind, mtu, mac, shared: false };
    let to = Set::Name(call.if_name.to_owned());
    work.apply([Change::Create(link), Change::Set(Place::Pod, name, to)])?;
    Ok(wire::in_pod(call, &work.link(Place::Pod, call.if_name)?))
}

/// Gives it addresses, and tells the neighbours.
pub(super) fn address(
    call: &Call<'_>,
    work: &mut Work<'_>,
    interface: Interface,
    outcome: Outcome,
) -> Result<Outcome, Fault> {
    work.apply([wire::announce(call.if_name)])?;
    wire::address(call, work, interface, outcome)
}

/// Neither the link below nor the pod has to be there any more.
pub(super) fn delete(call: &Call<'_>) -> Result<(), Fault> {
    wire::delete_link(call)?;
    if let Some(pod) = super::namespace(call.netns)? {
        // Of an ADD that died before it had its name.
        let mut pod = Netlink::inside(&pod)?;
        if let Some(link) = pod.link(&wire::veth_name(call, 0)?)? {
            pod.delete(link.index)?;
        }
    }
    call.ipam()?;
    Ok(())
}

pub(super) fn check(call: &Call<'_>, layer: Layer) -> Result<(), Fault> {
    call.ipam()?;
    let link = wire::check_pod(call)?;
    if !is(&link, layer) {
        let message = format!("Container interface {} is no {layer:?}", call.if_name);
        return Err(Fault::new(Code::INTERNAL, message));
    }
    if let Some(master) = call.fields().string("master")? {
        Work::begin(call)?.link(place(call)?, &master)?;
    }
    Ok(())
}

/// Whether a link is made so. Pure.
fn is(link: &Link, layer: Layer) -> bool {
    match (layer, &link.data) {
        (Layer::MacVlan { mode, .. }, Some(InfoData::MacVlan(data))) => data.contains(&InfoMacVlan::Mode(mode.into())),
        (Layer::IpVlan { mode }, Some(InfoData::IpVlan(data))) => data.contains(&InfoIpVlan::Mode(mode.into())),
        (Layer::Vlan { id }, Some(InfoData::Vlan(data))) => data.contains(&InfoVlan::Id(id)),
        _ => false,
    }
}
