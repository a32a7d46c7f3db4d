//! Bad input, and neighbours that misbehave: one clear error each, and nothing that stays.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::cni::engine::Engine;
use netns::cni::fault::Code;
use serde_json::{Value, json};

use crate::host::{Host, Pod, list};
use crate::{crash, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("no json and no plugin are refused", unknown),
        trial("a missing master is refused", master),
        trial("bad ranges are refused", ranges),
        trial("what is no namespace is refused by every plugin", namespaces),
        trial("a plugin that misbehaves behind ours leaves nothing", misbehaving),
        trial("a lock of the dead is free and one of the living is waited for in time", locks),
        trial("a read only directory of leases is said", leases_read_only),
        trial("a read only cache is said", cache_read_only),
    ]
}

fn bridge(subnet: &str) -> Value {
    json!({"type":"bridge","bridge":"br0","isGateway":true,"ipam":{"type":"host-local","subnet":subnet}})
}

/// What an ADD that is to fail says, after which there is nothing, and a DEL has nothing to say.
fn refusal(host: &Host, pod: &Pod, list: &NetworkList) -> String {
    let fault = host.engine.add(list, &pod.plain()).unwrap_err();
    host.engine.delete(list, &pod.plain()).unwrap_or_else(|fault| panic!("delete: {fault}"));
    nothing_left(host, pod, &fault.to_string());
    fault.to_string()
}

fn nothing_left(host: &Host, pod: &Pod, of: &str) {
    assert!(!pod.path.exists() || pod.is_bare(), "{of}");
    let ours = |link: &String| !["lo", "br0"].contains(&link.as_str());
    assert_eq!(host.links().into_iter().find(ours), None, "{of}");
    assert!(host.leases("net").is_empty(), "{of}");
    assert!(host.engine.attachments().is_empty(), "{of}");
}

