//! macvlan: an interface of the pod on one of the host's.

use super::{Call, Native, nothing, wire};
use crate::change::{Change, Kind, NewLink, Place, Set, Sysctl, Work, attempt};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Interface, Outcome};
use crate::netlink::{Family, Netlink};

pub(super) const PLUGIN: Native = Native {
    kind: "macvlan",
    oldest: "0.1.0",
    add,
    delete,
    check,
    gc: nothing,
    beyond: |call| call.asks("linkInContainer"),
    ipam_status: true,
};

/// `enum macvlan_mode` of linux/if_link.h.
fn mode(name: &str) -> Result<u32, Fault> {
    match name {
        "private" => Ok(1),
        "vepa" => Ok(2),
        "" | "bridge" => Ok(4),
        "passthru" => Ok(8),
        other => Err(Fault::new(Code::CONFIG, format!("unknown macvlan mode: {other:?}"))),
    }
}

/// The interface of the host's default route.
fn default_master(host: &mut Netlink) -> Result<String, Fault> {
    const MAIN: u32 = 254;
    let routes = host.routes(Family::V4)?;
    let index = routes.iter().find(|via| via.table == MAIN && via.destination.is_everything()).and_then(|via| via.link);
    let link = index.map(|index| host.link_by_index(index)).transpose()?.flatten();
    link.map(|link| link.name).ok_or_else(|| Fault::new(Code::CONFIG, "no default route interface found"))
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    attempt(call, |work| wire_up(call, work))
}

fn wire_up(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    let fields = call.fields();
    if fields.boolean("linkInContainer")? {
        return Err(Fault::new(Code::UNSUPPORTED_FIELD, "linkInContainer is not supported by the native macvlan"));
    }
    let master = fields.string("master")?.map_or_else(|| default_master(&mut work.host), Ok)?;
    let below = work.link(Place::Host, &master)?;
    let mtu = fields.number("mtu")?.unwrap_or_default();
    if mtu > below.mtu {
        let message = format!("invalid MTU {mtu}, must be [0, master MTU({})]", below.mtu);
        return Err(Fault::new(Code::CONFIG, message));
    }
    let own = fields.string("mac")?.map(|text| wire::mac(&text)).transpose()?;
    let kind = Kind::MacVlan {
        master,
        mode: mode(&fields.string("mode")?.unwrap_or_default())?,
        queue: fields.number("bcqueuelen")?.filter(|queue| *queue != 0),
    };
    // The kernel looks for the name among the host's, so it gets its own one in the pod.
    let name = wire::veth_name(call, 0)?;
    let link = NewLink { name: name.clone(), kind, mtu, mac: wire::wanted_mac(call)?.or(own), shared: false };
    let to = Set::Name(call.if_name.to_owned());
    work.apply([Change::Create(link), Change::Set(Place::Pod, name, to)])?;
    let made = work.link(Place::Pod, call.if_name)?;
    let interface = Interface {
        name: call.if_name.to_owned(),
        mac: made.mac_text(),
        sandbox: call.netns.to_owned(),
        ..Interface::default()
    };
    let Some(mut outcome) = work.ipam()? else {
        work.apply([Change::Set(Place::Pod, call.if_name.to_owned(), Set::Up(true))])?;
        let mut outcome = Outcome { interfaces: vec![interface], ..Outcome::default() };
        wire::dns(call, &mut outcome)?;
        return Ok(outcome);
    };
    if outcome.ips.is_empty() {
        return Err(Fault::new(Code::INTERNAL, "IPAM plugin returned missing IP config"));
    }
    outcome.interfaces = vec![interface];
    outcome.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
    let conf = |family: &str, key: &str| Sysctl::may(format!("net/{family}/conf/{}/{key}", call.if_name), "1");
    work.apply([Change::Sysctls(Place::Pod, vec![conf("ipv4", "arp_notify"), conf("ipv6", "ndisc_notify")])])?;
    work.apply(wire::configure(call.if_name, &outcome)?)?;
    wire::dns(call, &mut outcome)?;
    Ok(outcome)
}

/// Neither the master nor the pod has to be there any more.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
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

fn check(call: &Call<'_>) -> Result<(), Fault> {
    call.ipam()?;
    wire::check_pod(call)
}
