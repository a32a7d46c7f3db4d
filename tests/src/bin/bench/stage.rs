//! The bench in containerd's place: bundles, fifos and mounts as it makes them, and its requests, each timed.

use anyhow::{Context, Result, ensure};
use berth_tests::containerd::Containerd;
use berth_tests::scene::Scene;
use berth_tests::shim::{Connection, Shim};
use berth_tests::task;
use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse, Empty, ExecProcessRequest};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::types::mount::Mount;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::contender::{Contender, environment, remove, timed_answer};

/// The spec that a `ctr run` gave to a container.
pub fn spec(containerd: &Containerd, contender: &Contender) -> Result<Value> {
    contender.start(containerd, "spec")?;
    let config = fs::read_to_string(containerd.bundle("spec").join("config.json"));
    remove(containerd, "spec")?;
    Ok(serde_json::from_str(&config.context("read the config.json of a ctr run")?)?)
}

/// Where one contender's containers are made.
pub struct Stage<'a> {
    contender: &'a Contender,
    scene: &'a Scene<'a>,
    spec: &'a Value,
    rootfs: PathBuf,
}

impl<'a> Stage<'a> {
    /// A stage whose containers have this spec and the scene's copy of the image below them.
    pub fn new(contender: &'a Contender, scene: &'a Scene<'a>, spec: &'a Value) -> Result<Stage<'a>> {
        Ok(Stage { contender, scene, spec, rootfs: scene.rootfs()? })
    }

    /// One container of `true`, from `start` to `delete`: milliseconds of each action, and of all.
    pub fn run(&self, number: usize) -> Result<[f64; 8]> {
        let (shim, create, _fifos) = self.prepare(&format!("i{number}"), &["true"])?;
        let (start, address) = timed_answer(&mut shim.command("start"), Stdio::piped())?;
        let connection = shim.connect(&address)?;
        let mut took = [
            start,
            timed(|| task::granted(connection.call::<CreateTaskResponse>("Create", &create)))?.0,
            timed(|| task::granted(task::start(&shim, &connection, "")))?.0,
            wait(&shim, &connection, "")?,
            timed(|| task::granted(task::delete(&shim, &connection, "")))?.0,
            timed(|| {
                task::shutdown(&shim, &connection);
                Ok(())
            })?
            .0,
            timed_answer(&mut shim.command("delete"), Stdio::piped())?.0,
            0.0,
        ];
        took[7] = took.iter().sum();
        fs::remove_dir_all(shim.bundle()).with_context(|| format!("remove {}", shim.bundle().display()))?;
        Ok(took)
    }

    /// A container that waits for execs.
    pub fn host(&self) -> Result<Host> {
        let (shim, create, fifos) = self.prepare("host", &["sleep", "100000"])?;
        let connection = shim.start()?;
        task::granted(connection.call::<CreateTaskResponse>("Create", &create))?;
        task::granted(task::start(&shim, &connection, ""))?;
        let mut process = self.spec["process"].clone();
        process["args"] = json!(["true"]);
        Ok(Host { shim, connection, process, _fifos: fifos })
    }

    /// A bundle as containerd leaves it to the shim, and the Create that follows.
    fn prepare(&self, name: &str, argv: &[&str]) -> Result<(Shim, CreateTaskRequest, Fifos)> {
        let shim = Shim::new(self.scene, name)?.with_environment(environment());
        let mut spec = self.spec.clone();
        spec["process"]["args"] = json!(argv);
        spec["linux"]["cgroupsPath"] = format!("/{}/{}", self.scene.containerd.namespace(), shim.id()).into();
        fs::write(shim.bundle().join("config.json"), spec.to_string())?;
        let directory = |name: &str| -> Result<String> {
            let directory = shim.bundle().join(name);
            fs::create_dir(&directory)?;
            Ok(format!("{}={}", if name == "upper" { "upperdir" } else { "workdir" }, directory.display()))
        };
        let overlay = Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: vec![
                "index=off".into(),
                directory("work")?,
                directory("upper")?,
                format!("lowerdir={}", self.rootfs.display()),
            ],
            ..Default::default()
        };
        let fifos = Fifos::make(shim.bundle(), "init")?;
        let [stdin, stdout, stderr] = fifos.paths();
        let create = CreateTaskRequest {
            rootfs: vec![overlay],
            stdin,
            stdout,
            stderr,
            options: self.options()?.into(),
            ..task::create_request(&shim)
        };
        Ok((shim, create, fifos))
    }

    /// What `ctr run --runc-binary` asks for.
    fn options(&self) -> Result<Option<Any>> {
        let Some(binary) = self.contender.binary() else { return Ok(None) };
        let options = Options { binary_name: binary.to_string_lossy().into_owned(), ..Default::default() };
        let type_url = "containerd.runc.v1.Options".into();
        Ok(Some(Any { type_url, value: options.write_to_bytes()?, ..Default::default() }))
    }
}

