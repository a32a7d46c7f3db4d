//! portmap: ports of the host lead into the pod. Rules are in the Go plugin's own nftables tables; DEL finds those of
//! either of its backends.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Call, Native, nothing, wire};
use crate::change::{Change, Forget, Place, Sysctl, Work, attempt};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::cni::result::Outcome;
use crate::netlink::Family;
use crate::nft::{Batch, Expression, Hook, IPV4, IPV6, Nft, Rule, Verdict};

pub(super) const PLUGIN: Native = Native {
    kind: "portmap",
    oldest: "0.1.0",
    add,
    delete,
    check,
    gc: nothing,
    beyond: |call| ["conditionsV4", "conditionsV6", "externalSetMarkChain"].iter().any(|field| call.asks(field)),
    ipam_status: false,
};

const TABLE: &str = "cni_hostport";
const PORTS: &str = "hostports";
const OLD_PORTS: &str = "hostip_hostports";
const ALL_PORTS: &str = "hostports_all";
const SOURCES: &str = "masquerading";

/// `dstnat` in prerouting, the same in output, `srcnat` in postrouting.
const PREROUTING: Hook = Hook { number: 0, priority: -100 };
const OUTPUT: Hook = Hook { number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { number: 4, priority: 100 };

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
        let protocol = match self.protocol {
            Self::TCP => "tcp",
            Self::UDP => "udp",
            _ => "sctp",
        };
        match self.address {
            Some(address) => write!(f, "{}/{protocol}", SocketAddr::new(address, self.host)),
            None => write!(f, "{}/{protocol}", self.host),
        }
    }
}

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

impl Mapping {
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    const SCTP: u8 = 132;

    pub(crate) fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let port = |name: &str, what: &str| {
            let number = fields.integer(name)?.unwrap_or_default();
            let valid = u16::try_from(number).ok().filter(|port| *port != 0);
            valid.ok_or_else(|| config(format!("Invalid {what} port number: {number}")))
        };
        let protocol = fields.string("protocol")?.unwrap_or_else(|| "tcp".to_owned()).to_lowercase();
        Ok(Self {
            container: port("containerPort", "container")?,
            host: port("hostPort", "host")?,
            protocol: match protocol.as_str() {
                "tcp" => Self::TCP,
                "udp" => Self::UDP,
                "sctp" => Self::SCTP,
                other => return Err(config(format!("invalid protocol {other:?} of a port mapping"))),
            },
            address: fields.parsed("hostIP", crate::cni::cidr::address)?,
        })
    }
}

fn mappings(call: &Call<'_>) -> Result<Vec<Mapping>, Fault> {
    let Some(runtime) = call.fields().object("runtimeConfig")? else { return Ok(Vec::new()) };
    runtime.objects("portMappings")?.into_iter().map(Mapping::parse).collect()
}

/// The first address of each family that the pod has.
fn addresses(call: &Call<'_>, outcome: &Outcome) -> Vec<IpAddr> {
    let in_pod = |index: usize| {
        outcome.interfaces.get(index).is_none_or(|one| one.name == call.if_name && !one.sandbox.is_empty())
    };
    let first = |family| {
        let mut its = outcome.ips.iter().filter(|ip| ip.interface.is_none_or(in_pod)).map(|ip| ip.address.address);
        its.find(|address| Family::of(*address) == family)
    };
    Family::BOTH.into_iter().filter_map(first).collect()
}

fn forget(call: &Call<'_>) -> Result<Forget, Fault> {
    let id = || call.container_id.to_owned();
    let of = format!("{}{}", call.network()?, call.container_id);
    let both = |chain: &str| [(IPV4, "nat", chain.to_owned()), (IPV6, "nat", chain.to_owned())];
    let chains = ["CNI-DN-", "CNI-SN-"].map(|prefix| both(&wire::hashed(prefix, 28, &of)));
    Ok(Forget { comments: vec![(IPV4, TABLE, id()), (IPV6, TABLE, id())], chains: chains.concat() })
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let outcome = call.previous()?.ok_or_else(|| config("must be called as chained plugin"))?;
    let mappings = mappings(call)?;
    if mappings.is_empty() {
        return Ok(outcome);
    }
    refuse_unsupported(call)?;
    let snat = call.fields().get("snat").is_none() || call.fields().boolean("snat")?;
    let everybody = call.fields().boolean("masqAll")?;
    attempt(call, |work| {
        for address in addresses(call, &outcome) {
            let there = work.nft()?.rules(Family::of(address).table(), TABLE)?;
            let batch = rules(call.container_id, &mappings, address, snat.then_some(everybody), &there)?;
            work.apply([Change::Rules { what: format!("ports of {address}"), batch, forget: forget(call)? }])?;
            if snat && address.is_ipv4() {
                route_localnet(work, address)?;
            }
        }
        Ok(())
    })?;
    Ok(outcome)
}

