//! firewall: the host's filter lets a pod's packets through. The chains are the Go plugin's, which are iptables': what
//! drops a packet that is forwarded is mostly there, and no other table can take that back.

use std::net::IpAddr;
use std::path::Path;

use super::{Call, Native};
use crate::change::{Change, attempt};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;
use crate::iptables::{Edit, Edits, Rule, foreign_chain, reachable};
use crate::netlink::Family;

pub(super) const PLUGIN: Native = Native { oldest: "0.4.0", beyond, ..Native::new("firewall", add, delete, check) };

const TABLE: &str = "filter";
const FORWARD: &str = "FORWARD";
const OURS: &str = "CNI-FORWARD";
const ADMIN: &str = "CNI-ADMIN";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";

/// What firewalld writes while it runs.
const FIREWALLD: &str = "/run/firewalld.pid";

/// Who may begin to talk to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ingress {
    Open,
    SameBridge,
    Isolated,
}

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

/// firewalld is asked by D-Bus, which the binary does: where it is named, and where it runs and nothing is named.
fn beyond(call: &Call<'_>) -> bool {
    match call.fields().string("backend") {
        Ok(Some(backend)) => backend == "firewalld",
        _ => Path::new(FIREWALLD).exists(),
    }
}

fn ingress(call: &Call<'_>) -> Result<Ingress, Fault> {
    match call.fields().string("ingressPolicy")?.as_deref() {
        None | Some("open") => Ok(Ingress::Open),
        Some("same-bridge") => Ok(Ingress::SameBridge),
        Some("isolated") => Ok(Ingress::Isolated),
        Some(other) => Err(config(format!("unknown ingress policy: {other:?}"))),
    }
}

