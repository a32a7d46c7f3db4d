//! sbr: what comes from an address of the pod's interface leaves by that interface. Each address gets a table with the
//! interface's routes, and a rule that leads there; the main table loses them.

use std::net::IpAddr;

use super::{Call, Native};
use crate::change::{Change, Place, Work, attempt};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Ip, Outcome, Route};
use crate::netlink::{Family, Netlink, Policy, Via};

pub(super) const PLUGIN: Native = Native {
    // Newer than the plugin that ours is like.
    beyond: |call| call.asks("gateways") || call.asks("addSourceHints"),
    ..Native::new("sbr", add, delete, check)
};

/// The first table that is looked at.
const FIRST: u32 = 100;

/// Where the kernel puts routes that name none.
const MAIN: u32 = 254;

/// The addresses of the interface; one that is of none is taken for its.
fn addresses(call: &Call<'_>, previous: &Outcome) -> Vec<Ip> {
    let other = |at: usize| previous.interfaces.get(at).is_some_and(|one| one.name != call.if_name);
    previous.ips.iter().filter(|ip| !ip.interface.is_some_and(other)).cloned().collect()
}

fn previous(call: &Call<'_>) -> Result<Outcome, Fault> {
    let missing = || Fault::new(Code::CONFIG, "This plugin must be called as chained plugin");
    call.previous()?.ok_or_else(missing)
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let previous = previous(call)?;
    if previous.ips.is_empty() {
        let message = format!("No IP addresses supplied on interface: {}", call.if_name);
        return Err(Fault::new(Code::CONFIG, message));
    }
    let ips = addresses(call, &previous);
    let table = call.fields().number("table")?;
    attempt(call, |work| {
        work.lock()?;
        let rule = |ip: &Ip, table| Change::Rule { source: ip.address.address, table, there: true };
        if let Some(table) = table {
            return work.apply(ips.iter().map(|ip| rule(ip, table)));
        }
        let link = work.link(Place::Pod, call.if_name)?;
        let (mut taken, mut own) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            taken.extend(work.pod()?.rules(family)?.iter().map(|policy| policy.table));
            let routes = work.pod()?.routes(family)?;
            taken.extend(routes.iter().map(|via| via.table));
            own.extend(routes.into_iter().filter(|via| via.link == Some(link.index) && moves(via)));
        }
        work.apply(routes(call.if_name, &ips, &own, &taken))
    })?;
    Ok(previous)
}

/// Whether a route is one of those that an address of its own table shall have. That to link-local neighbours leads to no
/// other interface's, and whoever has it not finds no router.
fn moves(via: &Via) -> bool {
    let local = matches!(via.destination.address, IpAddr::V6(address) if address.is_unicast_link_local());
    via.table == MAIN && !local
}

/// Pure.
fn routes(if_name: &str, ips: &[Ip], own: &[Via], taken: &[u32]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut free = (FIRST..).filter(|table| !taken.contains(table));
    for (ip, table) in ips.iter().zip(&mut free) {
        changes.push(Change::Rule { source: ip.address.address, table, there: true });
        if ip.gateway.is_some() {
            let default = Route::to(Cidr::everything(ip.address.address), ip.gateway);
            let route = Route { table: Some(table), ..default };
            let link = if_name.to_owned();
            changes.push(Change::Route { place: Place::Pod, link, route, source: None, again: true });
        }
        let its = own.iter().filter(|via| is_for(via, ip));
        changes.extend(its.map(|via| Change::Via { via: via.in_table(table), there: true }));
    }
    // Last: a gateway is found by the route to its network.
    changes.extend(own.iter().map(|via| Change::Via { via: via.clone(), there: false }));
    changes
}

/// Whether a route is about an address' network, or about none. Pure.
fn is_for(via: &Via, ip: &Ip) -> bool {
    let inside = |address: Option<IpAddr>| address.is_some_and(|address| ip.address.contains(address));
    let same = via.destination.address.is_ipv4() == ip.address.address.is_ipv4();
    same && (inside(via.source) || inside(via.gateway) || via.source.is_none() && via.gateway.is_none())
}

