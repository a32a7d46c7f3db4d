//! macvlan: an interface of the pod on another link, with a hardware address of its own.

use super::{Call, Native, upon, wire};
use crate::change::{Change, Layer, Place, Set, Work, attempt};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;

pub(super) const PLUGIN: Native = Native { ipam_status: true, ..Native::new("macvlan", add, upon::delete, check) };

fn layer(call: &Call<'_>) -> Result<Layer, Fault> {
    // `enum macvlan_mode` of linux/if_link.h.
    let mode = match call.fields().string("mode")?.as_deref() {
        Some("private") => 1,
        Some("vepa") => 2,
        None | Some("bridge") => 4,
        Some("passthru") => 8,
        Some(other) => return Err(Fault::new(Code::CONFIG, format!("unknown macvlan mode: {other:?}"))),
    };
    Ok(Layer::MacVlan { mode, queue: call.fields().number("bcqueuelen")?.filter(|queue| *queue != 0) })
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    attempt(call, |work| wire_up(call, work))
}

fn wire_up(call: &Call<'_>, work: &mut Work<'_>) -> Result<Outcome, Fault> {
    let fields = call.fields();
    let layer = layer(call)?;
    let below = upon::below(call, work, fields.string("master")?)?;
    let mtu = upon::mtu(call, &below)?;
    let own = fields.string("mac")?.map(|text| wire::mac(&text)).transpose()?;
    let interface = upon::create(call, work, below, layer, mtu, wire::wanted_mac(call)?.or(own))?;
    let Some(outcome) = work.ipam()? else {
        work.apply([Change::Set(Place::Pod, call.if_name.to_owned(), Set::Up(true))])?;
        let mut outcome = Outcome { interfaces: vec![interface], ..Outcome::default() };
        wire::dns(call, &mut outcome)?;
        return Ok(outcome);
    };
    upon::address(call, work, interface, outcome)
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    upon::check(call, layer(call)?)
}
