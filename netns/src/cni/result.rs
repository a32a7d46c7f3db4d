//! What ADD answers: one shape inside, that of CNI 1.1, and the others at the door.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::cidr::{self, Cidr};
use super::fault::{Code, Fault};
use super::json::Fields;
use super::version::Version;

/// The result of ADD, in no version yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The interfaces that were made, in the order in which addresses point at them.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<Ip>,
    /// The routes.
    pub routes: Vec<Route>,
    /// Name service.
    pub dns: Dns,
}

/// One interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name, where it is.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its MTU; 0: not told.
    pub mtu: u32,
    /// The path of its namespace; empty: the host's.
    pub sandbox: String,
    /// The socket of a vhost-user interface.
    pub socket_path: String,
    /// The device behind it.
    pub pci_id: String,
}

/// One address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// Whose it is, in the list of interfaces.
    pub interface: Option<usize>,
    /// The address, with its network.
    pub address: Cidr,
    /// The way out.
    pub gateway: Option<IpAddr>,
}

/// One route of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub dst: Cidr,
    /// By whom; the address' gateway where it is absent.
    pub gw: Option<IpAddr>,
    /// mtu, advmss, priority, table and scope, each 0 or absent where nothing is said.
    pub mtu: u32,
    /// The largest segment to announce.
    pub advmss: u32,
    /// The metric.
    pub priority: u32,
    /// The routing table.
    pub table: Option<u32>,
    /// rtnetlink(7)'s scope.
    pub scope: Option<u8>,
}

impl Route {
    /// A route of which nothing is known but where it goes.
    pub fn to(dst: Cidr, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }
}

/// Name service, for the container's resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of servers.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: String,
    /// Domains to search.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

impl Dns {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The object `dns` of a configuration or result.
    pub(crate) fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let Some(dns) = fields.object("dns")? else { return Ok(Self::default()) };
        Ok(Self {
            nameservers: dns.strings("nameservers")?,
            domain: dns.string("domain")?.unwrap_or_default(),
            search: dns.strings("search")?,
            options: dns.strings("options")?,
        })
    }

    fn to_json(&self) -> Value {
        let mut object = Map::new();
        put(&mut object, "nameservers", strings(&self.nameservers));
        put(&mut object, "domain", text(&self.domain));
        put(&mut object, "search", strings(&self.search));
        put(&mut object, "options", strings(&self.options));
        Value::Object(object)
    }
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value);
    }
}

fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

fn strings(list: &[String]) -> Option<Value> {
    (!list.is_empty()).then(|| list.to_vec().into())
}

fn positive(number: u32) -> Option<Value> {
    (number != 0).then(|| number.into())
}

fn list<T>(items: &[T], of: impl Fn(&T) -> Value) -> Option<Value> {
    (!items.is_empty()).then(|| items.iter().map(of).collect())
}

impl Outcome {
    /// Reads a result in the version that it says it has, else in `assumed`. Null is an empty one.
    pub fn parse(value: &Value, assumed: &str) -> Result<Self, Fault> {
        let empty = Map::new();
        let object = match value {
            Value::Object(object) => object,
            Value::Null => &empty,
            _ => return Err(Fault::new(Code::DECODE, "the result is no JSON object")),
        };
        let fields = Fields(object);
        let version = fields.string("cniVersion")?;
        if Version::of_result(version.as_deref().unwrap_or(assumed))? < Version::LISTS {
            return Self::parse_pair(fields);
        }
        let interfaces = fields.objects("interfaces")?.into_iter().map(Interface::parse);
        let routes = fields.objects("routes")?.into_iter().map(Route::parse);
        Ok(Self {
            interfaces: interfaces.collect::<Result<_, _>>()?,
            ips: fields.objects("ips")?.into_iter().map(Ip::parse).collect::<Result<_, _>>()?,
            routes: routes.collect::<Result<_, _>>()?,
            dns: Dns::parse(fields)?,
        })
    }

