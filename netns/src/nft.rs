//! nf_tables by netlink: rules are read, and changed in one transaction. The expressions are written here byte by byte:
//! of those that we need, netlink-packet-netfilter knows about half.

mod expression;

use rustix::io::Errno;

use crate::netfilter::{ACK, Attributes, Netfilter, each, errno, message, text};
use crate::netlink::{Family, Refused};

use expression::Said;
pub(crate) use expression::{Expression, HostPort, Verdict};

/// Families of tables: linux/netfilter.h.
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;
pub(crate) const BRIDGE: u8 = 7;
pub(crate) const IPV6: u8 = 10;

impl Family {
    /// The family of tables of its own.
    pub(crate) fn table(self) -> u8 {
        if self == Self::V4 { IPV4 } else { IPV6 }
    }
}

/// NFNL_SUBSYS_NFTABLES, and messages and attributes of linux/netfilter/nf_tables.h.
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// A base chain's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// "nat" or "filter".
    pub(crate) kind: &'static str,
    /// `enum nf_inet_hooks`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// Changes of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Batch(Vec<(u16, u16, u8, Attributes)>);

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A table, if it is not there.
    pub(crate) fn table(&mut self, family: u8, name: &str, comment: &str) {
        let mut attributes = Attributes::default();
        attributes.text(1, name);
        if !comment.is_empty() {
            attributes.comment(6, comment);
        }
        self.0.push((NEW_TABLE, CREATE, family, attributes));
    }

    /// A chain, if it is not there; with a hook, one that packets come to.
    pub(crate) fn chain(&mut self, family: u8, table: &str, name: &str, hook: Option<Hook>) {
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(3, name);
        if let Some(hook) = hook {
            let mut inner = Attributes::default();
            inner.number(1, hook.number).number(2, hook.priority as u32);
            attributes.nest(4, &inner).text(7, hook.kind);
        }
        self.0.push((NEW_CHAIN, CREATE, family, attributes));
    }

    /// A table and those of these chains that it has not. One that is said again is changed, which the kernel ends only
    /// after a grace period, and whoever adds a match of iptables' meanwhile waits for that.
    pub(crate) fn lay(&mut self, there: &Table, comment: &str, chains: &[(&str, Option<Hook>)]) {
        self.table(there.family, there.name, comment);
        for (chain, hook) in chains.iter().filter(|(chain, _)| !there.has(chain)) {
            self.chain(there.family, there.name, chain, *hook);
        }
    }

    /// A rule, behind the others of its chain.
    pub(crate) fn rule(&mut self, family: u8, table: &str, chain: &str, expressions: &[Expression], comment: &str) {
        let attributes = Self::rule_attributes(table, chain, expressions, comment);
        self.0.push((NEW_RULE, CREATE | APPEND, family, attributes));
    }

    /// A rule, before the others of its chain.
    pub(crate) fn first_rule(&mut self, family: u8, table: &str, chain: &str, expressions: &[Expression]) {
        self.0.push((NEW_RULE, CREATE, family, Self::rule_attributes(table, chain, expressions, "")));
    }

    fn rule_attributes(table: &str, chain: &str, expressions: &[Expression], comment: &str) -> Attributes {
        let mut list = Attributes::default();
        for expression in expressions.iter().flat_map(Expression::all) {
            list.nest(1, &expression);
        }
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(2, chain).nest(4, &list);
        if !comment.is_empty() {
            attributes.comment(7, comment);
        }
        attributes
    }

    /// One rule goes; without a handle, all of the chain.
    pub(crate) fn delete_rule(&mut self, family: u8, table: &str, chain: &str, handle: Option<u64>) {
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(2, chain);
        if let Some(handle) = handle {
            attributes.put(3, &handle.to_be_bytes());
        }
        self.0.push((DELETE_RULE, 0, family, attributes));
    }

    /// A chain goes, which no rule leads to.
    pub(crate) fn delete_chain(&mut self, family: u8, table: &str, name: &str) {
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(3, name);
        self.0.push((DELETE_CHAIN, 0, family, attributes));
    }
}

/// A rule as the kernel tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: String,
    pub(crate) handle: u64,
    pub(crate) comment: String,
    /// The chain that it leads to.
    pub(crate) leads_to: Option<String>,
    /// The host's port that it is about.
    pub(crate) port: Option<HostPort>,
    /// What it looks at and does, but for what it counts.
    body: Vec<Said>,
}

impl Rule {
    fn parse(attributes: &[u8]) -> Self {
        let mut rule = Self::default();
        for (kind, value) in each(attributes) {
            match kind {
                2 => rule.chain = text(value),
                3 => rule.handle = value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)),
                4 => {
                    let said = || each(value).find_map(|(_, expression)| expression::comment(expression));
                    rule.comment = said().unwrap_or(std::mem::take(&mut rule.comment));
                    rule.leads_to = each(value).find_map(|(_, expression)| expression::leads_to(expression));
                    rule.body = each(value).filter_map(|(_, expression)| expression::said(expression)).collect();
                    rule.port = expression::host_port(each(value).map(|(_, expression)| expression));
                }
                7 if value.first() == Some(&0) => rule.comment = text(value.get(2..).unwrap_or_default()),
                _ => {}
            }
        }
        rule
    }

    /// Whether it looks at and does that.
    pub(crate) fn says(&self, expressions: &[Expression]) -> bool {
        self.body == expression::all_said(expressions)
    }

    #[cfg(test)]
    pub(crate) fn of(chain: &str, expressions: &[Expression]) -> Self {
        Self { chain: chain.to_owned(), body: expression::all_said(expressions), ..Self::default() }
    }
}

