//! `io.berth.network` and what begins with it: what one container asks of its network. Pure.

use super::Error;
use crate::options::Mode;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

/// The networks' names.
pub const NETWORKS: &str = "io.berth.network";
const MODE: &str = "io.berth.network.mode";
const PORTS: &str = "io.berth.network.ports";
const IP: &str = "io.berth.network.ip";
const MAC: &str = "io.berth.network.mac";
const HOSTNAME: &str = "io.berth.network.hostname";
const DNS: &str = "io.berth.network.dns";

/// The longest name that the kernel takes. sethostname(2)
const LONGEST_NAME: usize = 64;

/// What annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whether there is any.
    pub anything: bool,
    /// Who makes the network.
    pub mode: Option<Mode>,
    /// Names of networks, in order.
    pub networks: Vec<String>,
    /// `[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]`, as CNI's `portMappings` have it.
    pub ports: Vec<Value>,
    /// Addresses in the first network.
    pub ips: Vec<String>,
    /// The hardware address of the first interface.
    pub mac: Option<String>,
    /// The name in /etc/hosts and /etc/hostname.
    pub hostname: Option<String>,
    /// Name servers.
    pub dns: Vec<String>,
}

impl Asked {
    /// Reads them. One that nobody knows is a mistake, and no wish that could be left out.
    pub fn parse(annotations: &HashMap<String, String>) -> Result<Asked, Error> {
        let mut asked = Asked::default();
        let ours = |key: &&String| *key == NETWORKS || key.starts_with("io.berth.network.");
        let mut keys: Vec<&String> = annotations.keys().filter(ours).collect();
        keys.sort();
        for key in keys {
            asked.anything = true;
            asked.read(key, annotations[key].trim())?;
        }
        Ok(asked)
    }

    fn read(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let bad = |wanted: &'static str| Error::Annotation { key: key.to_owned(), value: value.to_owned(), wanted };
        match key {
            NETWORKS => self.networks = words(value).map(str::to_owned).collect(),
            MODE => {
                self.mode = Some(match value {
                    "none" => Mode::None,
                    "cni" => Mode::Cni,
                    "pod" => Mode::Pod,
                    _ => return Err(bad("none, cni or pod")),
                });
            }
            PORTS => {
                let mappings = words(value).map(port).collect::<Option<_>>();
                self.ports = mappings.ok_or_else(|| bad("[HOSTIP:]HOSTPORT:PORT[/PROTOCOL], …"))?;
            }
            IP => {
                let is_address = |word: &str| IpAddr::from_str(word.split('/').next().unwrap_or(word)).is_ok();
                self.ips = words(value).map(str::to_owned).collect();
                if !self.ips.iter().all(|word| is_address(word)) {
                    return Err(bad("addresses"));
                }
            }
            MAC if is_mac(value) => self.mac = Some(value.to_lowercase()),
            MAC => return Err(bad("a hardware address")),
            HOSTNAME if is_name(value) => self.hostname = Some(value.to_owned()),
            HOSTNAME => return Err(bad("a host's name")),
            DNS => {
                self.dns = words(value).map(str::to_owned).collect();
                if !self.dns.iter().all(|word| IpAddr::from_str(word).is_ok()) {
                    return Err(bad("addresses"));
                }
            }
            _ => return Err(Error::UnknownAnnotation(key.to_owned())),
        }
        Ok(())
    }
}

fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// From the right, as an IPv6 address has colons of its own, in brackets.
fn port(word: &str) -> Option<Value> {
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let (left, container) = ports.rsplit_once(':')?;
    let (ip, host) = match left.rsplit_once(':') {
        Some((ip, host)) => (ip.trim_start_matches('[').trim_end_matches(']'), host),
        None => ("", left),
    };
    let number = |text: &str| u16::from_str(text).ok().filter(|number| *number != 0);
    if !(ip.is_empty() || IpAddr::from_str(ip).is_ok()) || !matches!(protocol, "tcp" | "udp" | "sctp") {
        return None;
    }
    let mut mapping = json!({ "hostPort": number(host)?, "containerPort": number(container)?, "protocol": protocol });
    if let Some(mapping) = mapping.as_object_mut().filter(|_| !ip.is_empty()) {
        mapping.insert("hostIP".to_owned(), ip.into());
    }
    Some(mapping)
}

fn is_mac(text: &str) -> bool {
    let mut bytes = text.split(':');
    let is_byte = |byte: &str| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok();
    bytes.clone().count() == 6 && bytes.all(is_byte)
}

/// It goes into files line by line: hosts(5).
fn is_name(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
    !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Asked, Error> {
        Asked::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn annotations_say_what_is_asked() {
        let asked = parse(&[
            (NETWORKS, "a, b"),
            (PORTS, "8080:80,127.0.0.1:53:53/udp,[::1]:9:7/sctp"),
            (IP, "10.0.0.7"),
            (MAC, "02:00:00:00:00:AA"),
            (HOSTNAME, "web-1"),
            (DNS, "10.0.0.1"),
            ("io.kubernetes.cri.sandbox-id", "x"),
        ])
        .unwrap();
        assert_eq!((asked.networks.len(), asked.mac.as_deref()), (2, Some("02:00:00:00:00:aa")));
        assert_eq!(asked.ports[0], json!({"hostPort":8080,"containerPort":80,"protocol":"tcp"}));
        assert_eq!(asked.ports[1], json!({"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"127.0.0.1"}));
        assert_eq!(asked.ports[2]["hostIP"], "::1");
        assert_eq!(parse(&[("io.berth.networks", "x")]).unwrap(), Asked::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (key, value) in [
            (MODE, "bridge"),
            (PORTS, "80"),
            (PORTS, "0:80"),
            (PORTS, "80:70000"),
            (PORTS, "80:80/icmp"),
            (PORTS, "x:80:80"),
            (IP, "10.0.0"),
            (MAC, "02:00:00"),
            (HOSTNAME, "a b"),
            (HOSTNAME, "a\n127.0.0.1 evil"),
            (DNS, "example"),
            ("io.berth.network.port", "80:80"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.lines().count() == 1, "{error}");
        }
    }
}
