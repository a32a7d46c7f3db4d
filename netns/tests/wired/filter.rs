//! The host's packet filter: who may not have a port, what is said where iptables is not, and that it holds.

use std::net::UdpSocket;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::host::{Host, Pod, assert_mapped, list, reaches};
use crate::{trial, trial_with};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("portmap says who has a port", taken),
        trial("portmap gives a port to one of many that ask at once", contended),
        trial("portmap forgets datagrams' connections", datagrams),
        trial("portmap refuses what it cannot", refused),
        trial("ipMasq of the gone is collected", collected),
        trial("portmap by iptables wants one", without_iptables),
        trial("firewall needs no program", without_program),
    ];
    for tools in ["iptables", "legacy"] {
        trials.extend([
            trial_with(tools, "portmap says who has a port", taken_with_iptables),
            trial_with(tools, "portmap and ipMasq lead there and back", translated),
            trial_with(tools, "firewall lets a pods packets through", let_through),
            trial_with(tools, "firewall keeps bridges and pods apart", kept_apart),
            trial_with(tools, "thirty pods at once", many),
            trial_with(tools, "what is of the gone is collected", collected_with_iptables),
        ]);
    }
    trials
}

fn bridge(name: &str, subnet: &str, more: Value) -> Value {
    let mut plugin = json!({"type":"bridge","bridge":name,"isDefaultGateway":true,"hairpinMode":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":subnet}]]}});
    plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugin
}

fn portmap(more: Value) -> Value {
    let mut plugin = json!({"type":"portmap","capabilities":{"portMappings":true}});
    plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugin
}

fn ports(mappings: Value) -> Value {
    json!({ "portMappings": mappings })
}

fn taken(host: &Host) {
    who_has_it(host, "nftables");
}

fn taken_with_iptables(host: &Host) {
    who_has_it(host, "iptables");
}

/// Whoever comes second is told, has nothing of it, and may have the port when the first is gone.
fn who_has_it(host: &Host, backend: &str) {
    let list =
        list("1.0.0", "net", json!([bridge("br0", "10.7.0.0/24", json!({})), portmap(json!({"backend":backend}))]));
    let (one, two) = (host.pod("one"), host.pod("two"));
    let mapping = |port: u16, protocol: &str, address: &str| {
        ports(json!([{"hostPort":port,"containerPort":80,"protocol":protocol,"hostIP":address}]))
    };
    host.engine.add(&list, &one.attachment(mapping(8080, "tcp", "10.7.0.1"))).unwrap();
    let before = (host.saved(), crate::host::nft());
    for address in ["10.7.0.1", "", "0.0.0.0"] {
        let second = two.attachment(mapping(8080, "tcp", address));
        let error = host.engine.add(&list, &second).unwrap_err().to_string();
        assert!(error.contains("8080/tcp of the host is taken by "), "{error}");
        host.engine.delete(&list, &second).unwrap();
        assert!(two.is_bare());
        assert_eq!(host.leases("net"), ["10.7.0.2"]);
        assert_eq!(host.saved(), before.0);
    }
    for other in [mapping(8081, "tcp", ""), mapping(8080, "udp", ""), mapping(8080, "tcp", "10.7.0.99")] {
        host.engine.add(&list, &two.attachment(other.clone())).unwrap();
        host.engine.check(&list, &two.attachment(other.clone())).unwrap();
        host.engine.delete(&list, &two.attachment(other)).unwrap();
    }
    host.engine.delete(&list, &one.plain()).unwrap();
    host.engine.add(&list, &two.attachment(mapping(8080, "tcp", ""))).unwrap();
    host.engine.delete(&list, &two.plain()).unwrap();
    assert_eq!(host.rules("hostports"), 0);
}

fn contended(host: &Host) {
    let list = list("1.0.0", "net", json!([bridge("br0", "10.7.0.0/24", json!({})), portmap(json!({}))]));
    let pods: Vec<_> = (0..12).map(|at| host.pod(&format!("pod{at}"))).collect();
    let mapping = || ports(json!([{"hostPort":8080,"containerPort":80}]));
    for round in 0..4 {
        let added = std::thread::scope(|scope| {
            let add = |pod: &Pod| host.engine.add(&list, &pod.attachment(mapping())).map_err(|fault| fault.to_string());
            let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(move || add(pod))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(added.iter().filter(|added| added.is_ok()).count(), 1, "{round}: {added:?}");
        let refused = added.iter().filter_map(|added| added.as_ref().err());
        assert!(refused.clone().all(|words| words.contains("8080/tcp of the host is taken by pod")), "{added:?}");
        assert_eq!(host.rules("hostports"), 1, "{round}");
        pods.iter().for_each(|pod| host.engine.delete(&list, &pod.plain()).unwrap());
        assert_eq!((host.rules("hostports"), host.leases("net").len()), (0, 0), "{round}");
    }
}

/// Answers datagrams inside with what the pod is called, for as long as the socket is asked.
fn answer(pod: &Pod, port: u16) -> UdpSocket {
    let socket = pod.namespace.enter(|| UdpSocket::bind(("0.0.0.0", port))).unwrap().unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    socket
}

fn datagrams(host: &Host) {
    let list = list("1.0.0", "net", json!([bridge("br0", "10.7.0.0/24", json!({})), portmap(json!({}))]));
    let mapping = || ports(json!([{"hostPort":5353,"containerPort":53,"protocol":"udp"}]));
    let (one, two, client) = (host.pod("one"), host.pod("two"), host.pod("client"));
    host.engine.add(&list, &client.plain()).unwrap();
    // One socket, so that for the kernel it is one connection all the time.
    let asks = client.namespace.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let reach = |pod: &Pod| {
        let server = answer(pod, 53);
        asks.send_to(b"?", "10.7.0.1:5353").unwrap();
        server.recv(&mut [0; 8]).unwrap_or_else(|error| panic!("{}: {error}", pod.id));
    };
    host.engine.add(&list, &one.attachment(mapping())).unwrap();
    reach(&one);
    host.engine.delete(&list, &one.attachment(mapping())).unwrap();
    host.engine.add(&list, &two.attachment(mapping())).unwrap();
    reach(&two);
    host.engine.delete(&list, &two.attachment(mapping())).unwrap();
    // Nothing of it is left, so that the host has it again; and then a pod has what the host had.
    let nobody = UdpSocket::bind("10.7.0.1:5353").unwrap();
    nobody.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    asks.send_to(b"?", "10.7.0.1:5353").unwrap();
    nobody.recv(&mut [0; 8]).unwrap();
    drop(nobody);
    host.engine.add(&list, &one.attachment(mapping())).unwrap();
    reach(&one);
}

/// Whether this machine has an iptables of its own, so that it is found whatever the trial has.
fn has_iptables() -> bool {
    let has =
        ["/usr/sbin", "/sbin"].iter().any(|directory| std::path::Path::new(directory).join("iptables-save").exists());
    if has {
        eprintln!("skipped: this machine has an iptables, so that none can be missing");
    }
    has
}

fn refused(host: &Host) {
    let pod = host.pod("pod");
    let attachment = pod.attachment(ports(json!([{"hostPort":8080,"containerPort":80}])));
    for (more, words) in [
        (json!({"backend":"ipfw"}), "unrecognized backend \"ipfw\""),
        (
            json!({"backend":"nftables","externalSetMarkChain":"X"}),
            "iptables-specific options [\"externalSetMarkChain\"]",
        ),
        (
            json!({"backend":"iptables","conditionsV4":["ip saddr 10.0.0.0/8"]}),
            "nftables-specific options [\"conditionsV4\"]",
        ),
        (json!({"conditionsV4":["ip saddr 10.0.0.0/8"]}), "conditions of nftables are not supported"),
        (json!({"conditionsV4":["-s\nCOMMIT"]}), "no word of an iptables rule"),
        (json!({"externalSetMarkChain":"a b"}), "no name of an iptables chain"),
        (json!({"externalSetMarkChain":"X","markMasqBit":3}), "Cannot specify externalSetMarkChain and markMasqBit"),
        (json!({"markMasqBit":32}), "MasqMarkBit must be between 0 and 31"),
    ] {
        let list = list("1.0.0", "net", json!([bridge("br0", "10.7.0.0/24", json!({})), portmap(more.clone())]));
        let error = host.engine.add(&list, &attachment).unwrap_err().to_string();
        assert!(error.contains(words), "{more}: {error}");
        host.engine.delete(&list, &attachment).unwrap();
        assert!(pod.is_bare() && host.leases("net").is_empty(), "{more}");
    }
    assert_eq!(
        crate::host::nft()["nftables"].as_array().unwrap().iter().filter(|one| one.get("rule").is_some()).count(),
        0
    );
}

fn without_iptables(host: &Host) {
    if has_iptables() {
        return;
    }
    let pod = host.pod("pod");
    let attachment = pod.attachment(ports(json!([{"hostPort":8080,"containerPort":80}])));
    let by_iptables = json!([bridge("br0", "10.7.0.0/24", json!({})), portmap(json!({"backend":"iptables"}))]);
    let by_iptables = list("1.0.0", "net", by_iptables);
    let error = host.engine.add(&by_iptables, &attachment).unwrap_err().to_string();
    assert!(error.contains("failed to find iptables-save in PATH"), "{error}");
    host.engine.delete(&by_iptables, &attachment).unwrap();
    assert!(pod.is_bare() && host.leases("net").is_empty());
}

/// What iptables would have written is written all the same.
fn without_program(host: &Host) {
    let plugins = json!([bridge("br0", "10.7.0.0/24", json!({})), {"type":"firewall","ingressPolicy":"isolated"}]);
    let list = list("1.0.0", "net", plugins);
    let pod = host.pod("pod");
    let rules = |chain: &str| {
        let ruleset = crate::host::nft();
        let rules = ruleset["nftables"].as_array().unwrap().iter().filter_map(|object| object.get("rule"));
        rules.filter(|rule| rule["chain"] == chain).count()
    };
    let all = || ["FORWARD", "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"].map(rules);
    host.engine.add(&list, &pod.plain()).unwrap();
    host.engine.check(&list, &pod.plain()).unwrap();
    assert_eq!(all(), [2, 3, 3, 2]);
    host.engine.delete(&list, &pod.plain()).unwrap();
    assert_eq!(all(), [2, 1, 3, 2]);
    assert!(pod.is_bare() && host.leases("net").is_empty());
}

fn collected(host: &Host) {
    let network = |name: &str, subnet: &str| list("1.1.0", name, json!([bridge(name, subnet, json!({"ipMasq":true}))]));
    let (net, other) = (network("br0", "10.7.0.0/24"), network("br1", "10.8.0.0/24"));
    let pods: Vec<_> = ["gone", "here", "elsewhere"].iter().map(|id| host.pod(id)).collect();
    for (pod, list) in pods.iter().zip([&net, &net, &other]) {
        host.engine.add(list, &pod.plain()).unwrap();
    }
    // Nothing but its rule and its lease knows of the first any more.
    std::fs::remove_file(host.engine.cache_dir.join("results/br0-gone-eth0")).unwrap();
    host.engine.gc(&net, &[("here".to_owned(), "eth0".to_owned())]).unwrap();
    assert_eq!((host.rules("masq_checks"), host.leases("br0")), (2, vec!["10.7.0.3".to_owned()]));
    host.engine.gc(&net, &[]).unwrap();
    assert_eq!(host.rules("masq_checks"), 1);
}

fn collected_with_iptables(host: &Host) {
    let network = |name: &str, subnet: &str| {
        let masq = json!({"ipMasq":true,"ipMasqBackend":"iptables"});
        let bandwidth = json!({"type":"bandwidth","egressRate":1_000_000,"egressBurst":80_000});
        list("1.1.0", name, json!([bridge(name, subnet, masq), portmap(json!({"backend":"iptables"})), bandwidth]))
    };
    let (net, other) = (network("br0", "10.7.0.0/24"), network("br1", "10.8.0.0/24"));
    let pods: Vec<_> = ["gone", "here", "elsewhere"].iter().map(|id| host.pod(id)).collect();
    for (at, (pod, list)) in pods.iter().zip([&net, &net, &other]).enumerate() {
        let mapping = ports(json!([{"hostPort":8080 + at,"containerPort":80}]));
        host.engine.add(list, &pod.attachment(mapping)).unwrap();
    }
    let ifbs = || host.links().iter().filter(|link| link.starts_with("bwp")).count();
    let of = |id: &str| host.saved().iter().filter(|line| line.contains(&format!("id: \\\"{id}\\\""))).count();
    assert_eq!((of("gone"), of("here"), of("elsewhere"), ifbs()), (4, 4, 4, 3));
    // Nothing but what they made knows of the first and the last any more.
    std::fs::remove_file(host.engine.cache_dir.join("results/br0-gone-eth0")).unwrap();
    std::fs::remove_file(host.engine.cache_dir.join("results/br1-elsewhere-eth0")).unwrap();
    host.engine.gc(&net, &[("here".to_owned(), "eth0".to_owned())]).unwrap();
    assert_eq!((of("gone"), of("here"), of("elsewhere"), ifbs()), (0, 4, 4, 2));
    host.engine.gc(&other, &[]).unwrap();
    host.engine.gc(&net, &[]).unwrap();
    assert_eq!((of("here"), of("elsewhere"), ifbs()), (0, 0, 0));
    assert!(host.saved().iter().all(|line| !line.contains("-j DNAT")), "{:?}", host.saved());
}

fn run(program: &str, arguments: &str) {
    let output = std::process::Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn translated(host: &Host) {
    let world = host.world();
    let masq = json!({"ipMasq":true,"ipMasqBackend":"iptables"});
    let more = json!({"backend":"iptables","conditionsV4":["!","-s","192.0.2.99/32"]});
    let list = list("1.0.0", "net", json!([bridge("br0", "10.7.0.0/24", masq), portmap(more)]));
    let pod = host.pod("pod");
    let attachment = pod.attachment(ports(json!([{"hostPort":8080,"containerPort":80}])));
    host.engine.add(&list, &attachment).unwrap();
    host.engine.check(&list, &attachment).unwrap();
    assert_mapped(&world, &pod);
    let server = world.serve(80);
    assert!(pod.reaches("192.0.2.2:80"));
    assert_eq!(server.join().unwrap().ip().to_string(), "::ffff:192.0.2.1");
    // Nothing is said again but who it was.
    host.engine.delete(&list, &pod.plain()).unwrap();
    host.engine.delete(&list, &pod.plain()).unwrap();
    assert!(!reaches("127.0.0.1:8080"));
    assert!(host.saved().iter().all(|line| !line.contains(" id: ")), "{:?}", host.saved());
}

fn let_through(host: &Host) {
    let world = host.world();
    run("iptables", "-P FORWARD DROP");
    let list = |firewall: bool| {
        let mut plugins = vec![bridge("br0", "10.7.0.0/24", json!({"ipMasq":true,"ipMasqBackend":"iptables"}))];
        plugins.extend(firewall.then(|| json!({"type":"firewall"})));
        list("1.0.0", "net", plugins.into())
    };
    let (with, without) = (host.pod("with"), host.pod("without"));
    host.engine.add(&list(false), &without.plain()).unwrap();
    host.engine.add(&list(true), &with.plain()).unwrap();
    host.engine.check(&list(true), &with.plain()).unwrap();
    let server = world.serve(80);
    assert!(!without.reaches("192.0.2.2:80"));
    assert!(with.reaches("192.0.2.2:80"));
    server.join().unwrap();
    run("iptables", "-D CNI-FORWARD -s 10.7.0.3/32 -j ACCEPT");
    let error = host.engine.check(&list(true), &with.plain()).unwrap_err().to_string();
    assert!(error.contains("the table filter lacks \"-A CNI-FORWARD -s 10.7.0.3/32 -j ACCEPT\""), "{error}");
    // One of the two rules is gone already.
    host.engine.delete(&list(true), &with.plain()).unwrap();
    assert!(host.saved().iter().all(|line| !line.contains("CNI-FORWARD -d") && !line.contains("CNI-FORWARD -s")));
    let bad = json!([bridge("br0", "10.7.0.0/24", json!({})), {"type":"firewall","ingressPolicy":"closed"}]);
    let bad = crate::host::list("1.0.0", "net", bad);
    let error = host.engine.add(&bad, &with.plain()).unwrap_err().to_string();
    assert!(error.contains("unknown ingress policy: \"closed\""), "{error}");
    host.engine.delete(&bad, &with.plain()).unwrap();
    assert!(with.is_bare());
}

fn kept_apart(host: &Host) {
    let network = |name: &str, subnet: &str, policy: &str| {
        list("1.0.0", name, json!([bridge(name, subnet, json!({})), {"type":"firewall","ingressPolicy":policy}]))
    };
    let same = network("br0", "10.7.0.0/24", "same-bridge");
    let isolated = network("br1", "10.8.0.0/24", "isolated");
    let pods: Vec<_> = ["a", "b", "c", "d"].iter().map(|id| host.pod(id)).collect();
    for (pod, list) in pods.iter().zip([&same, &same, &isolated, &isolated]) {
        host.engine.add(list, &pod.plain()).unwrap();
        host.engine.check(list, &pod.plain()).unwrap();
    }
    let listener =
        |at: usize| pods[at].namespace.enter(|| std::net::TcpListener::bind(("0.0.0.0", 80))).unwrap().unwrap();
    let _listeners = [listener(0), listener(3)];
    assert!(pods[1].reaches("10.7.0.2:80"), "on the same bridge");
    assert!(!pods[2].reaches("10.7.0.2:80"), "from another bridge");
    assert!(!pods[1].reaches("10.8.0.3:80"), "to another bridge");
    // Ports of one bridge are told apart by the host's filter only where it is asked about them.
    let asked = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if asked.is_ok_and(|asked| asked.trim() == "1") {
        assert!(!pods[2].reaches("10.8.0.3:80"), "on an isolated bridge");
    }
    for (pod, list) in pods.iter().zip([&same, &same, &isolated, &isolated]) {
        host.engine.delete(list, &pod.plain()).unwrap();
    }
    assert!(host.saved().iter().all(|line| !line.contains("CNI-FORWARD -d") && !line.contains("CNI-FORWARD -s")));
}

/// All begin where there is no chain, and each has its rules in the end.
fn many(host: &Host) {
    let masq = json!({"ipMasq":true,"ipMasqBackend":"iptables"});
    let plugins =
        json!([bridge("br0", "10.7.0.0/24", masq), portmap(json!({"backend":"iptables"})), {"type":"firewall"}]);
    let list = list("1.0.0", "net", plugins);
    let pods: Vec<_> = (0..30).map(|at| (at, host.pod(&format!("pod{at}")))).collect();
    let mapping = |at: u16| ports(json!([{"hostPort":8000 + at,"containerPort":80}]));
    std::thread::scope(|scope| {
        for (at, pod) in &pods {
            scope.spawn(|| host.engine.add(&list, &pod.attachment(mapping(*at))).unwrap());
        }
    });
    let count = |part: &str| host.saved().iter().filter(|line| line.contains(part)).count();
    assert_eq!((count("-A CNI-FORWARD -s"), count("-j DNAT"), count("-j MASQUERADE")), (30, 30, 31));
    let once = ["-A FORWARD ", "-A OUTPUT ", "-A PREROUTING ", "-j CNI-ADMIN", "-j CNI-HOSTPORT-MASQ", "-j MARK "];
    for shared in once {
        assert_eq!(count(shared), 1, "{shared}");
    }
    std::thread::scope(|scope| {
        for (_, pod) in &pods {
            scope.spawn(|| host.engine.delete(&list, &pod.plain()).unwrap());
        }
    });
    assert_eq!((count("-A CNI-FORWARD -s"), count("-j DNAT"), count(" id: ")), (0, 0, 0));
}
