//! Changes as rtnetlink's messages. Pure.

use std::net::IpAddr;
use std::os::fd::RawFd;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, InfoVlan, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Kind, Layer, NewLink, Place, Set};
use crate::cni::cidr::{Cidr, bits, width, with_bits};
use crate::cni::result::Route;
use crate::netlink::Family;

/// What a new link refers to.
pub(super) struct Numbers {
    pub(super) master: Option<u32>,
    pub(super) pod: RawFd,
}

/// Which of the link's attributes say what it is made on, as opposed to what it is put under.
fn upon(kind: &Kind, number: u32) -> LinkAttribute {
    if matches!(kind, Kind::Upon { .. }) { LinkAttribute::Link(number) } else { LinkAttribute::Controller(number) }
}

/// IFLA_MACVLAN_MODE and IFLA_MACVLAN_BC_QUEUE_LEN of linux/if_link.h.
const MACVLAN_MODE: u16 = 1;
const MACVLAN_QUEUE: u16 = 7;

fn common(name: &str, mtu: u32, mac: Option<&Vec<u8>>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    if mtu != 0 {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.clone())));
    message
}

fn raise(message: &mut LinkMessage) {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
}

pub(super) fn create(link: &NewLink, numbers: Numbers) -> RouteNetlinkMessage {
    let veth = matches!(link.kind, Kind::Veth { .. });
    let mut message = common(&link.name, link.mtu, link.mac.as_ref().filter(|_| !veth));
    let (kind, data) = match &link.kind {
        Kind::Veth { peer, of, .. } => {
            let mut other = common(peer, link.mtu, link.mac.as_ref());
            if *of == Place::Pod {
                other.attributes.push(LinkAttribute::NetNsFd(numbers.pod));
            }
            raise(&mut message);
            (InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(other))))
        }
        Kind::Bridge { vlan_filtering } => {
            raise(&mut message);
            let data = vlan_filtering.then(|| InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]));
            (InfoKind::Bridge, data)
        }
        Kind::Ifb => {
            raise(&mut message);
            // A queue of its own would be one packet long at times, whatever its limit: the Go plugin makes none either.
            message.attributes.push(LinkAttribute::TxQueueLen(0));
            (InfoKind::Ifb, None)
        }
        Kind::Upon { layer: Layer::MacVlan { mode, queue }, .. } => {
            let mut data = nla(MACVLAN_MODE, &mode.to_ne_bytes());
            data.extend(queue.iter().flat_map(|queue| nla(MACVLAN_QUEUE, &queue.to_ne_bytes())));
            (InfoKind::MacVlan, Some(InfoData::Other(data)))
        }
        Kind::Upon { layer: Layer::IpVlan { mode }, .. } => {
            (InfoKind::IpVlan, Some(InfoData::IpVlan(vec![InfoIpVlan::Mode((*mode).into())])))
        }
        Kind::Upon { layer: Layer::Vlan { id }, .. } => (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(*id)]))),
        Kind::Dummy => (InfoKind::Dummy, None),
        Kind::Vrf { table } => {
            raise(&mut message);
            (InfoKind::Vrf, Some(InfoData::Vrf(vec![InfoVrf::TableId(*table)])))
        }
    };
    message.attributes.extend(numbers.master.map(|number| upon(&link.kind, number)));
    if link.kind.place() != link.kind.from() {
        message.attributes.push(LinkAttribute::NetNsFd(numbers.pod));
    }
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    message.attributes.push(LinkAttribute::LinkInfo(info));
    RouteNetlinkMessage::NewLink(message)
}

/// One attribute, padded.
fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn delete_link(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    RouteNetlinkMessage::DelLink(message)
}

pub(super) fn set(index: u32, set: &Set) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let mut flag = |flag: LinkFlags, on: bool| {
        message.header.change_mask = flag;
        if on {
            message.header.flags = flag;
        }
    };
    let attribute = match set {
        Set::Up(on) => return (flag(LinkFlags::Up, *on), RouteNetlinkMessage::SetLink(message)).1,
        Set::Promiscuous(on) => return (flag(LinkFlags::Promisc, *on), RouteNetlinkMessage::SetLink(message)).1,
        Set::AllMulticast(on) => return (flag(LinkFlags::Allmulti, *on), RouteNetlinkMessage::SetLink(message)).1,
        Set::Mtu(mtu) => LinkAttribute::Mtu(*mtu),
        Set::Mac(mac) => LinkAttribute::Address(mac.clone()),
        Set::Queue(queue) => LinkAttribute::TxQueueLen(*queue),
        Set::Name(name) => LinkAttribute::IfName(name.clone()),
        Set::Alias(alias) => LinkAttribute::IfAlias(alias.clone()),
    };
    message.attributes.push(attribute);
    RouteNetlinkMessage::SetLink(message)
}

