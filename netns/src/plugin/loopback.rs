//! loopback: `lo` up.

use super::{Call, Native, namespace};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Interface, Ip, Outcome};
use crate::netlink::{Family, Netlink};

pub(super) const PLUGIN: Native = Native::new("loopback", add, delete, check);

fn no_namespace(call: &Call<'_>) -> Fault {
    Fault::new(Code::NETNS, format!("failed to open netns {:?}: it is not there", call.netns))
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let pod = namespace(call.netns)?.ok_or_else(|| no_namespace(call))?;
    pod.bring_loopback_up()?;
    if let Some(previous) = call.previous()? {
        return Ok(previous);
    }
    let mut netlink = Netlink::inside(&pod)?;
    let lo = netlink.link("lo")?.ok_or_else(|| Fault::new(Code::INTERNAL, "there is no lo"))?;
    let mut outcome = Outcome::default();
    outcome.interfaces.push(Interface {
        name: lo.name.clone(),
        mac: lo.mac_text(),
        sandbox: call.netns.to_owned(),
        ..Interface::default()
    });
    for family in [Family::V4, Family::V6] {
        let addresses = netlink.addresses(lo.index, family)?;
        if let Some(other) = addresses.iter().find(|cidr| !cidr.address.is_loopback()) {
            return Err(Fault::new(Code::INTERNAL, format!("loopback interface is configured with {other}")));
        }
        let first = addresses.first().map(|cidr| Ip { interface: Some(0), address: *cidr, gateway: None });
        outcome.ips.extend(first);
    }
    Ok(outcome)
}

/// A namespace that is gone took its `lo` with it.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    let Some(pod) = namespace(call.netns)? else { return Ok(()) };
    let mut netlink = Netlink::inside(&pod)?;
    let Some(lo) = netlink.link(call.if_name)? else { return Ok(()) };
    Ok(netlink.set_up(lo.index, false)?)
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let pod = namespace(call.netns)?.ok_or_else(|| no_namespace(call))?;
    match Netlink::inside(&pod)?.link("lo")? {
        Some(lo) if lo.up => Ok(()),
        _ => Err(Fault::new(Code::INTERNAL, "loopback interface is down")),
    }
}