/// Chains of a table, as far as they are there, with their rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: u8,
    pub(crate) name: &'static str,
    chains: Vec<(String, Vec<Rule>)>,
}

impl Table {
    pub(crate) fn has(&self, chain: &str) -> bool {
        self.chains.iter().any(|(name, _)| name == chain)
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.iter().flat_map(|(_, rules)| rules)
    }

    #[cfg(test)]
    pub(crate) fn of(family: u8, name: &'static str, chains: &[(&str, Vec<Rule>)]) -> Self {
        let chains = chains.iter().map(|(name, rules)| ((*name).to_owned(), rules.clone())).collect();
        Self { family, name, chains }
    }
}

/// A socket to the packet filter of the namespace where it was opened.
#[derive(Debug)]
pub(crate) struct Nft {
    netfilter: Netfilter,
    /// Whether the kernel is busy for a while with what was done by it.
    lingers: bool,
}

impl Nft {
    /// In the namespace of the calling thread.
    pub(crate) fn here() -> Result<Self, Refused> {
        Ok(Self { netfilter: Netfilter::here()?, lingers: false })
    }

    /// Every rule of a table; of one that is not there, none.
    pub(crate) fn rules(&mut self, family: u8, table: &str) -> Result<Vec<Rule>, Refused> {
        let mut filter = Attributes::default();
        filter.text(1, table);
        self.dump(family, &filter)
    }

    fn dump(&mut self, family: u8, filter: &Attributes) -> Result<Vec<Rule>, Refused> {
        let rules = self.netfilter.dump(GET_RULE, family, filter)?;
        Ok(rules.iter().map(|attributes| Rule::parse(attributes)).collect())
    }

    /// Whether a table has a chain.
    pub(crate) fn has(&mut self, family: u8, table: &str, chain: &str) -> Result<bool, Refused> {
        let mut which = Attributes::default();
        which.text(1, table).text(3, chain);
        match self.netfilter.ask(GET_CHAIN, family, &which) {
            Err(Refused { errno: Errno::NOENT, .. }) => Ok(false),
            found => found.map(|_| true),
        }
    }

    /// These chains of a table that nobody else uses.
    pub(crate) fn table(&mut self, family: u8, name: &'static str, chains: &[&str]) -> Result<Table, Refused> {
        let rules = self.rules(family, name)?;
        self.of_chains(family, name, chains, rules)
    }

    /// These chains of a table, whatever else it has: that may be every service of a cluster.
    pub(crate) fn part(&mut self, family: u8, name: &'static str, chains: &[&str]) -> Result<Table, Refused> {
        let mut rules = Vec::new();
        for chain in chains {
            let mut filter = Attributes::default();
            filter.text(1, name).text(2, chain);
            rules.extend(self.dump(family, &filter)?);
        }
        self.of_chains(family, name, chains, rules)
    }

    /// Chains with their rules. One that has none is there, or is not.
    fn of_chains(
        &mut self,
        family: u8,
        name: &'static str,
        chains: &[&str],
        mut rules: Vec<Rule>,
    ) -> Result<Table, Refused> {
        let mut table = Table { family, name, chains: Vec::new() };
        for chain in chains {
            let (its, others): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.chain == *chain);
            rules = others;
            if !its.is_empty() || self.has(family, name, chain)? {
                table.chains.push(((*chain).to_owned(), its));
            }
        }
        Ok(table)
    }

    /// The number of the last transaction, of all tables.
    pub(crate) fn generation(&mut self) -> Result<u32, Refused> {
        let answer = self.netfilter.ask(GET_GENERATION, 0, &Attributes::default())?;
        let number = each(&answer).find(|(kind, _)| *kind == 1).and_then(|(_, value)| value.first_chunk().copied());
        Ok(number.map(u32::from_be_bytes).ok_or(Errno::BADMSG)?)
    }

    /// Whether the kernel is busy for a while with what was deleted. To close the socket meanwhile waits for that.
    pub(crate) fn lingers(&self) -> bool {
        self.lingers
    }

    /// All of it, or nothing.
    /// With a generation, only where that is the last transaction: else ERESTART.
    pub(crate) fn commit(&mut self, batch: &Batch, generation: Option<u32>) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        self.lingers |= batch.0.iter().any(|(kind, ..)| matches!(*kind, DELETE_RULE | DELETE_CHAIN));
        let socket = &mut self.netfilter;
        let first = socket.sequence + 1;
        let mut condition = Attributes::default();
        if let Some(number) = generation {
            condition.number(1, number);
        }
        let mut bytes = message(BATCH_BEGIN, 0, first, 0, SUBSYSTEM >> 8, &condition.0);
        for (at, (kind, flags, family, attributes)) in batch.0.iter().enumerate() {
            bytes.extend(message(*kind, ACK | flags, first + 1 + at as u32, *family, 0, &attributes.0));
        }
        socket.sequence = first + 1 + batch.0.len() as u32;
        bytes.extend(message(BATCH_END, 0, socket.sequence, 0, SUBSYSTEM >> 8, &[]));
        socket.send(&bytes)?;
        let mut buffer = vec![0; 64 << 10];
        let (mut acknowledged, mut failed) = (0, None);
        while acknowledged < batch.0.len() {
            for bytes in socket.receive(&mut buffer)? {
                let sequence = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
                if !(first..=socket.sequence).contains(&sequence) {
                    continue;
                }
                let errno = errno(&bytes);
                // That the batch itself is refused is said once, of its frame.
                if let (Some(errno), true) = (errno, sequence == first || sequence == socket.sequence) {
                    return Err(errno.into());
                }
                failed = failed.or(errno);
                acknowledged += 1;
            }
        }
        failed.map_or(Ok(()), |errno| Err(errno.into()))
    }
}
