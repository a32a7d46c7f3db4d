//! dummy, ipvlan and vlan.

use netns::cni::cache::Attachment;
use netns::cni::fault::Code;
use serde_json::{Value, json};

use super::{both, refused, v4, with};
use crate::host::{Host, list, run_ip};

pub fn dummy(host: &Host) {
    let plugin = list("1.0.0", "net", json!([{"type":"dummy","ipam":both()}]));
    let pod = host.pod("pod");
    let result = host.engine.add(&plugin, &pod.plain()).unwrap();
    assert_eq!(result["ips"][1], json!({"interface":0,"address":"fd07::2/64","gateway":"fd07::1"}));
    let link = &pod.ip("link show eth0");
    assert_eq!(link[0]["linkinfo"]["info_kind"], "dummy");
    // What a pod says to itself goes by lo.
    pod.namespace.bring_loopback_up().unwrap();
    let server = pod.serve(80);
    assert!(pod.reaches("10.7.0.2:80"));
    server.join().unwrap();
    host.engine.check(&plugin, &pod.plain()).unwrap();
    pod.namespace.enter(|| run_ip("link set eth0 down")).unwrap();
    let fault = host.engine.check(&plugin, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains("Expected Route") || fault.to_string().contains("is down"), "{fault}");
    for _ in 0..2 {
        host.engine.delete(&plugin, &pod.plain()).unwrap();
        assert!(pod.is_bare() && host.leases("net").is_empty());
    }
    refused(host, &pod, json!([{"type":"dummy"}]), Code::CONFIG, "requires an IPAM configuration");
}

pub fn ipvlan(host: &Host) {
    host.has("below", "up type bridge");
    run_ip("addr add 10.7.0.1/24 dev below");
    run_ip("route add default dev below");
    let pod = host.pod("pod");
    for mode in ["l2", "l3", "l3s"] {
        // The default route's interface, where none is named.
        let plugin = list("1.0.0", "net", json!([{"type":"ipvlan","mode":mode,"ipam":v4()}]));
        let result = host.engine.add(&plugin, &pod.plain()).unwrap();
        assert_eq!(result["interfaces"][0]["mac"], host.ip("link show below")[0]["address"]);
        let link = &pod.ip("link show eth0");
        assert_eq!(link[0]["linkinfo"]["info_data"]["mode"], mode);
        host.engine.check(&plugin, &pod.plain()).unwrap();
        host.engine.delete(&plugin, &pod.plain()).unwrap();
        assert!(pod.is_bare() && host.leases("net").is_empty());
    }
}

/// On an interface of the pod's own, with the addresses of whoever made it.
pub fn ipvlan_chained(host: &Host) {
    let pod = host.pod("pod");
    let dummy = json!({"type":"dummy","ipam":v4()});
    let (chained, own) =
        (list("1.0.0", "net", json!([dummy])), Attachment { if_name: "up0".to_owned(), ..pod.plain() });
    let first = host.engine.add(&chained, &own).unwrap();
    let mut over = json!({"type":"ipvlan","linkInContainer":true,"prevResult":first});
    let call = |config: &Value, command| {
        let config = config.as_object().unwrap().clone();
        let engine = &host.engine;
        let attachment = pod.plain();
        let call = netns::plugin::Call {
            command,
            container_id: &attachment.container_id,
            netns: &attachment.netns,
            if_name: "eth0",
            args: &[],
            config: &config,
            bin_dirs: &engine.bin_dirs,
            native: true,
            places: &engine.places,
            deadline: std::time::Instant::now() + engine.timeout,
            afterwards: &netns::Afterwards::default(),
        };
        call.run("ipvlan").map(|done| done.map(|(outcome, _)| outcome))
    };
    over["name"] = json!("net");
    over["cniVersion"] = json!("1.0.0");
    let made = call(&over, netns::plugin::Command::Add).unwrap().unwrap();
    assert_eq!((made.interfaces[0].name.as_str(), made.ips.len(), made.ips[0].interface), ("eth0", 1, Some(0)));
    assert_eq!(pod.links(), ["lo", "up0", "eth0"]);
    call(&over, netns::plugin::Command::Delete).unwrap();
    assert_eq!(pod.links(), ["lo", "up0"]);
    over["prevResult"]["interfaces"] = json!([]);
    let fault = call(&over, netns::plugin::Command::Add).unwrap_err();
    assert!(fault.to_string().contains("lacks a single named interface"), "{fault}");
    host.engine.delete(&chained, &own).unwrap();
    assert!(pod.is_bare() && host.leases("net").is_empty());
}

