//! static: the addresses that the configuration names.

use super::{Call, Native};
use crate::cni::cidr::{self, Cidr};
use crate::cni::fault::{Code, Fault};
use crate::cni::result::{Dns, Ip, Outcome, Route};
use crate::cni::version::Version;

pub(super) const PLUGIN: Native = Native::new("static", add, |_| Ok(()), check);

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let missing = || Fault::new(Code::CONFIG, "IPAM config missing 'ipam' key");
    let ipam = call.fields().object("ipam")?.ok_or_else(missing)?;
    let mut ips = Vec::new();
    for object in ipam.objects("addresses")? {
        let absent = || Fault::new(Code::CONFIG, "an address of 'addresses' has no 'address'");
        let address = object.parsed("address", Cidr::parse)?.ok_or_else(absent)?;
        ips.push(Ip { interface: None, address, gateway: object.parsed("gateway", cidr::address)? });
    }
    from_arguments(call, &mut ips)?;
    for addresses in [of_args(call)?, of_runtime(call)?] {
        if !addresses.is_empty() {
            ips = addresses.iter().map(|text| bare(text)).collect::<Result<_, _>>()?;
        }
    }
    let v4 = ips.iter().filter(|ip| ip.address.address.is_ipv4()).count();
    let version = call.version()?;
    if (v4 > 1 || ips.len() - v4 > 1) && Version::parse(&version)? < Version::LISTS {
        let message = format!("CNI version {version} does not support more than 1 address per family");
        return Err(Fault::new(Code::UNSUPPORTED_FIELD, message));
    }
    let routes = ipam.objects("routes")?.into_iter().map(Route::parse).collect::<Result<_, _>>()?;
    Ok(Outcome { ips, routes, dns: Dns::parse(ipam)?, interfaces: Vec::new() })
}

fn bare(text: &str) -> Result<Ip, Fault> {
    Ok(Ip { interface: None, address: Cidr::parse(text.trim())?, gateway: None })
}

/// CNI_ARGS: IP adds, GATEWAY is for those whose network has it.
fn from_arguments(call: &Call<'_>, ips: &mut Vec<Ip>) -> Result<(), Fault> {
    let known = ["IP", "GATEWAY"];
    let arguments = [call.arg("IP", &known)?, call.arg("GATEWAY", &known)?];
    let [addresses, gateways] =
        arguments.map(|list| list.filter(|list| !list.is_empty()).unwrap_or_default().split(','));
    for text in addresses.filter(|text| !text.is_empty()) {
        ips.push(bare(text)?);
    }
    for text in gateways.filter(|text| !text.is_empty()) {
        let gateway = cidr::address(text.trim())?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(())
}

/// `args.cni.ips`.
pub(super) fn of_args(call: &Call<'_>) -> Result<Vec<String>, Fault> {
    let Some(args) = call.fields().object("args")? else { return Ok(Vec::new()) };
    args.object("cni")?.map_or(Ok(Vec::new()), |cni| cni.strings("ips"))
}

/// `runtimeConfig.ips`.
pub(super) fn of_runtime(call: &Call<'_>) -> Result<Vec<String>, Fault> {
    call.fields().object("runtimeConfig")?.map_or(Ok(Vec::new()), |runtime| runtime.strings("ips"))
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let missing = || Fault::new(Code::CONFIG, "Required prevResult missing");
    let previous = call.previous()?.ok_or_else(missing)?;
    for wanted in add(call)?.ips {
        let same = |ip: &&Ip| ip.address.address == wanted.address.address;
        let wrong = |ip: &Ip| wanted.gateway.is_some() && wanted.gateway != ip.gateway;
        if previous.ips.iter().find(same).is_some_and(wrong) {
            let message = format!("static: Failed to match addr {} on interface {}", wanted.address, call.if_name);
            return Err(Fault::new(Code::INTERNAL, message));
        }
    }
    Ok(())
}