fn rule(words: &[&str]) -> Rule {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A rule with a comment, in iptables-save's order.
fn commented(matches: &[&str], comment: &str, target: &str) -> Rule {
    rule(&[matches, &["-m", "comment", "--comment", comment, "-j", target]].concat())
}

/// The two rules of an address.
fn own(address: IpAddr) -> [Edit; 2] {
    let host = Cidr::host(address).to_string();
    let answers = ["-d", &host, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
    [&answers[..], &["-s", &host, "-j", "ACCEPT"]].map(|words| Edit::Append(OURS.to_owned(), rule(words)))
}

/// What lets these addresses through. Pure.
fn accept(addresses: &[IpAddr], admin: &str) -> Vec<Edit> {
    let mut edits = vec![
        Edit::Chain(OURS.to_owned()),
        Edit::Chain(admin.to_owned()),
        Edit::Prepend(FORWARD.to_owned(), commented(&[], "CNI firewall plugin rules", OURS)),
        Edit::Prepend(OURS.to_owned(), commented(&[], "CNI firewall plugin admin overrides", admin)),
    ];
    edits.extend(addresses.iter().flat_map(|address| own(*address)));
    edits
}

/// What keeps other bridges, and with `isolated` this one too, from beginning to talk to a bridge's pods. Of the bridge,
/// so that it stays when a pod goes. Pure.
fn isolate(bridge: &str, ingress: Ingress) -> Vec<Edit> {
    let all = "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)";
    let policy = match ingress {
        Ingress::Open => return Vec::new(),
        Ingress::SameBridge => "CNI firewall plugin rules (ingressPolicy: same-bridge)",
        Ingress::Isolated => "CNI firewall plugin rules (ingressPolicy: isolated)",
    };
    let first = |rule| Edit::Prepend(STAGE_1.to_owned(), rule);
    let mut edits = vec![
        Edit::Chain(STAGE_1.to_owned()),
        Edit::Chain(STAGE_2.to_owned()),
        Edit::Prepend(FORWARD.to_owned(), commented(&[], all, STAGE_1)),
        first(commented(&["-i", bridge, "!", "-o", bridge], policy, STAGE_2)),
    ];
    if ingress == Ingress::Isolated {
        edits.push(first(commented(&["-i", bridge, "-o", bridge], policy, "DROP")));
    }
    edits.extend([
        Edit::Append(STAGE_1.to_owned(), commented(&[], all, "RETURN")),
        Edit::Prepend(STAGE_2.to_owned(), commented(&["-o", bridge], all, "DROP")),
        Edit::Append(STAGE_2.to_owned(), commented(&[], all, "RETURN")),
    ]);
    edits
}

/// The addresses of each family that has some.
fn families(outcome: &Outcome) -> impl Iterator<Item = (Family, Vec<IpAddr>)> {
    let all: Vec<_> = outcome.ips.iter().map(|ip| ip.address.address).collect();
    let of = move |family| (family, all.iter().copied().filter(|address| Family::of(*address) == family).collect());
    Family::BOTH.into_iter().map(of).filter(|(_, addresses): &(_, Vec<_>)| !addresses.is_empty())
}

/// What a pod needs, by family. Pure.
fn wanted(call: &Call<'_>, outcome: &Outcome) -> Result<Vec<(Edits, Edits)>, Fault> {
    let admin = call.fields().string("iptablesAdminChainName")?.unwrap_or_else(|| ADMIN.to_owned());
    foreign_chain("iptablesAdminChainName", &admin)?;
    let ingress = ingress(call)?;
    let mut isolation = Vec::new();
    if ingress != Ingress::Open {
        let missing = || config("an ingress policy needs a bridge: chain \"firewall\" behind \"bridge\"");
        let bridge = outcome.interfaces.first().filter(|one| !one.name.is_empty()).ok_or_else(missing)?;
        isolation = isolate(&bridge.name, ingress);
    }
    let of = |(family, addresses): (Family, Vec<IpAddr>)| {
        let edits = [accept(&addresses, &admin), isolation.clone()].concat();
        (Edits { family, table: TABLE, edits }, forget(family, &addresses))
    };
    Ok(families(outcome).map(of).collect())
}

/// What is a pod's own goes. Pure.
fn forget(family: Family, addresses: &[IpAddr]) -> Edits {
    let remove = |edit| match edit {
        Edit::Append(chain, rule) => Edit::Remove(chain, rule),
        other => other,
    };
    let edits = addresses.iter().flat_map(|address| own(*address)).map(remove).collect();
    Edits { family, table: TABLE, edits }
}

fn add(call: &Call<'_>) -> Result<Outcome, Fault> {
    let outcome = call.previous()?.ok_or_else(|| config("missing prevResult from earlier plugin"))?;
    if beyond(call) {
        let message =
            "firewalld is not spoken to by the native firewall: install the plugin's binary, or name another backend";
        return Err(Fault::new(Code::UNSUPPORTED_FIELD, message));
    }
    let wanted = wanted(call, &outcome)?;
    attempt(call, |work| {
        work.apply(wanted.into_iter().map(|(edits, forget)| Change::Tables { what: "the firewall", edits, forget }))
    })?;
    Ok(outcome)
}

/// Whatever the configuration says by now.
fn delete(call: &Call<'_>) -> Result<(), Fault> {
    let outcome = call.previous().ok().flatten().unwrap_or_default();
    let mut nft = call.afterwards.nft()?;
    let mut its = families(&outcome).filter(|(family, _)| reachable(*family, TABLE));
    let done = its.try_for_each(|(family, addresses)| forget(family, &addresses).apply(&mut nft, call.deadline));
    call.afterwards.keep(nft);
    done
}

fn check(call: &Call<'_>) -> Result<(), Fault> {
    let outcome = call.previous()?.ok_or_else(|| config("missing prevResult from earlier plugin"))?;
    for (edits, _) in wanted(call, &outcome)? {
        if let Some(missing) = edits.missing(call.deadline)?.first() {
            return Err(Fault::new(Code::INTERNAL, format!("the table {TABLE} lacks {missing:?}")));
        }
    }
    Ok(())
}