pub fn ipvlan_refused(host: &Host) {
    let pod = host.pod("pod");
    host.has("below", "up type bridge");
    run_ip("route add default dev below");
    for (more, code, words) in [
        (json!({"master":"none"}), Code::INTERNAL, "failed to lookup \"none\": Link not found"),
        (json!({"mode":"l4"}), Code::CONFIG, "unknown ipvlan mode: \"l4\""),
        (json!({"mtu":-1}), Code::DECODE, "mtu is -1, which is out of its range"),
        (json!({"ipam":{}}), Code::CONFIG, "requires an IPAM configuration"),
    ] {
        refused(host, &pod, json!([with(json!({"type":"ipvlan","ipam":v4()}), more)]), code, words);
    }
    run_ip("route del default");
    refused(host, &pod, json!([{"type":"ipvlan","ipam":v4()}]), Code::CONFIG, "no default route interface found");
    run_ip("link del below");
    // Nothing of the configuration has to be there for DEL.
    let gone = list("1.0.0", "net", json!([{"type":"ipvlan","master":"below","mode":"l4","ipam":v4()}]));
    host.engine.delete(&gone, &pod.plain()).unwrap();
}

pub fn vlan(host: &Host) {
    host.has("below", "up type veth peer name beyond");
    run_ip("link set beyond up");
    run_ip("link add beyond.7 link beyond up type vlan id 7");
    run_ip("addr add 10.7.0.1/24 dev beyond.7");
    let plugin = list("1.0.0", "net", json!([{"type":"vlan","master":"below","vlanId":7,"ipam":v4()}]));
    let pod = host.pod("pod");
    let result = host.engine.add(&plugin, &pod.plain()).unwrap();
    assert_eq!(result["interfaces"][0]["name"], "eth0");
    assert_eq!(pod.ip("link show eth0")[0]["linkinfo"]["info_data"]["id"], 7);
    let server = pod.serve(80);
    assert!(crate::host::reaches("10.7.0.2:80"));
    server.join().unwrap();
    host.engine.check(&plugin, &pod.plain()).unwrap();
    let other = list("1.0.0", "net", json!([{"type":"vlan","master":"below","vlanId":8,"ipam":v4()}]));
    let fault = host.engine.check(&other, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains("Container interface eth0 is no Vlan { id: 8 }"), "{fault}");
    // A VLAN of a link is there once.
    let second = host.pod("second");
    let fault = host.engine.add(&plugin, &second.plain()).unwrap_err();
    assert!(fault.to_string().contains("with id 7 on below: File exists"), "{fault}");
    assert!(second.is_bare() && host.leases("net").len() == 1);
    // The link below is gone, and its VLANs with it.
    run_ip("link del below");
    for _ in 0..2 {
        host.engine.delete(&plugin, &pod.plain()).unwrap();
        assert!(pod.is_bare() && host.leases("net").is_empty());
    }
    refused(host, &pod, json!([{"type":"vlan","master":"below","ipam":v4()}]), Code::INTERNAL, "Link not found");
}

pub fn vlan_refused(host: &Host) {
    let pod = host.pod("pod");
    host.has("below", "up type bridge");
    for (more, words) in [
        (json!({"vlanId":4095}), "invalid VLAN ID 4095"),
        (json!({"vlanId":-1}), "invalid VLAN ID -1"),
        (json!({"mtu":9000}), "invalid MTU 9000, must be [0, master MTU(1500)]"),
        (json!({"master":""}), "\"master\" is required"),
        (json!({"ipam":{}}), "requires an IPAM configuration"),
    ] {
        let plugin = with(json!({"type":"vlan","master":"below","vlanId":7,"ipam":v4()}), more);
        refused(host, &pod, json!([plugin]), Code::CONFIG, words);
    }
    // In the pod, on a link of its own.
    pod.namespace.enter(|| run_ip("link add up0 up type bridge")).unwrap();
    let own =
        list("1.0.0", "net", json!([{"type":"vlan","master":"up0","linkInContainer":true,"vlanId":9,"ipam":v4()}]));
    host.engine.add(&own, &pod.plain()).unwrap();
    assert_eq!(pod.ip("link show eth0")[0]["link"], "up0");
    host.engine.check(&own, &pod.plain()).unwrap();
    host.engine.delete(&own, &pod.plain()).unwrap();
    assert_eq!(pod.links(), ["lo", "up0"]);
    // The name is taken.
    pod.namespace.enter(|| run_ip("link set up0 name eth0")).unwrap();
    let own = list("1.0.0", "net", json!([{"type":"vlan","master":"eth0","linkInContainer":true,"ipam":v4()}]));
    let fault = host.engine.add(&own, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains("the pod has an interface \"eth0\" already"), "{fault}");
    assert_eq!((pod.links(), host.leases("net").len()), (vec!["lo".to_owned(), "eth0".to_owned()], 0));
}