/// What only an iptables backend can do.
fn refuse_unsupported(call: &Call<'_>) -> Result<(), Fault> {
    for field in ["conditionsV4", "conditionsV6", "externalSetMarkChain"] {
        if call.fields().get(field).is_some() {
            let message =
                format!("{field} is not supported by the native portmap: set native = false for this network");
            return Err(Fault::new(Code::UNSUPPORTED_FIELD, message));
        }
    }
    Ok(())
}

/// The rules of one address. What is the same for all pods is added where it is missing, and never flushed. Pure.
fn rules(id: &str, mappings: &[Mapping], address: IpAddr, snat: Option<bool>, there: &[Rule]) -> Result<Batch, Fault> {
    let family = Family::of(address).table();
    let mut batch = Batch::default();
    batch.table(family, TABLE, "CNI portmap plugin");
    for chain in [PORTS, OLD_PORTS, ALL_PORTS] {
        batch.chain(family, TABLE, chain, None);
    }
    batch.chain(family, TABLE, "prerouting", Some(PREROUTING));
    batch.chain(family, TABLE, "output", Some(OUTPUT));
    let jump = |chain: &str| Expression::Verdict(Verdict::Jump(chain.to_owned()));
    let is_there =
        |chain: &str, to: &str| there.iter().any(|one| one.chain == chain && one.leads_to.as_deref() == Some(to));
    for to in [OLD_PORTS, PORTS] {
        if !is_there(ALL_PORTS, to) {
            batch.rule(family, TABLE, ALL_PORTS, &[jump(to)], "");
        }
    }
    for chain in ["prerouting", "output"] {
        if !is_there(chain, ALL_PORTS) {
            batch.rule(family, TABLE, chain, &[Expression::ToLocal, jump(ALL_PORTS)], "");
        }
    }
    for stale in there.iter().filter(|rule| rule.comment == id) {
        batch.delete_rule(family, TABLE, &stale.chain, Some(stale.handle));
    }
    let to = |address| Expression::Address { source: false, network: Cidr::host(address), inside: true };
    for mapping in mappings {
        let mut rule = Vec::new();
        match mapping.address {
            Some(host) if host.is_ipv4() != address.is_ipv4() => continue,
            Some(host) if !host.is_unspecified() => rule.push(to(host)),
            _ => {}
        }
        rule.push(Expression::Port { protocol: mapping.protocol, port: mapping.host });
        rule.push(Expression::Dnat { address, port: mapping.container });
        batch.rule(family, TABLE, PORTS, &rule, id);
    }
    let Some(everybody) = snat else { return Ok(batch) };
    batch.chain(family, TABLE, SOURCES, Some(POSTROUTING));
    let mut sources = vec![Some(Cidr::host(address)).filter(|_| !everybody)];
    if address.is_ipv4() && !everybody {
        sources.push(Some(Cidr::parse("127.0.0.1/32")?));
    }
    for source in sources {
        let from = source.map(|network| Expression::Address { source: true, network, inside: true });
        let rule: Vec<_> = from.into_iter().chain([to(address), Expression::Masquerade]).collect();
        batch.rule(family, TABLE, SOURCES, &rule, id);
    }
    Ok(batch)
}

/// Lets 127.0.0.0/8 cross to the interface that leads to the pod.
fn route_localnet(work: &mut Work<'_>, address: IpAddr) -> Result<(), Fault> {
    let Some(index) = work.host.link_towards(address).ok().flatten() else { return Ok(()) };
    let Some(link) = work.host.link_by_index(index)? else { return Ok(()) };
    let sysctl = Sysctl::must(format!("net/ipv4/conf/{}/route_localnet", link.name), "1");
    work.apply([Change::Sysctls(Place::Host, vec![sysctl])])
}

/// Whatever the configuration says about ports by now.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    Ok(forget(call)?.apply_for(call)?)
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let previous = call.previous()?.ok_or_else(|| config("Required prevResult missing"))?;
    let mappings = mappings(call)?;
    let mut nft = Nft::here()?;
    for address in addresses(call, &previous) {
        let rules = nft.rules(Family::of(address).table(), TABLE)?;
        let its = rules.iter().filter(|rule| rule.chain == PORTS && rule.comment == call.container_id).count();
        let same = |mapping: &&Mapping| mapping.address.is_none_or(|host| host.is_ipv4() == address.is_ipv4());
        if its < mappings.iter().filter(same).count() {
            return Err(Fault::new(Code::INTERNAL, format!("missing hostport rules in {PORTS:?} chain")));
        }
    }
    Ok(())
}
