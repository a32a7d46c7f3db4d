//! `ipMasq`: what leaves the pod's network leaves in the host's name. Rules are in the Go plugins' own nftables table,
//! and DEL finds those of either of their backends.

use super::{Call, stale, wire};
use crate::change::{Change, Forget, Work};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;
use crate::iptables::{Edit, Edits, trimmed};
use crate::netlink::Family;
use crate::nft::{Batch, Expression, Hook, INET, IPV4, IPV6, Rule, Verdict};

const TABLE: &str = "cni_plugins_masquerade";
const CHECKS: &str = "masq_checks";
const BASE: &str = "postrouting";

/// `srcnat`, in the hook postrouting.
const HOOK: Hook = Hook { kind: "nat", number: 4, priority: 100 };

/// How the comments of a network's rules begin, and how they go on for one interface of it.
fn of_network(network: &str) -> String {
    format!("{}-", wire::hashed("", 16, network))
}

fn of_interface(container: &str, if_name: &str) -> String {
    wire::hashed("", 16, &format!("{if_name}:{container}"))
}

/// What takes the rules of an interface away.
pub(super) fn forget(call: &Call<'_>) -> Result<Forget, Fault> {
    let network = call.network()?;
    let hash = format!("{}{}", of_network(&network), of_interface(call.container_id, call.if_name));
    let chain = chain(call)?;
    Ok(Forget { comments: vec![(INET, TABLE, hash)], chains: vec![(IPV4, "nat", chain.clone()), (IPV6, "nat", chain)] })
}

/// Adds the rules of the addresses: by nftables, and by iptables where the configuration asks for it.
pub(super) fn add(call: &Call<'_>, work: &mut Work<'_>, outcome: &Outcome) -> Result<(), Fault> {
    match call.fields().string("ipMasqBackend")?.as_deref() {
        None | Some("nftables") => by_nftables(call, work, outcome),
        Some("iptables") => by_iptables(call, work, outcome),
        Some(other) => Err(Fault::new(Code::CONFIG, format!("unknown ipmasq backend {other:?}"))),
    }
}

/// The pod's chain of iptables. Other interfaces of it in the network have the same.
fn chain(call: &Call<'_>) -> Result<String, Fault> {
    Ok(wire::hashed("CNI-", 28, &format!("{}{}", call.network()?, call.container_id)))
}

fn by_iptables(call: &Call<'_>, work: &mut Work<'_>, outcome: &Outcome) -> Result<(), Fault> {
    let chain = chain(call)?;
    let comment = trimmed(format!("name: {:?} id: {:?}", call.network()?, call.container_id));
    for family in Family::BOTH {
        let addresses: Vec<_> =
            outcome.ips.iter().map(|ip| ip.address).filter(|cidr| Family::of(cidr.address) == family).collect();
        if addresses.is_empty() {
            continue;
        }
        let table = |edits| Edits { family, table: "nat", edits };
        let edits = table(edits(&addresses, &chain, &comment));
        let forget = table(vec![Edit::Drop(chain.clone())]);
        work.apply([Change::Tables { what: "ipMasq", edits, forget }])?;
    }
    Ok(())
}

/// Addresses of one family, with their networks. Pure.
fn edits(addresses: &[Cidr], chain: &str, comment: &str) -> Vec<Edit> {
    let append = |to: &str, matches: &[&str], target: &str| {
        let words = [matches, &["-m", "comment", "--comment", comment, "-j", target]].concat();
        Edit::Append(to.to_owned(), words.into_iter().map(str::to_owned).collect())
    };
    let mut edits = vec![Edit::Chain(chain.to_owned())];
    for cidr in addresses {
        let multicast = if cidr.address.is_ipv4() { "224.0.0.0/4" } else { "ff00::/8" };
        edits.extend([
            append(chain, &["-d", &cidr.network().to_string()], "ACCEPT"),
            append(chain, &["!", "-d", multicast], "MASQUERADE"),
            append("POSTROUTING", &["-s", &Cidr::host(cidr.address).to_string()], chain),
        ]);
    }
    edits
}

fn by_nftables(call: &Call<'_>, work: &mut Work<'_>, outcome: &Outcome) -> Result<(), Fault> {
    let forget = forget(call)?;
    let there = work.nft()?.table(INET, TABLE, &[CHECKS, BASE])?;
    let mut batch = Batch::default();
    let comment = "Masquerading for plugins from github.com/containernetworking/plugins";
    batch.lay(&there, comment, &[(CHECKS, None), (BASE, Some(HOOK))]);
    if there.rules().filter(|rule| rule.chain == BASE).count() != 3 {
        batch.delete_rule(INET, TABLE, BASE, None);
        for (family, multicast) in [(IPV4, "224.0.0.0/4"), (IPV6, "ff00::/8")] {
            let network = Cidr::parse(multicast)?;
            let to = Expression::Address { source: false, network, inside: true };
            let rule = [Expression::Protocol(family), to, Expression::Verdict(Verdict::Return)];
            batch.rule(INET, TABLE, BASE, &rule, "");
        }
        batch.rule(INET, TABLE, BASE, &[Expression::Verdict(Verdict::Goto(CHECKS.to_owned()))], "");
    }
    let hash = &forget.comments[0].2;
    for stale in there.rules().filter(|rule| rule.comment.starts_with(hash)) {
        batch.delete_rule(INET, TABLE, &stale.chain, Some(stale.handle));
    }
    let mut comment = format!("{hash}, net: {}, if: {}, id: {}", call.network()?, call.if_name, call.container_id);
    comment.truncate(128);
    for ip in &outcome.ips {
        let from = Expression::Address { source: true, network: Cidr::host(ip.address.address), inside: true };
        let to = Expression::Address { source: false, network: ip.address.network(), inside: false };
        let family = if ip.address.address.is_ipv4() { IPV4 } else { IPV6 };
        let rule = [Expression::Protocol(family), from, to, Expression::Masquerade];
        batch.rule(INET, TABLE, CHECKS, &rule, &comment);
    }
    work.apply([Change::Rules { what: "ipMasq".to_owned(), batch, forget }])
}

/// Takes the rules away, whether the pod is still there or not.
pub(super) fn remove(call: &Call<'_>) -> Result<(), Fault> {
    forget(call)?.apply_for(call)
}

/// Takes the rules of the network's attachments away that are not wanted any more.
pub(super) fn gc(call: &Call<'_>) -> Result<(), Fault> {
    let Some(valid) = call.valid_attachments()? else { return Ok(()) };
    let network = of_network(&call.network()?);
    let wanted: Vec<_> = valid.iter().map(|(id, if_name)| of_interface(id, if_name)).collect();
    let stale = |rule: &Rule| {
        let whose = rule.comment.strip_prefix(&network);
        whose.is_some_and(|whose| !wanted.iter().any(|hash| whose.starts_with(hash)))
    };
    let (mut nft, mut batch) = (call.afterwards.nft()?, Batch::default());
    for rule in nft.rules(INET, TABLE)?.into_iter().filter(stale) {
        batch.delete_rule(INET, TABLE, &rule.chain, Some(rule.handle));
    }
    let done = nft.commit(&batch, None);
    call.afterwards.keep(nft);
    done?;
    stale::collect(call, "", "CNI-")
}