    /// Before 0.3.0: `ip4` and `ip6`, each with its routes.
    fn parse_pair(fields: Fields<'_>) -> Result<Self, Fault> {
        let mut outcome = Self { dns: Dns::parse(fields)?, ..Self::default() };
        for family in ["ip4", "ip6"] {
            let Some(ip) = fields.object(family)? else { continue };
            let missing = || Fault::new(Code::DECODE, format!("{family} has no ip"));
            let address = ip.parsed("ip", Cidr::parse)?.ok_or_else(missing)?;
            outcome.ips.push(Ip { interface: None, address, gateway: ip.parsed("gateway", cidr::address)? });
            for route in ip.objects("routes")? {
                outcome.routes.push(Route::parse(route)?);
            }
        }
        Ok(outcome)
    }

    /// The result as a plugin of that version prints it. Versions before 0.3.0 cannot say that there is no address.
    pub fn to_json(&self, version: &str) -> Result<Value, Fault> {
        let parsed = Version::of_result(version)?;
        let version = if version.is_empty() { "0.1.0" } else { version };
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), version.into());
        if parsed < Version::LISTS {
            self.pair(&mut object)?;
            return Ok(Value::Object(object));
        }
        let old = parsed < Version::ONE;
        put(&mut object, "interfaces", list(&self.interfaces, |interface| interface.to_json(old)));
        put(&mut object, "ips", list(&self.ips, |ip| ip.to_json(old)));
        put(&mut object, "routes", list(&self.routes, |route| route.to_json(old)));
        if old || !self.dns.is_empty() {
            object.insert("dns".to_owned(), self.dns.to_json());
        }
        Ok(Value::Object(object))
    }

    fn pair(&self, object: &mut Map<String, Value>) -> Result<(), Fault> {
        for (family, is_v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.address.is_ipv4() == is_v4) else { continue };
            let mut inner = Map::new();
            inner.insert("ip".to_owned(), ip.address.to_string().into());
            put(&mut inner, "gateway", ip.gateway.map(|gateway| gateway.to_string().into()));
            let routes: Vec<_> = self.routes.iter().filter(|route| route.dst.address.is_ipv4() == is_v4).collect();
            put(&mut inner, "routes", list(&routes, |route| route.to_json(true)));
            object.insert(family.to_owned(), Value::Object(inner));
        }
        if self.ips.is_empty() {
            return Err(Fault::new(Code::INTERNAL, "cannot convert: no valid IP addresses"));
        }
        object.insert("dns".to_owned(), self.dns.to_json());
        Ok(())
    }
}

impl Interface {
    fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        Ok(Self {
            name: fields.string("name")?.unwrap_or_default(),
            mac: fields.string("mac")?.unwrap_or_default(),
            mtu: fields.number("mtu")?.unwrap_or_default(),
            sandbox: fields.string("sandbox")?.unwrap_or_default(),
            socket_path: fields.string("socketPath")?.unwrap_or_default(),
            pci_id: fields.string("pciID")?.unwrap_or_default(),
        })
    }

    fn to_json(&self, old: bool) -> Value {
        let mut object = Map::new();
        object.insert("name".to_owned(), self.name.as_str().into());
        put(&mut object, "mac", text(&self.mac));
        put(&mut object, "sandbox", text(&self.sandbox));
        if !old {
            put(&mut object, "mtu", positive(self.mtu));
            put(&mut object, "socketPath", text(&self.socket_path));
            put(&mut object, "pciID", text(&self.pci_id));
        }
        Value::Object(object)
    }
}

impl Ip {
    fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let missing = || Fault::new(Code::DECODE, "an address of the result has no address");
        Ok(Self {
            interface: fields.number::<usize>("interface")?,
            address: fields.parsed("address", Cidr::parse)?.ok_or_else(missing)?,
            gateway: fields.parsed("gateway", cidr::address)?,
        })
    }

    fn to_json(&self, old: bool) -> Value {
        let mut object = json!({ "address": self.address.to_string() });
        if let Value::Object(object) = &mut object {
            put(object, "interface", self.interface.map(Into::into));
            put(object, "gateway", self.gateway.map(|gateway| gateway.to_string().into()));
            let family = if self.address.address.is_ipv4() { "4" } else { "6" };
            put(object, "version", old.then(|| family.into()));
        }
        object
    }
}

