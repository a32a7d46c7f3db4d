//! ipvlan: an interface of the pod on another link, with that link's hardware address. In a chain, the link and the
//! addresses may be those of the plugin before.

use super::{Call, Native, upon, wire};
use crate::change::{Layer, Work, attempt};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;

pub(super) const PLUGIN: Native = Native { ipam_status: true, ..Native::new("ipvlan", add, upon::delete, check) };

fn layer(call: &Call<'_>) -> Result<Layer, Fault> {
    // `enum ipvlan_mode` of linux/if_link.h.
    let mode = match call.fields().string("mode")?.as_deref() {
        None | Some("l2") => 0,
        Some("l3") => 1,
        Some("l3s") => 2,
        Some(other) => return Err(Fault::new(Code::CONFIG, format!("unknown ipvlan mode: {other:?}"))),
    };
    Ok(Layer::IpVlan { mode })
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    attempt(call, |work| wire_up(call, work))
}

fn wire_up(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    let layer = layer(call)?;
    let previous = call.previous()?;
    let below = upon::below(call, work, master(call, previous.as_ref())?)?;
    let mtu = call.fields().number("mtu")?.unwrap_or_default();
    let given = previous.filter(|outcome| !outcome.ips.is_empty());
    if given.is_none() {
        wire::requires_ipam(call)?;
    }
    let interface = upon::create(call, work, below, layer, mtu, None)?;
    let outcome = work.ipam()?.or(given).unwrap_or_default();
    upon::address(call, work, interface, outcome)
}

/// The name of the link below: as configured, or the only one that the plugin before made. Pure.
fn master(call: &Call<'_>, previous: Option<&Outcome>) -> Result<Option<String>, Fault> {
    let configured = call.fields().string("master")?;
    match previous {
        Some(previous) if configured.is_none() => match &previous.interfaces[..] {
            [only] if !only.name.is_empty() => Ok(Some(only.name.clone())),
            _ => {
                let message = "chained master failure. PrevResult lacks a single named interface";
                Err(Fault::new(Code::CONFIG, message))
            }
        },
        _ => Ok(configured),
    }
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    upon::check(call, layer(call)?)
}
