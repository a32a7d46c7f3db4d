//! What keeps the networks of a pod, or the pods of a bridge, apart: sbr, vrf, and VLANs of a bridge.

use netns::cni::cache::Attachment;
use netns::cni::fault::Code;
use serde_json::{Value, json};

use super::{refused, with};
use crate::host::{Host, Pod, list, run_ip};

/// The tables that the rules of an address lead to.
fn tables(pod: &Pod, address: &str) -> Vec<String> {
    let rules = pod.ip("rule show");
    let its = rules.as_array().unwrap().iter().filter(|rule| rule["src"] == address);
    its.map(|rule| rule["table"].as_str().unwrap().to_owned()).collect()
}

pub fn sbr(host: &Host) {
    let chain = |bridge: &str, subnet: &str, more: Value| {
        let ipam = json!({"type":"host-local","subnet":subnet,"routes":[{"dst":"0.0.0.0/0"}]});
        let sbr = with(json!({"type":"sbr"}), more);
        list("1.0.0", bridge, json!([{"type":"bridge","bridge":bridge,"isGateway":true,"ipam":ipam}, sbr]))
    };
    let (one, two) = (chain("br0", "10.7.0.0/24", json!({})), chain("br1", "10.8.0.0/24", json!({})));
    let pod = host.pod("pod");
    let second = Attachment { if_name: "net1".to_owned(), ..pod.plain() };
    host.engine.add(&one, &pod.plain()).unwrap();
    // A table that somebody has routes in, and no rule for.
    pod.namespace.enter(|| run_ip("route add 198.51.100.0/24 dev eth0 table 101")).unwrap();
    host.engine.add(&two, &second).unwrap();
    assert_eq!((tables(&pod, "10.7.0.2"), tables(&pod, "10.8.0.2")), (vec!["100".into()], vec!["102".into()]));
    assert_eq!(pod.ip("route show table main"), json!([]));
    // Each address has a way, and it is its own.
    let way = |from: &str| pod.ip(&format!("route get 192.0.2.1 from {from}"))[0].clone();
    for (from, gateway, link) in [("10.7.0.2", "10.7.0.1", "eth0"), ("10.8.0.2", "10.8.0.1", "net1")] {
        assert_eq!((&way(from)["gateway"], &way(from)["dev"]), (&json!(gateway), &json!(link)));
    }
    host.engine.check(&two, &second).unwrap();
    pod.namespace.enter(|| run_ip("rule del from 10.8.0.2 table 102")).unwrap();
    let fault = host.engine.check(&two, &second).unwrap_err();
    assert!(fault.to_string().contains("there is no rule for what comes from 10.8.0.2"), "{fault}");
    pod.namespace.enter(|| run_ip("rule add from 10.8.0.2 table 102")).unwrap();
    // The interface went before the rules.
    pod.namespace.enter(|| run_ip("link del net1")).unwrap();
    host.engine.delete(&two, &second).unwrap();
    assert_eq!((tables(&pod, "10.7.0.2").len(), tables(&pod, "10.8.0.2").len()), (1, 0));
    // Nobody makes a file of the name of a namespace that is gone.
    let gone = pod.path.with_file_name("gone");
    host.engine.delete(&one, &Attachment { netns: gone.display().to_string(), ..second.clone() }).unwrap();
    assert!(!gone.exists());
    for _ in 0..2 {
        host.engine.delete(&one, &pod.plain()).unwrap();
        assert!(pod.is_bare() && tables(&pod, "10.7.0.2").is_empty());
    }
    let alone = list("1.0.0", "net", json!([{"type":"sbr"}]));
    let fault = host.engine.add(&alone, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains("must be called as chained plugin"), "{fault}");
    let bad = chain("br0", "10.7.0.0/24", json!({"table":"x"}));
    let fault = host.engine.add(&bad, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains("table is \"x\", which is no integer"), "{fault}");
    host.engine.delete(&bad, &pod.plain()).unwrap();
    assert!(pod.is_bare() && host.leases("br0").is_empty());
}

fn master_of(link: &Value) -> Value {
    link[0]["master"].clone()
}

