//! host-device, with one end of a veth pair for the device.

use netns::cni::cache::Attachment;
use netns::cni::fault::Code;
use serde_json::{Value, json};

use super::{refused, v4, with};
use crate::host::{Host, list, run_ip};

/// The trials' device, up, whose other end stays on the host.
pub fn nic(host: &Host) {
    host.has("nic", "up address 02:00:00:00:00:99 type veth peer name far");
    run_ip("link set far up");
}

/// The device is on the host under its old name, with nothing that tells of the pod.
pub fn is_back(host: &Host) {
    let nic = &host.ip("link show nic")[0];
    assert_eq!((&nic["ifalias"], &nic["address"]), (&Value::Null, &json!("02:00:00:00:00:99")));
}

fn is_up(link: &Value) -> bool {
    link[0]["flags"].as_array().unwrap().contains(&json!("UP"))
}

pub fn host_device(host: &Host) {
    nic(host);
    let list = list("1.0.0", "net", json!([{"type":"host-device","device":"nic","ipam":v4()}]));
    let pod = host.pod("pod");
    let result = host.engine.add(&list, &pod.plain()).unwrap();
    let sandbox = pod.path.display().to_string();
    assert_eq!(result["interfaces"], json!([{"name":"eth0","mac":"02:00:00:00:00:99","sandbox":sandbox}]));
    assert_eq!(result["ips"], json!([{"interface":0,"address":"10.7.0.2/24","gateway":"10.7.0.1"}]));
    assert_eq!(host.links(), ["lo", "far"]);
    assert_eq!(pod.ip("link show eth0")[0]["ifalias"], "nic");
    run_ip("addr add 10.7.0.1/24 dev far");
    let server = pod.serve(80);
    assert!(crate::host::reaches("10.7.0.2:80"));
    server.join().unwrap();
    host.engine.check(&list, &pod.plain()).unwrap();
    for _ in 0..2 {
        host.engine.delete(&list, &pod.plain()).unwrap();
        assert!(pod.is_bare() && host.leases("net").is_empty());
        is_back(host);
    }
    // Down, as the Go plugin leaves it.
    assert!(!is_up(&host.ip("link show nic")));
    // Without a namespace there is no device to give back, but there are addresses.
    let gone = host.pod("gone");
    run_ip("link set nic up");
    host.engine.add(&list, &gone.plain()).unwrap();
    host.engine.delete(&list, &Attachment { netns: String::new(), ..gone.plain() }).unwrap();
    assert!(host.leases("net").is_empty() && !gone.is_bare());
    host.engine.delete(&list, &gone.plain()).unwrap();
    is_back(host);
}

pub fn host_device_refused(host: &Host) {
    nic(host);
    let pod = host.pod("pod");
    let device = |more| json!([with(json!({"type":"host-device"}), more)]);
    for (more, words) in [
        (json!({"device":"none"}), "failed to find host device \"none\": Link not found"),
        (json!({"hwaddr":"02:00:00:00:00:98"}), "failed to find host device \"02:00:00:00:00:98\""),
        (json!({}), "specify either \"device\""),
        (json!({"kernelpath":"/dev/null"}), "must be absolute and begin with /sys/devices/"),
        (json!({"pciBusID":"ffff:ff:1f.7"}), "no driver of the device"),
    ] {
        refused(host, &pod, device(more), Code::CONFIG, words);
    }
    // What fails behind the move takes the device back, as it was.
    let bad = json!({"device":"nic","ipam":{"type":"host-local","subnet":"10.7.0.0/24",
        "routes":[{"dst":"0.0.0.0/0","gw":"192.0.2.1"}]}});
    refused(host, &pod, device(bad), Code::INTERNAL, "failed to add route 0.0.0.0/0 via 192.0.2.1 dev eth0");
    is_back(host);
    assert!(is_up(&host.ip("link show nic")));
    // The name is taken in the pod, by what is not ours to take away.
    pod.namespace.enter(|| run_ip("link add eth0 alias theirs type bridge")).unwrap();
    let list = list("1.0.0", "net", device(json!({"device":"nic"})));
    let fault = host.engine.add(&list, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains("the pod has an interface \"eth0\" already"), "{fault}");
    host.engine.delete(&list, &pod.plain()).unwrap();
    is_back(host);
    assert_eq!(pod.links(), ["lo", "eth0"]);
    // The pod has another link of the device's name; and the host gets one while the device is away.
    pod.namespace.enter(|| run_ip("link set eth0 name nic")).unwrap();
    host.engine.add(&list, &pod.plain()).unwrap();
    assert_eq!(pod.links(), ["lo", "nic", "eth0"]);
    run_ip("link add nic type bridge");
    let fault = host.engine.delete(&list, &pod.plain()).unwrap_err();
    assert!(fault.to_string().contains("failed to move eth0 out of the pod as nic: File exists"), "{fault}");
    assert_eq!(pod.links(), ["lo", "nic", "eth0"]);
    run_ip("link del nic");
    host.engine.delete(&list, &pod.plain()).unwrap();
    assert_eq!(pod.links(), ["lo", "nic"]);
    is_back(host);
}

pub fn host_device_fallen(host: &Host) {
    nic(host);
    let list = list("1.0.0", "net", json!([{"type":"host-device","device":"nic","ipam":v4()}]));
    let pod = host.pod("pod");
    host.engine.add(&list, &pod.plain()).unwrap();
    // What the kernel does with a device of flesh and blood when the pod's namespace ends.
    let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let back = || {
        let to = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&own));
        run_ip(&format!("link set eth0 netns {to}"));
    };
    pod.namespace.enter(back).unwrap();
    netns::remove(&pod.path).unwrap();
    // Somebody else's link that looks alike.
    run_ip("link add dev7 alias nic type bridge");
    assert_eq!(host.links(), ["lo", "far", "eth0", "dev7"]);
    host.engine.delete(&list, &pod.plain()).unwrap();
    is_back(host);
    assert!(host.leases("net").is_empty());
    assert!(host.links().contains(&"dev7".to_owned()));
}
