use std::net::IpAddr;

use super::{Attributes, each, text};
use crate::cni::cidr::{Cidr, bits};

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
    /// The end of a rule.
    Verdict(Verdict),
}

/// Where a packet goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Return,
    Jump(String),
    Goto(String),
}

/// `enum nft_verdicts`.
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

/// Loads part of the network (1) or transport (2) header into register 1.
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
            Self::Masquerade => vec![named("masq", &Attributes::default())],
            Self::Dnat { address, port } => {
                let family = if address.is_ipv4() { super::IPV4 } else { super::IPV6 };
                let mut data = Attributes::default();
                data.number(1, 1).number(2, family.into()).number(3, 1).number(5, 2);
                vec![immediate(1, &bytes_of(*address)), immediate(2, &port.to_be_bytes()), named("nat", &data)]
            }
            Self::Verdict(verdict) => {
                let (code, chain) = match verdict {
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

/// The chain that an expression jumps or goes to.
pub(super) fn leads_to(expression: &[u8]) -> Option<String> {
    let find = |bytes, kind| each(bytes).find(|(one, _)| *one == kind).map(|(_, value)| value);
    if text(find(expression, 1)?) != "immediate" {
        return None;
    }
    let verdict = find(find(find(expression, 2)?, 2)?, 2)?;
    find(verdict, 2).map(text)
}
