//! Pods whose network containerd makes with our CNI plugins as its binaries, in a namespace that plays the host.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use berth_tests::command::{self, DEADLINE, poll};
use berth_tests::containerd::Containerd;
use berth_tests::cri::kubelet::{Kubelet, play};
use berth_tests::cri::v1::{NamespaceMode, PortMapping, Protocol};
use berth_tests::cri::{Cri, Pod, daemon};
use berth_tests::scene::{Runtime, Scene};
use berth_tests::version::{self, Version};
use netns::Namespace;
use serde_json::{Value, json};

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Alone:
        a_pod_has_an_address_and_a_port_and_loses_them,
        sixteen_pods_get_addresses_at_once,
    ]
}

/// A daemon in a network namespace of its own, with our plugins for its pods.
fn apart(version: Version, body: fn(&Kubelet<'_>) -> Result<()>) -> Result<()> {
    let host = Namespace::create()?;
    host.bring_loopback_up()?;
    host.enter(|| {
        let containerd = daemon::start_with(version, network)?;
        let scene = Scene::new(&containerd, Runtime::Berth);
        let outcome = play(&scene, |k| {
            body(k)?;
            // What is looked for afterwards must not be there for the pods' sake.
            k.end()?;
            nothing_left(&containerd)
        });
        scene.finish(outcome).map(drop)
    })?
}

fn network(containerd: &Containerd) -> Result<()> {
    let directory = containerd.directory();
    fs::create_dir_all(directory.join("cni"))?;
    let mut install = Command::new(containerd.shim());
    install.arg0("berth").args(["cni", "install", "--bin-dir"]).arg(directory.join("cni/bin"));
    command::run(&mut install, DEADLINE)?.success()?;
    let ipam = json!({"type":"host-local","subnet":"10.88.0.0/16","dataDir":directory.join("leases")});
    let bridge =
        json!({"type":"bridge","bridge":"cni0","isDefaultGateway":true,"hairpinMode":true,"ipMasq":true,"ipam":ipam});
    let chained = ["portmap", "firewall"].into_iter().filter(|kind| netns::plugin::native(kind).is_some());
    let chained = chained.map(|kind| json!({"type":kind,"capabilities":{"portMappings":true}}));
    let plugins: Vec<Value> = [bridge].into_iter().chain(chained).collect();
    daemon::configure(directory, &json!({"cniVersion":"1.0.0","name":"pods","plugins":plugins}).to_string())
}

/// Nothing that a pod's network was made of: links, leases, rules, results.
fn nothing_left(containerd: &Containerd) -> Result<()> {
    let bare = poll(Duration::from_secs(5), || (links().ok()? == ["cni0", "lo"]).then_some(()));
    bare.with_context(|| format!("links are left: {:?}", links()))?;
    let leases = files(&containerd.directory().join("leases/pods"));
    ensure!(leases.iter().all(|name| name.parse::<std::net::IpAddr>().is_err()), "leases: {leases:?}");
    let rules = rules()?;
    ensure!(!rules.contains("10.88."), "rules are left:\n{rules}");
    Ok(())
}

fn links() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let name = |line: &str| line.split(':').next().unwrap_or_default().trim().to_owned();
    let mut links: Vec<_> = text.lines().skip(2).map(name).collect();
    links.sort();
    Ok(links)
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What nft(8) says; it is not installed but unpacked.
fn rules() -> Result<String> {
    let network = version::cache().join("network/usr");
    let libraries = network.join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let mut nft = Command::new(network.join("sbin/nft"));
    nft.args(["list", "ruleset"]).env("LD_LIBRARY_PATH", libraries);
    Ok(command::run(&mut nft, DEADLINE)?.success()?.stdout)
}

/// A pod with a network of its own.
fn own_network(k: &Kubelet<'_>, name: &str) -> Result<Pod> {
    Ok(k.pod(name)?.namespaces(|namespaces| namespaces.set_network(NamespaceMode::Pod)))
}

fn address(cri: &Cri, sandbox: &str) -> Result<String> {
    let network = cri.pod_status(sandbox)?.status.context("no status")?.network.context("no network")?;
    Ok(network.ip)
}

/// The namespace that containerd made for a pod.
fn namespace(cri: &Cri, sandbox: &str) -> Result<PathBuf> {
    let info = cri.pod_status(sandbox)?.info;
    let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().context("no namespaces")?;
    let its = namespaces.iter().find(|one| one["type"] == "network").and_then(|one| one["path"].as_str());
    its.map(PathBuf::from).context("no network namespace")
}

/// What a server says to whoever connects.
fn said(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn a_pod_has_an_address_and_a_port_and_loses_them(version: Version) -> Result<()> {
    apart(version, |k| {
        let mut pod = own_network(k, "web")?;
        let port = |protocol: Protocol, host, container| PortMapping {
            protocol: protocol.into(),
            host_port: host,
            container_port: container,
            host_ip: String::new(),
        };
        pod.config.port_mappings = vec![port(Protocol::Tcp, 8080, 80), port(Protocol::Udp, 5353, 53)];
        let sandbox = k.run(&pod)?;
        let ip = address(&k.cri, &sandbox)?;
        assert_eq!(ip, "10.88.0.2");
        let web = k.script(&pod, "web", "echo ready; while :; do echo hello | nc -l -p 80; done");
        let web = k.start(&sandbox, &pod, &web)?;
        k.wait_for_line("web", "ready")?;
        let inside = k.cri.sh(
            &web,
            "cat /proc/net/dev | grep -c eth0; grep -c lo: /proc/net/dev; ping -c 1 -W 3 127.0.0.1 >/dev/null; echo $?",
        )?;
        assert_eq!(inside.stdout, "1\n1\n0\n", "{inside:?}");
        for at in [format!("{ip}:80"), "127.0.0.1:8080".to_owned(), "10.88.0.1:8080".to_owned()] {
            let heard = poll(Duration::from_secs(10), || said(&at).ok().filter(|text| text == "hello\n"));
            heard.with_context(|| format!("{at} does not answer: {:?}; rules:\n{:?}", said(&at), rules()))?;
        }
        let other = own_network(k, "other")?;
        let second = k.run(&other)?;
        assert_eq!(address(&k.cri, &second)?, "10.88.0.3");
        let client = k.start(&second, &other, &k.sleeper(&other, "client"))?;
        let heard = k.cri.sh(&client, &format!("sleep 1; nc -w 3 {ip} 80 </dev/null"))?;
        assert_eq!(heard.stdout, "hello\n", "{heard:?}");
        let paths = [namespace(&k.cri, &sandbox)?, namespace(&k.cri, &second)?];
        k.cri.stop_pod(&sandbox)?;
        ensure!(said("127.0.0.1:8080").is_err(), "the port of a stopped pod answers");
        ensure!(!rules()?.contains("10.88.0.2") && rules()?.contains("10.88.0.3"), "{}", rules()?);
        for id in [&sandbox, &second] {
            k.cri.stop_pod(id)?;
            k.cri.remove_pod(id)?;
            let results = files(Path::new("/var/lib/cni/results"));
            ensure!(results.iter().all(|name| !name.contains(id.as_str())), "results: {results:?}");
        }
        ensure!(paths.iter().all(|path| !path.exists()), "namespaces are left: {paths:?}");
        Ok(())
    })
}

fn sixteen_pods_get_addresses_at_once(version: Version) -> Result<()> {
    apart(version, |k| {
        let pods: Vec<Pod> = (0..16).map(|index| own_network(k, &format!("pod{index}"))).collect::<Result<_>>()?;
        let (socket, handler) = (k.scene.containerd.socket(), k.handler());
        let each = |pod: &Pod| -> Result<(String, String)> {
            let cri = Cri::new(&socket)?;
            let sandbox = cri.run_pod(pod, handler)?;
            Ok((address(&cri, &sandbox)?, sandbox))
        };
        let living = at_once(&pods, each)?;
        living.iter().for_each(|(_, sandbox)| k.note(sandbox));
        let addresses: BTreeSet<_> = living.iter().map(|(address, _)| address.as_str()).collect();
        ensure!(addresses.len() == 16 && addresses.iter().all(|ip| ip.starts_with("10.88.0.")), "{addresses:?}");
        assert_eq!(links()?.iter().filter(|name| name.starts_with("veth")).count(), 16);
        at_once(&living, |(_, sandbox)| {
            let cri = Cri::new(&socket)?;
            cri.stop_pod(sandbox)?;
            Ok(cri.remove_pod(sandbox)?)
        })?;
        Ok(())
    })
}

/// What is done with each, by a thread for each.
fn at_once<A: Sync, T: Send>(each: &[A], act: impl Fn(&A) -> Result<T> + Sync) -> Result<Vec<T>> {
    let act = &act;
    std::thread::scope(|scope| {
        let threads: Vec<_> = each.iter().map(|one| scope.spawn(move || act(one))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    })
}
