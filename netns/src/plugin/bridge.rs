//! bridge: a veth pair, one end in the pod, the other a port of a bridge of the host.

mod spoof;
mod vlan;

use std::thread;
use std::time::Duration;

use netlink_packet_route::link::InfoKind;

use super::{Call, Native, masquerade, wire};
use crate::change::{Change, Kind, NewLink, Place, Set, Sysctl, Work, attempt};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Interface, Outcome, Route};
use crate::netlink::{Family, Link};
use vlan::Vlans;

pub(super) const PLUGIN: Native =
    Native { gc: masquerade::gc, ipam_status: true, ..Native::new("bridge", add, delete, check) };

/// How long a port may take to come up.
const PORT_UP: Duration = Duration::from_secs(3);

/// The configuration.
#[derive(Debug)]
struct Config {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    mtu: u32,
    hairpin: bool,
    promiscuous: bool,
    isolated: bool,
    vlans: Vlans,
    keep_to_mac: bool,
    dad: bool,
    without_container: bool,
    mac: Option<Vec<u8>>,
    has_ipam: bool,
}

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

impl Config {
    fn parse(call: &Call<'_>) -> Result<Self, Fault> {
        let fields = call.fields();
        let ipam = fields.object("ipam")?.map(|ipam| ipam.string("type")).transpose()?.flatten();
        let this = Self {
            bridge: fields.string("bridge")?.unwrap_or_else(|| "cni0".to_owned()),
            is_default_gateway: fields.boolean("isDefaultGateway")?,
            is_gateway: fields.boolean("isGateway")? || fields.boolean("isDefaultGateway")?,
            force_address: fields.boolean("forceAddress")?,
            ip_masq: fields.boolean("ipMasq")?,
            mtu: fields.number("mtu")?.unwrap_or_default(),
            hairpin: fields.boolean("hairpinMode")?,
            promiscuous: fields.boolean("promiscMode")?,
            isolated: fields.boolean("portIsolation")?,
            vlans: Vlans::parse(fields)?,
            keep_to_mac: fields.boolean("macspoofchk")?,
            dad: fields.boolean("enabledad")?,
            without_container: fields.boolean("disableContainerInterface")?,
            mac: wire::wanted_mac(call)?,
            has_ipam: ipam.is_some(),
        };
        if this.has_ipam && this.without_container {
            return Err(config("cannot use IPAM when DisableContainerInterface flag is set"));
        }
        if this.hairpin && this.promiscuous {
            return Err(config("cannot set hairpin mode and promiscuous mode at the same time"));
        }
        Ok(this)
    }
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let config = Config::parse(call)?;
    attempt(call, |work| wire_up(call, &config, work))
}

fn wire_up(call: &Call<'_>, config: &Config, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    let bridge = ensure_bridge(config, work)?;
    let told = if config.has_ipam { detection(config, call.if_name) } else { Vec::new() };
    let (host, pod) = wire::veth(work, call, config.mtu, config.mac.clone(), Some(&config.bridge), told)?;
    if config.hairpin || config.isolated {
        let link = host.clone();
        work.apply([Change::Port { link, hairpin: config.hairpin, isolated: config.isolated }])?;
    }
    work.apply(config.vlans.of_port(&host, vlan::given_by(&bridge)))?;
    if config.keep_to_mac {
        spoof::add(call, work, &host, &pod)?;
    }
    let mut outcome = Outcome::default();
    if config.has_ipam {
        outcome = work.ipam()?.unwrap_or_default();
        gateways(config, &mut outcome);
    }
    outcome.interfaces = vec![
        Interface { name: config.bridge.clone(), ..Interface::default() },
        Interface { name: host.clone(), ..Interface::default() },
        Interface {
            name: call.if_name.to_owned(),
            mac: pod.mac_text(),
            sandbox: call.netns.to_owned(),
            ..Interface::default()
        },
    ];
    if config.has_ipam {
        work.apply(wire::configure(call.if_name, &outcome)?)?;
        if config.is_gateway {
            be_gateway(config, work, &mut outcome)?;
        }
    } else if !config.without_container {
        work.apply([Change::Set(Place::Pod, call.if_name.to_owned(), Set::Up(true))])?;
    }
    if config.ip_masq && config.has_ipam {
        masquerade::add(call, work, &outcome)?;
    }
    let host = if config.without_container { work.link(Place::Host, &host)? } else { port_up(work, &host)? };
    outcome.interfaces[0].mac = work.link(Place::Host, &config.bridge)?.mac_text();
    outcome.interfaces[1].mac = host.mac_text();
    wire::dns(call, &mut outcome)?;
    Ok(outcome)
}

/// The bridge, made where it is missing. One that is there keeps its MTU and its filtering.
fn ensure_bridge(config: &Config, work: &mut Work<'_>) -> Result<Link, Fault> {
    let name = &config.bridge;
    let there = work.host.link(name)?;
    if there.is_none() {
        let link = NewLink {
            name: name.clone(),
            kind: Kind::Bridge { vlan_filtering: config.vlans.filter },
            mtu: config.mtu,
            mac: None,
            shared: true,
        };
        work.apply([Change::Create(link)])?;
    }
    let link = match there {
        Some(link) => link,
        None => work.link(Place::Host, name)?,
    };
    if link.kind != Some(InfoKind::Bridge) {
        return Err(Fault::new(Code::CONFIG, format!("{name:?} already exists but is not a bridge")));
    }
    if config.promiscuous && !link.promiscuous {
        work.apply([Change::Set(Place::Host, name.clone(), Set::Promiscuous(true))])?;
    }
    work.apply([Change::Sysctls(Place::Host, vec![Sysctl::may(format!("net/ipv6/conf/{name}/accept_ra"), "0")])])?;
    if !link.up {
        work.apply([Change::Set(Place::Host, name.clone(), Set::Up(true))])?;
    }
    Ok(link)
}

