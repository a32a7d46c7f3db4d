//! What each plugin makes, and that nothing of it stays.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::host::{Host, assert_mapped, list, nft, reaches, run_ip};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("loopback comes up and goes down", loopback),
        trial("bridge wires two pods and forgets them", bridge),
        trial("bridge forgets a pod whose namespace is gone", bridge_without_namespace),
        trial("a failed add leaves nothing", failed),
        trial("ipMasq leaves in the hosts name", masquerade),
        trial("portmap leads host ports into the pod", portmap),
        trial("two hundred adds at once share a bridge", many),
        trial("ptp leads to the pod and back", ptp),
        trial("bridge keeps a pod to its hardware address", spoofed),
    ]
}

fn ipam(subnet: &str) -> Value {
    json!({"type":"host-local","subnet":subnet,"routes":[{"dst":"0.0.0.0/0"}]})
}

fn loopback(host: &Host) {
    let list = list("1.0.0", "lo", json!([{"type":"loopback"}]));
    let pod = host.pod("pod");
    let attachment = netns::cni::cache::Attachment { if_name: "lo".to_owned(), ..pod.plain() };
    let result = host.engine.add(&list, &attachment).unwrap();
    let sandbox = attachment.netns.clone();
    assert_eq!(result["interfaces"], json!([{"name":"lo","mac":"00:00:00:00:00:00","sandbox":sandbox}]));
    assert_eq!(result["ips"], json!([{"interface":0,"address":"127.0.0.1/8"},{"interface":0,"address":"::1/128"}]));
    host.engine.check(&list, &attachment).unwrap();
    host.engine.delete(&list, &attachment).unwrap();
    host.engine.delete(&list, &attachment).unwrap();
    assert!(!pod.ip("link show lo")[0]["flags"].as_array().unwrap().contains(&json!("UP")));
}