/// A running container, and the connection to its shim.
pub struct Host {
    shim: Shim,
    connection: Connection,
    process: Value,
    _fifos: Fifos,
}

impl Host {
    /// One exec of `true`: milliseconds of each action, and of all.
    pub fn exec(&self, number: usize) -> Result<[f64; 5]> {
        let exec = format!("e{number}");
        let (shim, connection) = (&self.shim, &self.connection);
        let fifos = Fifos::make(shim.bundle(), &exec)?;
        let [stdin, stdout, stderr] = fifos.paths();
        let request = ExecProcessRequest { stdin, stdout, stderr, ..task::exec_request(shim, &exec, &self.process) };
        let mut took = [
            timed(|| task::granted(connection.call::<Empty>("Exec", &request)))?.0,
            timed(|| task::granted(task::start(shim, connection, &exec)))?.0,
            wait(shim, connection, &exec)?,
            timed(|| task::granted(task::delete(shim, connection, &exec)))?.0,
            0.0,
        ];
        took[4] = took.iter().sum();
        Ok(took)
    }

    /// Ends the container and its shim.
    pub fn end(self) -> Result<()> {
        task::end(&self.shim, &self.connection)?;
        Ok(fs::remove_dir_all(self.shim.bundle())?)
    }
}

/// How long something takes, in milliseconds, and its answer.
fn timed<A>(act: impl FnOnce() -> Result<A>) -> Result<(f64, A)> {
    let begin = Instant::now();
    let answer = act()?;
    Ok((begin.elapsed().as_secs_f64() * 1000.0, answer))
}

/// How long the Wait for a process that must succeed takes.
fn wait(shim: &Shim, connection: &Connection, exec: &str) -> Result<f64> {
    let (took, ended) = timed(|| task::granted(task::wait(shim, connection, exec)))?;
    ensure!(ended.exit_status == 0, "true ended with {}", ended.exit_status);
    Ok(took)
}

/// The three fifos of a process, with a client at the other ends; removed when dropped.
struct Fifos {
    directory: PathBuf,
    _client: Vec<File>,
}

const STREAMS: [&str; 3] = ["stdin", "stdout", "stderr"];

impl Fifos {
    fn make(bundle: &Path, name: &str) -> Result<Fifos> {
        let directory = bundle.join(format!("fifos-{name}"));
        fs::create_dir(&directory)?;
        let client = STREAMS.map(|stream| -> Result<File> {
            let path = directory.join(stream);
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o700), 0)?;
            // For reading and writing, so that no open waits for the shim's.
            Ok(File::options().read(true).write(true).open(path)?)
        });
        Ok(Fifos { directory, _client: client.into_iter().collect::<Result<_>>()? })
    }

    fn paths(&self) -> [String; 3] {
        STREAMS.map(|stream| self.directory.join(stream).to_string_lossy().into_owned())
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        // What is left is removed with the bundle.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
