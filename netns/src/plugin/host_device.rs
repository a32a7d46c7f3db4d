//! host-device: the pod gets a device of the host's, and DEL gives it back under its old name, which it keeps as its alias
//! in the pod. A device that a driver of user space has (DPDK) is no interface: then only addresses are given out.

mod find;

use std::path::Path;

use super::{Call, Native, wire};
use crate::change::{Change, Device, Place, Set, Work, attempt};
use crate::cni::fault::Fault;
use crate::cni::result::{Interface, Outcome};
use crate::netlink::{Link, Netlink};
use find::Wanted;

pub(super) const PLUGIN: Native = Native { ipam_status: true, ..Native::new("host-device", add, delete, check) };

fn wanted(call: &Call<'_>) -> Result<Wanted, Fault> {
    Wanted::parse(call.fields(), Path::new("/sys"))
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    attempt(call, |work| wire_up(call, work))
}

fn wire_up(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    let Some(device) = wanted(call)?.find(&mut work.host)? else { return without_link(call, work) };
    wire::requires_name(call, work)?;
    let device = Device { host: device.name, pod: call.if_name.to_owned(), up: device.up };
    work.apply([Change::Move(Place::Pod, device), Change::Set(Place::Pod, call.if_name.to_owned(), Set::Up(true))])?;
    let interface = wire::in_pod(call, &work.link(Place::Pod, call.if_name)?);
    match work.ipam()? {
        Some(outcome) => wire::address(call, work, interface, outcome),
        None => Ok(Outcome { interfaces: vec![interface], ..Outcome::default() }),
    }
}

fn without_link(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    let mut outcome = work.ipam()?.unwrap_or_default();
    let (name, sandbox) = (call.if_name.to_owned(), call.netns.to_owned());
    outcome.interfaces = vec![Interface { name, sandbox, ..Interface::default() }];
    outcome.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
    wire::dns(call, &mut outcome)?;
    Ok(outcome)
}

/// Whether a link was moved here by an ADD of this configuration. Pure.
fn is_lent(call: &Call<'_>, link: &Link) -> Result<bool, Fault> {
    let device = call.fields().string("device")?;
    Ok(!link.alias.is_empty() && device.is_none_or(|device| device == link.alias))
}

/// Gives the device back, down, as nobody knows how it was; its address only then.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    if super::namespace(call.netns)?.is_some() {
        let mut work = Work::begin(call)?;
        if let Some(link) = work.pod()?.link(call.if_name)?
            && is_lent(call, &link)?
        {
            let device = Device { host: link.alias, pod: link.name, up: false };
            work.apply([Change::Move(Place::Host, device)])?;
        }
    }
    name_those_that_fell_back(call)?;
    call.ipam()?;
    Ok(())
}

/// A device whose namespace ended before DEL is on the machine again, with the name that it had in the pod or one of the
/// kernel's, and with its alias.
fn name_those_that_fell_back(call: &Call<'_>) -> Result<(), Fault> {
    let previous = call.previous().ok().flatten().unwrap_or_default();
    let mut host = Netlink::here()?;
    for link in host.links()? {
        let known = previous.interfaces.iter().any(|one| one.name == call.if_name && one.mac == link.mac_text());
        let fallen = link.name == call.if_name || link.name.starts_with("dev");
        if known && fallen && !link.up && link.name != link.alias && is_lent(call, &link)? {
            host.name_by_alias(&link)?;
        }
    }
    Ok(())
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    call.ipam()?;
    match wanted(call)? {
        Wanted::Userspace => Ok(()),
        _ => wire::check_pod(call).map(drop),
    }
}
