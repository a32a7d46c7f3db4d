//! A shim without its containerd: started as containerd starts it, in a bundle made by the test, and spoken to over
//! ttrpc. For requests and bundles that containerd itself would never make.

use crate::command::{self, Outcome};
use crate::scene::{Runtime, Scene};
use crate::version::Version;
use anyhow::{Context, Result, bail};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::asynchronous::Client;
use containerd_shim_protos::ttrpc::{self, Code};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A bundle, and the shim that serves it once it is started.
pub struct Shim {
    id: String,
    bundle: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    path: std::ffi::OsString,
    service: &'static str,
    /// containerd's end of the log; a shim must not block for want of it, and some open it at their start.
    _log: fs::File,
}

/// What a shim answered a request with.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The ttrpc code.
    pub code: Code,
    /// The text.
    pub message: String,
}

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(30);

impl Shim {
    /// A bundle for a container of the scene's, without a config.json.
    pub fn new(scene: &Scene<'_>, name: &str) -> Result<Shim> {
        let id = scene.id(name);
        let containerd = scene.containerd;
        let bundle = scene.scratch()?.join("bundles").join(&id);
        fs::create_dir_all(bundle.join("rootfs"))?;
        mknodat(CWD, bundle.join("log"), FileType::Fifo, Mode::from_raw_mode(0o700), 0).context("make the log fifo")?;
        let log = fs::File::options().read(true).write(true).open(bundle.join("log"))?;
        let program = match scene.runtime {
            Runtime::Berth if std::env::var_os("BERTH_RUNTIME").is_none() => containerd.shim(),
            _ => containerd.version().programs().join("containerd-shim-runc-v2"),
        };
        // The Go shim of 2.x serves v3 only; ours serves both.
        let service = match (scene.runtime, containerd.version()) {
            (Runtime::Runc, Version::V2) => "containerd.task.v3.Task",
            _ => "containerd.task.v2.Task",
        };
        let socket = containerd.socket().to_string_lossy().into_owned();
        let publish = containerd.version().programs().join("containerd").to_string_lossy().into_owned();
        let namespace = containerd.namespace().to_owned();
        let arguments = ["-namespace", &namespace, "-address", &socket, "-publish-binary", &publish, "-id", &id];
        let environment = [
            ("TTRPC_ADDRESS", format!("{socket}.ttrpc")),
            ("GRPC_ADDRESS", socket.clone()),
            ("NAMESPACE", namespace.clone()),
            ("MAX_SHIM_VERSION", "2".into()),
            ("GOMAXPROCS", "2".into()),
        ];
        let path = containerd
            .program("ctr")
            .get_envs()
            .find(|(name, _)| *name == "PATH")
            .and_then(|(_, value)| value.map(ToOwned::to_owned));
        Ok(Shim {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
            id,
            bundle,
            program,
            path: path.unwrap_or_default(),
            service,
            _log: log,
        })
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bundle.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Speaks to this service instead of the one that the daemon's version speaks to.
    pub fn with_service(mut self, service: &'static str) -> Shim {
        self.service = service;
        self
    }

    /// With these variables too, as a daemon that has them hands them on.
    pub fn with_environment(mut self, variables: Vec<(String, String)>) -> Shim {
        self.environment.extend(variables);
        self
    }

    /// The shim's program with containerd's arguments, and `action` as the last.
    pub fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir(&self.bundle)
            .env("PATH", &self.path)
            .envs(self.environment.iter().cloned());
        if action == "delete" {
            command.arg("-bundle").arg(&self.bundle);
        }
        command.arg(action);
        command
    }

    /// Runs `start` with something on its stdin.
    pub fn start_with(&self, stdin: &[u8]) -> Result<Outcome> {
        use std::io::Write;
        let mut running = command::start(self.command("start").stdin(Stdio::piped()))?;
        if let Some(mut pipe) = running.stdin() {
            // A shim that does not read it is free not to.
            let _ = pipe.write_all(stdin);
        }
        running.wait(DEADLINE)
    }

    /// Runs `start`, and connects to the address it answers.
    pub fn start(&self) -> Result<Connection> {
        let outcome = self.start_with(&[])?.success().context("shim start")?;
        self.connect(&outcome.stdout)
    }

    /// Runs `delete`; its stdout is a protobuf and so not all text.
    pub fn delete(&self) -> Result<Outcome> {
        command::run(&mut self.command("delete"), Duration::from_secs(10))
    }

    /// Connects to an address as `start` answers it, which may be JSON.
    pub fn connect(&self, answer: &str) -> Result<Connection> {
        let answer = answer.trim();
        let address = match serde_json::from_str::<serde_json::Value>(answer) {
            Ok(json) => json["address"].as_str().unwrap_or_default().to_owned(),
            Err(_) => answer.to_owned(),
        };
        if !address.starts_with("unix://") {
            bail!("start answered {answer:?}, which is no address");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(Client::connect(&address)).with_context(|| format!("connect to {address}"))?;
        Ok(Connection { runtime, client, service: self.service })
    }
}

/// A connection to a started shim.
pub struct Connection {
    runtime: tokio::runtime::Runtime,
    client: Client,
    service: &'static str,
}

impl Connection {
    /// One request; an answer that does not come is an error, a refusal is not.
    pub fn call<A: Message>(&self, method: &str, request: &impl Message) -> Result<Result<A, Refusal>> {
        self.call_service(self.service, method, request)
    }

    /// Sends a request, and closes the connection without waiting for the answer.
    pub fn leave_after(self, patience: Duration, method: &str, request: &impl Message) -> Result<()> {
        let message = self.message(self.service, method, request)?;
        let _ = self.runtime.block_on(async { tokio::time::timeout(patience, self.client.request(message)).await });
        drop(self.client);
        self.runtime.shutdown_background();
        Ok(())
    }

    fn message(&self, service: &str, method: &str, request: &impl Message) -> Result<ttrpc::proto::Request> {
        let mut message = ttrpc::proto::Request::new();
        message.service = service.to_owned();
        message.method = method.to_owned();
        message.timeout_nano = DEADLINE.as_nanos() as i64;
        message.payload = request.write_to_bytes()?;
        Ok(message)
    }

    /// One request to a service of the caller's choice.
    pub fn call_service<A: Message>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
    ) -> Result<Result<A, Refusal>> {
        let message = self.message(service, method, request)?;
        let answer =
            self.runtime.block_on(async { tokio::time::timeout(DEADLINE, self.client.request(message)).await });
        match answer.with_context(|| format!("{method} was not answered within {DEADLINE:?}"))? {
            Ok(response) => Ok(Ok(A::parse_from_bytes(&response.payload)?)),
            Err(ttrpc::Error::RpcStatus(status)) => {
                Ok(Err(Refusal { code: status.code.enum_value_or_default(), message: status.message }))
            }
            Err(error) => Err(error).with_context(|| format!("call {method}")),
        }
    }
}
