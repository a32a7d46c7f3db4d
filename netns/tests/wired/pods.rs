//! Pods as a whole: made, found, taken away, by their owner and by others.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use netns::Namespace;
use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::plugin::Places;
use netns::pod::{Life, Pods, Wanted};
use serde_json::json;

use crate::host::{Host, list, reaches};
use crate::trial_alone;
use crate::victim::{self, survives};

/// Set in a process that makes a pod or takes it away, and may be killed: the directory.
const VICTIM: &str = "BERTH_NETNS_POD_VICTIM";

pub fn trials() -> Vec<Trial> {
    vec![
        trial_alone("a pod is made whole and taken away whole", whole),
        trial_alone("a pod whose last network fails leaves nothing", fails),
        trial_alone("a pod gets no port that is somebody's", ports),
        trial_alone("a pod is collected when its owner and its processes are gone", collected),
        trial_alone("a pod of an earlier boot leaves alone what has its name now", rebooted),
        trial_alone("a pod whose maker is killed at any moment is found", make_killed),
        trial_alone("a pod whose taker is killed at any moment is found", take_killed),
    ]
}

fn pods(directory: &Path) -> Pods {
    let places = Places { networks: directory.join("networks"), ..Places::default() };
    Pods { netns_dir: directory.join("netns"), places, ..Pods::new(directory.join("cache")) }
}

fn network() -> NetworkList {
    let bridge = json!({"type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.7.0.0/24"}]]}});
    list("1.1.0", "net", json!([bridge, {"type":"portmap","capabilities":{"portMappings":true}}]))
}

fn wanted(id: &str, port: u16) -> Wanted {
    let ports = json!({"portMappings":[{"hostPort":port,"containerPort":80}]}).as_object().unwrap().clone();
    let attachment = Attachment { if_name: "eth0".to_owned(), capability_args: ports, ..Attachment::default() };
    Wanted { id: id.to_owned(), native: true, networks: vec![(network(), attachment)], ..Wanted::default() }
}

/// True where this process is one that may be killed, and has done what it is for.
pub fn is_victim() -> bool {
    let Some(directory) = std::env::var_os(VICTIM) else { return false };
    let pods = pods(Path::new(&directory));
    if std::env::args().any(|argument| argument == "take") {
        pods.open("pod").unwrap().unwrap().remove().unwrap();
    } else {
        pods.create(wanted("pod", 8080)).unwrap();
    }
    true
}

fn nothing_left(host: &Host, moment: u32) {
    assert!(pods(&host.directory).ids().unwrap().is_empty(), "{moment}");
    assert_eq!(fs::read_dir(host.directory.join("netns")).map_or(0, Iterator::count), 0, "{moment}");
    victim::nothing_left(host, moment);
}

fn whole(host: &Host) {
    let pods = pods(&host.directory);
    let (pod, outcomes) = pods.create(wanted("pod", 8080)).unwrap();
    let address = outcomes[0].ips[0].address.address;
    let namespace = Namespace::open(&pod.record().namespace).unwrap();
    let listener = namespace.enter(|| TcpListener::bind((address, 80))).unwrap().unwrap();
    assert!(reaches(&format!("{address}:80")));
    // Its interface goes with the namespace.
    drop((listener, namespace));
    pods.check(pod.record()).unwrap();
    let found = pods.find("pod").unwrap().unwrap();
    assert_eq!((found.life, found.outcomes[0].as_ref().unwrap()), (Life::Live, &outcomes[0]));
    // It has an owner: nobody else gets it.
    assert!(pods.open("pod").unwrap_err().message.contains("in use"));
    assert!(pods.create(wanted("pod", 8081)).unwrap_err().message.contains("in use"));
    assert!(pods.collect().unwrap().is_empty());
    pod.remove().unwrap();
    assert!(pods.find("pod").unwrap().is_none());
    nothing_left(host, 0);
}

