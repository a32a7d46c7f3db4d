//! What `make bench` measures networks with: attaches and detaches pods as often as it is told, and says how long each took.
//!
//!     stage DIRECTORY NATIVE BIN_DIR LEASES PLUGINS
//!
//! A namespace of its own plays the host, and all state is below the directory. NATIVE is `true` where our own plugins run
//! in this process; LEASES addresses are taken before it begins; PLUGINS is the network, a JSON list. Each line of standard
//! input is how many pods come at once; the answer is three times in milliseconds: until all were attached, until all were
//! detached, and until no pod has its interface any more.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::cni::engine::Engine;
use netns::plugin::Places;
use netns::{Afterwards, Namespace};
use serde_json::{Value, json};

type Failed = Box<dyn Error + Send + Sync>;

/// How long a deleted interface may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [directory, native, bin_dir, leases, plugins] = &words[..] else {
        return Err("usage: stage DIRECTORY NATIVE BIN_DIR LEASES PLUGINS".into());
    };
    let stage = Stage::set(directory.into(), native.parse()?, bin_dir.into(), leases.parse()?, plugins)?;
    let host = Namespace::create()?;
    host.bring_loopback_up()?;
    host.enter(|| -> Result<(), Failed> {
        let mut stdout = io::stdout();
        for (number, line) in io::stdin().lock().lines().enumerate() {
            let [add, delete, gone] = stage.play(number, line?.trim().parse()?)?;
            writeln!(stdout, "{add} {delete} {gone}")?;
        }
        stage.is_bare()
    })?
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = netns::remove(&self.path);
    }
}

struct Stage {
    directory: PathBuf,
    engine: Engine,
    network: NetworkList,
    leases: usize,
}

/// A pod's namespace, and how it is attached.
struct Pod {
    namespace: Namespace,
    path: PathBuf,
    attachment: Attachment,
}

impl Stage {
    fn set(directory: PathBuf, native: bool, bin_dir: PathBuf, leases: usize, plugins: &str) -> Result<Self, Failed> {
        let networks = directory.join("networks");
        let mut plugins: Value = serde_json::from_str(plugins)?;
        for plugin in plugins.as_array_mut().into_iter().flatten() {
            if let Some(ipam) = plugin.get_mut("ipam") {
                ipam["dataDir"] = json!(networks);
            }
        }
        let network = json!({"name":"net","cniVersion":"1.0.0","plugins":plugins});
        fill(&networks.join("net"), leases)?;
        let engine = Engine {
            bin_dirs: vec![bin_dir],
            cache_dir: directory.join("cache"),
            native,
            places: Places { networks, ..Places::default() },
            ..Engine::default()
        };
        Ok(Self { directory, engine, network: NetworkList::from_bytes(network.to_string().as_bytes())?, leases })
    }

    /// Some pods come and go at once.
    fn play(&self, number: usize, count: usize) -> Result<[f64; 3], Failed> {
        let pods: Vec<Pod> = (0..count).map(|at| self.pod(number, at)).collect::<Result<_, _>>()?;
        let (add, added) = timed(|| at_once(&pods, |pod| Ok(self.engine.add(&self.network, &pod.attachment)?)));
        added?;
        let begin = Instant::now();
        let (delete, released) =
            timed(|| at_once(&pods, |pod| Ok(self.engine.release(&self.network, &pod.attachment)?)));
        released?.into_iter().for_each(Afterwards::in_background);
        while !pods.iter().try_fold(true, |bare, pod| Ok::<_, Failed>(bare && links(&pod.namespace)? == 1))? {
            if begin.elapsed() > PATIENCE {
                return Err("a pod keeps its interface".into());
            }
            thread::sleep(Duration::from_micros(200));
        }
        let gone = milliseconds(begin);
        Ok([add, delete, gone])
    }

    fn pod(&self, number: usize, at: usize) -> Result<Pod, Failed> {
        let id = format!("pod{number}-{at}");
        let namespace = Namespace::create()?;
        let path = namespace.pin(&self.directory.join("netns"), &id)?;
        let ports = json!({"portMappings":[{"hostPort":8080 + at,"containerPort":80,"protocol":"tcp"}]});
        let attachment = Attachment {
            container_id: id,
            netns: path.display().to_string(),
            if_name: "eth0".to_owned(),
            args: Vec::new(),
            capability_args: ports.as_object().cloned().unwrap_or_default(),
        };
        Ok(Pod { namespace, path, attachment })
    }

    /// Whether all that is left is what was there before, and the bridge.
    fn is_bare(&self) -> Result<(), Failed> {
        let links = fs::read_to_string("/proc/thread-self/net/dev")?.lines().skip(2).count();
        let is_lease = |name: &str| name.parse::<std::net::IpAddr>().is_ok();
        let files = fs::read_dir(self.engine.places.networks.join("net"))?;
        let leases = files.flatten().filter(|file| file.file_name().to_str().is_some_and(is_lease)).count();
        if links > 2 || leases != self.leases {
            return Err(format!("{links} links and {leases} leases are left").into());
        }
        Ok(())
    }
}

/// Addresses that others have.
fn fill(directory: &Path, leases: usize) -> Result<(), Failed> {
    fs::create_dir_all(directory)?;
    for number in 0..leases {
        let address = format!("10.7.{}.{}", 1 + number / 250, 1 + number % 250);
        fs::write(directory.join(&address), format!("other{number}\r\neth0"))?;
        fs::write(directory.join("last_reserved_ip.0"), address)?;
    }
    Ok(())
}

/// What is done to each pod, by a thread for each where there are several.
fn at_once<T: Send>(pods: &[Pod], act: impl Fn(&Pod) -> Result<T, Failed> + Sync) -> Result<Vec<T>, Failed> {
    if let [pod] = pods {
        return Ok(vec![act(pod)?]);
    }
    let act = &act;
    thread::scope(|scope| {
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(move || act(pod))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    })
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

fn timed<T>(act: impl FnOnce() -> T) -> (f64, T) {
    let begin = Instant::now();
    let done = act();
    (milliseconds(begin), done)
}

/// How many links a namespace has.
fn links(namespace: &Namespace) -> Result<usize, Failed> {
    Ok(namespace.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??.lines().skip(2).count())
}
