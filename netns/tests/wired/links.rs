//! Interfaces of kinds that not every kernel has, beside the Go plugins and alone. A guest has them all (tests/guest).

mod device;
mod layers;
mod routing;

use std::process::Command;

use libtest_mimic::Trial;
use netns::Namespace;
use netns::cni::fault::Code;
use serde_json::{Value, json};

use crate::beside::{self, Case};
use crate::host::{Host, Pod, list};
use crate::trial;

pub use device::{is_back, nic};

/// What the kernel must have for a configuration, and how to ask for one.
const KINDS: [(&str, &str); 5] = [
    ("dummy", "add probe type dummy"),
    ("ipvlan", "add probe link lo type ipvlan"),
    ("vlan", "add probe type vlan"),
    ("vrf", "add probe type vrf table 5"),
    ("bridge with vlan", "add probe type bridge vlan_filtering 1"),
];

/// Whether the kernel knows a kind of link, if perhaps not what for.
fn knows(command: &str) -> bool {
    let run = || Command::new("ip").arg("link").args(command.split(' ')).output().unwrap();
    let words = String::from_utf8(Namespace::create().unwrap().enter(run).unwrap().stderr).unwrap();
    !words.contains("Unknown device type") && !words.contains("not supported")
}

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("links: host-device is lent and comes back", device::host_device),
        trial("links: host-device that cannot be lent stays", device::host_device_refused),
        trial("links: host-device finds what fell back", device::host_device_fallen),
        trial("links: sbr leads each source its own way", routing::sbr),
        trial("links: dummy holds addresses", layers::dummy),
        trial("links: ipvlan of each mode", layers::ipvlan),
        trial("links: ipvlan in a chain", layers::ipvlan_chained),
        trial("links: ipvlan that cannot be leaves nothing", layers::ipvlan_refused),
        trial("links: vlan is one of its masters", layers::vlan),
        trial("links: vlan that cannot be leaves nothing", layers::vlan_refused),
        trial("links: vrf is made for the first and goes with the last", routing::vrf),
        trial("links: bridge with vlan parts pods", routing::bridge_vlan),
    ];
    for case in cases() {
        let name = format!("links: {} is as the go plugin makes it, and either deletes it", case.0);
        let trial = Trial::test(name, move || {
            beside::same(&case, &["0.3.1", "1.0.0"]);
            beside::crossed(&case);
            Ok(())
        });
        trials.push(trial.with_ignored_flag(!beside::has_go_plugins()));
    }
    let unknown: Vec<_> = KINDS.iter().filter(|(_, command)| !knows(command)).map(|(kind, _)| *kind).collect();
    let needs = |trial: &Trial| unknown.iter().any(|kind| trial.name().starts_with(&format!("links: {kind}")));
    let ignored = trials.iter().filter(|trial| needs(trial)).count();
    if ignored > 0 {
        eprintln!("ignored, this kernel has no {}: {ignored}", unknown.join(", "));
    }
    let ignore = |trial: Trial| if needs(&trial) { trial.with_ignored_flag(true) } else { trial };
    trials.into_iter().map(ignore).collect()
}

fn v4() -> Value {
    json!({"type":"host-local","subnet":"10.7.0.0/24","routes":[{"dst":"0.0.0.0/0"},{"dst":"192.0.2.0/24"}]})
}

fn v6() -> Value {
    json!({"type":"host-local","subnet":"fd07::/64","gateway":"fd07::1","routes":[{"dst":"::/0"}]})
}

fn both() -> Value {
    json!({"type":"host-local","ranges":[[{"subnet":"10.7.0.0/24"}],[{"subnet":"fd07::/64"}]],
        "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]})
}

fn cases() -> Vec<Case> {
    let bridge = |ipam| json!({"type":"bridge","bridge":"br0","ipam":ipam});
    let tagged = |more| with(json!({"type":"bridge","bridge":"br0"}), more);
    let gateway = json!({"type":"host-local","subnet":"10.7.0.0/24"});
    let none = json!({});
    vec![
        ("host-device", json!([{"type":"host-device","device":"nic","ipam":both()}]), none.clone()),
        ("host-device by its mac", json!([{"type":"host-device","hwaddr":"02:00:00:00:00:99"}]), none.clone()),
        ("sbr", json!([bridge(v4()), {"type":"sbr"}]), none.clone()),
        ("sbr of IPv6", json!([bridge(v6()), {"type":"sbr"}]), none.clone()),
        ("sbr with a table", json!([bridge(v4()), {"type":"sbr","table":1000}]), none.clone()),
        ("dummy", json!([{"type":"dummy","ipam":both()}]), none.clone()),
        ("ipvlan", json!([{"type":"ipvlan","master":"below","mtu":1400,"ipam":v4()}]), none.clone()),
        ("ipvlan of layer 3", json!([{"type":"ipvlan","master":"below","mode":"l3","ipam":both()}]), none.clone()),
        ("vlan", json!([{"type":"vlan","master":"below","vlanId":7,"mtu":1400,"ipam":both()}]), none.clone()),
        ("vrf", json!([bridge(both()), {"type":"vrf","vrfname":"blue"}]), none.clone()),
        ("vrf of a table", json!([bridge(v4()), {"type":"vrf","vrfname":"blue","table":77}]), none.clone()),
        ("bridge with vlan", json!([tagged(json!({"vlan":5,"ipam":v4()}))]), none.clone()),
        (
            "bridge with vlan and gateway",
            json!([tagged(json!({"vlan":5,"isGateway":true,"ipam":gateway}))]),
            none.clone(),
        ),
        (
            "bridge with vlan kept",
            json!([tagged(json!({"vlan":5,"preserveDefaultVlan":true,"ipam":v4()}))]),
            none.clone(),
        ),
        (
            "bridge with vlan trunk",
            json!([tagged(json!({"vlanTrunk":[{"minID":10,"maxID":13},{"id":11},{"id":40}],"ipam":v4()}))]),
            none.clone(),
        ),
        ("bridge with vlan of a trunk", json!([tagged(json!({"vlan":5,"vlanTrunk":[{"id":6}],"ipam":v4()}))]), none),
    ]
}

/// A plugin's configuration with more fields, or other ones.
fn with(mut plugin: Value, more: Value) -> Value {
    plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugin
}

/// An error of ADD, after which nothing is there.
fn refused(host: &Host, pod: &Pod, plugins: Value, code: Code, words: &str) {
    let list = list("1.0.0", "net", plugins);
    let fault = host.engine.add(&list, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains(words), "{fault}");
    assert_eq!(fault.code, code, "{fault}");
    assert!(pod.is_bare(), "{words}: {:?}", pod.links());
    assert!(host.leases("net").is_empty(), "{words}");
    host.engine.delete(&list, &pod.plain()).unwrap();
}