pub(super) fn master(index: u32, master: Option<u32>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Controller(master.unwrap_or_default()));
    RouteNetlinkMessage::SetLink(message)
}

/// Into that namespace under that name.
pub(super) fn hand_over(index: u32, namespace: RawFd, name: &str, alias: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::NetNsFd(namespace));
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    RouteNetlinkMessage::SetLink(message)
}

/// Whatever comes from an address looks into a table.
pub(super) fn rule(source: IpAddr, table: u32, add: bool) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = Family::of(source).into();
    message.header.src_len = width(source);
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes = vec![RuleAttribute::Source(source), RuleAttribute::Table(table)];
    if add { RouteNetlinkMessage::NewRule(message) } else { RouteNetlinkMessage::DelRule(message) }
}

pub(super) fn port(index: u32, hairpin: bool, isolated: Option<bool>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let mut port = vec![InfoBridgePort::HairpinMode(hairpin)];
    port.extend(isolated.map(InfoBridgePort::Isolated));
    let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(port))];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    RouteNetlinkMessage::NewLink(message)
}

pub(super) fn vlan(index: u32, id: u16, pvid: bool, add: bool) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    let flags =
        if pvid { BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged } else { BridgeVlanInfoFlags::empty() };
    let info = AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: id });
    message.attributes.push(LinkAttribute::AfSpecBridge(vec![info]));
    if add { RouteNetlinkMessage::SetLink(message) } else { RouteNetlinkMessage::DelLink(message) }
}

/// Duplicate address detection would only make the pod wait: whoever gives the addresses out gives each once.
pub(super) fn address(index: u32, cidr: Cidr, add: bool) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = Family::of(cidr.address).into();
    message.header.prefix_len = cidr.prefix;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(cidr.address));
    message.attributes.push(AddressAttribute::Address(cidr.address));
    match cidr.address {
        IpAddr::V4(_) if cidr.prefix < 31 => {
            if let IpAddr::V4(broadcast) = cidr.last() {
                message.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
        }
        IpAddr::V6(_) if add => {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        _ => {}
    }
    if add { RouteNetlinkMessage::NewAddress(message) } else { RouteNetlinkMessage::DelAddress(message) }
}

pub(super) fn route(index: u32, route: &Route, source: Option<IpAddr>) -> RouteMessage {
    let mut message = towards(route.dst);
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = route.scope.map_or(RouteScope::Universe, RouteScope::from);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Oif(index));
    attributes.extend(route.gw.map(|gateway| RouteAttribute::Gateway(RouteAddress::from(gateway))));
    attributes.extend(source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
    if route.priority != 0 {
        attributes.push(RouteAttribute::Priority(route.priority));
    }
    let mut metrics = Vec::new();
    if route.mtu != 0 {
        metrics.push(RouteMetric::Mtu(route.mtu));
    }
    if route.advmss != 0 {
        metrics.push(RouteMetric::Advmss(route.advmss));
    }
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    if let Some(table) = route.table {
        in_table(&mut message, table);
    }
    message
}

fn in_table(message: &mut RouteMessage, table: u32) {
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(table));
}

fn towards(destination: Cidr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = Family::of(destination.address).into();
    message.header.destination_prefix_length = destination.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    if destination.prefix != 0 {
        let network = with_bits(destination.address, bits(destination.network().address));
        message.attributes.push(RouteAttribute::Destination(network.into()));
    }
    message
}

/// Whatever leads there by that link. A scope of "nowhere" matches every one.
pub(super) fn unroute(index: u32, destination: Cidr) -> RouteNetlinkMessage {
    let mut message = towards(destination);
    message.header.scope = RouteScope::NoWhere;
    message.attributes.push(RouteAttribute::Oif(index));
    RouteNetlinkMessage::DelRoute(message)
}