fn fails(host: &Host) {
    let script = host.directory.join("bin/fails");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(
        &script,
        "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || { echo '{\"code\":100,\"msg\":\"no, thanks\"}'; exit 1; }\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut wanted = wanted("pod", 8080);
    wanted.bin_dirs = vec![host.directory.join("bin")];
    let second = Attachment { if_name: "eth1".to_owned(), ..Attachment::default() };
    for (kind, words) in [
        ("no-such-plugin", "failed to find plugin \"no-such-plugin\""),
        ("fails", "plugin type=\"fails\" failed (add): no, thanks"),
    ] {
        let mut wanted = wanted.clone();
        wanted.networks.push((list("1.0.0", "other", json!([{ "type": kind }])), second.clone()));
        let fault = pods(&host.directory).create(wanted).unwrap_err().to_string();
        assert!(fault.starts_with(words), "{fault}");
        nothing_left(host, 0);
    }
}

fn ports(host: &Host) {
    let pods = pods(&host.directory);
    let (pod, _) = pods.create(wanted("pod", 8080)).unwrap();
    let fault = pods.create(wanted("other", 8080)).unwrap_err().to_string();
    assert_eq!(fault, "port 8080/tcp of the host is taken by pod pod");
    let listener = TcpListener::bind(("127.0.0.1", 8081)).unwrap();
    let fault = pods.create(wanted("other", 8081)).unwrap_err().to_string();
    assert_eq!(fault, "port 8081/tcp of the host is taken by a program of the host");
    drop(listener);
    let (other, _) = pods.create(wanted("other", 8081)).unwrap();
    pod.remove().unwrap();
    other.remove().unwrap();
    nothing_left(host, 0);
}

/// A process that lives in a namespace until it is dropped.
struct Inhabitant(Child);

impl Inhabitant {
    fn of(namespace: &Namespace) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "echo; exec sleep 1000"]).stdout(Stdio::piped());
        let mut child = namespace.enter(|| command.spawn().unwrap()).unwrap();
        // Until it says something it may have our locks: the kernel closes descriptors after spawn has returned.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn life(pods: &Pods) -> Life {
    pods.find("pod").unwrap().unwrap().life
}

/// Collects all that there is.
fn collect(pods: &Pods) {
    pods.collect().unwrap().into_iter().for_each(|(_, removed)| removed.unwrap());
    assert!(pods.ids().unwrap().is_empty());
}

fn collected(host: &Host) {
    let pods = pods(&host.directory);
    let (live, _) = pods.create(wanted("live", 8080)).unwrap();
    let (pod, _) = pods.create(wanted("pod", 8081)).unwrap();
    let inhabitant = Inhabitant::of(&Namespace::open(&pod.record().namespace).unwrap());
    // As when its owner dies.
    drop(pod);
    assert_eq!(life(&pods), Life::Orphaned);
    assert!(pods.collect().unwrap().is_empty());
    drop(inhabitant);
    assert_eq!(life(&pods), Life::Gone);
    assert_eq!(pods.collect().unwrap(), [("pod".to_owned(), Ok(()))]);
    assert_eq!(pods.ids().unwrap(), ["live"]);
    assert_eq!(host.leases("net").len(), 1);
    pods.check(live.record()).unwrap();
    live.remove().unwrap();
    nothing_left(host, 0);
}

fn rebooted(host: &Host) {
    let pods = pods(&host.directory);
    let (pod, _) = pods.create(wanted("pod", 8080)).unwrap();
    let (id, namespace) = (pod.record().id.clone(), pod.record().namespace.clone());
    drop(pod);
    assert_eq!(life(&pods), Life::Gone);
    let file = host.directory.join("cache/pods/pod.json");
    let now = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = fs::read_to_string(&file).unwrap().replace(now.trim(), "another boot");
    fs::write(&file, text).unwrap();
    // What a boot takes away is gone, and somebody else has a namespace of the name.
    netns::remove(&namespace).unwrap();
    let foreign = Namespace::create().unwrap();
    foreign.pin(&host.directory.join("netns"), &id).unwrap();
    assert_eq!(pods.collect().unwrap(), [(id, Ok(()))]);
    assert!(host.leases("net").is_empty());
    Namespace::open(&namespace).unwrap();
    netns::remove(&namespace).unwrap();
}

fn run(host: &Host, act: &str, after: Duration) -> bool {
    let mut command = Command::new("/proc/self/exe");
    survives(command.arg(act).env(VICTIM, &host.directory), after, |child| drop(child.kill()))
}

fn each_moment(host: &Host, mut act: impl FnMut(u32, Duration) -> bool) {
    victim::each_moment(Duration::from_micros(400), |moment, after| {
        let done = act(moment, after);
        nothing_left(host, moment);
        done
    });
}

fn make_killed(host: &Host) {
    let pods = pods(&host.directory);
    each_moment(host, |moment, after| {
        let done = run(host, "make", after);
        match moment % 3 {
            0 => collect(&pods),
            1 => pods.open("pod").unwrap().into_iter().for_each(|pod| pod.remove().unwrap()),
            _ => pods.create(wanted("pod", 8080)).unwrap().0.remove().unwrap(),
        }
        done
    });
}

fn take_killed(host: &Host) {
    let pods = pods(&host.directory);
    each_moment(host, |moment, after| {
        drop(pods.create(wanted("pod", 8080)).unwrap());
        let done = run(host, "take", after);
        match moment % 2 {
            0 => collect(&pods),
            _ => pods.open("pod").unwrap().into_iter().for_each(|pod| pod.remove().unwrap()),
        }
        done
    });
}
