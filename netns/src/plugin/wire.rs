//! What most plugins do alike: an interface in the pod gets its addresses and routes.

use std::net::IpAddr;

use netlink_packet_route::link::InfoKind;
use sha2::{Digest, Sha512};

use super::Call;
use crate::change::{Change, Kind, NewLink, Place, Set, Sysctl, Work};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Dns, Interface, Ip, Outcome, Route};
use crate::netlink::{Family, Link, Netlink};

/// `prefix` and hexadecimal digits of a hash, so many letters in all: how the Go plugins name chains and devices.
pub(super) fn hashed(prefix: &str, length: usize, of: &str) -> String {
    let digits: String = Sha512::digest(of).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", &digits[..length - prefix.len()])
}

/// How many names are tried for a pair.
const ATTEMPTS: u32 = 10;

/// The host's end of a veth pair. Its name follows from whose it is, so that it is found again without a record.
pub(super) fn veth_name(call: &Call<'_>, attempt: u32) -> Result<String, Fault> {
    let of = format!("{}\0{}\0{}\0{attempt}", call.network()?, call.container_id, call.if_name);
    Ok(hashed("veth", 12, &of))
}

/// Makes a veth pair, one end in the pod, and answers the host's end's name and the pod's end. `told`: what is said to the
/// pod's end before anything else.
pub(super) fn veth(
    work: &mut Work<'_>,
    call: &Call<'_>,
    mtu: u32,
    mac: Option<Vec<u8>>,
    master: Option<&str>,
    told: Vec<Sysctl>,
) -> Result<(String, Link), Fault> {
    let (mut attempt, mut again) = (0, true);
    let name = loop {
        let name = veth_name(call, attempt)?;
        let (peer, of) = (call.if_name.to_owned(), Place::Pod);
        let kind = Kind::Veth { peer, of, master: master.map(str::to_owned) };
        let link = NewLink { name: name.clone(), kind, mtu, mac: mac.clone(), shared: false };
        let Err(fault) = work.apply([Change::Create(link)]) else { break name };
        let taken = work.host.link(&name)?;
        // Of an attachment that was detached, and not deleted yet.
        if let Some(old) = taken.as_ref().filter(|link| is_veth(link) && !link.up && link.master.is_none()) {
            work.host.delete(old.index)?;
            continue;
        }
        if work.pod()?.link(call.if_name)?.is_some() {
            let message = format!("container veth name ({:?}) peer provided ({name:?}) already exists", call.if_name);
            return Err(Fault::new(Code::INTERNAL, message));
        }
        match taken {
            Some(_) if attempt < ATTEMPTS => attempt += 1,
            // Whoever had it may have gone between the two.
            None if std::mem::take(&mut again) => {}
            _ => return Err(fault),
        }
    };
    work.apply([Change::Sysctls(Place::Host, vec![Sysctl::may(format!("net/ipv6/conf/{name}/accept_ra"), "0")])])?;
    if !told.is_empty() {
        work.apply([Change::Sysctls(Place::Pod, told)])?;
    }
    Ok((name, work.link(Place::Pod, call.if_name)?))
}

/// The address right behind the network's own.
pub(super) fn first_address(cidr: Cidr) -> IpAddr {
    cidr.nth(1)
}

/// What gives the pod's interface its addresses, brings it up and adds its routes. Pure.
pub(super) fn configure(if_name: &str, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    let ips: Vec<&Ip> = outcome.ips.iter().filter(|ip| ip.interface.is_some()).collect();
    for ip in &ips {
        let its = ip.interface.and_then(|index| outcome.interfaces.get(index));
        if its.is_none_or(|interface| interface.name != if_name) {
            let message = format!("failed to add IP addr {} to {if_name:?}: invalid interface index", ip.address);
            return Err(Fault::new(Code::INTERNAL, message));
        }
    }
    if ips.iter().any(|ip| ip.address.address.is_ipv6()) {
        let conf = |link: &str, key: &str| format!("net/ipv6/conf/{link}/{key}");
        let sysctls = vec![
            Sysctl::may(conf("lo", "disable_ipv6"), "0"),
            Sysctl::may(conf(if_name, "disable_ipv6"), "0"),
            Sysctl::must(conf(if_name, "keep_addr_on_down"), "1"),
        ];
        changes.push(Change::Sysctls(Place::Pod, sysctls));
    }
    let link = || if_name.to_owned();
    let address = |ip: &&Ip| Change::Address { place: Place::Pod, link: link(), cidr: ip.address, again: false };
    changes.extend(ips.iter().map(address));
    changes.push(Change::Set(Place::Pod, link(), Set::Up(true)));
    for route in &outcome.routes {
        let same = |gateway: &IpAddr| gateway.is_ipv4() == route.dst.address.is_ipv4();
        let gw = route.gw.or_else(|| ips.iter().filter_map(|ip| ip.gateway).find(same));
        let route = Route { gw, ..route.clone() };
        changes.push(Change::Route { place: Place::Pod, link: link(), route, source: None, again: false });
    }
    Ok(changes)
}

