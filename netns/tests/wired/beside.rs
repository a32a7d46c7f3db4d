//! The same configuration by the Go plugins and by ours, in this process and as binaries: the same result, the same state of the kernel, and either takes
//! away what the other made.

use libtest_mimic::Trial;
use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::cni::engine::Engine;
use serde_json::{Value, json};

use crate::cases::{cases, cases_with_iptables};
use crate::host::{Host, Pod, cache, list, nft, soon};
use crate::{trial, trial_with};

/// One configuration each: name, plugins, what the runtime says.
pub type Case = (&'static str, Value, Value);

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("results and kernel state are the go plugins", |_| cases().iter().for_each(compared)),
        trial("either deletes what the other added", |_| cases().iter().for_each(crossed)),
        trial_with("iptables", "results and kernel state are the go plugins", same_with_iptables),
        trial_with("iptables", "either deletes what the other added", crossed_with_iptables),
        trial_with("legacy", "results and kernel state are the go plugins", same_with_iptables),
        trial_with("legacy", "either deletes what the other added", crossed_with_iptables),
    ];
    if !has_go_plugins() {
        eprintln!("ignored, tests/setup has not fetched the Go plugins: {}", trials.len());
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    trials
}

pub fn has_go_plugins() -> bool {
    cache().join("cni/usr/lib/cni/bridge").exists()
}

const GO: usize = 0;
const OURS: usize = 1;
const BINARIES: usize = 2;

/// Engines with the same directories: with the Go plugins, with our own in this process, and with our own as binaries.
fn engines(host: &Host) -> [Engine; 3] {
    let go = cache().join("cni/usr/lib/cni");
    [(false, go.clone()), (true, go), (false, host.binaries())].map(|(native, directory)| Engine {
        native,
        bin_dirs: vec![directory],
        ..host.engine.clone()
    })
}

/// The list with lease files below the trial's own directory, also for those who do not know ours.
fn network(host: &Host, version: &str, plugins: &Value) -> NetworkList {
    let mut plugins = plugins.clone();
    for plugin in plugins.as_array_mut().unwrap() {
        if plugin.get("dataDir").is_some() {
            plugin["dataDir"] = host.engine.places.tuning.display().to_string().into();
        }
        if let Some(ipam) = plugin.get_mut("ipam") {
            ipam["dataDir"] = host.engine.places.networks.display().to_string().into();
        }
    }
    if ["macvlan", "ipvlan", "vlan"].iter().any(|kind| plugins[0]["type"] == *kind) {
        // Bridges are everywhere.
        host.has("below", "up type bridge");
    }
    if plugins[0]["type"] == "host-device" {
        crate::links::nic(host);
    }
    list(version, "net", plugins)
}

