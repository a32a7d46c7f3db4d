//! A CRI client for tests: what kubelet would ask of containerd, without kubelet.
//!
//! [`Cri`] is synchronous, one method per CRI call. [`Pod`] and [`Container`] write the configurations that kubelet would
//! send, short ones for tests. [`streaming`] drives `Exec` and `Attach`, [`logs`] reads the CRI log format. [`daemon`]
//! starts a containerd that is ready for pods, and [`kubelet`] holds what one scenario asks of it.

pub mod daemon;
pub mod kubelet;
pub mod logs;
pub mod request;
pub mod streaming;

pub use k8s_cri::v1;
pub use request::{Container, Pod, PodCgroup};

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use streaming::Stream;

/// No call of a test takes longer: one that does is hung, and its test should say so rather than hang as well.
const DEADLINE: Duration = Duration::from_secs(60);

/// A call that failed: containerd's answer, or that there was none.
#[derive(Debug)]
pub struct Error {
    /// The CRI method.
    pub method: &'static str,
    /// gRPC's code; `DeadlineExceeded` also when nothing answered within the client's own limit.
    pub code: Code,
    /// containerd's words.
    pub message: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}: {}", self.method, self.code, self.message)
    }
}

impl std::error::Error for Error {}

/// What a CRI call returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit code.
    pub code: i32,
}

