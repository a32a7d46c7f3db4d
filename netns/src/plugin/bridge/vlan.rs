//! VLANs of a bridge: a port has one untagged, and any number of tagged ones.

use netlink_packet_route::link::{InfoBridge, InfoData};

use super::{config, wire};
use crate::change::{Change, Kind, NewLink, Place, Set, Work};
use crate::cni::fault::Fault;
use crate::cni::json::Fields;
use crate::netlink::Link;

/// The last number that a VLAN may have.
const LAST: u16 = 4094;

/// `vlan`, `vlanTrunk` and `preserveDefaultVlan`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vlans {
    /// The untagged one; 0: none.
    pub(super) access: u16,
    tagged: Vec<u16>,
    keep_default: bool,
    /// Whether a bridge that is made tells VLANs apart.
    pub(super) filter: bool,
}

impl Vlans {
    pub(super) fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let access = fields.integer("vlan")?.unwrap_or_default();
        let valid = u16::try_from(access).ok().filter(|access| *access <= LAST);
        let refuse = || config(format!("invalid VLAN ID {access} (must be between 0 and {LAST})"));
        Ok(Self {
            access: valid.ok_or_else(refuse)?,
            tagged: trunk(fields)?,
            keep_default: fields.boolean("preserveDefaultVlan")?,
            filter: access != 0 || fields.get("vlanTrunk").is_some(),
        })
    }

    /// What a new port gets, which has got one VLAN from the bridge. Pure.
    pub(super) fn of_port(&self, link: &str, given: Option<u16>) -> Vec<Change> {
        let vlan = |id, pvid, add| Change::Vlan { link: link.to_owned(), id, pvid, add };
        let mut changes = Vec::new();
        if self.access == 0 && self.tagged.is_empty() {
            return changes;
        }
        changes.extend(given.filter(|_| !self.keep_default).map(|id| vlan(id, false, false)));
        if self.access != 0 {
            changes.push(vlan(self.access, true, true));
        }
        changes.extend(self.tagged.iter().map(|id| vlan(*id, false, true)));
        if self.access == 0 {
            changes.push(vlan(1, true, true));
        }
        changes
    }
}

/// The VLANs of `vlanTrunk`, each once.
fn trunk(fields: Fields<'_>) -> Result<Vec<u16>, Fault> {
    let mut ids = Vec::new();
    for object in fields.objects("vlanTrunk")? {
        let id = |name| {
            let id = object.integer(name)?;
            let valid = |id: i64| u16::try_from(id).ok().filter(|id| (1..=LAST).contains(id));
            id.map(|id| valid(id).ok_or_else(|| config(format!("incorrect trunk {name} parameter")))).transpose()
        };
        match (id("minID")?, id("maxID")?) {
            (Some(low), Some(high)) if low <= high => ids.extend(low..=high),
            (Some(_), Some(_)) => return Err(config("minID is greater than maxID in trunk parameter")),
            (None, None) => {}
            _ => return Err(config("minID and maxID should be configured both in trunk parameter")),
        }
        ids.extend(id("id")?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The VLAN that the bridge gives to its new ports.
pub(super) fn given_by(bridge: &Link) -> Option<u16> {
    let Some(InfoData::Bridge(data)) = &bridge.data else { return None };
    let given = data.iter().find_map(|info| match info {
        InfoBridge::VlanDefaultPvid(id) => Some(*id),
        _ => None,
    });
    given.filter(|id| *id != 0)
}

/// The host's end of a veth pair whose other end is a port of the pods' VLAN; made for the first pod, and kept.
pub(super) fn ensure_gateway(work: &mut Work<'_>, bridge: &Link, vlans: &Vlans) -> Result<Link, Fault> {
    let name = format!("{}.{}", bridge.name, vlans.access);
    if let Some(link) = work.host.link(&name)? {
        return Ok(link);
    }
    crate::plugin::valid_interface_name(&name).map_err(|_| config(format!("{name:?} is too long for an interface")))?;
    let port = wire::hashed("veth", 12, &name);
    let kind = Kind::Veth { peer: name.clone(), of: Place::Host, master: Some(bridge.name.clone()) };
    work.apply([Change::Create(NewLink { name: port.clone(), kind, mtu: bridge.mtu, mac: None, shared: true })])?;
    let access = Vlans { access: vlans.access, tagged: Vec::new(), keep_default: vlans.keep_default, filter: true };
    work.apply(access.of_port(&port, given_by(bridge)))?;
    work.apply([Change::Set(Place::Host, name.clone(), Set::Up(true))])?;
    work.link(Place::Host, &name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn words(value: &Value, given: Option<u16>) -> Result<Vec<String>, Fault> {
        let vlans = Vlans::parse(Fields(value.as_object().unwrap()))?;
        Ok(vlans.of_port("p", given).iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_port_has_the_vlans_that_are_asked_for_and_no_other() {
        assert!(words(&json!({}), Some(1)).unwrap().is_empty());
        assert_eq!(words(&json!({"vlan":5}), Some(1)).unwrap(), ["take vlan 1 from p", "add vlan 5 to p"]);
        assert_eq!(words(&json!({"vlan":5,"preserveDefaultVlan":true}), Some(1)).unwrap(), ["add vlan 5 to p"]);
        let trunk = json!({"vlanTrunk":[{"minID":10,"maxID":11},{"id":11}]});
        let tagged = ["take vlan 9 from p", "add vlan 10 to p", "add vlan 11 to p", "add vlan 1 to p"];
        assert_eq!(words(&trunk, Some(9)).unwrap(), tagged);
        assert_eq!(
            words(&json!({"vlan":5,"vlanTrunk":[{"id":6}]}), None).unwrap(),
            ["add vlan 5 to p", "add vlan 6 to p"]
        );
    }

    #[test]
    fn numbers_of_vlans_end_at_4094() {
        for value in
            [json!({"vlan":4095}), json!({"vlan":-1}), json!({"vlanTrunk":[{"id":4095}]}), json!({"vlan":65541})]
        {
            assert!(words(&value, None).is_err(), "{value}");
        }
    }
}
