//! One scenario's pods, asked for as kubelet asks, and what they leave behind.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::v1::ContainerState;
use super::{Container, Cri, Pod, PodCgroup, daemon, logs};
use crate::command::poll;
use crate::containerd::IMAGE;
use crate::leftovers::Leftovers;
use crate::scene::{Runtime, Scene};

/// How long what a pod was made of may take to go away after RemovePodSandbox.
const GONE: Duration = Duration::from_secs(15);

/// A scenario's view of its daemon.
pub struct Kubelet<'a> {
    /// The scene that it plays in.
    pub scene: &'a Scene<'a>,
    /// The connection.
    pub cri: Cri,
    /// The cgroup of all of the scenario's pods.
    pub cgroup: PodCgroup,
    made: RefCell<Vec<Made>>,
}

/// A sandbox or a container, by the id that containerd gave it.
#[derive(Clone)]
struct Made {
    id: String,
    name: String,
    sandbox: bool,
}

/// Runs a scenario's body and ends what it made: nothing may be left by one that succeeded.
pub fn play(scene: &Scene<'_>, body: impl FnOnce(&Kubelet<'_>) -> Result<()>) -> Result<()> {
    let kubelet = Kubelet {
        scene,
        cri: Cri::new(&scene.containerd.socket())?,
        cgroup: PodCgroup::new(&format!("{}-pods", scene.tag())).context("make the pods' cgroup")?,
        made: RefCell::default(),
    };
    let outcome = body(&kubelet).and_then(|()| kubelet.end());
    outcome.map_err(|error| error.context(format!("with {:?}; {}", scene.runtime, kubelet.logged())))
}