/// The rules of the addresses that the interface has, and of those that it had, into the table that is configured or
/// into any of ours. The routes end with the interface.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    if super::namespace(call.netns)?.is_none() {
        return Ok(());
    }
    let configured = call.fields().number("table").ok().flatten();
    let known = call.previous().ok().flatten().unwrap_or_default();
    let mut sources: Vec<_> = addresses(call, &known).iter().map(|ip| ip.address.address).collect();
    let mut work = Work::begin(call)?;
    work.lock()?;
    for family in Family::BOTH {
        if let Some(link) = work.pod()?.link(call.if_name)? {
            sources.extend(work.pod()?.addresses(link.index, family)?.iter().map(|cidr| cidr.address));
        }
        let rules = work.pod()?.rules(family)?;
        work.apply(stale(&rules, &sources, configured))?;
    }
    Ok(())
}

/// What takes the rules of those addresses away. Pure.
fn stale(rules: &[Policy], sources: &[IpAddr], table: Option<u32>) -> Vec<Change> {
    let wanted = |policy: &&Policy| table.is_none_or(|table| table == policy.table);
    let of = |policy: &Policy| policy.source.filter(|source| sources.contains(source));
    let rules = rules.iter().filter(wanted).filter_map(|policy| Some((of(policy)?, policy.table)));
    rules.map(|(source, table)| Change::Rule { source, table, there: false }).collect()
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let ips = addresses(call, &previous(call)?);
    let missing = || Fault::new(Code::NETNS, format!("failed to open netns {:?}", call.netns));
    let mut pod = Netlink::inside(&super::namespace(call.netns)?.ok_or_else(missing)?)?;
    for ip in ips {
        let source = ip.address.address;
        if !pod.rules(Family::of(source))?.iter().any(|policy| policy.source == Some(source)) {
            return Err(Fault::new(Code::INTERNAL, format!("there is no rule for what comes from {source}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(destination: &str, gateway: Option<&str>, source: Option<&str>) -> Via {
        Via {
            destination: Cidr::parse(destination).unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            source: source.map(|text| text.parse().unwrap()),
            link: Some(2),
            table: MAIN,
            message: Default::default(),
        }
    }

    fn ip(address: &str, gateway: Option<&str>) -> Ip {
        let gateway = gateway.map(|text| text.parse().unwrap());
        Ip { interface: None, address: Cidr::parse(address).unwrap(), gateway }
    }

    #[test]
    fn each_address_has_a_free_table_with_the_routes_of_its_network() {
        let ips = [ip("10.7.0.2/24", Some("10.7.0.1")), ip("10.8.0.2/24", None), ip("fd07::2/64", None)];
        let own = [
            via("10.7.0.0/24", None, Some("10.7.0.2")),
            via("10.8.0.0/24", None, Some("10.8.0.2")),
            via("10.9.0.0/24", Some("10.7.0.1"), None),
            via("fd07::/64", None, None),
        ];
        let words: Vec<_> = routes("eth0", &ips, &own, &[101, 254]).iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "add the rule from 10.7.0.2 to table 100 in the pod",
                "add route 0.0.0.0/0 via 10.7.0.1 dev eth0 in the pod",
                "add route 10.7.0.0/24 of table 100 in the pod",
                "add route 10.9.0.0/24 of table 100 in the pod",
                "add the rule from 10.8.0.2 to table 102 in the pod",
                "add route 10.8.0.0/24 of table 102 in the pod",
                "add the rule from fd07::2 to table 103 in the pod",
                "add route fd07::/64 of table 103 in the pod",
                "take route 10.7.0.0/24 of table 254 in the pod",
                "take route 10.8.0.0/24 of table 254 in the pod",
                "take route 10.9.0.0/24 of table 254 in the pod",
                "take route fd07::/64 of table 254 in the pod",
            ]
        );
    }

    #[test]
    fn only_rules_of_the_addresses_go() {
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let rules = [
            Policy { source: None, table: 254 },
            Policy { source: Some(of("10.7.0.2")), table: 100 },
            Policy { source: Some(of("10.7.0.2")), table: 7 },
            Policy { source: Some(of("10.7.0.3")), table: 101 },
        ];
        assert_eq!(stale(&rules, &[of("10.7.0.2")], None).len(), 2);
        assert_eq!(stale(&rules, &[of("10.7.0.2")], Some(7)).len(), 1);
        assert!(stale(&rules, &[], None).is_empty());
    }
}
