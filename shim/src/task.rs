//! The task service: one short method per RPC. `containerd.task.v2.Task` and `v3.Task` have the same messages.
//!
//! Every request runs to its end whoever still listens (rpc.rs), so a method needs no care for a client that leaves.
//! Work that blocks is done by threads of its own; State, Pids, Connect, Kill and Wait never wait behind it.

use crate::containers::{Containers, Exec, Record};
use crate::convert::{self, timestamp};
use crate::error::{Error, response};
use crate::events::{self, Events};
use crate::exits::Exits;
use crate::lifetime::Lifetime;
use crate::process::{Process, Streams};
use crate::rpc::Caller;
use crate::state::{Operation, State};
use crate::stdio;
use containerd_shim_protos::api::*;
use containerd_shim_protos::events::task::{TaskExecAdded, TaskPaused, TaskResumed};
use protobuf::Message;
use runtime_core::children::Child;
use runtime_core::container::{self, Runtime};
use rustix::process::Pid;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use ttrpc::proto::{Code, Request, Response};

mod create;
mod delete;
mod start;

const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The service.
#[derive(Clone)]
pub struct Task {
    namespace: Arc<str>,
    runtime: Arc<Runtime>,
    containers: Arc<Containers>,
    events: Arc<Events>,
    exits: Exits,
    lifetime: Arc<Lifetime>,
}

impl Task {
    /// A service without containers.
    pub fn new(namespace: &str, events: Arc<Events>, runtime: Arc<Runtime>, lifetime: Arc<Lifetime>) -> Task {
        Task {
            namespace: namespace.into(),
            containers: Arc::new(Containers::new(lifetime.clone())),
            exits: Exits { events: events.clone(), children: runtime.children.clone() },
            runtime,
            events,
            lifetime,
        }
    }

    /// Answers one request.
    pub async fn handle(self, request: Request, caller: Caller) -> Response {
        if !SERVICES.contains(&request.service.as_str()) {
            return response(Code::UNIMPLEMENTED, format!("service {}", request.service));
        }
        tracing::debug!(method = request.method, "request");
        let payload = request.payload.as_slice();
        let answer = match request.method.as_str() {
            "State" => unary(payload, |r| async { self.state(r) }).await,
            "Create" => unary(payload, |r| self.create(r)).await,
            "Start" => unary(payload, |r| self.start(r)).await,
            "Delete" => unary(payload, |r| self.delete(r)).await,
            "Pids" => unary(payload, |r| async { self.pids(r) }).await,
            "Pause" => unary(payload, |r| self.pause(r)).await,
            "Resume" => unary(payload, |r| self.resume(r)).await,
            "Checkpoint" => Err(Error::Unimplemented("checkpoint is not implemented".into())),
            "Kill" => unary(payload, |r| self.kill(r)).await,
            "Exec" => unary(payload, |r| async { self.exec(r) }).await,
            "ResizePty" => unary(payload, |r| async { self.resize_pty(r) }).await,
            "CloseIO" => unary(payload, |r| async { self.close_io(r) }).await,
            "Update" => unary(payload, |r| self.update(r)).await,
            "Wait" => unary(payload, |r| self.wait(r, caller)).await,
            "Stats" => unary(payload, |r| self.stats(r)).await,
            "Connect" => unary(payload, |r| async { self.connect(r) }).await,
            "Shutdown" => unary(payload, |r| async { self.shutdown(r) }).await,
            method => Err(Error::Unimplemented(format!("method {method}"))),
        };
        if matches!(request.method.as_str(), "Create" | "Start" | "Delete") {
            // Parsed specs and profiles are gone by now, and the next request may be hours away. After the answer.
            tokio::spawn(async { crate::sys::trim_heap() });
        }
        match answer {
            Ok(payload) => Response { payload, ..Response::default() },
            Err(error) => {
                tracing::debug!(method = request.method, error = error.text(), "refused");
                error.answer()
            }
        }
    }

    fn state(&self, request: StateRequest) -> Result<StateResponse, Error> {
        let record = self.containers.get(&request.id)?;
        let process = record.process(&request.exec_id)?;
        let (bundle, status) = (record.bundle.display().to_string(), record.init.state().status());
        Ok(convert::state(&request.id, &request.exec_id, &bundle, &process, status))
    }

