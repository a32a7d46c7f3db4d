//! A private containerd: its own root, state, socket, configuration and log, in a directory of its own.

use crate::command::{self, poll};
use crate::leftovers::Leftovers;
use crate::version::{self, Version};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a daemon is configured with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Whether the CRI plugin runs.
    pub cri: bool,
    /// TOML appended to config.toml; its version is 2 for 1.6 and 1.7 and 3 for 2.x.
    pub extra: String,
    /// Environment variables for the daemon, and so for its shims.
    pub env: Vec<(String, String)>,
}

/// A running daemon. Dropping it ends the daemon and whatever it left running, and removes its directory.
pub struct Containerd {
    version: Version,
    name: String,
    directory: PathBuf,
    env: Vec<(String, String)>,
    daemon: Mutex<Option<Child>>,
}

/// The image's name in every daemon.
pub const IMAGE: &str = "example.test/busybox:latest";

const START: Duration = Duration::from_secs(30);

/// A name that nothing else on this machine has, so that a leftover can be told by it.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_micros()).unwrap_or_default();
    format!("bt{:x}x{:x}", micros & 0xfff_ffff_ffff, COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Containerd {
    /// Starts a daemon, waits until it answers, and imports the image.
    pub fn start(version: Version, config: &Config) -> Result<Containerd> {
        version.check()?;
        let name = unique_name();
        let directory = std::env::temp_dir().join(&name);
        for sub in ["bin", "tmp", "root", "state"] {
            fs::create_dir_all(directory.join(sub)).with_context(|| format!("make {}/{sub}", directory.display()))?;
        }
        // Copies, so that a build during the run changes nothing, and an attack on the file hits nobody else's.
        if let Ok(shim) = version::shim() {
            fs::copy(&shim, directory.join("bin/containerd-shim-berth-v2")).context("copy the shim")?;
        }
        fs::write(directory.join("config.toml"), config_toml(version, &directory, config))?;
        let containerd = Containerd { version, name, directory, env: config.env.clone(), daemon: Mutex::new(None) };
        containerd.launch()?;
        containerd.import(containerd.namespace())?;
        Ok(containerd)
    }

    /// Which containerd it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The namespace that the trials use; a name that nothing else has.
    pub fn namespace(&self) -> &str {
        &self.name
    }

    /// The directory that holds all of its files; its path holds [`Containerd::namespace`].
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("c.sock")
    }

    /// The copy of the shim that it runs.
    pub fn shim(&self) -> PathBuf {
        self.directory.join("bin/containerd-shim-berth-v2")
    }

    /// The bundle of a task.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.directory.join("state/io.containerd.runtime.v2.task").join(&self.name).join(id)
    }

    /// The path of the shim's socket for a group, as containerd and `ctr shim` compute it.
    pub fn shim_socket(&self, group: &str) -> PathBuf {
        use sha2::Digest;
        let key = self.socket().join(&self.name).join(group);
        let hash = sha2::Sha256::digest(key.to_string_lossy().as_bytes());
        let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Path::new("/run/containerd/s").join(name)
    }

    /// The process id of the shim that was started for a container.
    pub fn shim_pid(&self, id: &str) -> Result<i32> {
        let find = || {
            fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let words = fs::read(entry.path().join("cmdline")).ok()?;
                let words: Vec<&[u8]> = words.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
                let is_shim = words.first()?.windows(16).any(|window| window == b"containerd-shim-");
                let is_server = !matches!(*words.last()?, b"start" | b"delete" | b"-info");
                (is_shim && is_server && words.contains(&id.as_bytes())).then_some(pid)
            })
        };
        poll(Duration::from_millis(300), find).with_context(|| format!("find the shim of {id}"))
    }

    /// The last lines of the daemon's log that hold a text, for failure messages.
    pub fn log(&self, text: &str) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The daemon's process id, if it runs.
    pub fn pid(&self) -> Option<i32> {
        self.lock().as_ref().map(|child| child.id() as i32)
    }

    /// What still bears this daemon's name, the daemon's own files and process aside.
    pub fn leftovers(&self, needles: &[&str], groups: &[String]) -> Leftovers {
        let sockets: Vec<PathBuf> = groups.iter().map(|group| self.shim_socket(group)).collect();
        Leftovers::find(needles, &sockets, &self.directory)
    }

    /// A command of this containerd's own programs, with the environment of the daemon.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.version.programs().join(name));
        let tools = version::runc();
        let path = [
            self.directory.join("bin"),
            self.version.programs(),
            tools.parent().unwrap_or(Path::new("/")).to_path_buf(),
            "/usr/sbin".into(),
            "/usr/bin".into(),
            "/sbin".into(),
            "/bin".into(),
        ];
        let path: Vec<String> = path.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        command.env("PATH", path.join(":")).env("TMPDIR", self.directory.join("tmp"));
        command.env("CONTAINERD_ADDRESS", self.socket()).env("CONTAINERD_NAMESPACE", &self.name);
        command
    }

    /// Imports the image into a namespace, and unpacks it for the default snapshotter.
    pub fn import(&self, namespace: &str) -> Result<()> {
        let mut command = self.program("ctr");
        command.env("CONTAINERD_NAMESPACE", namespace).args(["image", "import"]).arg(crate::image::path()?);
        command::run(&mut command, command::DEADLINE)?.success().context("import the image")?;
        Ok(())
    }

    /// Ends the daemon as an init system would; its shims and containers live on.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Ends the daemon without warning; its shims and containers live on.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL)
    }

    /// Starts the daemon again after [`Containerd::stop`] or [`Containerd::kill`], in the same directories.
    pub fn launch(&self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("log"))?;
        let mut command = self.program("containerd");
        command.arg("--config").arg(self.directory.join("config.toml")).envs(self.env.iter().cloned());
        // NOTIFY_SOCKET and the like of the caller are none of the daemon's business.
        command.env_remove("NOTIFY_SOCKET").env_remove("CONTAINERD_ADDRESS").env_remove("CONTAINERD_NAMESPACE");
        let child = command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start containerd {}", self.version))?;
        *self.lock() = Some(child);
        let answered = poll(START, || {
            let alive = self.lock().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            if !alive {
                return Some(false);
            }
            let mut command = self.program("ctr");
            let answer = command::run(command.args(["--timeout", "2s", "version"]), Duration::from_secs(10));
            answer.is_ok_and(|outcome| outcome.code == 0).then_some(true)
        });
        match answered {
            Some(true) => Ok(()),
            Some(false) => bail!("containerd {} ended at once; its log:\n{}", self.version, self.log("")),
            None => bail!("containerd {} does not answer after {START:?}; its log:\n{}", self.version, self.log("")),
        }
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.lock().take() else { return Ok(()) };
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            let _ = kill_process(pid, signal);
        }
        if command::wait_for(&mut child, Duration::from_secs(15))?.is_none() {
            let _ = child.kill();
            let _ = child.wait();
            bail!("containerd {} did not end within 15 s of {signal:?}", self.version);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
        Leftovers::find(&[&self.name], &[], &self.directory).remove();
        crate::leftovers::remove_namespace(&self.name);
        if std::env::var_os("BERTH_KEEP").is_some() {
            eprintln!("BERTH_KEEP: {} is left as it is", self.directory.display());
        } else if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("remove {}: {error}", self.directory.display());
        }
    }
}