/// A connection to one containerd's CRI. Survives a restart of that containerd: the next call connects again.
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    services: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects to containerd's socket when the first call is made.
    pub fn new(socket: &Path) -> std::io::Result<Cri> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let channel = {
            let _inside = runtime.enter();
            let uri = format!("unix://{}", socket.display());
            Endpoint::from_shared(uri).map_err(std::io::Error::other)?.connect_lazy()
        };
        let (services, images) = (RuntimeServiceClient::new(channel.clone()), ImageServiceClient::new(channel));
        Ok(Cri { runtime, services, images })
    }

    fn call<T, F>(&self, method: &'static str, ask: impl FnOnce(RuntimeServiceClient<Channel>) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        self.bounded(method, ask(self.services.clone()))
    }

    fn bounded<T>(
        &self,
        method: &'static str,
        answer: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        match self.runtime.block_on(async { tokio::time::timeout(DEADLINE, answer).await }) {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error { method, code: status.code(), message: status.message().to_owned() }),
            Err(_) => {
                let message = format!("no answer within {} s", DEADLINE.as_secs());
                Err(Error { method, code: Code::DeadlineExceeded, message })
            }
        }
    }

    /// The runtime's name and version.
    pub fn version(&self) -> Result<v1::VersionResponse> {
        self.call("Version", |mut s| async move { s.version(v1::VersionRequest::default()).await })
    }

    /// What the runtime says of itself: `RuntimeReady` and `NetworkReady`.
    pub fn conditions(&self) -> Result<Vec<v1::RuntimeCondition>> {
        let request = v1::StatusRequest { verbose: false };
        let answer = self.call("Status", |mut s| async move { s.status(request).await })?;
        Ok(answer.status.map(|status| status.conditions).unwrap_or_default())
    }

    /// Whether CRI knows an image of this name.
    pub fn has_image(&self, image: &str) -> Result<bool> {
        let image = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = v1::ImageStatusRequest { image: Some(image), verbose: false };
        let mut images = self.images.clone();
        Ok(self.bounded("ImageStatus", async move { images.image_status(request).await })?.image.is_some())
    }

    /// RunPodSandbox through a runtime handler; the sandbox's id.
    pub fn run_pod(&self, pod: &Pod, handler: &str) -> Result<String> {
        let request =
            v1::RunPodSandboxRequest { config: Some(pod.config.clone()), runtime_handler: handler.to_owned() };
        Ok(self.call("RunPodSandbox", |mut s| async move { s.run_pod_sandbox(request).await })?.pod_sandbox_id)
    }

    /// StopPodSandbox.
    pub fn stop_pod(&self, id: &str) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("StopPodSandbox", |mut s| async move { s.stop_pod_sandbox(request).await }).map(drop)
    }

    /// RemovePodSandbox.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("RemovePodSandbox", |mut s| async move { s.remove_pod_sandbox(request).await }).map(drop)
    }

    /// PodSandboxStatus with its verbose part.
    pub fn pod_status(&self, id: &str) -> Result<v1::PodSandboxStatusResponse> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        self.call("PodSandboxStatus", |mut s| async move { s.pod_sandbox_status(request).await })
    }

    /// ListPodSandbox: every sandbox there is.
    pub fn pods(&self) -> Result<Vec<v1::PodSandbox>> {
        let request = v1::ListPodSandboxRequest::default();
        Ok(self.call("ListPodSandbox", |mut s| async move { s.list_pod_sandbox(request).await })?.items)
    }

    /// CreateContainer in a sandbox that was run from `pod`; the container's id.
    pub fn create(&self, sandbox: &str, pod: &Pod, container: &Container) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container.config.clone()),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.call("CreateContainer", |mut s| async move { s.create_container(request).await })?.container_id)
    }

    /// StartContainer.
    pub fn start(&self, id: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.call("StartContainer", |mut s| async move { s.start_container(request).await }).map(drop)
    }

    /// StopContainer with a grace in seconds.
    pub fn stop(&self, id: &str, grace: i64) -> Result<()> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        self.call("StopContainer", |mut s| async move { s.stop_container(request).await }).map(drop)
    }

    /// RemoveContainer, which kills it if it runs.
    pub fn remove(&self, id: &str) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.call("RemoveContainer", |mut s| async move { s.remove_container(request).await }).map(drop)
    }

    /// ListContainers: every container there is.
    pub fn containers(&self) -> Result<Vec<v1::Container>> {
        let request = v1::ListContainersRequest::default();
        Ok(self.call("ListContainers", |mut s| async move { s.list_containers(request).await })?.containers)
    }

    /// ContainerStatus with its verbose part (`info`, JSON with the pid among others).
    pub fn verbose_status(&self, id: &str) -> Result<v1::ContainerStatusResponse> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        self.call("ContainerStatus", |mut s| async move { s.container_status(request).await })
    }

    /// ContainerStatus.
    pub fn status(&self, id: &str) -> Result<v1::ContainerStatus> {
        Ok(self.verbose_status(id)?.status.unwrap_or_default())
    }

    /// Asks for the status until it is `state`; the last status if it is not within the client's limit.
    pub fn wait_for(&self, id: &str, state: v1::ContainerState) -> Result<v1::ContainerStatus> {
        let started = std::time::Instant::now();
        loop {
            let status = self.status(id)?;
            if status.state() == state || started.elapsed() > DEADLINE / 2 {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// ExecSync; a timeout of 0 seconds is none.
    pub fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<Output> {
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: request::words(command), timeout };
        let answer = self.call("ExecSync", |mut s| async move { s.exec_sync(request).await })?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }

    /// ExecSync of a shell script without a timeout.
    pub fn sh(&self, id: &str, script: &str) -> Result<Output> {
        self.exec(id, &["/bin/sh", "-c", script], 0)
    }

    /// Exec: a session over containerd's streaming server.
    pub fn exec_stream(&self, id: &str, command: &[&str], stdin: bool, tty: bool) -> Result<Stream> {
        let request = v1::ExecRequest {
            container_id: id.to_owned(),
            cmd: request::words(command),
            tty,
            stdin,
            stdout: true,
            stderr: !tty, // with a terminal there is one stream, and containerd refuses to be asked for two
        };
        let url = self.call("Exec", |mut s| async move { s.exec(request).await })?.url;
        Stream::open("Exec", &url)
    }

    /// Attach to a container's own stdio.
    pub fn attach(&self, id: &str, stdin: bool, tty: bool) -> Result<Stream> {
        let request = v1::AttachRequest { container_id: id.to_owned(), stdin, tty, stdout: true, stderr: !tty };
        let url = self.call("Attach", |mut s| async move { s.attach(request).await })?.url;
        Stream::open("Attach", &url)
    }

    /// UpdateContainerResources.
    pub fn update(&self, id: &str, resources: v1::LinuxContainerResources) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        self.call("UpdateContainerResources", |mut s| async move { s.update_container_resources(request).await })
            .map(drop)
    }

    /// ReopenContainerLog, as after a rotation.
    pub fn reopen_log(&self, id: &str) -> Result<()> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.call("ReopenContainerLog", |mut s| async move { s.reopen_container_log(request).await }).map(drop)
    }

    /// ContainerStats of one container.
    pub fn stats(&self, id: &str) -> Result<v1::ContainerStats> {
        let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
        let answer = self.call("ContainerStats", |mut s| async move { s.container_stats(request).await })?;
        Ok(answer.stats.unwrap_or_default())
    }

    /// ListContainerStats of a pod's containers.
    pub fn pod_container_stats(&self, sandbox: &str) -> Result<Vec<v1::ContainerStats>> {
        let filter = v1::ContainerStatsFilter { pod_sandbox_id: sandbox.to_owned(), ..Default::default() };
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        Ok(self.call("ListContainerStats", |mut s| async move { s.list_container_stats(request).await })?.stats)
    }

    /// PodSandboxStats.
    pub fn pod_stats(&self, sandbox: &str) -> Result<v1::PodSandboxStats> {
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: sandbox.to_owned() };
        let answer = self.call("PodSandboxStats", |mut s| async move { s.pod_sandbox_stats(request).await })?;
        Ok(answer.stats.unwrap_or_default())
    }
}