    fn exec(&self, request: ExecProcessRequest) -> Result<Empty, Error> {
        let record = self.containers.get(&request.id)?;
        record.init.state().admit(Operation::Exec)?;
        let (spec, warnings) = convert::process(&request)?;
        for warning in warnings {
            tracing::warn!(id = record.id, exec_id = request.exec_id, "exec: {warning}");
        }
        let exec = Exec { process: Process::new(Streams::from(&request)), spec };
        record.add_exec(&request.exec_id, exec)?;
        let event = TaskExecAdded { container_id: request.id, exec_id: request.exec_id, ..TaskExecAdded::default() };
        self.events.publish(events::EXEC_ADDED, &event);
        Ok(Empty::default())
    }

    fn pids(&self, request: PidsRequest) -> Result<PidsResponse, Error> {
        let record = self.containers.get(&request.id)?;
        let mut pids = record.container.cgroup().pids().map_err(Error::cgroup("pids"))?;
        if pids.is_empty() {
            // containerd takes an empty answer for a leaked shim when it restarts, and the exit status with it.
            pids.extend(record.init.id());
        }
        let execs: HashMap<u32, String> =
            record.execs().into_iter().map(|(id, exec)| (exec.process.pid(), id)).collect();
        let describe = |pid: Pid| {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            let info = execs.get(&pid).map(|id| convert::process_details(id)).into();
            ProcessInfo { pid, info, ..ProcessInfo::default() }
        };
        Ok(PidsResponse { processes: pids.into_iter().map(describe).collect(), ..PidsResponse::default() })
    }

    async fn pause(&self, request: PauseRequest) -> Result<Empty, Error> {
        let record = self.containers.get(&request.id)?;
        record.init.begin(Operation::Pause)?;
        let container = record.clone();
        let frozen =
            blocking("pause", move || container.container.cgroup().freeze().map_err(Error::cgroup("pause"))).await;
        if frozen.is_ok() {
            let event = TaskPaused { container_id: request.id, ..TaskPaused::default() };
            self.events.publish(events::PAUSED, &event);
        }
        record.init.settle(if frozen.is_ok() { State::Paused } else { State::Running });
        frozen.map(|()| Empty::default())
    }

    async fn resume(&self, request: ResumeRequest) -> Result<Empty, Error> {
        let record = self.containers.get(&request.id)?;
        record.init.begin(Operation::Resume)?;
        let container = record.clone();
        let thawed =
            blocking("resume", move || container.container.cgroup().thaw().map_err(Error::cgroup("resume"))).await;
        if thawed.is_ok() {
            let event = TaskResumed { container_id: request.id, ..TaskResumed::default() };
            self.events.publish(events::RESUMED, &event);
        }
        record.init.settle(if thawed.is_ok() { State::Running } else { State::Paused });
        thawed.map(|()| Empty::default())
    }

    async fn kill(&self, request: KillRequest) -> Result<Empty, Error> {
        let record = self.containers.get(&request.id)?;
        let process = record.process(&request.exec_id)?;
        let signal = signal(request.signal)?;
        if request.all {
            if signal == libc::SIGKILL {
                record.init.set_killed();
            }
            // Also of a container whose init has ended: what it left is meant, and nothing is fine.
            let container = record.clone();
            let all = move || container.container.cgroup().signal_all(signal).map_err(Error::cgroup("kill"));
            blocking("kill", all).await?;
        } else {
            process.signal(signal)?;
        }
        if signal == libc::SIGKILL {
            thaw_killed(record).await?;
        }
        Ok(Empty::default())
    }

    fn resize_pty(&self, request: ResizePtyRequest) -> Result<Empty, Error> {
        let process = self.containers.get(&request.id)?.process(&request.exec_id)?;
        let characters = |size| u16::try_from(size).unwrap_or(u16::MAX);
        if let Some(io) = process.io() {
            io.resize(characters(request.width), characters(request.height)).map_err(Error::stdio("resize"))?;
        }
        Ok(Empty::default())
    }

    fn close_io(&self, request: CloseIORequest) -> Result<Empty, Error> {
        let process = self.containers.get(&request.id)?.process(&request.exec_id)?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(Empty::default())
    }

