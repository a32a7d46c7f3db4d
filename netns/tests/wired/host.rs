use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netns::Namespace;
use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::cni::engine::Engine;
use netns::plugin::Places;
use serde_json::{Map, Value, json};

/// A namespace that plays the host, and a directory for all state. What runs in it sees no other host.
pub struct Host {
    pub directory: PathBuf,
    pub engine: Engine,
}

/// Several hosts of one name may be there at once.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A pod's namespace, pinned.
pub struct Pod {
    pub id: String,
    pub namespace: Namespace,
    pub path: PathBuf,
}

impl Host {
    pub fn with<T: Send>(name: &str, act: impl FnOnce(&Self) -> T + Send) -> T {
        let directory =
            std::env::temp_dir().join(format!("berth-wired-{}-{}", name.replace(' ', "-"), std::process::id()));
        let directory = directory.with_extension(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let places = Places {
            networks: directory.join("networks"),
            tuning: directory.join("tuning"),
            tuning_allowlist: directory.join("allowlist"),
        };
        let engine = Engine {
            bin_dirs: vec![directory.join("bin")],
            cache_dir: directory.join("cache"),
            timeout: Duration::from_secs(60),
            places,
            ..Engine::default()
        };
        let host = Self { directory, engine };
        let namespace = Namespace::create().unwrap();
        namespace.bring_loopback_up().unwrap();
        namespace.enter(|| act(&host)).unwrap()
    }

    /// A directory with our own plugins as binaries.
    pub fn binaries(&self) -> PathBuf {
        let directory = self.directory.join("ours");
        if fs::create_dir(&directory).is_ok() {
            let program = std::env::current_exe().unwrap();
            netns::plugin::natives().for_each(|kind| symlink(&program, directory.join(kind)).unwrap());
        }
        directory
    }

    pub fn pod(&self, id: &str) -> Pod {
        let namespace = Namespace::create().unwrap();
        let path = namespace.pin(&self.directory.join("netns"), id).unwrap();
        Pod { id: id.to_owned(), namespace, path }
    }

    /// A pod that plays the world: it is reached through the host, and knows no other.
    pub fn world(&self) -> Pod {
        let list = list("1.0.0", "world", json!([{"type":"ptp","ipam":{"type":"host-local","subnet":"192.0.2.0/24"}}]));
        let world = self.pod("world");
        self.engine.add(&list, &world.plain()).unwrap();
        world
    }

    /// What `ip -j` says on the host.
    pub fn ip(&self, arguments: &str) -> Value {
        ip(arguments)
    }

    /// Makes a link of the host's own, where it is missing.
    pub fn has(&self, link: &str, arguments: &str) {
        if !self.links().contains(&link.to_owned()) {
            run_ip(&format!("link add {link} {arguments}"));
        }
    }

    /// What `bridge -j vlan` says.
    pub fn vlans(&self) -> Value {
        let output = Command::new("bridge").args(["-j", "vlan", "show"]).output().unwrap();
        assert!(output.status.success(), "bridge: {}", String::from_utf8_lossy(&output.stderr));
        if output.stdout.is_empty() { json!([]) } else { serde_json::from_slice(&output.stdout).unwrap() }
    }

    /// The names of the host's links.
    pub fn links(&self) -> Vec<String> {
        names(&self.ip("link show"))
    }

    /// How many rules with a comment a chain has, in all tables.
    pub fn rules(&self, chain: &str) -> usize {
        let ruleset = nft();
        let rules = ruleset["nftables"].as_array().unwrap().iter().filter_map(|object| object.get("rule"));
        rules.filter(|rule| rule["chain"] == chain && rule.get("comment").is_some()).count()
    }

    /// The rules of iptables, of both families, as it saves them.
    pub fn saved(&self) -> Vec<String> {
        let programs = ["iptables-save", "ip6tables-save"];
        programs.iter().flat_map(|program| saved(program)).collect()
    }

    /// The leases of a network.
    pub fn leases(&self, network: &str) -> Vec<String> {
        let entries = fs::read_dir(self.engine.places.networks.join(network)).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.parse::<std::net::IpAddr>().is_ok());
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.directory.join("netns")).into_iter().flatten().flatten() {
            let _ = netns::remove(&entry.path());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Pod {
    pub fn attachment(&self, capability_args: Value) -> Attachment {
        Attachment {
            container_id: self.id.clone(),
            netns: self.path.display().to_string(),
            if_name: "eth0".to_owned(),
            args: Vec::new(),
            capability_args: capability_args.as_object().cloned().unwrap_or_default(),
        }
    }

    pub fn plain(&self) -> Attachment {
        self.attachment(Value::Object(Map::new()))
    }

    /// What `ip -j` says inside.
    pub fn ip(&self, arguments: &str) -> Value {
        self.namespace.enter(|| ip(arguments)).unwrap()
    }

    pub fn links(&self) -> Vec<String> {
        names(&self.ip("link show"))
    }

    /// Answers one TCP connection inside with its peer's address.
    pub fn serve(&self, port: u16) -> std::thread::JoinHandle<std::net::SocketAddr> {
        let listener = self.namespace.enter(|| TcpListener::bind(("::", port))).unwrap().unwrap();
        std::thread::spawn(move || listener.accept().unwrap().1)
    }

    /// Whether a connection from inside is taken.
    pub fn reaches(&self, address: &str) -> bool {
        self.namespace.enter(|| reaches(address)).unwrap()
    }

    /// Whether the namespace has anything but `lo`.
    pub fn is_bare(&self) -> bool {
        self.links() == ["lo"]
    }
}

/// Whether something comes true: a plugin's process deletes links when it has answered.
pub fn soon(check: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !check() {
        if begin.elapsed() > Duration::from_secs(5) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

pub fn reaches(address: &str) -> bool {
    TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(3)).is_ok()
}

/// The host's port 8080 leads to port 80 of a pod of 10.7.0.0/24: from the world, the host and the pod itself.
pub fn assert_mapped(world: &Pod, pod: &Pod) {
    let server = pod.serve(80);
    assert!(world.reaches("192.0.2.1:8080"));
    assert_eq!(server.join().unwrap().ip().to_string(), "::ffff:192.0.2.2");
    for address in ["127.0.0.1:8080", "10.7.0.1:8080"] {
        let server = pod.serve(80);
        assert!(reaches(address), "{address}");
        server.join().unwrap();
    }
    let server = pod.serve(80);
    assert!(pod.reaches("10.7.0.1:8080"), "by itself");
    server.join().unwrap();
}

/// A command of ip(8) that has to succeed.
pub fn run_ip(arguments: &str) {
    let made = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(made.success(), "ip {arguments}");
}

fn ip(arguments: &str) -> Value {
    let output = Command::new("ip").args(["-j", "-d"]).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.is_empty() { json!([]) } else { serde_json::from_slice(&output.stdout).unwrap() }
}

fn names(links: &Value) -> Vec<String> {
    links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

pub fn list(version: &str, name: &str, plugins: Value) -> NetworkList {
    let list = json!({ "name": name, "cniVersion": version, "plugins": plugins });
    NetworkList::from_bytes(list.to_string().as_bytes()).unwrap()
}

/// Where tests/setup has unpacked what is not installed.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("BERTH_CACHE").map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/containerds"))
}

/// A command that finds the network tools that tests/setup unpacked.
pub fn with_tools(mut command: Command, tools: &str) -> Command {
    let network = cache().join("network/usr");
    let libraries = fs::read_dir(network.join("lib")).into_iter().flatten().flatten().map(|entry| entry.path());
    let libraries: Vec<_> = libraries.filter(|path| path.to_string_lossy().ends_with("-linux-gnu")).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs: Vec<_> =
        [network.join(tools), network.join("sbin")].into_iter().chain(std::env::split_paths(&path)).collect();
    if !libraries.is_empty() {
        let extensions: Vec<_> = libraries.iter().map(|path| path.join("xtables")).collect();
        command.env("XTABLES_LIBDIR", std::env::join_paths(extensions).unwrap());
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap());
    }
    command.env("PATH", std::env::join_paths(programs).unwrap());
    command
}

fn saved(program: &str) -> Vec<String> {
    // A host that has no iptables has none of its rules.
    let Ok(output) = Command::new(program).output() else { return Vec::new() };
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.starts_with("-A ")).map(|line| format!("{program}: {line}")).collect()
}

/// What `nft -j list ruleset` says.
pub fn nft() -> Value {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).output().unwrap();
    assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
