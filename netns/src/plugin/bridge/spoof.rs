//! `macspoofchk`: what comes from a pod with another hardware address than the pod's gets no further than the bridge's
//! port. Table, chains and comments are the Go plugin's.

use super::Call;
use crate::change::{Change, Forget, Work};
use crate::cni::fault::{Code, Fault};
use crate::netlink::Link;
use crate::nft::{BRIDGE, Batch, Expression, Hook, Nft, Verdict};

const TABLE: &str = "nat";
const BASE: &str = "PREROUTING";

/// Before ebtables translates anything.
const HOOK: Hook = Hook { kind: "filter", number: 0, priority: -300 };

/// The chain of an interface, and that of its hardware address.
fn chains(call: &Call<'_>) -> [String; 2] {
    let interface = format!("cni-br-iface-{}-{}", call.container_id, call.if_name);
    let mac = format!("{interface}-mac");
    [interface, mac]
}

/// What takes the rules away: first the chain that the other leads to.
pub(super) fn forget(call: &Call<'_>) -> Forget {
    let [interface, mac] = chains(call);
    Forget { comments: Vec::new(), chains: vec![(BRIDGE, TABLE, mac), (BRIDGE, TABLE, interface)] }
}

/// Lets through what comes from the pod's address by the host's end of its veth pair. Chains that a crash left are filled
/// anew.
pub(super) fn add(call: &Call<'_>, work: &mut Work<'_>, host: &str, pod: &Link) -> Result<(), Fault> {
    let [interface, mac] = chains(call);
    let forget = forget(call);
    work.apply([Change::Forget(forget.clone())])?;
    let comment = format!("macspoofchk-{}-{}", call.container_id, call.if_name);
    let there = work.nft()?.table(BRIDGE, TABLE, &[BASE])?;
    let mut batch = Batch::default();
    batch.lay(&there, "", &[(BASE, Some(HOOK)), (&interface, None), (&mac, None)]);
    let jump = |chain: &String| Expression::Verdict(Verdict::Jump(chain.clone()));
    let from = Expression::Interface { input: true, name: host.to_owned(), same: true };
    let its = [Expression::Sender(pod.mac.clone()), Expression::Verdict(Verdict::Return)];
    let rules = [
        (BASE, vec![from, jump(&interface)]),
        (&interface, vec![jump(&mac)]),
        (&mac, its.to_vec()),
        (&mac, vec![Expression::Verdict(Verdict::Drop)]),
    ];
    for (chain, rule) in rules {
        batch.rule(BRIDGE, TABLE, chain, &rule, &comment);
    }
    work.apply([Change::Rules { what: "macspoofchk".to_owned(), batch, forget }])
}

pub(super) fn check(call: &Call<'_>) -> Result<(), Fault> {
    let [interface, mac] = chains(call);
    let there = Nft::here()?.table(BRIDGE, TABLE, &[BASE, &interface, &mac])?;
    let leads = there.rules().any(|rule| rule.chain == BASE && rule.leads_to.as_ref() == Some(&interface));
    let whole = leads && there.rules().filter(|rule| rule.chain == mac).count() == 2;
    let missing = || Fault::new(Code::INTERNAL, format!("missing macspoofchk rules in {interface:?} chain"));
    whole.then_some(()).ok_or_else(missing)
}