impl Route {
    /// A route of a result or of a configuration.
    pub(crate) fn parse(fields: Fields<'_>) -> Result<Self, Fault> {
        let missing = || Fault::new(Code::DECODE, "a route has no dst");
        Ok(Self {
            dst: fields.parsed("dst", Cidr::parse)?.ok_or_else(missing)?,
            gw: fields.parsed("gw", cidr::address)?,
            mtu: fields.number("mtu")?.unwrap_or_default(),
            advmss: fields.number("advmss")?.unwrap_or_default(),
            priority: fields.number("priority")?.unwrap_or_default(),
            table: fields.number("table")?,
            scope: fields.number("scope")?,
        })
    }

    fn to_json(&self, old: bool) -> Value {
        let mut object = json!({ "dst": self.dst.to_string() });
        if let Value::Object(object) = &mut object {
            put(object, "gw", self.gw.map(|gw| gw.to_string().into()));
            if !old {
                put(object, "mtu", positive(self.mtu));
                put(object, "advmss", positive(self.advmss));
                put(object, "priority", positive(self.priority));
                put(object, "table", self.table.map(Into::into));
                put(object, "scope", self.scope.map(Into::into));
            }
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let value = json!({"cniVersion":"1.1.0",
            "interfaces":[{"name":"cni0","mac":"aa:bb:cc:dd:ee:ff","mtu":1400},{"name":"eth0","sandbox":"/run/netns/x"}],
            "ips":[{"interface":1,"address":"10.1.0.7/16","gateway":"10.1.0.1"},{"address":"fd00::7/64"}],
            "routes":[{"dst":"0.0.0.0/0","priority":7},{"dst":"::/0","gw":"fd00::1"}],
            "dns":{"nameservers":["10.1.0.1"]}});
        Outcome::parse(&value, "1.1.0").unwrap()
    }

    #[test]
    fn every_version_says_what_it_can_and_is_read_again() {
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let value = outcome().to_json(version).unwrap();
            assert_eq!(value["cniVersion"], version);
            let again = Outcome::parse(&value, "0.1.0").unwrap();
            assert_eq!(again.ips, outcome().ips, "{version}");
            assert_eq!(again.interfaces.len(), 2);
            assert_eq!(value["ips"][0].get("version").is_some(), version < "1.0.0");
            assert_eq!(again.interfaces[0].mtu, if version < "1.0.0" { 0 } else { 1400 });
        }
    }

    #[test]
    fn before_lists_there_is_one_address_of_each_family_with_its_routes() {
        let value = outcome().to_json("0.2.0").unwrap();
        assert_eq!(
            value,
            json!({"cniVersion":"0.2.0",
            "ip4":{"ip":"10.1.0.7/16","gateway":"10.1.0.1","routes":[{"dst":"0.0.0.0/0"}]},
            "ip6":{"ip":"fd00::7/64","routes":[{"dst":"::/0","gw":"fd00::1"}]},
            "dns":{"nameservers":["10.1.0.1"]}})
        );
        let again = Outcome::parse(&value, "").unwrap();
        assert_eq!((again.ips.len(), again.routes.len()), (2, 2));
        let error = Outcome::default().to_json("0.1.0").unwrap_err();
        assert_eq!(error.to_string(), "cannot convert: no valid IP addresses");
    }

    #[test]
    fn an_empty_name_service_is_said_only_by_old_versions() {
        assert_eq!(Outcome::default().to_json("0.4.0").unwrap(), json!({"cniVersion":"0.4.0","dns":{}}));
        assert_eq!(Outcome::default().to_json("1.0.0").unwrap(), json!({"cniVersion":"1.0.0"}));
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for value in
            [json!([]), json!("x"), json!({"cniVersion":"9.0.0"}), json!({"ips":[{"address":"x"}]}), json!({"ips":{}})]
        {
            assert!(Outcome::parse(&value, "1.0.0").is_err(), "{value}");
        }
        assert_eq!(Outcome::parse(&Value::Null, "1.0.0").unwrap(), Outcome::default());
    }
}
