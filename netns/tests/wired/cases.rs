//! What is compared with the Go plugins.

use serde_json::{Value, json};

use crate::beside::Case;

/// One configuration each: name, plugins, what the runtime says.
fn all() -> Vec<Case> {
    let v4 = json!({"type":"host-local","subnet":"10.7.0.0/24","routes":[{"dst":"0.0.0.0/0"}]});
    // With isDefaultGateway the Go bridge adds the default route itself, and fails where the addresses' plugin has one too.
    let bare = json!({"type":"host-local","subnet":"10.7.0.0/24"});
    let both = json!({"type":"host-local","ranges":[[{"subnet":"10.7.0.0/24"}],[{"subnet":"fd07::/64"}]]});
    let fixed = json!({"type":"static","addresses":[{"address":"10.7.0.9/24","gateway":"10.7.0.1"}],"dns":{"nameservers":["10.7.0.1"]}});
    let bridge = |more: Value| {
        let mut plugin = json!({"type":"bridge","bridge":"br0"});
        plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        plugin
    };
    let ports = json!({"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},
        {"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"10.7.0.1"}]});
    let portmap = json!({"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}});
    let by_iptables = |more: Value| {
        let mut plugin = json!({"type":"portmap","backend":"iptables","capabilities":{"portMappings":true}});
        plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        plugin
    };
    vec![
        ("bridge", json!([bridge(json!({"ipam":v4}))]), json!({})),
        (
            "bridge gateway",
            json!([bridge(json!({"isDefaultGateway":true,"mtu":1400,"hairpinMode":true,"ipam":bare}))]),
            json!({}),
        ),
        ("bridge of two families", json!([bridge(json!({"isDefaultGateway":true,"ipam":both}))]), json!({})),
        ("bridge promiscuous", json!([bridge(json!({"promiscMode":true,"isGateway":true,"ipam":v4}))]), json!({})),
        ("bridge without addresses", json!([bridge(json!({}))]), json!({})),
        ("bridge with static", json!([bridge(json!({"isGateway":true,"ipam":fixed}))]), json!({})),
        (
            "bridge with a mac",
            json!([bridge(json!({"ipam":v4,"capabilities":{"mac":true}}))]),
            json!({"mac":"02:11:22:33:44:55"}),
        ),
        (
            "bridge with macspoofchk",
            json!([bridge(json!({"isGateway":true,"macspoofchk":true,"ipam":v4,"capabilities":{"mac":true}}))]),
            json!({"mac":"02:11:22:33:44:55"}),
        ),
        (
            "bridge with ipMasq",
            json!([bridge(json!({"isGateway":true,"ipMasq":true,"ipMasqBackend":"nftables","ipam":both}))]),
            json!({}),
        ),
        ("bridge with portmap", json!([bridge(json!({"isDefaultGateway":true,"ipam":bare})), portmap]), ports.clone()),
        (
            "bridge with tuning",
            json!([bridge(json!({"isGateway":true,"ipam":bare})), {"type":"tuning","dataDir":"TUNING","mtu":1300,
            "mac":"02:aa:bb:cc:dd:ee","promisc":true,"allmulti":true,"txQLen":77,
            "sysctl":{"net.ipv4.conf.IFNAME.arp_filter":"1","net.core.somaxconn":"500"}}]),
            json!({}),
        ),
        ("macvlan", json!([{"type":"macvlan","master":"below","mtu":1400,"ipam":v4}]), json!({})),
        ("macvlan without addresses", json!([{"type":"macvlan","master":"below","mode":"private"}]), json!({})),
        ("ptp", json!([{"type":"ptp","ipam":v4}]), json!({})),
        (
            "bridge with bandwidth",
            json!([bridge(json!({"isGateway":true,"mtu":1400,"ipam":bare})), {"type":"bandwidth","capabilities":{"bandwidth":true}}]),
            json!({"bandwidth":{"IngressRate":8_000_000,"IngressBurst":800_000,"EgressRate":50_000_000_000_u64,"EgressBurst":8_000_000}}),
        ),
        (
            "ptp with bandwidth one way",
            json!([{"type":"ptp","ipam":v4}, {"type":"bandwidth","egressRate":1_000_000,"egressBurst":80_000}]),
            json!({}),
        ),
        (
            "bridge with ipMasq by iptables",
            json!([bridge(json!({"isGateway":true,"ipMasq":true,"ipMasqBackend":"iptables","ipam":both}))]),
            json!({}),
        ),
        (
            "ptp with ipMasq by iptables",
            json!([{"type":"ptp","ipMasq":true,"ipMasqBackend":"iptables","ipam":v4}]),
            json!({}),
        ),
        (
            "bridge with portmap by iptables",
            json!([bridge(json!({"isDefaultGateway":true,"ipam":both})), by_iptables(json!({}))]),
            ports.clone(),
        ),
        (
            "bridge with portmap for some, by iptables",
            json!([
                bridge(json!({"isDefaultGateway":true,"ipam":both})),
                by_iptables(json!({"markMasqBit":5,"masqAll":true,"conditionsV4":["!","-s","192.0.2.0/24"],
                "conditionsV6":["-s","fd00::/8"]}))
            ]),
            ports.clone(),
        ),
        (
            "bridge with portmap without snat, by iptables",
            json!([bridge(json!({"isDefaultGateway":true,"ipam":bare})), by_iptables(json!({"snat":false}))]),
            ports.clone(),
        ),
        (
            "bridge with firewall",
            json!([bridge(json!({"isGateway":true,"ipam":both})), {"type":"firewall","backend":"iptables"}]),
            json!({}),
        ),
        (
            "bridge with firewall that keeps bridges apart",
            json!([
                bridge(json!({"isGateway":true,"ipam":v4})),
                {"type":"firewall","ingressPolicy":"same-bridge","iptablesAdminChainName":"ADMIN"}
            ]),
            json!({}),
        ),
        (
            "bridge with firewall that keeps pods apart",
            json!([
                bridge(json!({"isGateway":true,"ipMasq":true,"ipMasqBackend":"iptables","ipam":both})),
                by_iptables(json!({})),
                {"type":"firewall","backend":"iptables","ingressPolicy":"isolated"}
            ]),
            ports.clone(),
        ),
        (
            "ptp with ipMasq",
            json!([{"type":"ptp","ipMasq":true,"ipMasqBackend":"nftables","mtu":1300,"ipam":v4}]),
            json!({}),
        ),
    ]
}

fn wants_iptables((name, ..): &Case) -> bool {
    name.contains("by iptables") || name.contains("firewall")
}

/// Those that a host without iptables can have.
pub fn cases() -> Vec<Case> {
    all().into_iter().filter(|case| !wants_iptables(case)).collect()
}

pub fn cases_with_iptables() -> Vec<Case> {
    all().into_iter().filter(wants_iptables).collect()
}
