use std::fmt;
use std::net::IpAddr;

use super::super::Call;
use crate::cni::cidr::{self, Cidr, bits, with_bits};
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::cni::version::Version;

/// Part of a subnet, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) subnet: Cidr,
    pub(super) start: IpAddr,
    pub(super) end: IpAddr,
    pub(super) gateway: IpAddr,
}

/// Ranges of which one address is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RangeSet(pub(super) Vec<Range>);

/// One address is given of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ranges(pub(super) Vec<RangeSet>);

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<_> = self.0.iter().map(|range| format!("{}-{}", range.start, range.end)).collect();
        f.write_str(&ranges.join(","))
    }
}

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

impl Range {
    fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let subnet = fields.parsed("subnet", Cidr::parse)?.ok_or_else(|| config("a range has no subnet"))?;
        if subnet.prefix > cidr::width(subnet.address) - 2 {
            return Err(config(format!("Network {subnet} too small to allocate from")));
        }
        let network = subnet.network();
        if network != subnet {
            let message = "Network has host bits set. For a subnet mask of length";
            return Err(config(format!("{message} {} the network address is {}", subnet.prefix, network.address)));
        }
        let broadcast = u128::from(subnet.address.is_ipv4());
        let last = with_bits(subnet.address, bits(subnet.last()) - broadcast);
        let range = Self {
            subnet,
            start: fields.parsed("rangeStart", cidr::address)?.unwrap_or(subnet.nth(1)),
            end: fields.parsed("rangeEnd", cidr::address)?.unwrap_or(last),
            gateway: fields.parsed("gateway", cidr::address)?.unwrap_or(subnet.nth(1)),
        };
        for (name, address) in [("RangeStart", range.start), ("RangeEnd", range.end)] {
            if !subnet.contains(address) {
                return Err(config(format!("{name} {address} not in network {subnet}")));
            }
        }
        if bits(range.start) > bits(range.end) {
            return Err(config(format!("RangeEnd {} not in network {subnet}", range.end)));
        }
        Ok(range)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.subnet.contains(address) && (bits(self.start)..=bits(self.end)).contains(&bits(address))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || self.contains(other.end) || other.contains(self.start)
    }
}

impl RangeSet {
    fn parse(objects: Vec<Fields<'_>>) -> Result<Self, Fault> {
        let set: Vec<_> = objects.into_iter().map(Range::parse).collect::<Result<_, _>>()?;
        let first = set.first().ok_or_else(|| config("empty range set"))?;
        if set.iter().any(|range| range.subnet.address.is_ipv4() != first.subnet.address.is_ipv4()) {
            return Err(config("mixed address families"));
        }
        for (at, range) in set.iter().enumerate() {
            if let Some(other) = set[at + 1..].iter().find(|other| range.overlaps(other)) {
                let text = |range: &Range| format!("{}-{}", range.start, range.end);
                return Err(config(format!("subnets {} and {} overlap", text(range), text(other))));
            }
        }
        Ok(Self(set))
    }

    /// The range that has an address.
    pub(super) fn find(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Every address but the gateways, once, beginning behind the one that was given last.
    pub(super) fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let after = last.and_then(|last| Some((self.0.iter().position(|range| range.contains(last))?, bits(last))));
        let count = self.0.len();
        // The rest of the range where the last one was, the other ranges, and that range again up to it.
        let (first, behind) = after.map_or((0, None), |(first, last)| (first, Some(last)));
        let spans = (0..=count).map(move |step| {
            let range = &self.0[(first + step) % count];
            let (start, end) = (bits(range.start), bits(range.end));
            match (step, behind) {
                (0, Some(last)) => (range, last.saturating_add(1)..end.saturating_add(1)),
                (step, Some(last)) if step == count => (range, start..last.saturating_add(1)),
                (step, None) if step == count => (range, 0..0),
                _ => (range, start..end.saturating_add(1)),
            }
        });
        spans.flat_map(|(range, span)| {
            let addresses = span.map(move |bits| (with_bits(range.subnet.address, bits), range));
            addresses.filter(|(address, range)| *address != range.gateway)
        })
    }
}

