//! `ipMasq`: what leaves the pod's network leaves in the host's name. Rules are in the Go plugins' own nftables table,
//! and DEL finds those of either of their backends.

use super::{Call, wire};
use crate::change::{Change, Forget, Work};
use crate::cni::cidr::Cidr;
use crate::cni::fault::{Code, Fault};
use crate::cni::result::Outcome;
use crate::nft::{Batch, Expression, Hook, INET, IPV4, IPV6, Verdict};

const TABLE: &str = "cni_plugins_masquerade";
const CHECKS: &str = "masq_checks";
const BASE: &str = "postrouting";

/// `srcnat`, in the hook postrouting.
const HOOK: Hook = Hook { number: 4, priority: 100 };

fn forget(call: &Call<'_>) -> Result<Forget, Fault> {
    let network = call.network()?;
    let hash = format!(
        "{}-{}",
        wire::hashed("", 16, &network),
        wire::hashed("", 16, &format!("{}:{}", call.if_name, call.container_id))
    );
    let chain = wire::hashed("CNI-", 28, &format!("{network}{}", call.container_id));
    Ok(Forget { comments: vec![(INET, TABLE, hash)], chains: vec![(IPV4, "nat", chain.clone()), (IPV6, "nat", chain)] })
}

/// Adds the rules of the addresses. Which backend the configuration names does not matter: who asks for iptables gets
/// the same translation, and a node's other tables are not touched.
pub(super) fn add(call: &Call<'_>, work: &mut Work<'_>, outcome: &Outcome) -> Result<(), Fault> {
    match call.fields().string("ipMasqBackend")?.as_deref() {
        None | Some("iptables" | "nftables") => {}
        Some(other) => return Err(Fault::new(Code::CONFIG, format!("unrecognized ipmasq backend {other:?}"))),
    }
    let forget = forget(call)?;
    let mut batch = Batch::default();
    batch.table(INET, TABLE, "Masquerading for plugins from github.com/containernetworking/plugins");
    batch.chain(INET, TABLE, CHECKS, None);
    batch.chain(INET, TABLE, BASE, Some(HOOK));
    let there = work.nft()?.rules(INET, TABLE)?;
    if there.iter().filter(|rule| rule.chain == BASE).count() != 3 {
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
    for stale in there.iter().filter(|rule| rule.comment.starts_with(hash)) {
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
    Ok(forget(call)?.apply_for(call)?)
}
