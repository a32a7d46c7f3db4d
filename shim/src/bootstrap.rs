//! `start`: make sure that a server runs for the container's group, and print its address.
//!
//! containerd takes standard output and standard error together as the reply, so nothing but the address may ever be
//! written to either. The reply is the plain address: it means task version 2, which every containerd understands.

use crate::args::Args;
use crate::options::Options;
use crate::{log, seal};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub mod params;
pub mod socket;

use params::Params;
use socket::{Bound, Socket};

/// Why no server could be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flags name no container.
    #[error("start needs -id and -namespace")]
    NoContainer,
    /// The group's socket.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// No copy of our binary that a container cannot write to.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// The server did not start.
    #[error("start the shim's server")]
    Spawn(#[source] std::io::Error),
    /// A file of the bundle.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The server could not be put where the options ask.
    #[error("put the shim into cgroup {cgroup}")]
    ShimCgroup {
        /// The cgroup, as the option names it.
        cgroup: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// containerd does not listen to us.
    #[error("print the address")]
    Reply(#[source] std::io::Error),
}

/// Runs the `start` action. The working directory is the bundle.
pub fn start(args: &Args) -> Result<(), Error> {
    if args.id.is_empty() || args.namespace.is_empty() {
        return Err(Error::NoContainer);
    }
    let params = Params::parse(&read_stdin(), &args.id, &args.namespace);
    let bundle = Path::new(".");
    let group = group(bundle).unwrap_or_else(|| args.id.clone());
    let containerd = params.grpc_address.as_deref().unwrap_or(&args.address);
    let socket = Socket::of_group(params.socket_dir.as_deref(), containerd, &args.namespace, &group);
    match socket.bind()? {
        Bound::Live => write_address(bundle, &socket.address())?,
        Bound::New(listener) => {
            // Before the server is there: from then on nothing can fail but the reply.
            let launched = write_address(bundle, &socket.address())
                .and_then(|()| launch(args, &params, &group, &socket, listener.into()));
            if let Err(error) = launched {
                socket.remove();
                return Err(error);
            }
        }
    }
    std::io::stdout().write_all(socket.address().as_bytes()).map_err(Error::Reply)
}

/// Everything containerd wrote to our standard input. What cannot be read was not meant for us.
fn read_stdin() -> Vec<u8> {
    const LIMIT: u64 = 4 << 20;
    let mut bytes = Vec::new();
    let _ = std::io::stdin().lock().take(LIMIT).read_to_end(&mut bytes);
    bytes
}

/// The group that the bundle's annotations name: containers of one group share one server. Without a config.json, as
/// sandboxes have none, or with one that is broken, a container is its own group; Create tells what is wrong with it.
fn group(bundle: &Path) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Config {
        annotations: Option<HashMap<String, String>>,
    }
    let json = std::fs::read(bundle.join("config.json")).ok()?;
    let annotations = serde_json::from_slice::<Config>(&json).ok()?.annotations?;
    group_of(&annotations).map(str::to_owned)
}

/// The group that annotations name.
pub fn group_of(annotations: &HashMap<String, String>) -> Option<&str> {
    let names = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
    names.iter().find_map(|name| annotations.get(*name)).map(String::as_str).filter(|group| !group.is_empty())
}

fn write_address(bundle: &Path, address: &str) -> Result<(), Error> {
    let (path, temporary) = (bundle.join("address"), bundle.join(".address"));
    let failed = |source| Error::Write { path: path.clone(), source };
    std::fs::write(&temporary, address).map_err(failed)?;
    std::fs::rename(&temporary, &path).map_err(failed)
}

/// Executes the server from a sealed view of our own binary. The listener is its standard input: it already listens,
/// so that the reply need not wait for it.
fn launch(args: &Args, params: &Params, group: &str, socket: &Socket, listener: OwnedFd) -> Result<(), Error> {
    // Create gets the same options, and has an error code for what is wrong with them.
    let options = Options::decode(params.options.as_ref()).unwrap_or_default();
    let binary = seal::own_binary(socket.directory())?;
    let program = seal::path(&binary);
    let log = open_log(Path::new("log"));
    if let Some(log) = log.as_ref().filter(|_| !args.unknown.is_empty()) {
        log::write(log, "warning", &format!("unknown flags are ignored: {}", args.unknown.join(" ")));
    }
    schedule_apart();
    let mut command = Command::new(program);
    command
        .arg0(std::env::args_os().next().unwrap_or_else(|| OsString::from("containerd-shim-berth-v2")))
        .args(["-namespace", &args.namespace, "-id", group, "-address", &args.address])
        .arg("-socket")
        .arg(socket.path())
        .args(args.debug.then_some("-debug"))
        .arg("serve")
        .current_dir("/")
        .stdin(listener)
        .stdout(Stdio::null())
        .stderr(log.map_or_else(Stdio::null, Stdio::from));
    if let Some(address) = &params.ttrpc_address {
        command.env("TTRPC_ADDRESS", address);
    }
    let server = command.spawn().map_err(Error::Spawn)?;
    place(server, &options)
}

/// SCHED_CORE in containerd's environment asks that nobody else runs on the other threads of a core while one of ours
/// does. The server inherits it from us.
fn schedule_apart() {
    use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        // Kernels without core scheduling, and machines without such threads, have nothing to keep apart.
        let _ = create_core_scheduling_cookie(rustix::process::getpid(), CoreSchedulingScope::ThreadGroup);
    }
}