/// Replaces what is different each time: addresses made up by the kernel, numbers, random names, times.
fn normal(value: &mut Value, names: &[(String, &str)]) {
    const VOLATILE: [&str; 17] = [
        "packets",
        "bytes",
        "ifindex",
        "link_index",
        "address",
        "mac",
        "handle",
        "stats64",
        "link_netnsid",
        "valid_life_time",
        "root_id",
        "bridge_id",
        "preferred_life_time",
        "designated_root",
        "designated_bridge",
        "link",
        "metainfo",
    ];
    match value {
        Value::Object(object) => {
            let is_ip = |value: &Value| {
                value.as_str().is_some_and(|text| text.contains('/') || text.parse::<std::net::IpAddr>().is_ok())
            };
            object.retain(|key, value| {
                !VOLATILE.contains(&key.as_str()) && !key.ends_with("_timer") || key == "address" && is_ip(value)
            });
            object.values_mut().for_each(|value| normal(value, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| normal(value, names)),
        Value::String(text) => {
            for (name, role) in names {
                *text = text.replace(name, role);
            }
            if text.starts_with("fe80:") {
                *text = "fe80".to_owned();
            }
        }
        _ => {}
    }
}

/// All that a network can have changed.
fn state(host: &Host, pod: &Pod, result: &Value) -> Vec<(&'static str, Value)> {
    let read = |sysctl: &str| std::fs::read_to_string(format!("/proc/sys/net/{sysctl}")).unwrap().trim().to_owned();
    let conf = ["arp_notify", "arp_filter", "accept_ra", "accept_dad", "keep_addr_on_down", "route_localnet"];
    let in_pod = || -> Value {
        let family =
            |key: &str| if ["arp_notify", "arp_filter", "route_localnet"].contains(&key) { "ipv4" } else { "ipv6" };
        conf.iter().map(|key| json!([key, read(&format!("{}/conf/eth0/{key}", family(key)))])).collect()
    };
    let leases: Vec<_> = host.leases("net");
    let mut parts = vec![
        ("result", result.clone()),
        ("host links", host.ip("link show")),
        ("host addresses", host.ip("addr show")),
        ("host routes", host.ip("route show table all")),
        ("host routes 6", host.ip("-6 route show table all")),
        ("pod links", pod.ip("link show")),
        ("pod addresses", pod.ip("addr show")),
        ("pod routes", pod.ip("route show table all")),
        ("pod routes 6", pod.ip("-6 route show table all")),
        ("pod policy", pod.ip("rule show")),
        ("pod policy 6", pod.ip("-6 rule show")),
        ("vlans", host.vlans()),
        ("pod sysctls", pod.namespace.enter(in_pod).unwrap()),
        ("forwarding", json!([read("ipv4/ip_forward"), read("ipv6/conf/all/forwarding")])),
        ("rules", by_family(nft())),
        ("queues", tc("qdisc show")),
        ("redirection", redirection(host)),
        ("rules of iptables", host.saved().into()),
        ("leases", leases.into()),
    ];
    let veth = |name: &String| name.starts_with("veth");
    let names: Vec<_> = host.links().into_iter().filter(veth).map(|name| (name, "veth")).collect();
    for (part, value) in &mut parts {
        normal(value, &names);
        allowed(part, value);
    }
    parts
}

/// What `tc -j` says.
fn tc(arguments: &str) -> Value {
    let output = std::process::Command::new("tc").arg("-j").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.is_empty() { json!([]) } else { serde_json::from_slice(&output.stdout).unwrap() }
}

/// What becomes of what comes in by the veths. The Go plugin says the action twice, of which the first ends it.
fn redirection(host: &Host) -> Value {
    let veths = host.links().into_iter().filter(|name| name.starts_with("veth"));
    let of = |name: String| {
        let mut filters = tc(&format!("filter show dev {name} ingress"));
        for filter in filters.as_array_mut().unwrap() {
            if let Some(actions) = filter.pointer_mut("/options/actions").and_then(Value::as_array_mut) {
                actions.truncate(1);
                actions.iter_mut().filter_map(Value::as_object_mut).for_each(|action| drop(action.remove("index")));
            }
        }
        filters
    };
    veths.map(of).collect()
}

/// A ruleset with the tables of one family together: the Go firewall takes families as they come.
fn by_family(mut ruleset: Value) -> Value {
    let family = |object: &Value| {
        let inner = object.as_object().and_then(|object| object.values().next()).unwrap_or(&Value::Null);
        inner["family"].as_str().unwrap_or_default().to_owned()
    };
    ruleset["nftables"].as_array_mut().unwrap().sort_by_key(family);
    ruleset
}

/// What differs on purpose, or by the moment.
fn allowed(part: &str, value: &mut Value) {
    let Some(list) = value.as_array_mut() else { return };
    if part.starts_with("host") || part == "vlans" || part == "queues" {
        // Which end of a veth pair has the lower number.
        let name =
            |object: &Value| object.get("ifname").or(object.get("dev")).and_then(Value::as_str).map(str::to_owned);
        list.sort_by_key(name);
    }
    for object in list.iter_mut().filter_map(Value::as_object_mut) {
        if let Some(addresses) = object.get_mut("addr_info").and_then(Value::as_array_mut) {
            // The kernel's own come when it is ready; ours need no detection (IFA_F_NODAD).
            addresses.retain(|address| address["local"] != "fe80");
            for address in addresses.iter_mut().filter_map(Value::as_object_mut) {
                address.remove("nodad");
                address.remove("tentative");
            }
        }
        object.remove("operstate");
        if let Some(flags) = object.get_mut("flags").and_then(Value::as_array_mut) {
            flags.retain(|flag| flag != "NO-CARRIER");
        }
        // Whose an ifb is, for the collection of garbage, which the Go plugin has not.
        object.remove("ifalias");
        // The Go plugins make the host's end without a queue, for which there is no reason: ours is the kernel's.
        if object.get("ifname").is_some_and(|name| name == "veth") {
            object.remove("txqlen");
        }
    }
    if part.contains("routes") {
        // Link-local and multicast ones come with the kernel's own addresses, and local ones of IPv6 when detection ends,
        // which ours skip. All others are compared.
        let timed = |route: &Value| {
            let dst = route["dst"].as_str().unwrap_or_default();
            dst.starts_with("fe80") || dst.starts_with("ff00") || dst.contains(':') && route["table"] == "local"
        };
        list.retain(|route| !timed(route));
    }
}

/// Where two values differ.
fn differences(go: &Value, ours: &Value, path: String, found: &mut Vec<String>) {
    match (go, ours) {
        (Value::Object(one), Value::Object(two)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(two.keys()).collect();
            for key in keys {
                differences(&go[key], &ours[key], format!("{path}/{key}"), found);
            }
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            for (at, (go, ours)) in one.iter().zip(two).enumerate() {
                differences(go, ours, format!("{path}/{at}"), found);
            }
        }
        _ if go == ours => {}
        _ => found.push(format!("{path}: go {go}, ours {ours}")),
    }
}

fn same_with_iptables(_: &Host) {
    cases_with_iptables().iter().for_each(compared);
}

fn crossed_with_iptables(_: &Host) {
    cases_with_iptables().iter().for_each(crossed);
}

fn compared(case: &Case) {
    // The firewall plugin is no older than CNI 0.4.0.
    let oldest = usize::from(case.0.contains("firewall"));
    same(case, &["0.3.1", "0.4.0", "1.0.0"][oldest..]);
}

pub fn same((name, plugins, capabilities): &Case, versions: &[&str]) {
    for version in versions {
        // Each on a host of its own, so that what one leaves does not help the other.
        let states = [GO, OURS, BINARIES].map(|which| {
            Host::with("beside", |host| {
                let list = network(host, version, plugins);
                let pod = host.pod("pod");
                let result = engines(host)[which].add(&list, &pod.attachment(capabilities.clone())).unwrap();
                let sandbox = pod.path.display().to_string();
                let result = serde_json::from_str(&result.to_string().replace(&sandbox, "POD")).unwrap();
                state(host, &pod, &result)
            })
        });
        for which in [OURS, BINARIES] {
            for (go, ours) in states[GO].iter().zip(&states[which]) {
                let mut found = Vec::new();
                differences(&go.1, &ours.1, String::new(), &mut found);
                assert!(found.is_empty(), "{name}, {version}, {which}, {}:\n{}", go.0, found.join("\n"));
            }
        }
    }
}

/// The same with other ports of the host.
fn elsewhere(capabilities: &Value) -> Value {
    let mut capabilities = capabilities.clone();
    for mapping in capabilities.get_mut("portMappings").and_then(Value::as_array_mut).into_iter().flatten() {
        mapping["hostPort"] = (mapping["hostPort"].as_u64().unwrap() + 1000).into();
    }
    capabilities
}

/// What a host has of its own, or may keep: bridges, and a VLAN's gateway.
const OWN: [&str; 6] = ["lo", "br0", "br0.5", "below", "nic", "far"];

/// Of which there is one on a host: a device, or a VLAN of another link.
const ALONE: [&str; 2] = ["host-device", "vlan"];

pub fn crossed((name, plugins, capabilities): &Case) {
    let alone = ALONE.iter().any(|kind| plugins[0]["type"] == *kind);
    for (adds, deletes) in [(GO, OURS), (OURS, GO), (OURS, OURS), (GO, BINARIES), (BINARIES, GO), (BINARIES, OURS)] {
        Host::with("crossed", |host| {
            let list = network(host, "1.0.0", plugins);
            let engines = engines(host);
            let (first, second) = (host.pod("first"), host.pod("second"));
            let all = |pod: &Pod| -> Attachment {
                pod.attachment(if pod.id == "second" { elsewhere(capabilities) } else { capabilities.clone() })
            };
            // A second pod stays a while, so that what is shared is there.
            if !alone {
                engines[if adds == GO { OURS } else { GO }]
                    .add(&list, &all(&second))
                    .or_else(|fault| match *name {
                        "bridge with static" => Ok(Value::Null),
                        _ => Err(fault),
                    })
                    .unwrap();
            }
            engines[adds].add(&list, &all(&first)).unwrap();
            // The Go bridge asks for addresses at CHECK where there is nobody to ask, and looks for routes in the main
            // table alone, whichever plugin of the chain has moved them.
            let lost = name.ends_with("without addresses") || name.starts_with("sbr") || name.starts_with("vrf");
            let checks = deletes != GO || !lost;
            let checked = if checks { engines[deletes].check(&list, &all(&first)) } else { Ok(()) };
            checked.unwrap_or_else(|fault| panic!("{name} {adds} {deletes}: {fault}"));
            engines[deletes].delete(&list, &all(&first)).unwrap();
            assert!(soon(|| first.is_bare()) && second.is_bare() == alone, "{name} {adds} {deletes}");
            if !alone {
                engines[deletes].delete(&list, &all(&second)).unwrap();
            }
            assert!(soon(|| second.is_bare()), "{name} {adds} {deletes}");
            assert!(host.leases("net").is_empty(), "{name} {adds} {deletes}");
            // A VLAN's gateway stays, which has an end that is the bridge's port.
            let links = host.links();
            let others = links.iter().filter(|link| !OWN.contains(&link.as_str())).count();
            let gateways = links.iter().filter(|link| *link == "br0.5").count();
            assert_eq!(others, gateways, "{name} {adds} {deletes}: {links:?}");
            if plugins[0]["type"] == "host-device" {
                crate::links::is_back(host);
            }
            for chain in ["masq_checks", "hostports", "masquerading", "PREROUTING"] {
                assert_eq!(host.rules(chain), 0, "{name} {adds} {deletes} {chain}");
            }
            // What is of all pods, of the host or of a bridge stays.
            let own = |line: &&String| line.contains("10.7.0.") || line.contains("fd07:") || line.contains(" id: ");
            assert_eq!(host.saved().iter().find(own), None, "{name} {adds} {deletes}");
            assert!(host.engine.attachments().is_empty());
            assert_eq!(std::fs::read_dir(&host.engine.places.tuning).into_iter().flatten().count(), 0);
        });
    }
}
