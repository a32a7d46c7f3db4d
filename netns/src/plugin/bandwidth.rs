//! bandwidth: what a pod receives and sends is held to a rate, each way by a token bucket: on the host's end of its veth
//! pair what it receives, and what it sends on an ifb of its own, to which that end redirects it. tc-tbf(8), ifb(4)

use netlink_packet_route::link::InfoKind;

use super::{Call, Native, wire};
use crate::change::{Change, Kind, NewLink, Place, Set, attempt};
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::cni::result::{Interface, Outcome};
use crate::netlink::{Bucket, Link, Netlink};

pub(super) const PLUGIN: Native = Native {
    oldest: "0.3.0",
    gc,
    // Some versions of the Go plugin know networks that are left out, or alone limited.
    beyond: |call| call.asks("shapedSubnets") || call.asks("unshapedSubnets"),
    ..Native::new("bandwidth", add, delete, check)
};

/// How long a packet may wait, which says how many may.
const LATENCY_US: f64 = 25_000.0;

/// The kernel's unit of time here is 64 ns: PSCHED_SHIFT of net/pkt_sched.h.
const TICKS_PER_US: f64 = 15.625;

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

/// A rate in bits a second and a burst in bits as a bucket, as the Go plugin counts. What it counts past the end of its
/// numbers (the burst that containerd gives to whoever names none, at less than 16 Mbit/s) is the most here. Pure.
fn bucket(rate: u64, burst: u64) -> Result<Bucket, Fault> {
    let (rate, burst) = (rate / 8, burst / 8);
    if rate == 0 || burst == 0 {
        return Err(config("a rate and a burst are one byte at least"));
    }
    let burst = u32::try_from(burst).ok().filter(|burst| *burst != u32::MAX);
    let burst = burst.ok_or_else(|| config("burst cannot be more than 4GB"))?;
    // Casts from floating point end at the ends of what they are cast to.
    let time = (f64::from(burst) * 1e6 / rate as f64) as u32;
    let waiting = (rate as f64 * LATENCY_US / 1e6) as u32;
    Ok(Bucket { rate, limit: waiting.saturating_add(burst), buffer: (f64::from(time) * TICKS_PER_US) as u32 })
}

/// What the pod receives, and what it sends.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    ingress: Option<Bucket>,
    egress: Option<Bucket>,
}

impl Limits {
    /// The configuration's own, else the runtime's.
    fn parse(call: &Call<'_>) -> Result<Self, Fault> {
        let names = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];
        let own = Some(call.fields()).filter(|fields| names.iter().any(|name| fields.get(name).is_some()));
        let runtime = call.fields().object("runtimeConfig")?.map(|runtime| runtime.object("bandwidth"));
        let Some(fields) = own.or(runtime.transpose()?.flatten()) else { return Ok(Self::default()) };
        let one = |rate: &str, burst: &str| way(fields, rate, burst);
        Ok(Self { ingress: one(names[0], names[1])?, egress: one(names[2], names[3])? })
    }
}

fn way(fields: Fields<'_>, rate: &str, burst: &str) -> Result<Option<Bucket>, Fault> {
    match (fields.number(rate)?.unwrap_or(0), fields.number(burst)?.unwrap_or(0)) {
        (0, 0) => Ok(None),
        (0, _) => Err(config("if burst is set, rate must also be set")),
        (_, 0) => Err(config("if rate is set, burst must also be set")),
        (rate, burst) => bucket(rate, burst).map(Some),
    }
}

/// The ifb's name follows from whose it is.
fn ifb(call: &Call<'_>) -> Result<String, Fault> {
    Ok(wire::hashed("bwp", 15, &format!("{}{}", call.network()?, call.container_id)))
}

/// IFALIASZ of linux/if.h, without its end.
const ALIAS: usize = 255;

/// What an ifb says of itself, as its name is a hash.
fn alias(network: &str, container: &str) -> String {
    let mut alias = format!("cni {network} {container}");
    alias.truncate(ALIAS);
    alias
}

/// The host's end of the pod's veth pair, one of those that the plugins before made.
fn host_end(call: &Call<'_>, outcome: &Outcome, host: &mut Netlink, pod: &mut Netlink) -> Result<Link, Fault> {
    let wrong = |message: String| Fault::new(Code::INTERNAL, message);
    let without = || wrong(format!("container interface {} has no veth peer", call.if_name));
    let peer = pod.link(call.if_name)?.and_then(|link| link.under).ok_or_else(without)?;
    let link = host.link_by_index(peer)?;
    let known = |link: &Link| outcome.interfaces.iter().any(|one| one.sandbox.is_empty() && one.name == link.name);
    link.filter(known)
        .ok_or_else(|| wrong(format!("the veth peer of {} is none of prevResult's interfaces", call.if_name)))
}

