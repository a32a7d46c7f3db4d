//! What kubelet would send: pod and container configurations, and the cgroup that it makes for a pod.

use std::path::{Path, PathBuf};
use std::{fs, io};

use k8s_cri::v1;

/// A pod on the host's network (which needs no CNI), with containers' logs in a directory.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The message, for whatever the methods here do not set.
    pub config: v1::PodSandboxConfig,
}

impl Pod {
    /// A pod whose containers log below `logs`.
    pub fn new(name: &str, logs: &Path) -> Pod {
        let metadata = v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "berth-tests".to_owned(),
            attempt: 0,
        };
        let config = v1::PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: logs.display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        Pod { config }.namespaces(|n| {
            n.set_network(v1::NamespaceMode::Node);
            n.set_pid(v1::NamespaceMode::Container);
        })
    }

    /// Below this cgroup, as kubelet with the cgroupfs driver asks.
    pub fn cgroup(mut self, cgroup: &PodCgroup) -> Pod {
        self.linux().cgroup_parent = cgroup.path.clone();
        self
    }

    /// Changes the namespaces' modes; the default is kubelet's, but for the network, which is NODE: a pid namespace of
    /// each container's own, and ipc of the pod's.
    pub fn namespaces(mut self, change: impl FnOnce(&mut v1::NamespaceOption)) -> Pod {
        change(self.security().namespace_options.get_or_insert_default());
        self
    }

    /// Changes the sandbox's security context.
    pub fn secured(mut self, change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext)) -> Pod {
        change(self.security());
        self
    }

    fn linux(&mut self) -> &mut v1::LinuxPodSandboxConfig {
        self.config.linux.get_or_insert_default()
    }

    fn security(&mut self) -> &mut v1::LinuxSandboxSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    /// The sandbox's namespace options, which kubelet repeats for each container.
    fn namespace_options(&self) -> Option<v1::NamespaceOption> {
        self.config.linux.as_ref()?.security_context.as_ref()?.namespace_options.clone()
    }
}

/// A container of a pod.
#[derive(Debug, Clone)]
pub struct Container {
    /// The message, for whatever the methods here do not set.
    pub config: v1::ContainerConfig,
}

impl Container {
    /// A container with the pod's namespace modes that logs into `<name>.log`.
    pub fn new(pod: &Pod, name: &str, image: &str, command: &[&str]) -> Container {
        let security =
            v1::LinuxContainerSecurityContext { namespace_options: pod.namespace_options(), ..Default::default() };
        let linux = v1::LinuxContainerConfig { resources: None, security_context: Some(security) };
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
            command: words(command),
            log_path: format!("{name}.log"),
            linux: Some(linux),
            ..Default::default()
        };
        Container { config }
    }

    /// The same container made again, as after a restart by kubelet.
    pub fn attempt(mut self, attempt: u32) -> Container {
        self.config.metadata.get_or_insert_default().attempt = attempt;
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Container {
        self.config.envs.push(v1::KeyValue { key: key.to_owned(), value: value.to_owned() });
        self
    }

    /// With a standard input that an attached client writes, and a terminal if `tty`.
    pub fn stdin(mut self, tty: bool) -> Container {
        self.config.stdin = true;
        self.config.tty = tty;
        self
    }

    /// Bind-mounts a path of the host.
    pub fn mount(mut self, host: &Path, inside: &str, propagation: v1::MountPropagation, readonly: bool) -> Container {
        let mut mount = v1::Mount {
            container_path: inside.to_owned(),
            host_path: host.display().to_string(),
            readonly,
            ..Default::default()
        };
        mount.set_propagation(propagation);
        self.config.mounts.push(mount);
        self
    }

    /// Changes the security context.
    pub fn secured(mut self, change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Container {
        change(self.linux().security_context.get_or_insert_default());
        self
    }

    /// Changes the resources.
    pub fn limited(mut self, change: impl FnOnce(&mut v1::LinuxContainerResources)) -> Container {
        change(self.linux().resources.get_or_insert_default());
        self
    }

    fn linux(&mut self) -> &mut v1::LinuxContainerConfig {
        self.config.linux.get_or_insert_default()
    }
}

/// Owned words of a command.
pub(super) fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

/// A pod's cgroup, made before the pod and removed after it as kubelet does, in every hierarchy of this machine.
/// A runtime creates and removes its containers' cgroups below it and leaves this one alone.
#[derive(Debug)]
pub struct PodCgroup {
    /// Its path from the hierarchy's root.
    pub path: String,
    directories: Vec<PathBuf>,
}

impl PodCgroup {
    /// Makes it.
    pub fn new(name: &str) -> io::Result<PodCgroup> {
        let mut cgroup = PodCgroup { path: format!("/{name}"), directories: Vec::new() };
        for hierarchy in hierarchies()? {
            let directory = hierarchy.join(name);
            match fs::create_dir(&directory) {
                Ok(()) => {}
                // cpu and cpuacct are two names of one hierarchy
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| directory.join(file).exists()) {
                fs::write(directory.join(file), fs::read(hierarchy.join(file))?)?;
            }
            cgroup.directories.push(directory);
        }
        Ok(cgroup)
    }

    /// Whether it is still there, whole: a runtime that tidies up its parents takes it from kubelet.
    pub fn exists(&self) -> bool {
        self.directories.iter().all(|directory| directory.is_dir())
    }

    /// What is below it: cgroups that a runtime has not removed.
    pub fn children(&self) -> Vec<PathBuf> {
        let below = self.directories.iter().filter_map(|directory| fs::read_dir(directory).ok());
        below.flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // A child that is left keeps it: what compares the machine before and after then reports both.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Where cgroups are mounted: the one of cgroup v2, or each of v1.
fn hierarchies() -> io::Result<Vec<PathBuf>> {
    let top = PathBuf::from("/sys/fs/cgroup");
    if top.join("cgroup.procs").exists() {
        return Ok(vec![top]);
    }
    let entries = fs::read_dir(&top)?.flatten().map(|entry| entry.path());
    Ok(entries.filter(|path| path.join("cgroup.procs").exists() && !path.is_symlink()).collect())
}
