//! The rules of a pod's ports in iptables' table `nat`, under the names and comments of the Go plugin's.

use std::net::IpAddr;

use super::{Mapping, Marks, Settings};
use crate::cni::cidr::Cidr;
use crate::iptables::{Edit, Rule, trimmed};
use crate::nft::HostPort;

pub(super) const TABLE: &str = "nat";
pub(super) const PORTS: &str = "CNI-HOSTPORT-DNAT";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";

/// Before the hash of a pod's own chain.
pub(super) const PREFIX: &str = "CNI-DN-";

/// As many ports as one rule takes.
const MULTIPORT: usize = 15;

fn rule(words: &[&str]) -> Rule {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn append(chain: &str, words: &[&str]) -> Edit {
    Edit::Append(chain.to_owned(), rule(words))
}

/// The edits of one address, with its network. Pure.
pub(super) fn edits(settings: &Settings, mappings: &[Mapping], pod: Cidr, chain: &str, whose: &str) -> Vec<Edit> {
    let mut edits = Vec::new();
    if let Some(Marks::Bit(bit)) = &settings.snat {
        edits.extend(marks(*bit));
    }
    edits.push(Edit::Chain(PORTS.to_owned()));
    let local = ["-m", "addrtype", "--dst-type", "LOCAL", "-j", PORTS];
    edits.extend(["PREROUTING", "OUTPUT"].map(|from| append(from, &local)));
    edits.push(Edit::Renew(chain.to_owned()));
    for mapping in mappings.iter().filter(|mapping| mapping.is_of(pod.address)) {
        edits.extend(translation(settings, mapping, pod).into_iter().map(|rule| Edit::Append(chain.to_owned(), rule)));
    }
    let conditions = if pod.address.is_ipv4() { &settings.conditions_v4 } else { &settings.conditions_v6 };
    for rule in entries(mappings, &trimmed(format!("dnat {whose}"))) {
        let to = ["-j".to_owned(), chain.to_owned()];
        edits.push(Edit::Append(PORTS.to_owned(), [&rule[..], conditions, &to].concat()));
    }
    edits
}

/// What masquerades whatever has the mark. Before the pods' own masquerading, which would end the search. Pure.
fn marks(bit: u32) -> Vec<Edit> {
    let mark = format!("{0:#x}/{0:#x}", 1_u32 << bit);
    let comment = ["-m", "comment", "--comment", "CNI portfwd masquerade mark", "-j", "MARK", "--set-xmark", &mark];
    let entry = ["-m", "comment", "--comment", "CNI portfwd requiring masquerade", "-j", MASQUERADE];
    vec![
        Edit::Chain(SET_MARK.to_owned()),
        append(SET_MARK, &comment),
        Edit::Chain(MASQUERADE.to_owned()),
        append(MASQUERADE, &["-m", "mark", "--mark", &mark, "-j", "MASQUERADE"]),
        Edit::Prepend("POSTROUTING".to_owned(), rule(&entry)),
    ]
}

/// The rules of one port: marks for those who could not be answered otherwise, and the translation. Pure.
fn translation(settings: &Settings, mapping: &Mapping, pod: Cidr) -> Vec<Rule> {
    let (protocol, port) = (mapping.name(), mapping.host.to_string());
    let mut base = rule(&["-p", protocol, "--dport", &port]);
    base.extend(mapping.address().iter().flat_map(|address| ["-d".to_owned(), address.to_string()]));
    let with = |words: &[&str]| [base.clone(), rule(words)].concat();
    let mut rules = Vec::new();
    if let Some(marks) = &settings.snat {
        let mark = match marks {
            Marks::Bit(_) => SET_MARK,
            Marks::External(chain) => chain,
        };
        let hairpin = if settings.masq_all { Cidr::everything(pod.address) } else { pod };
        rules.push(with(&["-s", &hairpin.to_string(), "-j", mark]));
        if pod.address.is_ipv4() && !settings.masq_all {
            rules.push(with(&["-s", "127.0.0.1", "-j", mark]));
        }
    }
    let to = match pod.address {
        IpAddr::V4(address) => format!("{address}:{}", mapping.container),
        IpAddr::V6(address) => format!("[{address}]:{}", mapping.container),
    };
    rules.push(with(&["-j", "DNAT", "--to-destination", &to]));
    rules
}

/// What leads to the pod's own chain, by protocol. Pure.
fn entries(mappings: &[Mapping], comment: &str) -> Vec<Rule> {
    let mut protocols: Vec<_> = mappings.iter().map(Mapping::name).collect();
    protocols.sort_unstable();
    protocols.dedup();
    let mut rules = Vec::new();
    for protocol in protocols {
        let its = mappings.iter().filter(|mapping| mapping.name() == protocol);
        let ports: Vec<_> = its.map(|mapping| mapping.host.to_string()).collect();
        for some in ports.chunks(MULTIPORT) {
            let matches = ["-m", "comment", "--comment", comment, "-m", "multiport", "-p", protocol];
            rules.push(rule(&[&matches[..], &["--destination-ports", &some.join(",")]].concat()));
        }
    }
    rules
}

/// The host's port that a rule translates. Pure.
pub(super) fn host_port(rule: &[String]) -> Option<HostPort> {
    let behind = |word: &str| rule.windows(2).find(|pair| pair[0] == word).map(|pair| pair[1].as_str());
    behind("--to-destination")?;
    Some(HostPort {
        protocol: super::protocol(behind("-p")?)?,
        port: behind("--dport")?.parse().ok()?,
        address: behind("-d").and_then(|cidr| Cidr::parse(cidr).ok()).map(|cidr| cidr.address),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(edits: &[Edit]) -> Vec<String> {
        let text = |edit: &Edit| match edit {
            Edit::Append(chain, rule) => format!("-A {chain} {}", rule.join(" ")),
            Edit::Prepend(chain, rule) => format!("-I {chain} {}", rule.join(" ")),
            other => format!("{other:?}"),
        };
        edits.iter().map(text).collect()
    }

    #[test]
    fn sixteen_ports_are_two_rules_and_each_family_has_its_own() {
        let mapping = |host| Mapping { host, container: 80, protocol: 6, address: None };
        let mut mappings: Vec<_> = (1..=16).map(mapping).collect();
        mappings.push(Mapping { address: "fd00::1".parse().ok(), ..mapping(17) });
        let settings = Settings {
            snat: None,
            masq_all: false,
            conditions_v4: vec!["-s".into(), "10.0.0.0/8".into()],
            ..Settings::default()
        };
        let edits = text(&edits(&settings, &mappings, Cidr::parse("10.7.0.2/24").unwrap(), "CNI-DN-x", "y"));
        let translations = edits.iter().filter(|edit| edit.starts_with("-A CNI-DN-x ")).count();
        assert_eq!(translations, 16);
        let entries: Vec<_> = edits.iter().filter(|edit| edit.starts_with("-A CNI-HOSTPORT-DNAT ")).collect();
        assert_eq!(entries.len(), 2);
        assert!(entries[1].ends_with("-p tcp --destination-ports 16,17 -s 10.0.0.0/8 -j CNI-DN-x"), "{entries:?}");
    }

    #[test]
    fn a_marks_chain_of_others_is_not_made() {
        let mapping = [Mapping { host: 1, container: 80, protocol: 17, address: None }];
        let pod = Cidr::parse("fd07::2/64").unwrap();
        let external = Settings { snat: Some(Marks::External("MARK-ME".to_owned())), ..Settings::default() };
        let lines = text(&edits(&external, &mapping, pod, "CNI-DN-x", "y"));
        assert!(lines.contains(&"-A CNI-DN-x -p udp --dport 1 -s fd07::2/64 -j MARK-ME".to_owned()), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("CNI-HOSTPORT-SETMARK")));
        let own = Settings { snat: Some(Marks::Bit(3)), masq_all: true, ..Settings::default() };
        let lines = text(&edits(&own, &mapping, pod, "CNI-DN-x", "y"));
        assert!(lines.contains(&"-A CNI-HOSTPORT-MASQ -m mark --mark 0x8/0x8 -j MASQUERADE".to_owned()), "{lines:?}");
        assert!(lines.contains(&"-A CNI-DN-x -p udp --dport 1 -s ::/0 -j CNI-HOSTPORT-SETMARK".to_owned()));
    }

    #[test]
    fn a_translation_says_its_port() {
        let words = "-d 10.0.0.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.7.0.2:80";
        let port = host_port(&rule(&words.split(' ').collect::<Vec<_>>())).unwrap();
        assert_eq!(port, HostPort { protocol: 6, port: 8080, address: "10.0.0.1".parse().ok() });
        assert_eq!(host_port(&rule(&["-p", "tcp", "--dport", "8080", "-j", "CNI-HOSTPORT-SETMARK"])), None);
    }
}
