//! Chains of iptables whose container is gone. The rule that leads to one says whose it is.

use super::Call;
use crate::change::Forget;
use crate::cni::fault::Fault;
use crate::iptables::{is_legacy, reachable, read, trimmed};
use crate::netlink::Family;

const TABLE: &str = "nat";

/// What a rule says of whom it is for, and the chain that it leads to.
type Leads = (String, String);

/// Takes the chains of the network's containers away that are not wanted any more. `said` is before the names in the
/// comments of the rules that lead there, and `prefix` before the hash in the chains' names.
pub(super) fn collect(call: &Call<'_>, said: &str, prefix: &str) -> Result<(), Fault> {
    let Some(valid) = call.valid_attachments()? else { return Ok(()) };
    let network = call.network()?;
    let of_container = |id: &str| trimmed(format!("{said}name: {network:?} id: {id:?}"));
    let wanted: Vec<_> = valid.iter().map(|(id, _)| of_container(id)).collect();
    let beginning = format!("{said}name: {network:?} id: ");
    let mut forget = Forget::default();
    for family in Family::BOTH {
        let is_stale = |(comment, chain): &Leads| {
            chain.starts_with(prefix) && comment.starts_with(&beginning) && !wanted.contains(comment)
        };
        let mut chains: Vec<_> = leads(call, family)?.into_iter().filter(is_stale).map(|(_, chain)| chain).collect();
        chains.sort_unstable();
        chains.dedup();
        forget.chains.extend(chains.into_iter().map(|chain| (family.table(), TABLE, chain)));
    }
    forget.apply_for(call)
}

/// Of both the iptables of nf_tables and the old one.
fn leads(call: &Call<'_>, family: Family) -> Result<Vec<Leads>, Fault> {
    let mut nft = call.afterwards.nft()?;
    let rules = nft.rules(family.table(), TABLE);
    call.afterwards.keep(nft);
    let mut leads: Vec<_> = rules?.into_iter().filter_map(|rule| Some((rule.comment, rule.leads_to?))).collect();
    if is_legacy(family, TABLE) && reachable(family, TABLE) {
        let table = read(family, TABLE, call.deadline)?;
        leads.extend(table.rules().filter_map(|(_, rule)| Some((behind(rule, "--comment")?, behind(rule, "-j")?))));
    }
    Ok(leads)
}

fn behind(rule: &[String], word: &str) -> Option<String> {
    rule.windows(2).find(|pair| pair[0] == word).map(|pair| pair[1].clone())
}
