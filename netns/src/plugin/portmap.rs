//! portmap: ports of the host lead into the pod. Rules are in the Go plugin's own tables and chains, of either backend:
//! nftables, and iptables where the configuration asks for it. DEL finds those of both.

mod iptables;
mod nftables;
mod settings;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Call, Native, stale, wire};
use crate::change::{Change, Forget, Place, Sysctl, Work, attempt};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::cni::result::Outcome;
use crate::conntrack;
use crate::iptables::{Edit, Edits, is_legacy, read};
use crate::netlink::Family;
use crate::nft::{HostPort, IPV4, IPV6, Nft, Rule, Table};
use settings::{Backend, Marks, Settings, backend, beyond};

pub(super) const PLUGIN: Native = Native { gc, beyond, ..Native::new("portmap", add, delete, check) };

/// One of the runtime's `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub host: u16,
    container: u16,
    /// IPPROTO_TCP and the like.
    pub protocol: u8,
    /// The host's address; every one where there is none.
    pub address: Option<IpAddr>,
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.name();
        match self.address {
            Some(address) => write!(f, "{}/{protocol}", SocketAddr::new(address, self.host)),
            None => write!(f, "{}/{protocol}", self.host),
        }
    }
}

/// Protocols that have ports, by name and number.
const PROTOCOLS: [(&str, u8); 3] = [("tcp", Mapping::TCP), ("udp", Mapping::UDP), ("sctp", 132)];

fn protocol(name: &str) -> Option<u8> {
    PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

impl Mapping {
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;

    pub(crate) fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let port = |name: &str, what: &str| {
            let number = fields.integer(name)?.unwrap_or_default();
            let valid = u16::try_from(number).ok().filter(|port| *port != 0);
            valid.ok_or_else(|| config(format!("Invalid {what} port number: {number}")))
        };
        let name = fields.string("protocol")?.unwrap_or_else(|| "tcp".to_owned()).to_lowercase();
        Ok(Self {
            container: port("containerPort", "container")?,
            host: port("hostPort", "host")?,
            protocol: protocol(&name).ok_or_else(|| config(format!("invalid protocol {name:?} of a port mapping")))?,
            address: fields.parsed("hostIP", crate::cni::cidr::address)?,
        })
    }

    /// The one address of the host that it is for.
    fn address(&self) -> Option<IpAddr> {
        self.address.filter(|address| !address.is_unspecified())
    }

    /// Whether it is for an address of that family.
    fn is_of(&self, address: IpAddr) -> bool {
        self.address.is_none_or(|host| host.is_ipv4() == address.is_ipv4())
    }

    fn name(&self) -> &'static str {
        PROTOCOLS.iter().find(|(_, number)| *number == self.protocol).map_or("", |(name, _)| name)
    }

    fn port(&self) -> HostPort {
        HostPort { protocol: self.protocol, port: self.host, address: self.address() }
    }

    /// Whether a packet could be for both.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.port().meets(&other.port())
    }
}

fn mappings(call: &Call<'_>) -> Result<Vec<Mapping>, Fault> {
    let Some(runtime) = call.fields().object("runtimeConfig")? else { return Ok(Vec::new()) };
    runtime.objects("portMappings")?.into_iter().map(Mapping::parse).collect()
}

/// The first address of each family that the pod has.
fn addresses(call: &Call<'_>, outcome: &Outcome) -> Vec<Cidr> {
    let in_pod = |index: usize| {
        outcome.interfaces.get(index).is_none_or(|one| one.name == call.if_name && !one.sandbox.is_empty())
    };
    let first = |family| {
        let mut its = outcome.ips.iter().filter(|ip| ip.interface.is_none_or(in_pod)).map(|ip| ip.address);
        its.find(|cidr| Family::of(cidr.address) == family)
    };
    Family::BOTH.into_iter().filter_map(first).collect()
}