fn config_toml(version: Version, directory: &Path, config: &Config) -> String {
    let directory = directory.display();
    // The API's own plugins and overlayfs are all that the trials use; NRI and opt have paths of the whole machine.
    let mut disabled = vec![
        "io.containerd.snapshotter.v1.aufs",
        "io.containerd.snapshotter.v1.btrfs",
        "io.containerd.snapshotter.v1.devmapper",
        "io.containerd.snapshotter.v1.zfs",
        "io.containerd.snapshotter.v1.blockfile",
        "io.containerd.snapshotter.v1.erofs",
        "io.containerd.internal.v1.opt",
        "io.containerd.internal.v1.tracing",
        "io.containerd.nri.v1.nri",
    ];
    if !config.cri {
        disabled.extend([
            "io.containerd.grpc.v1.cri",
            "io.containerd.cri.v1.images",
            "io.containerd.cri.v1.runtime",
            "io.containerd.podsandbox.controller.v1.podsandbox",
        ]);
    }
    let number = if version == Version::V2 { 3 } else { 2 };
    let extra = &config.extra;
    format!(
        r#"version = {number}
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = {disabled:?}

[grpc]
  address = "{directory}/c.sock"

[ttrpc]
  address = "{directory}/c.sock.ttrpc"

[debug]
  level = "debug"

{extra}
"#
    )
}