fn bridge(host: &Host) {
    let plugin = json!({"type":"bridge","bridge":"br0","isDefaultGateway":true,"mtu":1400,"hairpinMode":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.7.0.0/24"}],[{"subnet":"fd07::/64"}]]}});
    let list = list("1.0.0", "net", json!([plugin]));
    let (one, two) = (host.pod("one"), host.pod("two"));
    let result = host.engine.add(&list, &one.plain()).unwrap();
    host.engine.add(&list, &two.plain()).unwrap();
    assert_eq!(result["ips"][0], json!({"interface":2,"address":"10.7.0.2/24","gateway":"10.7.0.1"}));
    assert_eq!(result["ips"][1], json!({"interface":2,"address":"fd07::2/64","gateway":"fd07::1"}));
    assert_eq!(result["routes"], json!([{"dst":"0.0.0.0/0","gw":"10.7.0.1"},{"dst":"::/0","gw":"fd07::1"}]));
    assert_eq!(result["interfaces"][0]["name"], "br0");
    assert_eq!(result["interfaces"][0]["mac"], host.ip("link show br0")[0]["address"]);
    let port = &host.ip(&format!("link show {}", result["interfaces"][1]["name"].as_str().unwrap()))[0];
    assert_eq!((&port["master"], &port["mtu"]), (&json!("br0"), &json!(1400)));
    assert_eq!(port["linkinfo"]["info_slave_data"]["hairpin"], true);
    host.engine.check(&list, &one.plain()).unwrap();
    for address in ["10.7.0.2:80", "[fd07::2]:80"] {
        let server = one.serve(80);
        assert!(two.reaches(address), "{address}");
        server.join().unwrap();
        let server = one.serve(80);
        assert!(reaches(address), "{address}");
        server.join().unwrap();
    }
    assert_eq!(host.leases("net"), ["10.7.0.2", "10.7.0.3", "fd07::2", "fd07::3"]);
    let again = host.engine.add(&list, &one.plain()).unwrap_err().to_string();
    assert!(again.contains("container veth name (\"eth0\") peer provided"), "{again}");
    for pod in [&one, &two] {
        host.engine.delete(&list, &pod.plain()).unwrap();
        host.engine.delete(&list, &pod.plain()).unwrap();
        assert!(pod.is_bare());
    }
    assert_eq!(host.links(), ["lo", "br0"]);
    assert!(host.leases("net").is_empty());
    assert!(host.engine.attachments().is_empty());
}

fn bridge_without_namespace(host: &Host) {
    let list =
        list("1.0.0", "net", json!([{"type":"bridge","bridge":"br0","isGateway":true,"ipam":ipam("10.7.0.0/24")}]));
    let pod = host.pod("pod");
    // Not told where it is, though it is there.
    host.engine.add(&list, &pod.plain()).unwrap();
    let unknown = netns::cni::cache::Attachment { netns: String::new(), ..pod.plain() };
    host.engine.delete(&list, &unknown).unwrap();
    assert_eq!(host.links(), ["lo", "br0"]);
    // Gone, and a plain file where it was.
    host.engine.add(&list, &pod.plain()).unwrap();
    netns::remove(&pod.path).unwrap();
    std::fs::write(&pod.path, "").unwrap();
    host.engine.delete(&list, &pod.plain()).unwrap();
    assert_eq!(host.links(), ["lo", "br0"]);
    assert!(host.leases("net").is_empty());
    let error = host.engine.add(&list, &pod.plain()).unwrap_err();
    assert_eq!(error.code, netns::cni::fault::Code::NETNS);
    assert!(host.leases("net").is_empty());
}

fn failed(host: &Host) {
    let pod = host.pod("pod");
    let with =
        |ipam: Value| list("1.0.0", "net", json!([{"type":"bridge","bridge":"br0","isGateway":true,"ipam":ipam}]));
    // A route that cannot be: its gateway is nobody's neighbour.
    let bad = with(json!({"type":"host-local","subnet":"10.7.0.0/24","routes":[{"dst":"0.0.0.0/0","gw":"192.0.2.1"}]}));
    let error = host.engine.add(&bad, &pod.plain()).unwrap_err().to_string();
    assert!(error.contains("failed to add route 0.0.0.0/0 via 192.0.2.1 dev eth0 in the pod"), "{error}");
    assert!(pod.is_bare() && host.leases("net").is_empty());
    assert_eq!(host.links(), ["lo", "br0"]);
    let tiny = with(json!({"type":"host-local","subnet":"10.8.0.0/30"}));
    let (one, two) = (host.pod("a"), host.pod("b"));
    host.engine.add(&tiny, &one.plain()).unwrap();
    let error = host.engine.add(&tiny, &two.plain()).unwrap_err().to_string();
    assert!(error.contains("no IP addresses available in range set: 10.8.0.1-10.8.0.2"), "{error}");
    assert!(two.is_bare());
    host.engine.delete(&tiny, &one.plain()).unwrap();
    host.engine.add(&tiny, &two.plain()).unwrap();
    host.engine.delete(&tiny, &two.plain()).unwrap();
    let other = with(ipam("10.9.0.0/24"));
    let error = host.engine.add(&other, &pod.plain());
    assert!(error.unwrap_err().to_string().contains("\"br0\" already has an IP address different from 10.9.0.1/24"));
    assert!(pod.is_bare() && host.leases("net").is_empty());
}

fn ptp(host: &Host) {
    let list = list("1.0.0", "p2p", json!([{"type":"ptp","ipam":ipam("10.7.0.0/24")}]));
    let pod = host.pod("pod");
    let result = host.engine.add(&list, &pod.plain()).unwrap();
    assert_eq!(result["ips"], json!([{"interface":1,"address":"10.7.0.2/24","gateway":"10.7.0.1"}]));
    let routes = pod.ip("route show");
    let of = |dst: &str| routes.as_array().unwrap().iter().find(|route| route["dst"] == dst).cloned().unwrap();
    assert_eq!(of("default")["gateway"], "10.7.0.1");
    assert_eq!(of("10.7.0.0/24")["gateway"], "10.7.0.1");
    assert_eq!(of("10.7.0.1")["scope"], "link");
    let server = pod.serve(80);
    assert!(reaches("10.7.0.2:80"));
    assert_eq!(server.join().unwrap().ip().to_string(), "::ffff:10.7.0.1");
    host.engine.check(&list, &pod.plain()).unwrap();
    host.engine.delete(&list, &pod.plain()).unwrap();
    assert!(pod.is_bare() && host.leases("p2p").is_empty());
    assert_eq!(host.links(), ["lo"]);
}

fn spoofed(host: &Host) {
    let network = |check: bool| {
        list(
            "1.0.0",
            "net",
            json!([{"type":"bridge","bridge":"br0","isGateway":true,"macspoofchk":check,"ipam":ipam("10.7.0.0/24")}]),
        )
    };
    let (pod, free) = (host.pod("pod"), host.pod("free"));
    host.engine.add(&network(true), &pod.plain()).unwrap();
    host.engine.add(&network(false), &free.plain()).unwrap();
    host.engine.check(&network(true), &pod.plain()).unwrap();
    let reaches = |pod: &crate::host::Pod| {
        let server = std::net::TcpListener::bind("10.7.0.1:80").unwrap();
        let reached = pod.reaches("10.7.0.1:80");
        drop(server);
        reached
    };
    assert!(reaches(&pod) && reaches(&free));
    for pod in [&pod, &free] {
        pod.namespace.enter(|| run_ip("link set eth0 address 02:00:00:00:00:99")).unwrap();
        assert_eq!(reaches(pod), pod.id == "free");
        pod.namespace.enter(|| run_ip("link set eth0 address 02:00:00:00:00:98")).unwrap();
    }
    host.engine.check(&network(true), &free.plain()).unwrap_err();
    // Told of nothing by the configuration any more.
    host.engine.delete(&network(false), &pod.plain()).unwrap();
    host.engine.delete(&network(false), &free.plain()).unwrap();
    let left = nft()["nftables"].to_string();
    assert!(!left.contains("cni-br-iface") && host.rules("PREROUTING") == 0, "{left}");
}

fn masquerade(host: &Host) {
    let world = host.world();
    let plugin = |masq: bool| {
        json!([{"type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":masq,
        "ipam":{"type":"host-local","subnet":"10.7.0.0/24"}}])
    };
    let (masked, plain) = (list("1.0.0", "net", plugin(true)), list("1.0.0", "net", plugin(false)));
    let (one, two) = (host.pod("one"), host.pod("two"));
    host.engine.add(&masked, &one.plain()).unwrap();
    host.engine.add(&masked, &two.plain()).unwrap();
    for pod in [&one, &two] {
        let server = world.serve(80);
        assert!(pod.reaches("192.0.2.2:80"));
        // The gateway of the world's network is the host.
        assert_eq!(server.join().unwrap().ip().to_string(), "::ffff:192.0.2.1");
    }
    // Inside the network everybody has his own name.
    let server = one.serve(80);
    assert!(two.reaches("10.7.0.2:80"));
    assert_eq!(server.join().unwrap().ip().to_string(), "::ffff:10.7.0.3");
    assert_eq!(host.rules("masq_checks"), 2);
    let gone = netns::cni::cache::Attachment { netns: String::new(), ..one.plain() };
    host.engine.delete(&masked, &gone).unwrap();
    assert_eq!(host.rules("masq_checks"), 1);
    host.engine.delete(&masked, &two.plain()).unwrap();
    host.engine.delete(&masked, &two.plain()).unwrap();
    assert_eq!(host.rules("masq_checks"), 0);
    // The world knows no way to the pods themselves.
    host.engine.add(&plain, &one.plain()).unwrap();
    assert!(!one.reaches("192.0.2.2:80"));
}

fn portmap(host: &Host) {
    let world = host.world();
    let bridge = json!({"type":"bridge","bridge":"br0","isDefaultGateway":true,"hairpinMode":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.7.0.0/24"}],[{"subnet":"fd07::/64"}]]}});
    let list = list("1.0.0", "net", json!([bridge, {"type":"portmap","capabilities":{"portMappings":true}}]));
    let pod = host.pod("pod");
    // As containerd writes it: keys as Go's structs have them.
    let ports = json!({"portMappings":[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]});
    let result = host.engine.add(&list, &pod.attachment(ports.clone())).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.7.0.2/24");
    host.engine.check(&list, &pod.attachment(ports.clone())).unwrap();
    assert_mapped(&world, &pod);
    // Whose id begins with the other one's.
    let other = host.pod("pod2");
    let mapping = json!({"portMappings":[{"hostPort":8081,"containerPort":81,"protocol":"udp","hostIP":"192.0.2.1"}]});
    host.engine.add(&list, &other.attachment(mapping)).unwrap();
    assert_eq!(host.rules("hostports"), 3);
    // The ports are not said again.
    host.engine.delete(&list, &pod.plain()).unwrap();
    assert_eq!(host.rules("hostports"), 1);
    host.engine.delete(&list, &other.plain()).unwrap();
    assert_eq!((host.rules("hostports"), host.rules("masquerading")), (0, 0));
    assert!(!reaches("127.0.0.1:8080"));
    for (ports, words) in [
        (json!([{"hostPort":0,"containerPort":80}]), "Invalid host port number: 0"),
        (json!([{"hostPort":80,"containerPort":70000}]), "Invalid container port number: 70000"),
        (json!([{"hostPort":80,"containerPort":80,"protocol":"icmp"}]), "invalid protocol"),
        (json!([{"hostPort":80,"containerPort":80,"hostIP":"x"}]), "no IP address"),
    ] {
        let attachment = pod.attachment(json!({"portMappings":ports}));
        let error = host.engine.add(&list, &attachment).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        host.engine.delete(&list, &attachment).unwrap();
        assert!(pod.is_bare() && host.leases("net").is_empty());
    }
}

fn many(host: &Host) {
    let list = list(
        "1.0.0",
        "net",
        json!([{"type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,
        "ipam":{"type":"host-local","subnet":"10.7.0.0/24","rangeEnd":"10.7.0.201"}}]),
    );
    let pods: Vec<_> = (0..200).map(|at| host.pod(&format!("pod{at}"))).collect();
    let results: Vec<Value> = std::thread::scope(|scope| {
        let list = &list;
        let add = |pod: &'_ crate::host::Pod| {
            let attachment = pod.plain();
            scope.spawn(move || host.engine.add(list, &attachment).unwrap())
        };
        let threads: Vec<_> = pods.iter().map(add).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> = results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 200);
    assert_eq!(host.leases("net").len(), 200);
    assert_eq!(host.rules("masq_checks"), 200);
    assert_eq!(
        host.ip("addr show br0")[0]["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["family"] == "inet")
            .count(),
        1
    );
    let full = host.pod("full");
    let error = host.engine.add(&list, &full.plain()).unwrap_err().to_string();
    assert!(error.contains("no IP addresses available in range set: 10.7.0.1-10.7.0.201"), "{error}");
    host.engine.delete(&list, &pods[7].plain()).unwrap();
    host.engine.add(&list, &full.plain()).unwrap();
    host.engine.delete(&list, &full.plain()).unwrap();
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| host.engine.delete(&list, &pod.plain()).unwrap());
        }
    });
    assert_eq!(host.links(), ["lo", "br0"]);
    assert_eq!((host.leases("net").len(), host.rules("masq_checks")), (0, 0));
    assert!(host.engine.attachments().is_empty());
}