/// Whose the addresses are, and which way they lead. Pure.
fn gateways(config: &Config, outcome: &mut Outcome) {
    for ip in &mut outcome.ips {
        ip.interface = Some(2);
        if ip.gateway.is_none() && config.is_gateway {
            ip.gateway = Some(wire::first_address(ip.address));
        }
    }
    if !config.is_default_gateway {
        return;
    }
    for family in Family::BOTH {
        let Some(ip) = outcome.ips.iter().find(|ip| Family::of(ip.address.address) == family) else { continue };
        let everything = Cidr::everything(ip.address.address);
        if !outcome.routes.iter().any(|route| route.gw.is_some() && route.dst == everything) {
            outcome.routes.push(Route::to(everything, ip.gateway));
        }
    }
}

/// What the pod's end is told about duplicate addresses and about its neighbours. Pure.
fn detection(config: &Config, link: &str) -> Vec<Sysctl> {
    let conf = |family: &str, key: &str| format!("net/{family}/conf/{link}/{key}");
    let mut sysctls = Vec::new();
    if config.dad {
        sysctls.push(Sysctl::may(conf("ipv6", "enhanced_dad"), "1"));
        sysctls.push(Sysctl::may(conf("ipv6", "accept_dad"), "1"));
    } else {
        sysctls.push(Sysctl::may(conf("ipv6", "accept_dad"), "0"));
    }
    sysctls.push(Sysctl::may(conf("ipv4", "arp_notify"), "1"));
    sysctls
}

/// The gateways' addresses on the bridge, or on the end of a veth pair that is in the pods' VLAN.
fn be_gateway(config: &Config, work: &mut Work<'_>, outcome: &mut Outcome) -> Result<(), Fault> {
    let mut link = config.bridge.clone();
    if config.vlans.access != 0 {
        let bridge = work.link(Place::Host, &link)?;
        let gateway = vlan::ensure_gateway(work, &bridge, &config.vlans)?;
        link.clone_from(&gateway.name);
        let (name, mac) = (gateway.name.clone(), gateway.mac_text());
        outcome.interfaces.push(Interface { name, mac, ..Interface::default() });
    }
    for ip in &outcome.ips {
        let Some(address) = ip.gateway else { continue };
        let cidr = Cidr { address, prefix: ip.address.prefix };
        ensure_address(work, &link, cidr, config.force_address)?;
    }
    work.apply([wire::forward(outcome)])
}

fn ensure_address(work: &mut Work<'_>, link: &str, wanted: Cidr, force: bool) -> Result<(), Fault> {
    let index = work.number(Place::Host, link)?;
    for cidr in work.host.addresses(index, Family::of(wanted.address))? {
        if cidr == wanted {
            return Ok(());
        }
        if wanted.address.is_ipv4() || cidr.overlaps(wanted) {
            if !force {
                let message = format!("{link:?} already has an IP address different from {wanted}");
                return Err(Fault::new(Code::CONFIG, message));
            }
            work.apply([Change::Unaddress { place: Place::Host, link: link.to_owned(), cidr }])?;
        }
    }
    let bridge = work.link(Place::Host, link)?;
    let link = || link.to_owned();
    // A bridge that was never given a MAC changes it with its ports; given its own, it keeps it.
    work.apply([
        Change::Address { place: Place::Host, link: link(), cidr: wanted, again: true },
        Change::Set(Place::Host, link(), Set::Mac(bridge.mac)),
    ])
}

/// Waits for a port to forward.
fn port_up(work: &mut Work<'_>, name: &str) -> Result<Link, Fault> {
    let mut waited = Duration::ZERO;
    let mut pause = Duration::from_micros(100);
    loop {
        let link = work.link(Place::Host, name)?;
        if link.running {
            return Ok(link);
        }
        if waited > PORT_UP {
            return Err(Fault::new(Code::INTERNAL, format!("bridge port {name} does not come up")));
        }
        thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// What there is of the pod goes, whether its namespace can be entered or not, and its address only after it.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    wire::delete_link(call)?;
    let mut forget = masquerade::forget(call)?;
    forget.chains.extend(spoof::forget(call).chains);
    forget.apply_for(call)?;
    call.ipam()?;
    Ok(())
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let config = Config::parse(call)?;
    if config.has_ipam {
        call.ipam()?;
    }
    wire::check_pod(call)?;
    if config.keep_to_mac {
        spoof::check(call)?;
    }
    let mut host = crate::netlink::Netlink::here()?;
    let wrong = |message: String| Fault::new(Code::INTERNAL, message);
    let bridge = host.link(&config.bridge)?.ok_or_else(|| wrong(format!("bridge {} not found", config.bridge)))?;
    let previous = call.previous()?.unwrap_or_default();
    for interface in previous.interfaces.iter().filter(|one| one.sandbox.is_empty() && one.name.starts_with("veth")) {
        let link = host.link(&interface.name)?.ok_or_else(|| wrong(format!("{} not found", interface.name)))?;
        if link.master != Some(bridge.index) {
            return Err(wrong(format!("{} is no port of {}", interface.name, config.bridge)));
        }
    }
    Ok(())
}