/// The bundle's log fifo. Non-blocking: containerd may stop reading it at any time.
fn open_log(path: &Path) -> Option<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(nonblocking).open(path).ok()
}

/// Gives the server its cgroup and its oom score: one above containerd's, so that the kernel takes us first.
fn place(mut server: Child, options: &Options) -> Result<(), Error> {
    if !options.shim_cgroup.is_empty()
        && let Err(source) = join_cgroup(&options.shim_cgroup, server.id())
    {
        let _ = server.kill();
        let _ = server.wait();
        return Err(Error::ShimCgroup { cgroup: options.shim_cgroup.clone(), source });
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = own.filter(|score| *score < 1000) {
        // Without CAP_SYS_RESOURCE a negative score may be refused; containerd's own shim goes on as well.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", server.id()), (score + 1).to_string());
    }
    Ok(())
}

/// Moves the server into the cgroup at `path` of every hierarchy there is, making it where it is missing.
fn join_cgroup(path: &str, pid: u32) -> std::io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let below = path.trim_start_matches('/');
    if root.join("cgroup.controllers").exists() {
        return join_hierarchy(root, below, pid);
    }
    for hierarchy in std::fs::read_dir(root)? {
        let hierarchy = hierarchy?;
        // cpu -> cpu,cpuacct and its like are links to a hierarchy that is there under its own name.
        if hierarchy.file_type()?.is_dir() && hierarchy.path().join("cgroup.procs").exists() {
            join_hierarchy(&hierarchy.path(), below, pid)?;
        }
    }
    Ok(())
}

fn join_hierarchy(root: &Path, below: &str, pid: u32) -> std::io::Result<()> {
    let directory = root.join(below);
    std::fs::create_dir_all(&directory)?;
    // A v1 cpuset takes nobody before it has cpus and memory nodes.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, Some(parent)) = (directory.join(file), directory.parent()) else { continue };
        let is_empty = std::fs::read_to_string(&own).is_ok_and(|value| value.trim().is_empty());
        if is_empty && own.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0) {
            let _ = std::fs::read(parent.join(file)).and_then(|inherited| std::fs::write(&own, inherited));
        }
    }
    std::fs::write(directory.join("cgroup.procs"), pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group_of(config: &str) -> Option<String> {
        let bundle = std::env::temp_dir().join(format!("berth-bootstrap-{}-{}", std::process::id(), config.len()));
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), config).unwrap();
        let group = group(&bundle);
        std::fs::remove_dir_all(&bundle).unwrap();
        group
    }

    #[test]
    fn containerds_own_annotation_wins_over_the_sandbox() {
        let both = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(group_of(both).as_deref(), Some("g"));
        assert_eq!(group_of(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s"}}"#).as_deref(), Some("s"));
    }

    #[test]
    fn without_an_annotation_that_can_be_read_a_container_is_its_own_group() {
        for config in [r#"{"annotations":null}"#, "{}", "{", "no JSON"] {
            assert_eq!(group_of(config), None, "{config}");
        }
        assert_eq!(group(Path::new("/nonexistent")), None);
    }
}