/// The pod's own chain of iptables.
fn chain(call: &Call<'_>, prefix: &str) -> Result<String, Fault> {
    Ok(wire::hashed(prefix, 28, &format!("{}{}", call.network()?, call.container_id)))
}

fn forget(call: &Call<'_>) -> Result<Forget, Fault> {
    let id = || call.container_id.to_owned();
    let both = |chain: String| [(IPV4, iptables::TABLE, chain.clone()), (IPV6, iptables::TABLE, chain)];
    let chains = [both(chain(call, iptables::PREFIX)?), both(chain(call, "CNI-SN-")?)].concat();
    Ok(Forget { comments: vec![(IPV4, nftables::TABLE, id()), (IPV6, nftables::TABLE, id())], chains })
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let outcome = call.previous()?.ok_or_else(|| config("must be called as chained plugin"))?;
    let settings = Settings::parse(call.fields())?;
    let (backend, in_words) = backend(call.fields())?;
    let mappings = mappings(call)?;
    if mappings.is_empty() {
        return Ok(outcome);
    }
    if in_words {
        let message = "conditions of nftables are not supported by the native portmap: install the plugin's binary";
        return Err(Fault::new(Code::UNSUPPORTED_FIELD, message));
    }
    attempt(call, |work| {
        for cidr in addresses(call, &outcome) {
            match backend {
                Backend::Nftables => by_nftables(call, work, &settings, &mappings, cidr.address)?,
                Backend::Iptables => by_iptables(call, work, &settings, &mappings, cidr)?,
            }
            // As with the Go plugin, no reason to fail.
            let _ = forget_datagrams(&mappings, Family::of(cidr.address));
            if settings.snat.is_some() && cidr.address.is_ipv4() {
                route_localnet(work, cidr.address)?;
            }
        }
        Ok(())
    })?;
    Ok(outcome)
}

fn by_nftables(
    call: &Call<'_>,
    work: &mut Work<'_>,
    settings: &Settings,
    mappings: &[Mapping],
    address: IpAddr,
) -> Result<(), Fault> {
    let snat = settings.snat.is_some().then_some(settings.masq_all);
    work.settle(&format!("ports of {address}"), &forget(call)?, |nft| {
        let there = free(call, nft, mappings, address)?;
        nftables::rules(call.container_id, mappings, address, snat, &there)
    })?;
    // Of two that asked for a port at once, neither saw the other.
    let there = work.nft()?.table(Family::of(address).table(), nftables::TABLE, &[nftables::PORTS])?;
    let before = nftables::before(call.container_id, &there).into_iter();
    meet(mappings, address, before.filter_map(|rule| Some((rule.port?, rule.comment))))
}

fn by_iptables(
    call: &Call<'_>,
    work: &mut Work<'_>,
    settings: &Settings,
    mappings: &[Mapping],
    pod: Cidr,
) -> Result<(), Fault> {
    free(call, work.nft()?, mappings, pod.address)?;
    let (family, own) = (Family::of(pod.address), chain(call, iptables::PREFIX)?);
    if is_legacy(family, iptables::TABLE) {
        let table = read(family, iptables::TABLE, call.deadline)?;
        let others = table.rules().filter(|(chain, _)| chain.starts_with(iptables::PREFIX) && *chain != own);
        let taken = others.filter_map(|(chain, rule)| Some((iptables::host_port(rule)?, chain.to_owned())));
        meet(mappings, pod.address, taken)?;
    }
    let whose = format!("name: {:?} id: {:?}", call.network()?, call.container_id);
    let table = |edits| Edits { family, table: iptables::TABLE, edits };
    let edits = table(iptables::edits(settings, mappings, pod, &own, &whose));
    work.apply([Change::Tables { what: "ports", edits, forget: table(vec![Edit::Drop(own)]) }])
}

