//! host-local: addresses out of ranges, each lease a file. Files and lock are those of the Go plugin, so that either
//! may free what the other gave.

mod leases;
mod owners;
mod ranges;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{Call, Native, static_};
use crate::cni::cidr::{self, Cidr};
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::cni::result::{Dns, Ip, Outcome, Route};
use leases::Leases;
use ranges::{RangeSet, Ranges};

pub(super) const PLUGIN: Native = Native { gc, ..Native::new("host-local", add, delete, check) };

fn ipam<'a>(call: &Call<'a>) -> Result<Fields<'a>, Fault> {
    let missing = || Fault::new(Code::CONFIG, "IPAM config missing 'ipam' key");
    call.fields().object("ipam")?.ok_or_else(missing)
}

fn directory(call: &Call<'_>) -> Result<PathBuf, Fault> {
    let data = ipam(call)?.string("dataDir")?.map(PathBuf::from);
    Ok(data.as_ref().unwrap_or(&call.places.networks).join(call.network()?))
}

/// The addresses that were asked for: CNI_ARGS, then `args.cni`, then the runtime's.
fn requested(call: &Call<'_>) -> Result<Vec<IpAddr>, Fault> {
    let argument = call.arg("IP", &["IP"])?.filter(|text| !text.is_empty()).map(str::to_owned);
    let texts = argument.into_iter().chain(static_::of_args(call)?).chain(static_::of_runtime(call)?);
    // With or without a prefix; the range has the one that counts.
    let address = |text: String| match text.contains('/') {
        true => Cidr::parse(&text).map(|cidr| cidr.address),
        false => cidr::address(&text),
    };
    texts.map(address).collect()
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let ipam = ipam(call)?;
    let ranges = Ranges::parse(call)?;
    let mut requested = requested(call)?;
    let mut outcome = Outcome { dns: resolv_conf(ipam)?, ..Outcome::default() };
    outcome.routes = ipam.objects("routes")?.into_iter().map(Route::parse).collect::<Result<_, _>>()?;

    let leases = Leases::lock(&directory(call)?, call.deadline)?;
    let mut given = Vec::new();
    let mut allocate = || {
        for (at, set) in ranges.0.iter().enumerate() {
            let wanted = requested.iter().position(|address| set.find(*address).is_some());
            let wanted = wanted.map(|position| requested.remove(position));
            let ip = take(call, &leases, set, at, wanted).map_err(|fault| Fault {
                message: format!("failed to allocate for range {at}: {}", fault.message),
                ..fault
            })?;
            given.push(ip.address.address);
            outcome.ips.push(ip);
        }
        if requested.is_empty() {
            return Ok(());
        }
        let rest: Vec<_> = requested.iter().map(IpAddr::to_string).collect();
        Err(Fault::new(Code::CONFIG, format!("failed to allocate all requested IPs: {}", rest.join(" "))))
    };
    match allocate() {
        Ok(()) => Ok(outcome),
        Err(fault) => {
            for address in given {
                leases.free(address, call.container_id, call.if_name);
            }
            Err(fault)
        }
    }
}

/// One address of one set.
fn take(call: &Call<'_>, leases: &Leases, set: &RangeSet, at: usize, wanted: Option<IpAddr>) -> Result<Ip, Fault> {
    let reserve = |address| leases.reserve(address, at, call.container_id, call.if_name);
    let ip = |address, range: &ranges::Range| Ip {
        interface: None,
        address: Cidr { address, prefix: range.subnet.prefix },
        gateway: Some(range.gateway),
    };
    if let Some(wanted) = wanted {
        let range = set.find(wanted).ok_or_else(|| Fault::new(Code::CONFIG, format!("{wanted} is in no range")))?;
        if wanted == range.gateway {
            return Err(Fault::new(Code::CONFIG, format!("requested ip {wanted} is subnet's gateway")));
        }
        if !reserve(wanted)? {
            let message = format!("requested IP address {wanted} is not available in range set {set}");
            return Err(Fault::new(Code::INTERNAL, message));
        }
        return Ok(ip(wanted, range));
    }
    if let Some(had) = leases.of(call.container_id, call.if_name)?.into_iter().find(|had| set.find(*had).is_some()) {
        let message = format!("{had} has been allocated to {}, duplicate allocation is not allowed", call.container_id);
        return Err(Fault::new(Code::INTERNAL, message));
    }
    for (address, range) in set.candidates(leases.last(at)) {
        if reserve(address)? {
            return Ok(ip(address, range));
        }
    }
    Err(Fault::new(Code::INTERNAL, format!("no IP addresses available in range set: {set}")))
}

/// Frees what the container has. What the configuration says by now about ranges does not matter, and neither does it
/// whether there ever was a lease.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    let directory = directory(call)?;
    if !directory.is_dir() {
        return Ok(());
    }
    let leases = Leases::lock(&directory, call.deadline)?;
    // The addresses are known mostly, so that not every lease of the network has to be read.
    let known: Vec<_> = call.previous().ok().flatten().unwrap_or_default().ips;
    let freed = known.iter().filter(|ip| leases.free(ip.address.address, call.container_id, call.if_name)).count();
    if freed == 0 || freed < known.len() {
        leases.free_all(call.container_id, call.if_name)?;
    }
    Ok(())
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let directory = directory(call)?;
    if directory.is_dir() && !Leases::lock(&directory, call.deadline)?.of(call.container_id, call.if_name)?.is_empty() {
        return Ok(());
    }
    Err(Fault::new(
        Code::INTERNAL,
        format!("host-local: Failed to find address added by container {}", call.container_id),
    ))
}

/// Frees what is of no attachment that the runtime named.
fn gc(call: &Call<'_>) -> Result<(), Fault> {
    let directory = directory(call)?;
    match call.valid_attachments()? {
        Some(valid) if directory.is_dir() => Leases::lock(&directory, call.deadline)?.keep(&valid),
        _ => Ok(()),
    }
}

/// Name service as a resolv.conf(5) says it.
fn resolv_conf(ipam: Fields<'_>) -> Result<Dns, Fault> {
    let Some(path) = ipam.string("resolvConf")? else { return Ok(Dns::default()) };
    let text = fs::read_to_string(&path).map_err(|error| Fault::io(format!("read {path}"), &error))?;
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        let Some(key) = words.next() else { continue };
        let mut values = words.map(str::to_owned).peekable();
        if values.peek().is_none() {
            continue;
        }
        match key {
            "nameserver" => dns.nameservers.extend(values.next()),
            "domain" => dns.domain = values.next().unwrap_or_default(),
            "search" => dns.search.extend(values),
            "options" => dns.options.extend(values),
            _ => {}
        }
    }
    Ok(dns)
}