    async fn update(&self, request: UpdateTaskRequest) -> Result<Empty, Error> {
        let record = self.containers.get(&request.id)?;
        record.init.state().admit(Operation::Update)?;
        let resources = convert::resources(request.resources.as_ref())?;
        let update = move || record.container.update(&resources).map_err(Error::runtime("update"));
        blocking("update", update).await.map(|()| Empty::default())
    }

    async fn wait(&self, request: WaitRequest, caller: Caller) -> Result<WaitResponse, Error> {
        let process = self.containers.get(&request.id)?.process(&request.exec_id)?;
        let exit = tokio::select! {
            exit = process.exited() => exit,
            // Waiting changes nothing, so nothing is lost when nobody waits any more.
            () = caller.gone() => return Err(Error::Abandoned("wait")),
        };
        let exited_at = Some(timestamp(exit.at)).into();
        Ok(WaitResponse { exit_status: exit.status, exited_at, ..WaitResponse::default() })
    }

    async fn stats(&self, request: StatsRequest) -> Result<StatsResponse, Error> {
        let record = self.containers.get(&request.id)?;
        let read = move || record.container.cgroup().stats().map_err(Error::cgroup("stats"));
        let stats = convert::metrics(&blocking("stats", read).await?);
        Ok(StatsResponse { stats: Some(stats).into(), ..StatsResponse::default() })
    }

    /// Never NOT_FOUND: for a container that nobody knows it is a `start` that asks us to stay.
    fn connect(&self, request: ConnectRequest) -> Result<ConnectResponse, Error> {
        if !self.containers.knows(&request.id) {
            self.lifetime.stay();
        }
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.containers.get(&request.id).map_or(0, |record| record.init.pid()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    fn shutdown(&self, _: ShutdownRequest) -> Result<Empty, Error> {
        self.lifetime.shut_down();
        Ok(Empty::default())
    }

    /// Opens a process's stdio.
    async fn open_io(
        &self,
        verb: &'static str,
        id: &str,
        streams: &Streams,
        (uid, gid): (u32, u32),
    ) -> Result<(stdio::Io, container::Stdio), Error> {
        let config = stdio::Config {
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            terminal: streams.terminal,
            uid,
            gid,
            id: id.to_owned(),
            namespace: self.namespace.to_string(),
            children: self.runtime.children.clone(),
        };
        stdio::Io::open(&config).await.map_err(Error::stdio(verb))
    }
}

/// Gives a process its pid and its console. On an error the child's end is nobody's to tell.
fn adopt(process: &Process, io: &Arc<stdio::Io>, child: &mut Child, verb: &'static str) -> Result<(), Error> {
    if let Some(console) = child.console.take() {
        io.attach_console(console).map_err(Error::stdio(verb))?;
    }
    let pidfd = child.pidfd.try_clone().map_err(Error::descriptor)?;
    process.born(child.pid, pidfd);
    Ok(())
}

/// What is frozen dies only when it is thawed, and a pause may be under way.
async fn thaw_killed(record: Arc<Record>) -> Result<(), Error> {
    let state = match record.init.state() {
        State::Pausing => record.init.settled().await,
        state => state,
    };
    if matches!(state, State::Paused) {
        let container = record.clone();
        blocking("kill", move || container.container.cgroup().thaw().map_err(Error::cgroup("kill"))).await?;
        record.init.settle(State::Running);
    }
    Ok(())
}

fn signal(number: u32) -> Result<i32, Error> {
    let signal = i32::try_from(number).ok().filter(|number| *number <= libc::SIGRTMAX());
    signal.ok_or_else(|| Error::Invalid(format!("signal {number} is out of range")))
}

async fn unary<Q, A, F>(payload: &[u8], call: impl FnOnce(Q) -> F) -> Result<Vec<u8>, Error>
where
    Q: Message,
    A: Message,
    F: Future<Output = Result<A, Error>>,
{
    let undecodable = |error: protobuf::Error| Error::Decode { what: "the request", reason: error.to_string() };
    let request = Q::parse_from_bytes(payload).map_err(undecodable)?;
    call(request).await?.write_to_bytes().map_err(undecodable)
}

/// Runs work that blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    verb: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Abandoned(verb)))
}