/// What limits a pod. Pure.
fn changes(limits: &Limits, host: &Link, ifb: &str, alias: String) -> Vec<Change> {
    let mut changes = Vec::new();
    let shape = |link: &str, bucket: Bucket| Change::Shape { link: link.to_owned(), bucket };
    changes.extend(limits.ingress.map(|bucket| shape(&host.name, bucket)));
    if let Some(bucket) = limits.egress {
        let new = NewLink { name: ifb.to_owned(), kind: Kind::Ifb, mtu: host.mtu, mac: None, shared: false };
        changes.push(Change::Create(new));
        changes.push(Change::Set(Place::Host, ifb.to_owned(), Set::Alias(alias)));
        // The limit first, so that nothing gets past it.
        changes.push(shape(ifb, bucket));
        changes.push(Change::Redirect { link: host.name.clone(), to: ifb.to_owned() });
    }
    changes
}

fn unsupported(call: &Call<'_>) -> Result<(), Fault> {
    match ["shapedSubnets", "unshapedSubnets"].iter().find(|field| call.asks(field)) {
        Some(field) => {
            Err(Fault::new(Code::UNSUPPORTED_FIELD, format!("{field} is not supported by the native bandwidth")))
        }
        None => Ok(()),
    }
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let limits = Limits::parse(call)?;
    unsupported(call)?;
    let mut outcome = call.previous()?.ok_or_else(|| config("must be called as chained plugin"))?;
    if limits == Limits::default() {
        return Ok(outcome);
    }
    let (name, alias) = (ifb(call)?, alias(&call.network()?, call.container_id));
    let made = attempt(call, |work| {
        let (host, pod) = work.both()?;
        let host = host_end(call, &outcome, host, pod)?;
        work.apply(changes(&limits, &host, &name, alias.clone()))?;
        limits.egress.map(|_| work.link(Place::Host, &name)).transpose()
    })?;
    let interface = |link: Link| Interface { mac: link.mac_text(), name: link.name, ..Interface::default() };
    outcome.interfaces.extend(made.map(interface));
    Ok(outcome)
}

/// Takes the ifbs of the network's containers away that are not wanted any more.
fn gc(call: &Call<'_>) -> Result<(), Fault> {
    let Some(valid) = call.valid_attachments()? else { return Ok(()) };
    let network = call.network()?;
    let wanted: Vec<_> = valid.iter().map(|(id, _)| alias(&network, id)).collect();
    let beginning = alias(&network, "");
    let mut host = Netlink::here()?;
    let is_stale = |link: &Link| {
        link.kind == Some(InfoKind::Ifb) && link.alias.starts_with(&beginning) && !wanted.contains(&link.alias)
    };
    for link in host.links()?.into_iter().filter(is_stale) {
        host.delete(link.index)?;
    }
    Ok(())
}

/// The bucket on the pod's own pair goes with the pair.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    let mut host = Netlink::here()?;
    match host.link(&ifb(call)?)? {
        Some(link) => Ok(host.delete(link.index)?),
        None => Ok(()),
    }
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let outcome = call.previous()?.ok_or_else(|| config("must be called as a chained plugin"))?;
    let limits = Limits::parse(call)?;
    let missing = || Fault::new(Code::NETNS, format!("failed to open netns {:?}", call.netns));
    let mut pod = Netlink::inside(&super::namespace(call.netns)?.ok_or_else(missing)?)?;
    let mut host = Netlink::here()?;
    let end = host_end(call, &outcome, &mut host, &mut pod)?;
    let ifb = ifb(call)?;
    for (name, wanted) in [(end.name, limits.ingress), (ifb, limits.egress)] {
        let Some(wanted) = wanted else { continue };
        let wrong = |what: &str| Fault::new(Code::INTERNAL, format!("the token bucket of {name} {what}"));
        let link = host.link(&name)?.ok_or_else(|| wrong("is gone with its link"))?;
        match host.bucket(link.index)? {
            Some(bucket) if bucket == wanted => {}
            Some(_) => return Err(wrong("is not as configured")),
            None => return Err(wrong("is gone")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_counted_as_the_go_plugin_counts() {
        // 8 Mbit/s, 1 MB: a second of burst, and 25 ms of waiting.
        let bucket = bucket(8_000_000, 8_000_000).unwrap();
        assert_eq!(bucket, Bucket { rate: 1_000_000, limit: 1_025_000, buffer: 15_625_000 });
    }

    #[test]
    fn a_burst_that_no_number_holds_is_the_most() {
        // What containerd gives: MaxUint32 bits, which at 1 Mbit/s the Go plugin makes a small number.
        assert_eq!(bucket(1_000_000, u32::MAX.into()).unwrap().buffer, u32::MAX);
        assert!(bucket(1_000_000, 8 * u64::from(u32::MAX)).is_err());
        assert!(bucket(7, 8_000_000).is_err());
    }
}
