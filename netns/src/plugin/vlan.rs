//! vlan: an interface of the pod that is one VLAN of another link.

use super::{Call, Native, upon, wire};
use crate::change::{Layer, Work, attempt};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;

pub(super) const PLUGIN: Native = Native { ipam_status: true, ..Native::new("vlan", add, upon::delete, check) };

fn layer(call: &Call<'_>) -> Result<Layer, Fault> {
    let id = call.fields().integer("vlanId")?.unwrap_or_default();
    let refuse = || Fault::new(Code::CONFIG, format!("invalid VLAN ID {id} (must be between 0 and 4094)"));
    let id = u16::try_from(id).ok().filter(|id| *id <= 4094).ok_or_else(refuse)?;
    Ok(Layer::Vlan { id })
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    attempt(call, |work| wire_up(call, work))
}

fn wire_up(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    let layer = layer(call)?;
    let missing = || Fault::new(Code::CONFIG, "\"master\" is required: the interface to make the VLAN for");
    let master = call.fields().string("master")?.ok_or_else(missing)?;
    let below = upon::below(call, work, Some(master))?;
    let mtu = upon::mtu(call, &below)?;
    wire::requires_ipam(call)?;
    let interface = upon::create(call, work, below, layer, mtu, None)?;
    let outcome = work.ipam()?.unwrap_or_default();
    wire::address(call, work, interface, outcome)
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    upon::check(call, layer(call)?)
}
