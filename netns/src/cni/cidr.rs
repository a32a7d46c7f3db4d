use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fault::{Code, Fault};

/// An address and the length of its network's prefix: 10.1.0.7/16. The bits behind the prefix are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// At most 32, or 128.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The bits of an address, as the low ones of a number.
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of the same family with these bits.
pub fn with_bits(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// How many bits an address of this family has.
pub fn width(family: IpAddr) -> u8 {
    if family.is_ipv4() { 32 } else { 128 }
}

/// An address without a prefix.
pub fn address(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map_err(|_| Fault::new(Code::DECODE, format!("{text:?} is no IP address")))
}

impl Cidr {
    /// `address/prefix`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let refuse = || Fault::new(Code::DECODE, format!("{text:?} is no address with a prefix"));
        let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|&prefix| plain && prefix <= width(address)).ok_or_else(refuse)?;
        Ok(Self { address, prefix })
    }

    /// The one address alone: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: width(address) }
    }

    /// 0.0.0.0/0 or ::/0.
    pub fn everything(family: IpAddr) -> Self {
        Self { address: with_bits(family, 0), prefix: 0 }
    }

    /// Whether it is 0.0.0.0/0 or ::/0.
    pub fn is_everything(self) -> bool {
        self.prefix == 0 && self.address.is_unspecified()
    }

    fn mask(self) -> u128 {
        let host = width(self.address) - self.prefix;
        let all = if self.address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
        all & u128::MAX.checked_shl(host.into()).unwrap_or(0)
    }

    /// The same with the bits behind the prefix cleared.
    pub fn network(self) -> Self {
        Self { address: with_bits(self.address, bits(self.address) & self.mask()), ..self }
    }

    /// The last address of the network; the broadcast address of IPv4.
    pub fn last(self) -> IpAddr {
        let all = if self.address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
        with_bits(self.address, bits(self.address) | (all & !self.mask()))
    }

    /// The address that is so far behind the network's own.
    pub fn nth(self, offset: u128) -> IpAddr {
        with_bits(self.address, bits(self.network().address).wrapping_add(offset))
    }

    /// Whether an address lies in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && bits(address) & self.mask() == bits(self.address) & self.mask()
    }

    /// Whether the networks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let cidr = Cidr::parse("10.1.2.3/16").unwrap();
        assert_eq!(cidr.network().to_string(), "10.1.0.0/16");
        assert_eq!(cidr.last().to_string(), "10.1.255.255");
        assert_eq!(cidr.nth(1).to_string(), "10.1.0.1");
        assert!(cidr.contains("10.1.9.9".parse().unwrap()) && !cidr.contains("10.2.0.0".parse().unwrap()));
        assert!(!Cidr::parse("::/0").unwrap().contains("10.1.9.9".parse().unwrap()));
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains("10.1.9.9".parse().unwrap()));
        assert_eq!(Cidr::parse("fd00::7/64").unwrap().network().to_string(), "fd00::/64");
        assert!(
            cidr.overlaps(Cidr::parse("10.0.0.0/8").unwrap()) && !cidr.overlaps(Cidr::parse("10.2.0.0/16").unwrap())
        );
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0/8", "fd00::/129", "10.0.0.1/", "10.0.0.1/+8"] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
    }
}
