use std::net::IpAddr;

use crate::cni::cidr::{Cidr, bits};
use crate::netfilter::{Attributes, each, text};

/// What a rule looks at and does. Each uses registers 1 and 2 and leaves nothing in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// `meta nfproto`, for tables of both families.
    Protocol(u8),
    /// `ip saddr` and `ip daddr`: in the network, or not.
    Address { source: bool, network: Cidr, inside: bool },
    /// `tcp dport` and the like, by protocol number.
    Port { protocol: u8, port: u16 },
    /// `fib daddr type local`
    ToLocal,
    /// `masquerade`
    Masquerade,
    /// `dnat to`
    Dnat { address: IpAddr, port: u16 },
    /// `ether saddr`
    Sender(Vec<u8>),
    /// `iifname` and `oifname`: that one, or another.
    Interface { input: bool, name: String, same: bool },
    /// A match of iptables' own, by its name: what it looks for is a structure of its own.
    Extension { name: String, revision: u32, info: Vec<u8> },
    /// `counter`
    Counter,
    /// The end of a rule.
    Verdict(Verdict),
}

/// Where a packet goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// `enum nft_verdicts`, and those of netfilter.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

fn named(name: &str, data: &Attributes) -> Attributes {
    let mut expression = Attributes::default();
    expression.text(1, name).nest(2, data);
    expression
}

fn value(bytes: &[u8]) -> Attributes {
    let mut data = Attributes::default();
    data.put(1, bytes);
    data
}

/// Compares register 1.
fn compare(equal: bool, bytes: &[u8]) -> Attributes {
    let mut data = Attributes::default();
    data.number(1, 1).number(2, u32::from(!equal)).nest(3, &value(bytes));
    named("cmp", &data)
}

/// Loads part of the link's (0), network (1) or transport (2) header into register 1.
fn payload(base: u32, offset: u32, length: u32) -> Attributes {
    let mut data = Attributes::default();
    data.number(1, 1).number(2, base).number(3, offset).number(4, length);
    named("payload", &data)
}

fn meta(key: u32) -> Attributes {
    let mut data = Attributes::default();
    data.number(1, 1).number(2, key);
    named("meta", &data)
}

fn immediate(register: u32, bytes: &[u8]) -> Attributes {
    let mut data = Attributes::default();
    data.number(1, register).nest(2, &value(bytes));
    named("immediate", &data)
}

fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Expression {
    /// As the kernel's own, of which one of ours may be several.
    pub(super) fn all(&self) -> Vec<Attributes> {
        match self {
            Self::Protocol(family) => vec![meta(15), compare(true, &[*family])],
            Self::Address { source, network, inside } => address(*source, *network, *inside),
            Self::Port { protocol, port } => {
                vec![meta(16), compare(true, &[*protocol]), payload(2, 2, 2), compare(true, &port.to_be_bytes())]
            }
            Self::ToLocal => {
                let mut data = Attributes::default();
                data.number(1, 1).number(2, 3).number(3, 2);
                // RTN_LOCAL, in the host's order.
                vec![named("fib", &data), compare(true, &2_u32.to_ne_bytes())]
            }
            Self::Sender(mac) => vec![payload(0, 6, 6), compare(true, mac)],
            Self::Interface { input, name, same } => {
                let name = [name.as_bytes(), b"\0"].concat();
                vec![meta(if *input { 6 } else { 7 }), compare(*same, &name)]
            }
            Self::Extension { name, revision, info } => {
                let mut data = Attributes::default();
                data.text(1, name).number(2, *revision).put(3, info);
                vec![named("match", &data)]
            }
            Self::Counter => vec![named("counter", &Attributes::default())],
            Self::Masquerade => vec![named("masq", &Attributes::default())],
            Self::Dnat { address, port } => {
                let family = if address.is_ipv4() { super::IPV4 } else { super::IPV6 };
                let mut data = Attributes::default();
                data.number(1, 1).number(2, family.into()).number(3, 1).number(5, 2);
                vec![immediate(1, &bytes_of(*address)), immediate(2, &port.to_be_bytes()), named("nat", &data)]
            }
            Self::Verdict(verdict) => {
                let (code, chain) = match verdict {
                    Verdict::Accept => (ACCEPT, None),
                    Verdict::Drop => (DROP, None),
                    Verdict::Return => (RETURN, None),
                    Verdict::Jump(chain) => (JUMP, Some(chain)),
                    Verdict::Goto(chain) => (GOTO, Some(chain)),
                };
                let mut inner = Attributes::default();
                inner.number(1, code as u32);
                if let Some(chain) = chain {
                    inner.text(2, chain);
                }
                let (mut outer, mut data) = (Attributes::default(), Attributes::default());
                outer.nest(2, &inner);
                data.number(1, 0).nest(2, &outer);
                vec![named("immediate", &data)]
            }
        }
    }
}

fn address(source: bool, network: Cidr, inside: bool) -> Vec<Attributes> {
    let (offset, length) = match (network.address.is_ipv4(), source) {
        (true, true) => (12, 4),
        (true, false) => (16, 4),
        (false, true) => (8, 16),
        (false, false) => (24, 16),
    };
    let bytes = bytes_of(network.network().address);
    if network.prefix.is_multiple_of(8) && network.prefix != 0 {
        let whole = usize::from(network.prefix / 8);
        return vec![payload(1, offset, whole as u32), compare(inside, &bytes[..whole])];
    }
    let all = Cidr { address: network.address, prefix: network.prefix };
    let mask = bits(all.last()) ^ bits(all.network().address);
    let mask: Vec<u8> = mask.to_be_bytes()[16 - bytes.len()..].iter().map(|byte| !byte).collect();
    let mut data = Attributes::default();
    data.number(1, 1).number(2, 1).number(3, length).nest(4, &value(&mask)).nest(5, &value(&vec![0; bytes.len()]));
    vec![payload(1, offset, length), named("bitwise", &data), compare(inside, &bytes)]
}