impl Kubelet<'_> {
    /// The runtime handler that a RuntimeClass would name.
    pub fn handler(&self) -> &'static str {
        match self.scene.runtime {
            Runtime::Runc => "runc",
            Runtime::Berth => "berth",
        }
    }

    /// Where the pods' logs are.
    pub fn logs(&self) -> Result<PathBuf> {
        let directory = self.scene.scratch()?.join("logs");
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// A pod, not yet run, of the scenario's own name.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        Ok(Pod::new(&format!("{}-{name}", self.scene.tag()), &self.logs()?).cgroup(&self.cgroup))
    }

    /// RunPodSandbox.
    pub fn run(&self, pod: &Pod) -> Result<String> {
        self.run_with(pod, self.handler())
    }

    /// RunPodSandbox through a handler of the caller's.
    pub fn run_with(&self, pod: &Pod, handler: &str) -> Result<String> {
        let id = self.cri.run_pod(pod, handler)?;
        let name = pod.config.metadata.clone().unwrap_or_default().name;
        self.made.borrow_mut().push(Made { id: id.clone(), name, sandbox: true });
        Ok(id)
    }

    /// Remembers a sandbox that RunPodSandbox did not return, so that what is left of it is found.
    pub fn note(&self, sandbox: &str) {
        let mut made = self.made.borrow_mut();
        if made.iter().all(|made| made.id != sandbox) {
            made.push(Made { id: sandbox.to_owned(), name: "noted".to_owned(), sandbox: true });
        }
    }

    /// A container of the image that runs a shell script.
    pub fn script(&self, pod: &Pod, name: &str, script: &str) -> Container {
        Container::new(pod, name, IMAGE, &["/bin/sh", "-c", script])
    }

    /// A container that says `ready` and sleeps, ends at once with code 15 at TERM, and with 10 at USR1.
    pub fn sleeper(&self, pod: &Pod, name: &str) -> Container {
        let script = "trap 'exit 15' TERM; trap 'exit 10' USR1; echo ready; while :; do sleep 1000 & wait $!; done";
        self.script(pod, name, script)
    }

    /// CreateContainer.
    pub fn create(&self, sandbox: &str, pod: &Pod, container: &Container) -> Result<String> {
        let id = self.cri.create(sandbox, pod, container)?;
        let metadata = container.config.metadata.clone().unwrap_or_default();
        let name = format!("{}.{}", metadata.name, metadata.attempt);
        self.made.borrow_mut().push(Made { id: id.clone(), name, sandbox: false });
        Ok(id)
    }

    /// CreateContainer and StartContainer.
    pub fn start(&self, sandbox: &str, pod: &Pod, container: &Container) -> Result<String> {
        let id = self.create(sandbox, pod, container)?;
        self.cri.start(&id)?;
        Ok(id)
    }

    /// Runs a container to its end; what it logged on both streams and its exit code.
    pub fn told(&self, sandbox: &str, pod: &Pod, container: &Container) -> Result<String> {
        let id = self.start(sandbox, pod, container)?;
        let ended = self.cri.wait_for(&id, ContainerState::ContainerExited)?;
        let name = container.config.metadata.clone().unwrap_or_default().name;
        let lines = self.log(&name)?;
        let text: String = ["stdout", "stderr"].iter().map(|stream| logs::text(&lines, stream)).collect();
        Ok(format!("{text}{} {}", ended.exit_code, ended.reason))
    }

    /// A pod on the host's network with one sleeping container; their ids.
    pub fn one_sleeper(&self) -> Result<(String, String)> {
        let pod = self.pod("pod")?;
        let sandbox = self.run(&pod)?;
        let container = self.start(&sandbox, &pod, &self.sleeper(&pod, "sleeper"))?;
        self.wait_for_line("sleeper", "ready")?;
        Ok((sandbox, container))
    }

    /// The lines of a container's log.
    pub fn log(&self, name: &str) -> Result<Vec<logs::Line>> {
        let path = self.logs()?.join(format!("{name}.log"));
        let log = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        logs::parse(&log).map_err(anyhow::Error::msg)
    }

    /// Waits until a container has logged a line.
    pub fn wait_for_line(&self, name: &str, line: &str) -> Result<()> {
        let seen = poll(Duration::from_secs(20), || {
            self.log(name).ok()?.iter().any(|logged| logged.text == line).then_some(())
        });
        seen.with_context(|| format!("{name} did not log {line:?} but {:?}", self.log(name)))
    }

    /// The process id of a container's init, as containerd knows it.
    pub fn pid(&self, container: &str) -> Result<i32> {
        pid_in(&self.cri.verbose_status(container)?.info)
    }

    /// The process id of a pod's pause process.
    pub fn pause_pid(&self, sandbox: &str) -> Result<i32> {
        pid_in(&self.cri.pod_status(sandbox)?.info)
    }

    /// The pod's shim: the parent of every container's init, and the only process that bears the sandbox's id among
    /// its arguments.
    pub fn only_shim(&self, sandbox: &str, containers: &[&str]) -> Result<i32> {
        let mut parents = BTreeSet::from([parent(self.pause_pid(sandbox)?)?]);
        for container in containers {
            parents.insert(parent(self.pid(container)?)?);
        }
        let named: BTreeSet<i32> =
            self.ids(sandbox, containers).iter().flat_map(|id| processes_with_argument(id)).collect();
        ensure!(parents.len() == 1, "the containers' parents are {parents:?}, not one shim");
        ensure!(named.is_subset(&parents), "shims {named:?} of the pod, beside {parents:?}");
        parents.first().copied().context("no shim")
    }

    fn ids(&self, sandbox: &str, containers: &[&str]) -> Vec<String> {
        std::iter::once(&sandbox).chain(containers).map(|id| (*id).to_owned()).collect()
    }

    /// Writes down what was seen, with the names that differ from run to run taken out of it.
    pub fn see(&self, what: &str, seen: impl Display) {
        let mut text = seen.to_string();
        for made in self.made.borrow().iter() {
            text = text.replace(&made.id, &made.name);
        }
        self.scene.see(what, text);
    }

    /// StopPodSandbox and RemovePodSandbox of every pod that is left, after which nothing may be.
    pub fn end(&self) -> Result<()> {
        let present: BTreeSet<String> = self.cri.pods()?.into_iter().map(|pod| pod.id).collect();
        let made = self.made.borrow().clone();
        for pod in made.iter().filter(|made| made.sandbox && present.contains(&made.id)) {
            self.cri.stop_pod(&pod.id)?;
            self.cri.remove_pod(&pod.id)?;
        }
        ensure!(self.cgroup.exists(), "the pods' own cgroup was removed");
        self.check_nothing_left()
    }

    /// Fails if something of the removed pods does not go away.
    pub fn check_nothing_left(&self) -> Result<()> {
        let left = Leftovers::wait_until_empty(GONE, || self.leftovers());
        if !left.is_empty() {
            bail!("left behind:\n{left}");
        }
        Ok(())
    }

    /// What there is of all pods and containers made so far.
    pub fn leftovers(&self) -> Leftovers {
        let made = self.made.borrow();
        let needles: Vec<&str> = made.iter().map(|made| made.id.as_str()).chain([self.scene.tag()]).collect();
        let sockets: Vec<PathBuf> = made.iter().map(|made| self.socket(&made.id)).collect();
        let mut left = Leftovers::find(&needles, &sockets, self.scene.containerd.directory());
        // A bundle that containerd was removing when it was killed; 1.6 never comes back to it.
        let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        left.files.retain(|path| !hidden(path));
        left.files.extend(self.directories().into_iter().filter(|path| path.exists()));
        left
    }

    /// What CRI keeps of each pod and container.
    fn directories(&self) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        for made in self.made.borrow().iter() {
            let kind = if made.sandbox { "sandboxes" } else { "containers" };
            for top in ["root", "state"] {
                let cri = self.scene.containerd.directory().join(top).join("io.containerd.grpc.v1.cri");
                directories.push(cri.join(kind).join(&made.id));
            }
        }
        directories
    }

    /// The socket of the shim of a group, as containerd computes it.
    pub fn socket(&self, group: &str) -> PathBuf {
        let key = self.scene.containerd.socket().join(daemon::NAMESPACE).join(group);
        let hash = Sha256::digest(key.to_string_lossy().as_bytes());
        let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        PathBuf::from("/run/containerd/s").join(name)
    }

    /// What the daemon said of all that was made.
    fn logged(&self) -> String {
        let mut text = String::from("the daemon's log on it:\n");
        for made in self.made.borrow().iter() {
            text += &format!("--- {} ({})\n", made.name, made.id);
            let log = self.scene.containerd.log(&made.id);
            // Debugging lines hold whole specs, and every line holds the id.
            for line in log.lines().filter(|line| !line.contains("level=debug")) {
                text.extend(line.replace(&made.id, &made.name).chars().take(600).chain(['\n']));
            }
        }
        text
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        // After a failure; `end` has left nothing to do here.
        for made in self.made.borrow().iter().filter(|made| made.sandbox) {
            let _ = self.cri.stop_pod(&made.id);
            let _ = self.cri.remove_pod(&made.id);
        }
        self.leftovers().remove();
    }
}

fn pid_in(info: &std::collections::HashMap<String, String>) -> Result<i32> {
    let text = info.get("info").context("a verbose status without info")?;
    let info: Value = serde_json::from_str(text)?;
    let pid = info["pid"].as_i64().with_context(|| format!("no pid in {info}"))?;
    Ok(i32::try_from(pid)?)
}

/// The parent of a process.
pub fn parent(pid: i32) -> Result<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("read status of {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("no PPid")?;
    Ok(line.trim().parse()?)
}

/// Processes with a word among their arguments.
fn processes_with_argument(word: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let bears = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(bears).collect()
}
