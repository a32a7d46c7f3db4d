//! ptp: a veth pair without a bridge; the host's end is the pod's gateway.

use super::{Call, Native, masquerade, wire};
use crate::change::{Change, Place, Work, attempt};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Interface, Outcome, Route};

pub(super) const PLUGIN: Native =
    Native { gc: masquerade::gc, ipam_status: true, ..Native::new("ptp", add, delete, check) };

/// `host` and `link` of rtnetlink(7)'s scopes.
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    attempt(call, |work| wire_up(call, work))
}

fn wire_up(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    wire::requires_ipam(call)?;
    let mut outcome = work.ipam()?.unwrap_or_default();
    for ip in &mut outcome.ips {
        ip.interface = Some(1);
    }
    let mtu = call.fields().number("mtu")?.unwrap_or_default();
    let (host, pod) = wire::veth(work, call, mtu, None, None, Vec::new())?;
    let host = work.link(Place::Host, &host)?;
    outcome.interfaces = vec![
        Interface { name: host.name.clone(), mac: host.mac_text(), ..Interface::default() },
        Interface {
            name: call.if_name.to_owned(),
            mac: pod.mac_text(),
            sandbox: call.netns.to_owned(),
            ..Interface::default()
        },
    ];
    work.apply([wire::forward(&outcome)])?;
    work.apply(wire::configure(call.if_name, &outcome)?)?;
    work.apply(routes(call.if_name, &host.name, &outcome)?)?;
    if call.fields().boolean("ipMasq")? {
        masquerade::add(call, work, &outcome)?;
    }
    wire::dns(call, &mut outcome)?;
    Ok(outcome)
}

/// In the pod everything goes by the gateway, its own network too; on the host each address has a route. Pure.
fn routes(pod: &str, host: &str, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    let mut changes = Vec::new();
    for ip in &outcome.ips {
        let missing = || Fault::new(Code::CONFIG, format!("the address {} has no gateway", ip.address));
        let gateway = ip.gateway.ok_or_else(missing)?;
        let (network, source) = (ip.address.network(), Some(ip.address.address));
        changes.push(Change::Unroute { place: Place::Pod, link: pod.to_owned(), destination: network });
        let direct = Route { scope: Some(SCOPE_LINK), ..Route::to(Cidr::host(gateway), None) };
        for route in [direct, Route::to(network, Some(gateway))] {
            changes.push(Change::Route { place: Place::Pod, link: pod.to_owned(), route, source, again: false });
        }
        let link = || host.to_owned();
        changes.push(Change::Address { place: Place::Host, link: link(), cidr: Cidr::host(gateway), again: true });
        let route = Route { scope: Some(SCOPE_HOST), ..Route::to(Cidr::host(ip.address.address), None) };
        changes.push(Change::Route { place: Place::Host, link: link(), route, source: None, again: true });
    }
    Ok(changes)
}

fn delete(call: &Call<'_>) -> Result<(), Fault> {
    wire::delete_link(call)?;
    masquerade::remove(call)?;
    call.ipam()?;
    Ok(())
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    call.ipam()?;
    wire::check_pod(call).map(drop)
}
