//! dummy: an interface that leads nowhere, for addresses that only the pod itself reaches.

use netlink_packet_route::link::InfoKind;

use super::{Call, Native, wire};
use crate::change::{Change, Kind, NewLink, Place, Work, attempt};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;

pub(super) const PLUGIN: Native = Native { ipam_status: true, ..Native::new("dummy", add, delete, check) };

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    attempt(call, |work| wire_up(call, work))
}

fn wire_up(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    wire::requires_ipam(call)?;
    wire::requires_name(call, work)?;
    let link = NewLink { name: call.if_name.to_owned(), kind: Kind::Dummy, mtu: 0, mac: None, shared: false };
    work.apply([Change::Create(link)])?;
    let interface = wire::in_pod(call, &work.link(Place::Pod, call.if_name)?);
    let outcome = work.ipam()?.unwrap_or_default();
    wire::address(call, work, interface, outcome)
}

fn delete(call: &Call<'_>) -> Result<(), Fault> {
    wire::delete_link(call)?;
    call.ipam()?;
    Ok(())
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    call.ipam()?;
    let link = wire::check_pod(call)?;
    let wrong = |what: &str| Err(Fault::new(Code::INTERNAL, format!("Interface {} is {what}", call.if_name)));
    match link.kind {
        Some(InfoKind::Dummy) if link.up => Ok(()),
        Some(InfoKind::Dummy) => wrong("down"),
        _ => wrong("not of type dummy"),
    }
}