/// An expression: its name and its attributes, in order of their numbers.
pub(super) type Said = (String, Vec<(u16, Vec<u8>)>);

/// What an expression says, but for one that counts.
pub(super) fn said(expression: &[u8]) -> Option<Said> {
    let name = text(find(expression, 1)?);
    let data = each(find(expression, 2).unwrap_or_default()).map(|(kind, value)| (kind, value.to_vec()));
    let mut data: Vec<_> = data.collect();
    data.sort();
    (name != "counter").then_some((name, data))
}

pub(super) fn all_said(expressions: &[Expression]) -> Vec<Said> {
    expressions.iter().flat_map(Expression::all).filter_map(|one| said(&one.0)).collect()
}

/// A port of the host: by protocol number, and on one address or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) address: Option<IpAddr>,
}

impl HostPort {
    /// Whether a packet could be for both.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let everywhere = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
        (self.protocol, self.port) == (other.protocol, other.port)
            && (everywhere(self.address) || everywhere(other.address) || self.address == other.address)
    }
}

/// What was loaded into a register last, to be compared.
enum Loaded {
    Protocol,
    Port,
    Address,
    Other,
}

/// The port that a rule's expressions are about, where they compare protocol and destination port.
pub(super) fn host_port<'a>(expressions: impl Iterator<Item = &'a [u8]>) -> Option<HostPort> {
    let number = |data, kind| find(data, kind).and_then(|value| value.first_chunk().copied()).map(u32::from_be_bytes);
    let (mut protocol, mut port, mut address, mut loaded) = (None, None, None, Loaded::Other);
    for expression in expressions {
        let data = find(expression, 2).unwrap_or_default();
        let now = match text(find(expression, 1)?).as_str() {
            "meta" if number(data, 2) == Some(16) => Loaded::Protocol,
            "payload" => match (number(data, 2), number(data, 3), number(data, 4)) {
                (Some(2), Some(2), Some(2)) => Loaded::Port,
                (Some(1), Some(16), Some(4)) | (Some(1), Some(24), Some(16)) => Loaded::Address,
                _ => Loaded::Other,
            },
            "cmp" if number(data, 2) == Some(0) => {
                let value = find(data, 3).and_then(|data| find(data, 1)).unwrap_or_default();
                match loaded {
                    Loaded::Protocol => protocol = value.first().copied(),
                    Loaded::Port => port = value.first_chunk().copied().map(u16::from_be_bytes),
                    Loaded::Address => address = address_of(value),
                    Loaded::Other => {}
                }
                Loaded::Other
            }
            _ => Loaded::Other,
        };
        loaded = now;
    }
    Some(HostPort { protocol: protocol?, port: port?, address })
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    each(bytes).find(|(one, _)| *one == kind).map(|(_, value)| value)
}

/// The chain that an expression jumps or goes to.
pub(super) fn leads_to(expression: &[u8]) -> Option<String> {
    if text(find(expression, 1)?) != "immediate" {
        return None;
    }
    let verdict = find(find(find(expression, 2)?, 2)?, 2)?;
    find(verdict, 2).map(text)
}

/// The comment that iptables gives a rule: a match that always is true.
pub(super) fn comment(expression: &[u8]) -> Option<String> {
    let data = find(expression, 2)?;
    let is_comment = text(find(expression, 1)?) == "match" && text(find(data, 1)?) == "comment";
    let info = find(data, 3).filter(|_| is_comment)?;
    Some(text(info.split(|byte| *byte == 0).next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_it_was_written() {
        for address in [None, Some("10.0.0.1".parse().unwrap()), Some("fd00::1".parse().unwrap())] {
            let port = HostPort { protocol: 6, port: 8080, address };
            let mut rule: Vec<_> = address
                .map(|address| Expression::Address { source: false, network: Cidr::host(address), inside: true })
                .into_iter()
                .collect();
            rule.push(Expression::Port { protocol: 6, port: 8080 });
            rule.push(Expression::Dnat { address: "10.7.0.2".parse().unwrap(), port: 80 });
            let bytes: Vec<_> = rule.iter().flat_map(Expression::all).map(|one| one.0).collect();
            assert_eq!(host_port(bytes.iter().map(Vec::as_slice)), Some(port));
        }
        let other: Vec<_> = Expression::ToLocal.all().into_iter().map(|one| one.0).collect();
        assert_eq!(host_port(other.iter().map(Vec::as_slice)), None);
    }

    #[test]
    fn ports_meet_where_one_packet_could_be_for_both() {
        let port = |protocol, port, address: &str| HostPort { protocol, port, address: address.parse().ok() };
        let one = port(6, 80, "10.0.0.1");
        assert!(
            one.meets(&port(6, 80, "10.0.0.1")) && one.meets(&port(6, 80, "")) && one.meets(&port(6, 80, "0.0.0.0"))
        );
        assert!(!one.meets(&port(6, 80, "10.0.0.2")) && !one.meets(&port(17, 80, "")) && !one.meets(&port(6, 81, "")));
    }
}