/// What the neighbours are told when the pod's interface comes up.
pub(super) fn announce(if_name: &str) -> Change {
    let conf = |family: &str, key: &str| Sysctl::may(format!("net/{family}/conf/{if_name}/{key}"), "1");
    Change::Sysctls(Place::Pod, vec![conf("ipv4", "arp_notify"), conf("ipv6", "ndisc_notify")])
}

/// The pod's interface, as results say it.
pub(super) fn in_pod(call: &Call<'_>, link: &Link) -> Interface {
    let (name, sandbox) = (call.if_name.to_owned(), call.netns.to_owned());
    Interface { name, mac: link.mac_text(), sandbox, ..Interface::default() }
}

/// Gives addresses and routes to the pod's interface, which is the only one.
pub(super) fn address(
    call: &Call<'_>,
    work: &mut Work<'_>,
    interface: Interface,
    mut outcome: Outcome,
) -> Result<Outcome, Fault> {
    outcome.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
    outcome.interfaces = vec![interface];
    work.apply(configure(call.if_name, &outcome)?)?;
    dns(call, &mut outcome)?;
    Ok(outcome)
}

/// For plugins that are for nothing without an address.
pub(super) fn requires_ipam(call: &Call<'_>) -> Result<(), Fault> {
    let kind = call.fields().object("ipam")?.map(|ipam| ipam.string("type")).transpose()?.flatten();
    let missing = || Fault::new(Code::CONFIG, "the interface requires an IPAM configuration");
    kind.map(drop).ok_or_else(missing)
}

/// Refuses an interface whose name the pod has already.
pub(super) fn requires_name(call: &Call<'_>, work: &mut Work<'_>) -> Result<(), Fault> {
    let taken = || Fault::new(Code::INTERNAL, format!("the pod has an interface {:?} already", call.if_name));
    if work.pod()?.link(call.if_name)?.is_some() { Err(taken()) } else { Ok(()) }
}

/// Forwarding, for the families that the addresses have.
pub(super) fn forward(outcome: &Outcome) -> Change {
    let has = |family| outcome.ips.iter().any(|ip| Family::of(ip.address.address) == family);
    let mut sysctls = Vec::new();
    if has(Family::V4) {
        sysctls.push(Sysctl::must("net/ipv4/ip_forward", "1"));
    }
    if has(Family::V6) {
        sysctls.push(Sysctl::must("net/ipv6/conf/all/forwarding", "1"));
    }
    Change::Sysctls(Place::Host, sysctls)
}

/// The configuration's name service goes before the one of the address management, if it says anything.
pub(super) fn dns(call: &Call<'_>, outcome: &mut Outcome) -> Result<(), Fault> {
    let own = Dns::parse(call.fields())?;
    if !own.is_empty() {
        outcome.dns = own;
    }
    Ok(())
}

/// A hardware address: six bytes in hexadecimal between colons or dashes.
pub(super) fn mac(text: &str) -> Result<Vec<u8>, Fault> {
    let refuse = || Fault::new(Code::CONFIG, format!("invalid MAC address {text:?}"));
    let bytes = text
        .split([':', '-'])
        .map(|pair| u8::from_str_radix(pair, 16).ok().filter(|_| pair.len() == 2 && !pair.starts_with('+')));
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.filter(|bytes| bytes.len() == 6).ok_or_else(refuse)
}

/// The hardware address that was asked for: the runtime's, else `args.cni`'s, else CNI_ARGS'.
pub(super) fn wanted_mac(call: &Call<'_>) -> Result<Option<Vec<u8>>, Fault> {
    let runtime = call.fields().object("runtimeConfig")?.map(|runtime| runtime.string("mac")).transpose()?.flatten();
    let args = call.fields().object("args")?.map(|args| args.object("cni")).transpose()?.flatten();
    let args = args.map(|cni| cni.string("mac")).transpose()?.flatten();
    let argument = call.args.iter().rfind(|(key, _)| key == "MAC").map(|(_, value)| value.clone());
    runtime.or(args).or(argument.filter(|text| !text.is_empty())).map(|text| mac(&text)).transpose()
}

