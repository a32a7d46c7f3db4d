//! nf_tables by netlink: rules are read, and changed in one transaction. The expressions are written here byte by byte:
//! of those that we need, netlink-packet-netfilter knows about half.

mod expression;

use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use crate::netlink::{Family, Refused};

pub(crate) use expression::{Expression, Verdict};

/// Families of tables: linux/netfilter.h.
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;
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
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// Attributes, one behind the other, padded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.put(kind, &[text.as_bytes(), b"\0"].concat())
    }

    fn number(&mut self, kind: u16, number: u32) -> &mut Self {
        self.put(kind, &number.to_be_bytes())
    }

    fn nest(&mut self, kind: u16, inner: &Self) -> &mut Self {
        self.put(kind | NESTED, &inner.0)
    }

    /// A comment as nft(8) keeps it: type 0, length, text.
    fn comment(&mut self, kind: u16, comment: &str) -> &mut Self {
        let text = &comment.as_bytes()[..comment.len().min(254)];
        self.put(kind, &[&[0, text.len() as u8 + 1], text, b"\0"].concat())
    }
}

/// A base chain's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `enum nf_inet_hooks`: 0 prerouting, 3 output, 4 postrouting.
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
        attributes.text(1, name).comment(6, comment);
        self.0.push((NEW_TABLE, CREATE, family, attributes));
    }

    /// A chain, if it is not there; with a hook, one for address translation.
    pub(crate) fn chain(&mut self, family: u8, table: &str, name: &str, hook: Option<Hook>) {
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(3, name);
        if let Some(hook) = hook {
            let mut inner = Attributes::default();
            inner.number(1, hook.number).number(2, hook.priority as u32);
            attributes.nest(4, &inner).text(7, "nat");
        }
        self.0.push((NEW_CHAIN, CREATE, family, attributes));
    }

    /// A rule, behind the others of its chain.
    pub(crate) fn rule(&mut self, family: u8, table: &str, chain: &str, expressions: &[Expression], comment: &str) {
        let mut list = Attributes::default();
        for expression in expressions.iter().flat_map(Expression::all) {
            list.nest(1, &expression);
        }
        let mut attributes = Attributes::default();
        attributes.text(1, table).text(2, chain).nest(4, &list);
        if !comment.is_empty() {
            attributes.comment(7, comment);
        }
        self.0.push((NEW_RULE, CREATE | APPEND, family, attributes));
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
}

/// A socket to the packet filter of the namespace where it was opened.
#[derive(Debug)]
pub(crate) struct Nft {
    socket: OwnedFd,
    sequence: u32,
    /// Whether something was deleted by it.
    deleted: bool,
}

fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    bytes.extend((20 + attributes.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// The attributes of a buffer, their flags stripped.
fn each(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

impl Rule {
    fn parse(attributes: &[u8]) -> Self {
        let mut rule = Self::default();
        for (kind, value) in each(attributes) {
            match kind {
                2 => rule.chain = text(value),
                3 => rule.handle = value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)),
                4 => rule.leads_to = each(value).find_map(|(_, expression)| expression::leads_to(expression)),
                7 if value.first() == Some(&0) => rule.comment = text(value.get(2..).unwrap_or_default()),
                _ => {}
            }
        }
        rule
    }
}

impl Nft {
    /// In the namespace of the calling thread.
    pub(crate) fn here() -> Result<Self, Refused> {
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { socket, sequence: 0, deleted: false })
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<Vec<Vec<u8>>, Refused> {
        let (length, _) = retry_on_intr(|| recv(&self.socket, &mut *buffer, RecvFlags::empty()))?;
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while let Some(size) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            messages.push(rest.get(..size).filter(|bytes| bytes.len() >= 16).ok_or(Errno::BADMSG)?.to_vec());
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }

    /// Every rule of a table; of one that is not there, none.
    pub(crate) fn rules(&mut self, family: u8, table: &str) -> Result<Vec<Rule>, Refused> {
        'again: loop {
            self.sequence += 1;
            let mut filter = Attributes::default();
            filter.text(1, table);
            let request = message(GET_RULE, DUMP, self.sequence, family, 0, &filter.0);
            retry_on_intr(|| send(&self.socket, &request, SendFlags::empty()))?;
            let mut rules = Vec::new();
            let mut buffer = vec![0; 64 << 10];
            let mut whole = true;
            loop {
                for bytes in self.receive(&mut buffer)? {
                    if bytes[8..12] != self.sequence.to_ne_bytes() {
                        continue;
                    }
                    whole &= u16::from_ne_bytes([bytes[6], bytes[7]]) & libc::NLM_F_DUMP_INTR as u16 == 0;
                    match i32::from(u16::from_ne_bytes([bytes[4], bytes[5]])) {
                        libc::NLMSG_DONE if whole => return Ok(rules),
                        libc::NLMSG_DONE => continue 'again,
                        libc::NLMSG_ERROR => match errno(&bytes) {
                            None => {}
                            Some(Errno::NOENT) => return Ok(Vec::new()),
                            Some(Errno::INTR | Errno::AGAIN) => continue 'again,
                            Some(errno) => return Err(errno.into()),
                        },
                        _ => rules.push(Rule::parse(bytes.get(20..).unwrap_or_default())),
                    }
                }
            }
        }
    }

    /// Whether it took anything away, which the kernel is busy with for a while.
    pub(crate) fn has_deleted(&self) -> bool {
        self.deleted
    }

    /// All of it, or nothing.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        self.deleted |= batch.0.iter().any(|(kind, ..)| matches!(*kind, DELETE_RULE | DELETE_CHAIN));
        let first = self.sequence + 1;
        let mut bytes = message(BATCH_BEGIN, 0, first, 0, SUBSYSTEM >> 8, &[]);
        for (at, (kind, flags, family, attributes)) in batch.0.iter().enumerate() {
            bytes.extend(message(*kind, ACK | flags, first + 1 + at as u32, *family, 0, &attributes.0));
        }
        self.sequence = first + 1 + batch.0.len() as u32;
        bytes.extend(message(BATCH_END, 0, self.sequence, 0, SUBSYSTEM >> 8, &[]));
        retry_on_intr(|| send(&self.socket, &bytes, SendFlags::empty()))?;
        let mut buffer = vec![0; 64 << 10];
        let (mut acknowledged, mut failed) = (0, None);
        while acknowledged < batch.0.len() {
            for bytes in self.receive(&mut buffer)? {
                let sequence = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
                if !(first..=self.sequence).contains(&sequence) {
                    continue;
                }
                let errno = errno(&bytes);
                // That the batch itself is refused is said once, of its frame.
                if let (Some(errno), true) = (errno, sequence == first || sequence == self.sequence) {
                    return Err(errno.into());
                }
                failed = failed.or(errno);
                acknowledged += 1;
            }
        }
        failed.map_or(Ok(()), |errno| Err(errno.into()))
    }
}

/// What an NLMSG_ERROR says. None: it is an acknowledgement.
fn errno(bytes: &[u8]) -> Option<Errno> {
    let code = bytes.get(16..)?.first_chunk().map(|code| i32::from_ne_bytes(*code))?;
    (code != 0).then(|| Errno::from_raw_os_error(code.wrapping_neg()))
}
