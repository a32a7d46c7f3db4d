//! Whoever wires a pod is killed at some moment of it, and what comes then leaves nothing.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use libtest_mimic::Trial;
use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::cni::engine::Engine;
use netns::plugin::Places;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde_json::json;

use crate::host::{Host, list, soon};
use crate::trial;
use crate::victim::{self, nothing_left, survives};

/// Set in a process that wires one pod and may be killed: the directory, and what to do.
pub const VICTIM: &str = "BERTH_NETNS_VICTIM";

pub fn trials() -> Vec<Trial> {
    vec![
        trial("killed at any moment of an add", |host| add(host, Chain::Bridge)),
        trial("killed at any moment of a delete", |host| delete(host, Chain::Bridge)),
        trial("killed at any moment of an add by binaries", |host| add(host, Chain::Binaries)),
        trial("killed at any moment of a delete by binaries", |host| delete(host, Chain::Binaries)),
        trial("links: killed at any moment of an add of a device", |host| add(host, Chain::Device)),
        trial("links: killed at any moment of a delete of a device", |host| delete(host, Chain::Device)),
    ]
}

/// Which plugins.
#[derive(Clone, Copy, PartialEq)]
pub enum Chain {
    Bridge,
    /// The same in processes of their own, which are killed with the one that runs them.
    Binaries,
    Device,
}

impl Chain {
    const ALL: [(Self, &str); 3] = [(Self::Bridge, "bridge"), (Self::Binaries, "binaries"), (Self::Device, "device")];

    /// As a victim is told.
    fn word(self) -> &'static str {
        Self::ALL.into_iter().find(|(chain, _)| *chain == self).unwrap().1
    }

    fn network(self, directory: &Path) -> NetworkList {
        match self {
            Self::Bridge | Self::Binaries => bridge(directory),
            Self::Device => device(),
        }
    }
}

fn device() -> NetworkList {
    let ipam = json!({"type":"host-local","subnet":"10.7.0.0/24","routes":[{"dst":"0.0.0.0/0"}]});
    list("1.1.0", "net", json!([{"type":"host-device","device":"nic","ipam":ipam}, {"type":"sbr"}]))
}

pub fn bridge(directory: &Path) -> NetworkList {
    let bridge = json!({"type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":true,
        "ipam":{"type":"host-local","dataDir":directory.join("networks"),
        "ranges":[[{"subnet":"10.7.0.0/24"}],[{"subnet":"fd07::/64"}]]}});
    let chained = ["portmap", "firewall"].into_iter().filter(|kind| netns::plugin::native(kind).is_some());
    let chained = chained.map(|kind| json!({"type":kind,"capabilities":{"portMappings":true}}));
    list("1.1.0", "net", [bridge].into_iter().chain(chained).collect())
}

pub fn engine(directory: &Path, chain: Chain) -> Engine {
    let places = Places { networks: directory.join("networks"), ..Places::default() };
    let (native, bin_dirs) = (chain != Chain::Binaries, vec![directory.join("ours")]);
    Engine { cache_dir: directory.join("cache"), bin_dirs, native, places, ..Engine::default() }
}

pub fn attachment(directory: &Path) -> Attachment {
    Attachment {
        container_id: "pod".to_owned(),
        netns: directory.join("netns/pod").display().to_string(),
        if_name: "eth0".to_owned(),
        args: Vec::new(),
        capability_args: json!({"portMappings":[{"hostPort":8080,"containerPort":80}]}).as_object().unwrap().clone(),
    }
}

/// True where this process is one that may be killed, and has done what it is for.
pub fn is_victim() -> bool {
    let Some(directory) = std::env::var_os(VICTIM) else { return false };
    let directory = Path::new(&directory);
    let asked = |word: &str| std::env::args().any(|argument| argument == word);
    let (chain, _) = Chain::ALL.into_iter().find(|(_, word)| asked(word)).unwrap();
    let (engine, attachment, network) = (engine(directory, chain), attachment(directory), chain.network(directory));
    if asked("delete") {
        engine.delete(&network, &attachment).unwrap();
    } else {
        engine.add(&network, &attachment).unwrap();
    }
    true
}

/// Kills a process and those that it runs, none of which can start another meanwhile, and waits for their ends.
fn kill(child: &mut Child) {
    let pid = Pid::from_child(child);
    kill_process(pid, Signal::STOP).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = children.split_whitespace().map(|child| Pid::from_raw(child.parse().unwrap()).unwrap());
    let ends: Vec<_> = pids.chain([pid]).filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
    for end in &ends {
        let _ = pidfd_send_signal(end, Signal::KILL);
    }
    for end in &ends {
        poll(&mut [PollFd::new(end, PollFlags::IN)], None).unwrap();
    }
}

fn run(host: &Host, chain: Chain, act: &str, after: Duration) -> bool {
    let mut command = Command::new("/proc/self/exe");
    survives(command.args([act, chain.word()]).env(VICTIM, &host.directory), after, kill)
}

fn each_moment(host: &Host, chain: Chain, mut act: impl FnMut(u32, Duration) -> bool) {
    let pod = host.pod("pod");
    if chain == Chain::Device {
        crate::links::nic(host);
    }
    victim::each_moment(Duration::from_micros(300), |moment, after| {
        let done = act(moment, after);
        assert!(soon(|| pod.is_bare()), "{moment}");
        nothing_left(host, moment);
        if chain == Chain::Device {
            crate::links::is_back(host);
        }
        done
    });
}

fn add(host: &Host, chain: Chain) {
    host.binaries();
    let directory = &host.directory;
    let (engine, attachment, list) = (engine(directory, chain), attachment(directory), chain.network(directory));
    each_moment(host, chain, |moment, after| {
        let done = run(host, chain, "add", after);
        match moment % 3 {
            0 => engine.delete(&list, &attachment).unwrap(),
            1 => engine.gc(&list, &[]).unwrap(),
            // What was done may not be done again.
            _ if done => engine.delete(&list, &attachment).unwrap(),
            _ => {
                if let Err(fault) = engine.add(&list, &attachment) {
                    // Killed between its last write and its end.
                    let ended = engine.attachments().iter().all(|cached| cached.result.is_some());
                    assert!(ended, "{moment}: {fault}");
                }
                engine.delete(&list, &attachment).unwrap();
            }
        }
        done
    });
}

fn delete(host: &Host, chain: Chain) {
    host.binaries();
    let directory = &host.directory;
    let (engine, attachment, list) = (engine(directory, chain), attachment(directory), chain.network(directory));
    each_moment(host, chain, |moment, after| {
        engine.add(&list, &attachment).unwrap();
        let done = run(host, chain, "delete", after);
        match moment % 2 {
            0 => engine.delete(&list, &attachment).unwrap(),
            _ => engine.gc(&list, &[]).unwrap(),
        }
        done
    });
}