/// Takes the pod's interface away, and what is left of it on the host where the pod's namespace cannot be entered any
/// more. A veth pair is taken off the network at once, and deleted afterwards.
pub(super) fn delete_link(call: &Call<'_>) -> Result<(), Fault> {
    let mut host = Netlink::here()?;
    let mut retired = Vec::new();
    if let Some(pod) = super::namespace(call.netns)? {
        let mut netlink = Netlink::inside(&pod)?;
        if let Some(link) = netlink.link(call.if_name)? {
            match peer(&mut host, &link)? {
                Some(peer) => retired.push(peer),
                None => netlink.delete(link.index)?,
            }
        }
    }
    let known = call.previous().ok().flatten().unwrap_or_default();
    let names = known.interfaces.into_iter().filter(|interface| interface.sandbox.is_empty()).map(|one| one.name);
    for name in names.chain([veth_name(call, 0)?]).filter(|name| name.starts_with("veth")) {
        let link = host.link(&name)?.filter(is_veth);
        retired.extend(link.filter(|link| retired.iter().all(|other| other.index != link.index)));
    }
    let indexes: Vec<_> = retired.iter().map(|link| link.index).collect();
    indexes.iter().try_for_each(|index| host.retire(*index))?;
    call.afterwards.delete(host, indexes);
    Ok(())
}

fn is_veth(link: &Link) -> bool {
    link.kind == Some(InfoKind::Veth)
}

/// The host's end of a veth pair whose other end is in the pod.
fn peer(host: &mut Netlink, link: &Link) -> Result<Option<Link>, Fault> {
    let Some(index) = link.under.filter(|_| is_veth(link)) else { return Ok(None) };
    // The number is one of the peer's namespace, which need not be this one.
    Ok(host.link_by_index(index)?.filter(|peer| is_veth(peer) && peer.under == Some(link.index)))
}

/// The pod's interface, if it is as the last result says: there, with its addresses and routes.
pub(super) fn check_pod(call: &Call<'_>) -> Result<Link, Fault> {
    let wrong = |message: String| Fault::new(Code::INTERNAL, message);
    let previous = call.previous()?.ok_or_else(|| Fault::new(Code::CONFIG, "Required prevResult missing"))?;
    let missing = || Fault::new(Code::NETNS, format!("failed to open netns {:?}", call.netns));
    let mut pod = Netlink::inside(&super::namespace(call.netns)?.ok_or_else(missing)?)?;
    let link = pod.link(call.if_name)?.ok_or_else(|| wrong(format!("Link {} not found in the pod", call.if_name)))?;
    let known = |one: &&Interface| one.name == call.if_name && !one.sandbox.is_empty();
    let interface = previous.interfaces.iter().find(known);
    if let Some(interface) = interface.filter(|one| !one.mac.is_empty() && one.mac != link.mac_text()) {
        let message = format!(
            "Interface {} Mac {} doesn't match container Mac: {}",
            interface.name,
            interface.mac,
            link.mac_text()
        );
        return Err(wrong(message));
    }
    for family in Family::BOTH {
        let addresses = pod.addresses(link.index, family)?;
        let of_link = |ip: &&Ip| ip.interface.and_then(|at| previous.interfaces.get(at)) == interface;
        for ip in previous.ips.iter().filter(of_link).filter(|ip| Family::of(ip.address.address) == family) {
            if !addresses.contains(&ip.address) {
                return Err(wrong(format!("Failed to match addr {} on interface {}", ip.address, call.if_name)));
            }
        }
        let routes = pod.routes(family)?;
        for route in previous.routes.iter().filter(|route| Family::of(route.dst.address) == family) {
            let same = |via: &&crate::netlink::Via| via.destination == route.dst.network();
            if !routes.iter().any(|via| same(&via) && (route.gw.is_none() || via.gateway == route.gw)) {
                return Err(wrong(format!("Expected Route {} not found in routing table", route.dst)));
            }
        }
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(mac("02:00:00:00:00:ff").unwrap(), [2, 0, 0, 0, 0, 255]);
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:fff", "02:00:00:00:00:+f", "02:00:00:00:00:00:00"] {
            assert!(mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_hashed_as_the_go_plugins_do() {
        // utils.MustFormatChainNameWithPrefix's own test vector: sha512("testcontainer").
        assert_eq!(hashed("CNI-", 28, "test").len(), 28);
        assert_eq!(hashed("", 16, "test"), "ee26b0dd4af7e749");
    }
}
