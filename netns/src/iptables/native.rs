//! iptables' rules by netlink, as iptables itself keeps them where it is the one of nf_tables: what a pod's firewall says
//! is so few words that no program has to be run for it.

use std::time::Instant;

use rustix::io::Errno;

use super::{Edit, Edits};
use crate::cni::cidr::Cidr;
use crate::cni::fault::Fault;
use crate::netlink::Refused;
use crate::nft::{Batch, Expression, Hook, Nft, Table, Verdict};

/// How often it is read again what somebody else took away before we could, or what our rules were to go into.
const MEANWHILE: usize = 5;

/// Edits and what their rules are to the kernel.
pub(super) struct Plan<'a> {
    family: u8,
    table: &'static str,
    edits: Vec<(&'a Edit, Vec<Expression>)>,
}

/// None where the edits say something else than those few words. Those of address translation always do. Pure.
pub(super) fn plan(edits: &Edits) -> Option<Plan<'_>> {
    if edits.table != "filter" {
        return None;
    }
    let compiled = edits.edits.iter().map(|edit| match edit {
        Edit::Chain(_) => Some((edit, Vec::new())),
        Edit::Prepend(_, rule) | Edit::Append(_, rule) | Edit::Remove(_, rule) => Some((edit, compile(rule)?)),
        Edit::Renew(_) | Edit::Drop(_) => None,
    });
    Some(Plan { family: edits.family.table(), table: edits.table, edits: compiled.collect::<Option<_>>()? })
}

impl Plan<'_> {
    /// Reads, decides and writes. What is shared is written only where nobody else wrote in between; a pod's own rules do
    /// not mind that, as long as their chain is there.
    pub(super) fn apply(&self, nft: &mut Nft, deadline: Instant) -> Result<(), Fault> {
        let mut meanwhile = 0;
        loop {
            let generation = nft.generation()?;
            let there = self.read(nft)?;
            let (batch, open) = self.decide(&there);
            let shared = open.iter().any(|edit| !matches!(edit, Edit::Append(..) | Edit::Remove(..)));
            match nft.commit(&batch, shared.then_some(generation)) {
                Err(Refused { errno: Errno::RESTART, .. }) if Instant::now() < deadline => {}
                Err(Refused { errno: Errno::NOENT, .. }) if meanwhile < MEANWHILE => meanwhile += 1,
                done => return Ok(done?),
            }
        }
    }

    /// The edits that are not made.
    pub(super) fn missing(&self) -> Result<Vec<String>, Fault> {
        let there = self.read(&mut Nft::here()?)?;
        Ok(self.decide(&there).1.into_iter().map(ToString::to_string).collect())
    }

    fn read(&self, nft: &mut Nft) -> Result<Table, Refused> {
        let mut chains: Vec<_> = self.edits.iter().map(|(edit, _)| edit.chain()).collect();
        chains.sort_unstable();
        chains.dedup();
        nft.part(self.family, self.table, &chains)
    }

    /// What is to change of what is there, and for which edits. Pure.
    fn decide(&self, there: &Table) -> (Batch, Vec<&Edit>) {
        let (family, table) = (self.family, self.table);
        let (mut batch, mut open, mut made) = (Batch::default(), Vec::new(), Vec::new());
        for (edit, expressions) in &self.edits {
            let chain = edit.chain();
            let removes = matches!(edit, Edit::Remove(..));
            let its: Vec<_> = there.rules().filter(|rule| rule.chain == chain && rule.says(expressions)).collect();
            if !removes && !there.has(chain) && !made.contains(&chain) {
                batch.lay(there, "", &[(chain, hook(chain))]);
                made.push(chain);
                open.push(*edit);
            }
            match edit {
                Edit::Remove(..) => {
                    its.iter().for_each(|rule| batch.delete_rule(family, table, chain, Some(rule.handle)))
                }
                Edit::Prepend(..) if its.is_empty() => batch.first_rule(family, table, chain, expressions),
                Edit::Append(..) if its.is_empty() => batch.rule(family, table, chain, expressions, ""),
                _ => continue,
            }
            if removes != its.is_empty() {
                open.push(*edit);
            }
        }
        (batch, open)
    }
}

