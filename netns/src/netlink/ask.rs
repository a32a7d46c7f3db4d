//! What is there: links, addresses, routes.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::tc::TcMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::queue::{Bucket, bucket};
use super::{Netlink, Refused};
use crate::cni::cidr::{Cidr, width};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Inet,
            Family::V6 => Self::Inet6,
        }
    }
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Option<InfoKind>,
    /// What its kind has of its own.
    pub(crate) data: Option<InfoData>,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) running: bool,
    pub(crate) promiscuous: bool,
    pub(crate) all_multicast: bool,
    pub(crate) queue: u32,
    pub(crate) master: Option<u32>,
    /// The index of what it is stacked on, or of its peer.
    pub(crate) under: Option<u32>,
    pub(crate) alias: String,
}

impl Link {
    fn parse(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            data: None,
            mac: Vec::new(),
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            running: false,
            promiscuous: flags.contains(LinkFlags::Promisc),
            all_multicast: flags.contains(LinkFlags::Allmulti),
            queue: 0,
            master: None,
            under: None,
            alias: String::new(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::TxQueueLen(queue) => link.queue = queue,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::Link(under) => link.under = Some(under),
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::OperState(state) => link.running = state == State::Up,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind),
                            LinkInfo::Data(data) => link.data = Some(data),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }

    /// As results say it.
    pub(crate) fn mac_text(&self) -> String {
        let pairs: Vec<_> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        pairs.join(":")
    }
}

/// A route of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) destination: Cidr,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) link: Option<u32>,
    pub(crate) table: u32,
    /// What the kernel said, to be said again.
    pub(crate) message: RouteMessage,
}

fn one<T>(found: Result<Vec<T>, Refused>) -> Result<Option<T>, Refused> {
    match found {
        Err(Refused { errno: Errno::NODEV, .. }) => Ok(None),
        found => Ok(found?.pop()),
    }
}

impl Netlink {
    fn get_link(&mut self, mut message: LinkMessage) -> Result<Option<Link>, Refused> {
        // What it has counted is of each processor, and takes the kernel most of the time.
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = one(self.ask(RouteNetlinkMessage::GetLink(message), 0))?;
        Ok(answers.and_then(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(Link::parse(message)),
            _ => None,
        }))
    }

    /// The link of that name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Refused> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get_link(message)
    }

    /// The link of that number.
    pub(crate) fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Refused> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(message)
    }

    /// Every link.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Refused> {
        let answers = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(Link::parse(message)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// The addresses of a link, in the kernel's order.
    pub(crate) fn addresses(&mut self, index: u32, family: Family) -> Result<Vec<Cidr>, Refused> {
        let mut message = AddressMessage::default();
        message.header.family = family.into();
        message.header.index = index;
        let answers = self.dump(&RouteNetlinkMessage::GetAddress(message))?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                let prefix = message.header.prefix_len;
                let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
                let local = find(|attribute| match attribute {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                let address = local.or_else(|| {
                    find(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    })
                });
                address.map(|address| Cidr { address, prefix })
            }
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Every route of a family, of all tables.
    pub(crate) fn routes(&mut self, family: Family) -> Result<Vec<Via>, Refused> {
        let mut message = RouteMessage::default();
        message.header.address_family = family.into();
        let answers = self.dump(&RouteNetlinkMessage::GetRoute(message))?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Some(Via::parse(message, family)),
            _ => None,
        });
        Ok(routes.collect())
    }

    /// What comes from a single address looks into which table: of each such rule, both.
    pub(crate) fn rules(&mut self, family: Family) -> Result<Vec<Policy>, Refused> {
        let mut message = RuleMessage::default();
        message.header.family = family.into();
        let answers = self.dump(&RouteNetlinkMessage::GetRule(message))?;
        let rules = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(message) => Some(Policy::parse(&message)),
            _ => None,
        });
        Ok(rules.collect())
    }

    /// The token bucket at a link's root.
    pub(crate) fn bucket(&mut self, index: u32) -> Result<Option<Bucket>, Refused> {
        let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index as i32));
        let answers = self.dump(&message)?;
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(message) if message.header.index == index as i32 => {
                bucket(&message)
            }
            _ => None,
        }))
    }

    /// The link that leads to an address.
    pub(crate) fn link_towards(&mut self, address: IpAddr) -> Result<Option<u32>, Refused> {
        let mut message = RouteMessage::default();
        message.header.address_family = Family::of(address).into();
        message.header.destination_prefix_length = Cidr::host(address).prefix;
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let answers = self.ask(RouteNetlinkMessage::GetRoute(message), 0)?;
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Via::parse(message, Family::of(address)).link,
            _ => None,
        }))
    }
}

/// A rule of routing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Whose packets it is about, where it is about those of one address.
    pub(crate) source: Option<IpAddr>,
    pub(crate) table: u32,
}

impl Policy {
    fn parse(message: &RuleMessage) -> Self {
        let mut policy = Self { source: None, table: message.header.table.into() };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Source(address) if message.header.src_len == width(*address) => {
                    policy.source = Some(*address);
                }
                RuleAttribute::Table(table) => policy.table = *table,
                _ => {}
            }
        }
        policy
    }
}

impl Via {
    /// The same in another table.
    pub(crate) fn in_table(&self, table: u32) -> Self {
        let mut via = Self { table, ..self.clone() };
        via.message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        via.message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Table(_)));
        via.message.attributes.push(RouteAttribute::Table(table));
        via
    }

    fn parse(message: RouteMessage, family: Family) -> Self {
        let ip = |address: &RouteAddress| match address {
            RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
            RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
            _ => None,
        };
        let zero: IpAddr = match family {
            Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let prefix = message.header.destination_prefix_length;
        let mut via = Self {
            destination: Cidr { address: zero, prefix },
            gateway: None,
            source: None,
            link: None,
            table: message.header.table.into(),
            message: RouteMessage::default(),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => via.destination.address = ip(address).unwrap_or(zero),
                RouteAttribute::Gateway(address) => via.gateway = ip(address),
                RouteAttribute::PrefSource(address) => via.source = ip(address),
                RouteAttribute::Oif(index) => via.link = Some(*index),
                RouteAttribute::Table(table) => via.table = *table,
                _ => {}
            }
        }
        // What the kernel counts and finds out is not for it to be told.
        via.message = message;
        via.message.header.flags = RouteFlags::empty();
        via.message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
        via
    }
}

impl Netlink {
    /// Up or down.
    pub(crate) fn set_up(&mut self, index: u32, up: bool) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.ask(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// A link gets back the name that it has kept as its alias.
    pub(crate) fn name_by_alias(&mut self, link: &Link) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::IfName(link.alias.clone()));
        message.attributes.push(LinkAttribute::IfAlias(String::new()));
        self.ask(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// A link is nobody's port, and down.
    pub(crate) fn retire(&mut self, index: u32) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Controller(0));
        gone_is_fine(self.ask(RouteNetlinkMessage::SetLink(message), 0))
    }

    /// A link goes; one that is gone already is gone.
    pub(crate) fn delete(&mut self, index: u32) -> Result<(), Refused> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        gone_is_fine(self.ask(RouteNetlinkMessage::DelLink(message), 0))
    }
}

fn gone_is_fine<T>(done: Result<T, Refused>) -> Result<(), Refused> {
    match done {
        Err(Refused { errno: Errno::NODEV, .. }) => Ok(()),
        done => done.map(drop),
    }
}