pub fn vrf(host: &Host) {
    let chain = |bridge: &str, subnet: &str, vrf: Value| {
        let ipam = json!({"type":"host-local","ranges":[[{"subnet":subnet}],[{"subnet":format!("{}::/64", &bridge[2..])}]],
            "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]});
        list("1.0.0", bridge, json!([{"type":"bridge","bridge":bridge,"isGateway":true,"ipam":ipam}, vrf]))
    };
    let blue = json!({"type":"vrf","vrfname":"blue"});
    let (one, two) = (chain("brfd07", "10.7.0.0/24", blue.clone()), chain("brfd08", "10.8.0.0/24", blue));
    let red = chain("brfd09", "10.9.0.0/24", json!({"type":"vrf","vrfname":"red"}));
    let pod = host.pod("pod");
    let named = |name: &str| Attachment { if_name: name.to_owned(), ..pod.plain() };
    host.engine.add(&one, &named("eth0")).unwrap();
    host.engine.add(&two, &named("net1")).unwrap();
    host.engine.add(&red, &named("net2")).unwrap();
    let table = |vrf: &str| pod.ip(&format!("link show {vrf}"))[0]["linkinfo"]["info_data"]["table"].clone();
    assert_eq!((table("blue"), table("red")), (json!(1), json!(2)));
    for (link, vrf) in [("eth0", "blue"), ("net1", "blue"), ("net2", "red")] {
        assert_eq!(master_of(&pod.ip(&format!("link show {link}"))), vrf);
    }
    let routes = pod.ip("route show table 2");
    let default = routes.as_array().unwrap().iter().find(|route| route["dst"] == "default").cloned().unwrap();
    assert_eq!((&default["gateway"], &default["dev"]), (&json!("10.9.0.1"), &json!("net2")));
    let six = pod.ip("-6 route show table 2");
    assert!(six.as_array().unwrap().iter().any(|route| route["gateway"] == "fd09::1"), "{six}");
    assert_eq!(pod.ip("route show table main"), json!([]));
    host.engine.check(&one, &named("eth0")).unwrap();
    let other = chain("brfd07", "10.7.0.0/24", json!({"type":"vrf","vrfname":"red"}));
    let fault = host.engine.check(&other, &named("eth0")).unwrap_err();
    assert!(fault.to_string().contains("failed to find eth0 associated to vrf red"), "{fault}");
    host.engine.delete(&one, &named("eth0")).unwrap();
    assert!(pod.links().contains(&"blue".to_owned()));
    // The interface went first.
    pod.namespace.enter(|| run_ip("link del net1")).unwrap();
    host.engine.delete(&two, &named("net1")).unwrap();
    assert!(!pod.links().contains(&"blue".to_owned()) && pod.links().contains(&"red".to_owned()));
    for (vrf, words) in [
        (json!({"type":"vrf","vrfname":"red","table":9}), "VRF red already exist with different routing table 2"),
        (json!({"type":"vrf","vrfname":"lo"}), "\"lo\" is there already and is not a VRF"),
        (json!({"type":"vrf"}), "expected to have a valid vrf name"),
        (json!({"type":"vrf","vrfname":"a/b"}), "invalid vrf name \"a/b\""),
    ] {
        let bad = chain("brfd07", "10.7.0.0/24", vrf);
        let fault = host.engine.add(&bad, &named("eth0")).unwrap_err();
        assert!(fault.to_string().contains(words), "{fault}");
        host.engine.delete(&bad, &named("eth0")).unwrap();
        assert_eq!(pod.links().len(), 3, "{words}: {:?}", pod.links());
        assert!(host.leases("brfd07").is_empty());
    }
    for _ in 0..2 {
        host.engine.delete(&red, &named("net2")).unwrap();
        assert!(pod.is_bare());
    }
    let unknown = Attachment { netns: String::new(), ..named("net2") };
    host.engine.delete(&red, &unknown).unwrap();
}

pub fn bridge_vlan(host: &Host) {
    let net = |name: &str, vlan: u16, subnet: &str| {
        let ipam = json!({"type":"host-local","subnet":subnet});
        list("1.0.0", name, json!([{"type":"bridge","bridge":"br0","vlan":vlan,"ipam":ipam}]))
    };
    // One network of addresses, two VLANs.
    let (five, six) = (net("five", 5, "10.7.0.0/28"), net("six", 6, "10.7.0.0/28"));
    let (one, two, other) = (host.pod("one"), host.pod("two"), host.pod("other"));
    host.engine.add(&five, &one.plain()).unwrap();
    host.engine.add(&five, &two.plain()).unwrap();
    host.engine.add(&six, &other.plain()).unwrap();
    let server = one.serve(80);
    assert!(two.reaches("10.7.0.2:80"));
    server.join().unwrap();
    other.namespace.enter(|| run_ip("addr add 10.7.0.9/28 dev eth0")).unwrap();
    assert!(!two.reaches("10.7.0.9:80"));
    for (list, pod) in [(&five, &one), (&five, &two), (&six, &other)] {
        host.engine.check(list, &pod.plain()).unwrap();
        host.engine.delete(list, &pod.plain()).unwrap();
        assert!(pod.is_bare());
    }
    assert_eq!(host.links(), ["lo", "br0"]);
    for (more, words) in [
        (json!({"vlan":4095}), "invalid VLAN ID"),
        (json!({"vlanTrunk":[{"minID":9,"maxID":3}]}), "minID is greater than maxID"),
        (json!({"vlanTrunk":[{"minID":9}]}), "minID and maxID should be configured"),
        (json!({"vlanTrunk":[{"id":0}]}), "incorrect trunk id parameter"),
    ] {
        refused(host, &one, json!([with(json!({"type":"bridge","bridge":"br0"}), more)]), Code::CONFIG, words);
    }
}