impl Ranges {
    /// The runtime's ranges, then the old single one, then the configuration's.
    pub(super) fn parse(call: &Call<'_>) -> Result<Self, Fault> {
        let ipam = super::ipam(call)?;
        let mut sets = Vec::new();
        if let Some(runtime) = call.fields().object("runtimeConfig")? {
            sets.extend(lists(runtime, "ipRanges")?);
        }
        if ipam.get("subnet").is_some() {
            sets.push(vec![ipam]);
        }
        sets.extend(lists(ipam, "ranges")?);
        if sets.is_empty() {
            return Err(config("no IP ranges specified"));
        }
        let mut ranges = Vec::with_capacity(sets.len());
        for (at, set) in sets.into_iter().enumerate() {
            let set =
                RangeSet::parse(set).map_err(|fault| config(format!("invalid range set {at}: {}", fault.message)));
            ranges.push(set?);
        }
        let v4 = ranges.iter().filter(|set| set.0[0].subnet.address.is_ipv4()).count();
        let version = call.version()?;
        if (v4 > 1 || ranges.len() - v4 > 1) && Version::parse(&version)? < Version::LISTS {
            return Err(config(format!("CNI version {version} does not support more than 1 address per family")));
        }
        for (at, set) in ranges.iter().enumerate() {
            let overlaps = |other: &RangeSet| set.0.iter().any(|one| other.0.iter().any(|two| one.overlaps(two)));
            if let Some(other) = ranges[at + 1..].iter().position(overlaps) {
                return Err(config(format!("range set {at} overlaps with {}", at + 1 + other)));
            }
        }
        Ok(Self(ranges))
    }
}

/// A list of lists of objects.
fn lists<'a>(fields: Fields<'a>, name: &str) -> Result<Vec<Vec<Fields<'a>>>, Fault> {
    let refuse = || Fault::new(Code::DECODE, format!("{name} is no list of lists of ranges"));
    let inner = |value: &'a serde_json::Value| {
        let objects = value.as_array().ok_or_else(refuse)?.iter();
        objects.map(|value| value.as_object().map(Fields).ok_or_else(refuse)).collect()
    };
    fields.list(name)?.iter().map(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Result<RangeSet, Fault> {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        RangeSet::parse(value.as_array().unwrap().iter().map(|value| Fields(value.as_object().unwrap())).collect())
    }

    fn candidates(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        set.candidates(last.map(|last| last.parse().unwrap())).map(|(address, _)| address.to_string()).collect()
    }

    #[test]
    fn addresses_go_round_and_leave_the_gateway_out() {
        let small = set(r#"[{"subnet":"10.0.0.0/29"}]"#).unwrap();
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(candidates(&small, None), all);
        let round = ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        assert_eq!(candidates(&small, Some("10.0.0.4")), round);
        assert_eq!(candidates(&small, Some("10.9.0.4")), all);
        let two = set(r#"[{"subnet":"10.0.0.0/30"},{"subnet":"10.1.0.0/30","gateway":"10.1.0.2"}]"#).unwrap();
        assert_eq!(candidates(&two, Some("10.0.0.2")), ["10.1.0.1", "10.0.0.2"]);
        assert_eq!(two.to_string(), "10.0.0.1-10.0.0.2,10.1.0.1-10.1.0.2");
    }

    #[test]
    fn bad_ranges_say_why() {
        for (text, why) in [
            (r"[]", "empty range set"),
            (r"[{}]", "no subnet"),
            (r#"[{"subnet":"10.0.0.0/31"}]"#, "too small"),
            (r#"[{"subnet":"10.0.0.1/24"}]"#, "host bits set"),
            (r#"[{"subnet":"10.0.0.0/24","rangeStart":"10.1.0.0"}]"#, "RangeStart 10.1.0.0 not in network"),
            (r#"[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.8"}]"#, "RangeEnd"),
            (r#"[{"subnet":"10.0.0.0/24"},{"subnet":"fd00::/64"}]"#, "mixed address families"),
            (r#"[{"subnet":"10.0.0.0/24"},{"subnet":"10.0.0.0/16"}]"#, "overlap"),
        ] {
            let error = set(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