fn unknown(host: &Host) {
    for (text, words) in [
        ("{", "error parsing configuration"),
        ("[]", "error parsing configuration"),
        (r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#, "name"),
        (r#"{"name":"net","cniVersion":"1.0.0","plugins":[]}"#, "plugins"),
        (r#"{"name":"net","cniVersion":"1.0.0","plugins":[{}]}"#, "type"),
        (r#"{"name":"net","cniVersion":"x.y","plugins":[{"type":"bridge"}]}"#, "x.y"),
    ] {
        let pod = host.pod("pod");
        let error = match NetworkList::from_bytes(text.as_bytes()) {
            Err(fault) => fault.to_string(),
            Ok(list) => host.engine.add(&list, &pod.plain()).unwrap_err().to_string(),
        };
        assert!(error.contains(words), "{text}: {error}");
        assert!(pod.is_bare());
        netns::remove(&pod.path).unwrap();
    }
    let pod = host.pod("pod");
    let absent = list("1.0.0", "net", json!([bridge("10.7.0.0/24"), {"type":"absent"}]));
    let error = host.engine.add(&absent, &pod.plain()).unwrap_err().to_string();
    assert!(error.contains("failed to find plugin \"absent\" in path ["), "{error}");
    // libcni's order: who is behind goes first, and is missed again. What was before goes with the rest of the list.
    let rest = list("1.0.0", "net", json!([bridge("10.7.0.0/24")]));
    assert!(host.engine.delete(&absent, &pod.plain()).is_err());
    host.engine.delete(&rest, &pod.plain()).unwrap();
    nothing_left(host, &pod, "absent");
}

fn master(host: &Host) {
    let pod = host.pod("pod");
    let ipam = json!({"type":"host-local","subnet":"10.7.0.0/24"});
    let named = list("1.0.0", "net", json!([{"type":"macvlan","master":"nowhere","ipam":ipam}]));
    let error = refusal(host, &pod, &named);
    assert!(error.contains("\"nowhere\": Link not found"), "{error}");
    let unnamed = list("1.0.0", "net", json!([{"type":"macvlan","ipam":ipam}]));
    let error = refusal(host, &pod, &unnamed);
    assert!(error.contains("no default route interface found"), "{error}");
}

fn ranges(host: &Host) {
    let pod = host.pod("pod");
    for (ranges, words) in [
        (json!([[{"subnet":"10.7.0.0/24"}],[{"subnet":"10.7.0.0/25"}]]), "range set 0 overlaps with 1"),
        (json!([[{"subnet":"10.7.0.0/24"},{"subnet":"10.7.0.0/24"}]]), "overlap"),
        (json!([[{"subnet":"10.7.0.0/33"}]]), "\"10.7.0.0/33\""),
        (json!([[{"subnet":"10.7.0.0/31"}]]), "too small"),
        (json!([[{"subnet":"10.7.0.1/24"}]]), "host bits set"),
        (json!([[{"subnet":"10.7.0.0/24","rangeStart":"10.8.0.1"}]]), "10.8.0.1 not in network"),
        (json!([[]]), "empty range set"),
        (json!([]), "no IP ranges specified"),
        (json!("10.7.0.0/24"), "ranges"),
    ] {
        let bad = json!([{"type":"bridge","bridge":"br0","ipam":{"type":"host-local","ranges":ranges}}]);
        let error = refusal(host, &pod, &list("1.0.0", "net", bad));
        assert!(
            error.contains("plugin type=\"host-local\" failed (add)") && error.contains(words),
            "{ranges}: {error}"
        );
    }
}

/// A plain file is what a crash leaves of a pin. DEL of it is no error of any plugin's.
fn namespaces(host: &Host) {
    let pod = host.pod("pod");
    let previous = bridge("10.7.0.0/24");
    let ipam = json!({"type":"host-local","subnet":"10.7.0.0/24"});
    let ports = json!({"type":"portmap","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80}]}});
    let alone = [
        json!([previous]),
        json!([{"type":"ptp","ipam":ipam}]),
        json!([{"type":"macvlan","master":"br0","ipam":ipam}]),
        json!([{"type":"loopback"}]),
    ];
    let chained = [
        ports,
        json!({"type":"tuning","mtu":1300}),
        json!({"type":"bandwidth","ingressRate":8_000_000,"ingressBurst":80_000}),
        json!({"type":"firewall","backend":"iptables"}),
    ];
    netns::remove(&pod.path).unwrap();
    for path in [None, Some("")] {
        let _ = path.map(|text| std::fs::write(&pod.path, text).unwrap());
        for plugins in &alone {
            let list = list("1.0.0", "net", plugins.clone());
            let fault = host.engine.add(&list, &pod.plain()).unwrap_err();
            assert_eq!(fault.code, Code::NETNS, "{plugins}: {fault}");
            host.engine.delete(&list, &pod.plain()).unwrap();
            nothing_left(host, &pod, &plugins.to_string());
        }
        for plugin in &chained {
            let mut plugin = plugin.clone();
            plugin["prevResult"] = json!({"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":pod.path}],
                "ips":[{"interface":0,"address":"10.7.0.2/24"}]});
            let list = list("1.0.0", "net", json!([plugin]));
            let fault = host.engine.add(&list, &pod.plain()).unwrap_err();
            assert_eq!(fault.code, Code::NETNS, "{plugin}: {fault}");
            host.engine.delete(&list, &pod.plain()).unwrap();
            nothing_left(host, &pod, &plugin.to_string());
        }
    }
    assert_eq!(host.rules("hostports"), 0);
}

/// Plugins of others behind our bridge, wrong at ADD alone.
fn misbehaving(host: &Host) {
    let engine = Engine { timeout: Duration::from_secs(2), ..host.engine.clone() };
    let host = &Host { directory: host.directory.join("inner"), engine };
    let bin = host.engine.bin_dirs[0].clone();
    std::fs::create_dir_all(&bin).unwrap();
    let pod = host.pod("pod");
    let chain = list("1.0.0", "net", json!([bridge("10.7.0.0/24"), {"type":"other"}]));
    for (script, words) in [
        ("sleep 1000", "did not end in time and was killed"),
        ("echo garbage", "failed to unmarshal raw result \"garbage\\n\""),
        ("echo '{\"ips\":7}'", "ips"),
        ("kill -9 $$", "netplugin failed with no error message: signal: 9 (SIGKILL)"),
        ("yes", "printed without end and was killed"),
    ] {
        let text = format!("#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = ADD ] || exit 0\n{script}\n");
        // Written by another process: this one has threads that fork, and a file that a fork holds open is busy.
        let draft = host.directory.join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new("cp").arg("-p").arg(draft).arg(bin.join("other")).status().unwrap().success());
        let error = refusal(host, &pod, &chain);
        assert!(
            error.starts_with("plugin type=\"other\" failed (add): ") && error.contains(words),
            "{script}: {error}"
        );
    }
}

/// A process that has the lock of the leases until it is killed.
fn holder(lock: &Path) -> Child {
    let mut command = Command::new("flock");
    command.arg("--no-fork").arg(lock).args(["sh", "-c", "echo; exec sleep 1000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
    child
}

fn locks(host: &Host) {
    let directory = host.engine.places.networks.join("net");
    std::fs::create_dir_all(&directory).unwrap();
    let list = list("1.0.0", "net", json!([bridge("10.7.0.0/24")]));
    let pod = host.pod("pod");
    let mut child = holder(&directory.join("lock"));
    let impatient = Engine { timeout: Duration::from_millis(700), ..host.engine.clone() };
    let begin = Instant::now();
    let error = impatient.add(&list, &pod.plain()).unwrap_err().to_string();
    assert!(error.contains("lock the leases in ") && error.contains("somebody else has it"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(20) && pod.is_bare());
    child.kill().unwrap();
    child.wait().unwrap();
    host.engine.add(&list, &pod.plain()).unwrap();
    host.engine.delete(&list, &pod.plain()).unwrap();
    nothing_left(host, &pod, "locks");
}

fn leases_read_only(host: &Host) {
    read_only(host, "networks", "networks/net");
}

fn cache_read_only(host: &Host) {
    read_only(host, "cache", "cache/results");
}

/// In a mount namespace of its own a directory cannot be written to; out of it, what was done is taken back.
fn read_only(host: &Host, directory: &str, named: &str) {
    let pod = host.pod("pod");
    let path = host.directory.join(directory);
    std::fs::create_dir_all(&path).unwrap();
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$0\" bridge add";
    let runner = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).args([runner.as_path(), path.as_path()]);
    let output = command.env(crash::VICTIM, &host.directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("Read-only file system"), "{text}");
    assert!(text.contains(&host.directory.join(named).display().to_string()), "{text}");
    assert!(pod.is_bare());
    let (engine, attachment): (Engine, Attachment) =
        (crash::engine(&host.directory, crash::Chain::Bridge), crash::attachment(&host.directory));
    engine.delete(&crash::bridge(&host.directory), &attachment).unwrap();
    nothing_left(host, &pod, &text);
    assert_eq!((host.rules("masq_checks"), host.rules("hostports")), (0, 0));
}
