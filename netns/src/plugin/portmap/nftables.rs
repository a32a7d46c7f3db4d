//! The rules of a pod's ports in the Go plugin's nftables tables.

use std::net::IpAddr;

use super::Mapping;
use crate::change::Shared;
use crate::cni::cidr::Cidr;
use crate::cni::fault::Fault;
use crate::netlink::{Family, Refused};
use crate::nft::{Batch, Expression, Hook, Nft, Rule, Table, Verdict};

pub(super) const TABLE: &str = "cni_hostport";
pub(super) const PORTS: &str = "hostports";
const OLD_PORTS: &str = "hostip_hostports";
const ALL_PORTS: &str = "hostports_all";
const SOURCES: &str = "masquerading";

/// `dstnat` in prerouting, the same in output, `srcnat` in postrouting.
const PREROUTING: Hook = Hook { kind: "nat", number: 0, priority: -100 };
const OUTPUT: Hook = Hook { kind: "nat", number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };

const CHAINS: [(&str, Option<Hook>); 5] =
    [(PORTS, None), (OLD_PORTS, None), (ALL_PORTS, None), ("prerouting", Some(PREROUTING)), ("output", Some(OUTPUT))];

/// What is there.
pub(super) fn read(nft: &mut Nft, family: Family) -> Result<Table, Refused> {
    nft.table(family.table(), TABLE, &[PORTS, OLD_PORTS, ALL_PORTS, "prerouting", "output", SOURCES])
}

/// The rules of one address. What is the same for all pods is added where it is missing, and never flushed. Pure.
pub(super) fn rules(
    id: &str,
    mappings: &[Mapping],
    address: IpAddr,
    snat: Option<bool>,
    there: &Table,
) -> Result<(Batch, Shared), Fault> {
    let family = Family::of(address).table();
    let mut batch = Batch::default();
    let chains: Vec<_> = CHAINS.into_iter().chain(snat.map(|_| (SOURCES, Some(POSTROUTING)))).collect();
    batch.lay(there, "CNI portmap plugin", &chains);
    let mut shared = chains.iter().any(|(chain, _)| !there.has(chain));
    let jump = |chain: &str| Expression::Verdict(Verdict::Jump(chain.to_owned()));
    let is_there =
        |chain: &str, to: &str| there.rules().any(|one| one.chain == chain && one.leads_to.as_deref() == Some(to));
    for to in [OLD_PORTS, PORTS] {
        if !is_there(ALL_PORTS, to) {
            shared = true;
            batch.rule(family, TABLE, ALL_PORTS, &[jump(to)], "");
        }
    }
    for chain in ["prerouting", "output"] {
        if !is_there(chain, ALL_PORTS) {
            shared = true;
            batch.rule(family, TABLE, chain, &[Expression::ToLocal, jump(ALL_PORTS)], "");
        }
    }
    for stale in there.rules().filter(|rule| rule.comment == id) {
        batch.delete_rule(family, TABLE, &stale.chain, Some(stale.handle));
    }
    let to = |address| Expression::Address { source: false, network: Cidr::host(address), inside: true };
    for mapping in mappings.iter().filter(|mapping| mapping.is_of(address)) {
        let mut rule: Vec<_> = mapping.address().map(to).into_iter().collect();
        rule.push(Expression::Port { protocol: mapping.protocol, port: mapping.host });
        rule.push(Expression::Dnat { address, port: mapping.container });
        batch.rule(family, TABLE, PORTS, &rule, id);
    }
    let shared = if shared { Shared::Yes } else { Shared::No };
    let Some(everybody) = snat else { return Ok((batch, shared)) };
    let mut sources = vec![Some(Cidr::host(address)).filter(|_| !everybody)];
    if address.is_ipv4() && !everybody {
        sources.push(Some(Cidr::parse("127.0.0.1/32")?));
    }
    for source in sources {
        let from = source.map(|network| Expression::Address { source: true, network, inside: true });
        let rule: Vec<_> = from.into_iter().chain([to(address), Expression::Masquerade]).collect();
        batch.rule(family, TABLE, SOURCES, &rule, id);
    }
    Ok((batch, shared))
}

/// The rules of others that come before a pod's own: whoever was first has a port. Pure.
pub(super) fn before(id: &str, there: &Table) -> Vec<Rule> {
    let first = there.rules().filter(|rule| rule.comment == id).map(|rule| rule.handle).min();
    there.rules().filter(|rule| rule.comment != id && Some(rule.handle) < first).cloned().collect()
}