/// Chains that packets come to by themselves.
fn hook(chain: &str) -> Option<Hook> {
    let number = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].iter().position(|name| *name == chain)?;
    Some(Hook { kind: "filter", number: number as u32, priority: 0 })
}

/// The expressions that iptables would write, in its order. Pure.
fn compile(rule: &[String]) -> Option<Vec<Expression>> {
    let mut words = rule.iter().map(String::as_str);
    let (mut expressions, mut is) = (Vec::new(), true);
    while let Some(word) = words.next() {
        match word {
            "!" => {
                is = false;
                continue;
            }
            "-s" | "-d" => {
                let network = Cidr::parse(words.next()?).ok()?;
                expressions.push(Expression::Address { source: word == "-s", network, inside: is });
            }
            "-i" | "-o" => {
                let name = words.next()?.to_owned();
                expressions.push(Expression::Interface { input: word == "-i", name, same: is });
            }
            "-m" => expressions.push(extension(words.next()?, words.next()?, words.next()?)?),
            "-j" => expressions.extend([Expression::Counter, Expression::Verdict(verdict(words.next()?))]),
            _ => return None,
        }
        is = true;
    }
    Some(expressions)
}

fn verdict(target: &str) -> Verdict {
    match target {
        "ACCEPT" => Verdict::Accept,
        "DROP" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        chain => Verdict::Jump(chain.to_owned()),
    }
}

/// `struct xt_comment_info`, and `struct xt_conntrack_mtinfo3` with the states alone, of linux/netfilter/xt_*.h.
fn extension(name: &str, option: &str, value: &str) -> Option<Expression> {
    let (revision, info) = match (name, option) {
        ("comment", "--comment") => {
            let mut info = vec![0; 256];
            info.get_mut(..value.len()).filter(|_| value.len() < 256)?.copy_from_slice(value.as_bytes());
            (0, info)
        }
        ("conntrack", "--ctstate") => {
            const STATE: u16 = 1;
            let bit = |state: &str| {
                Some(1_u16 << (1 + ["ESTABLISHED", "RELATED", "NEW"].iter().position(|one| *one == state)?))
            };
            let states = value.split(',').try_fold(0, |states, state| Some(states | bit(state)?))?;
            let mut info = vec![0; 168];
            info[146..148].copy_from_slice(&STATE.to_ne_bytes());
            info[150..152].copy_from_slice(&states.to_ne_bytes());
            (3, info)
        }
        _ => return None,
    };
    Some(Expression::Extension { name: name.to_owned(), revision, info })
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;
    use crate::nft;

    fn rule(text: &str) -> Rule {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_more_than_a_few_words_is_a_programs() {
        assert!(compile(&rule("-d 10.7.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")).is_some());
        assert_eq!(compile(&rule("-i br0 ! -o br0 -m comment --comment x -j DROP")).unwrap().len(), 5);
        for text in
            ["-p tcp -j ACCEPT", "-m mark --mark 1 -j DROP", "-m conntrack --ctstate LATE -j DROP", "-j", "-m comment"]
        {
            assert!(compile(&rule(text)).is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let append = Edit::Append("OURS".to_owned(), rule("-s 10.7.0.2/32 -j ACCEPT"));
        let edits = Edits { family: crate::netlink::Family::V4, table: "filter", edits: vec![append] };
        let plan = plan(&edits).unwrap();
        let own = nft::Rule::of("OURS", &compile(&rule("-s 10.7.0.2/32 -j ACCEPT")).unwrap());
        let (batch, open) = plan.decide(&Table::of(nft::IPV4, "filter", &[("OURS", vec![own])]));
        assert!(batch.is_empty() && open.is_empty());
        let (batch, open) = plan.decide(&Table::of(nft::IPV4, "filter", &[]));
        assert!(!batch.is_empty() && !open.is_empty());
    }
}