/// What is there of nftables, if it has no other pod's rules for one of these ports: they would get all its packets.
fn free(call: &Call<'_>, nft: &mut Nft, mappings: &[Mapping], address: IpAddr) -> Result<Table, Fault> {
    let family = Family::of(address);
    let there = nftables::read(nft, family)?;
    let by_comment = there.rules().filter(|rule| rule.comment != call.container_id);
    meet(mappings, address, by_comment.filter_map(|rule| Some((rule.port?, rule.comment.clone()))))?;
    // The whole of that table is long on some nodes.
    if nft.has(family.table(), iptables::TABLE, iptables::PORTS)? {
        let (chains, own) = (nft.rules(family.table(), iptables::TABLE)?, chain(call, iptables::PREFIX)?);
        let by_chain = chains.iter().filter(|rule| rule.chain.starts_with(iptables::PREFIX) && rule.chain != own);
        meet(mappings, address, by_chain.filter_map(|rule| Some((rule.port?, rule.chain.clone()))))?;
    }
    Ok(there)
}

/// Pure.
fn meet(mappings: &[Mapping], address: IpAddr, taken: impl Iterator<Item = (HostPort, String)>) -> Result<(), Fault> {
    for (port, whose) in taken {
        let meets = |mapping: &&Mapping| mapping.is_of(address) && mapping.port().meets(&port);
        if let Some(mapping) = mappings.iter().find(meets) {
            return Err(config(format!("port {mapping} of the host is taken by {whose}")));
        }
    }
    Ok(())
}

/// Of connections without an end, which would go where they went before.
fn forget_datagrams(mappings: &[Mapping], family: Family) -> Result<(), Fault> {
    let ports: Vec<_> = mappings.iter().filter(|mapping| mapping.protocol == Mapping::UDP).map(Mapping::port).collect();
    Ok(conntrack::forget(family, &ports)?)
}

/// Lets 127.0.0.0/8 cross to the interface that leads to the pod.
fn route_localnet(work: &mut Work<'_>, address: IpAddr) -> Result<(), Fault> {
    let Some(index) = work.host.link_towards(address).ok().flatten() else { return Ok(()) };
    let Some(link) = work.host.link_by_index(index)? else { return Ok(()) };
    let sysctl = Sysctl::must(format!("net/ipv4/conf/{}/route_localnet", link.name), "1");
    work.apply([Change::Sysctls(Place::Host, vec![sysctl])])
}

/// Those of iptables: nftables' do not say whose network they are of.
fn gc(call: &Call<'_>) -> Result<(), Fault> {
    stale::collect(call, "dnat ", iptables::PREFIX)
}

/// Whatever the configuration says about ports by now.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    forget(call)?.apply_for(call)?;
    let mappings = mappings(call).unwrap_or_default();
    for family in Family::BOTH {
        let _ = forget_datagrams(&mappings, family);
    }
    Ok(())
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let previous = call.previous()?.ok_or_else(|| config("Required prevResult missing"))?;
    let (backend, _) = backend(call.fields())?;
    let mappings = mappings(call)?;
    let own = chain(call, iptables::PREFIX)?;
    for Cidr { address, .. } in addresses(call, &previous) {
        let family = Family::of(address);
        let (chain, its) = match backend {
            Backend::Nftables => {
                let rules = Nft::here()?.rules(family.table(), nftables::TABLE)?;
                let its = |rule: &&Rule| rule.chain == nftables::PORTS && rule.comment == call.container_id;
                (nftables::PORTS, rules.iter().filter(its).count())
            }
            Backend::Iptables if mappings.is_empty() => continue,
            Backend::Iptables => {
                let table = read(family, iptables::TABLE, call.deadline)?;
                let its = table.rules().filter(|(chain, rule)| *chain == own && iptables::host_port(rule).is_some());
                (own.as_str(), its.count())
            }
        };
        if its < mappings.iter().filter(|mapping| mapping.is_of(address)).count() {
            return Err(Fault::new(Code::INTERNAL, format!("missing hostport rules in {chain:?} chain")));
        }
    }
    Ok(())
}
