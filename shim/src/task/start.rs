//! Start, of a container's init and of an exec. The event is queued before anybody can see the process running.

use super::{Task, adopt, blocking};
use crate::containers::{Exec, Record};
use crate::error::Error;
use crate::events;
use crate::state::{Operation, State};
use containerd_shim_protos::api::{StartRequest, StartResponse};
use containerd_shim_protos::events::task::{TaskExecStarted, TaskStart};
use runtime_core::children::Child;
use std::sync::Arc;

impl Task {
    pub(super) async fn start(&self, request: StartRequest) -> Result<StartResponse, Error> {
        let record = self.containers.get(&request.id)?;
        let pid = match request.exec_id.as_str() {
            "" => self.start_init(&record).await?,
            exec_id => self.start_exec(&record, exec_id).await?,
        };
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn start_init(&self, record: &Arc<Record>) -> Result<u32, Error> {
        record.init.begin(Operation::Start)?;
        let started = async {
            if let Some(io) = record.init.io() {
                io.connect_stdin().map_err(Error::stdio("start"))?;
            }
            let container = record.clone();
            blocking("start", move || container.container.start().map_err(Error::runtime("start"))).await
        };
        let started = started.await;
        if let Err(error) = started {
            // Its init ends by itself now, and the exit is told like any other.
            record.init.settle(State::Created);
            return Err(error);
        }
        let pid = record.init.pid();
        let event = TaskStart { container_id: record.id.clone(), pid, ..TaskStart::default() };
        self.events.publish(events::START, &event);
        record.init.settle(State::Running);
        Ok(pid)
    }

    async fn start_exec(&self, record: &Arc<Record>, exec_id: &str) -> Result<u32, Error> {
        let exec = record.exec(exec_id)?;
        if record.init.state().exit().is_some() {
            return Err(Error::InitGone(record.id.clone()));
        }
        record.init.state().admit(Operation::Exec)?;
        exec.process.begin(Operation::Start)?;
        let started = async {
            let running = record.exec_starts()?;
            Ok((self.exec_process(record, &exec).await?, running))
        };
        let (child, running) = match started.await {
            Ok(started) => started,
            Err(error) => {
                // Nobody shall wait for it for ever; it stays known until Delete.
                exec.process.never_runs();
                return Err(error);
            }
        };
        for warning in &child.warnings {
            tracing::warn!(id = record.id, exec_id, "exec: {warning}");
        }
        let pid = exec.process.pid();
        let event = TaskExecStarted {
            container_id: record.id.clone(),
            exec_id: exec_id.to_owned(),
            pid,
            ..TaskExecStarted::default()
        };
        self.events.publish(events::EXEC_STARTED, &event);
        exec.process.settle(State::Running);
        self.exits.watch_exec(record.clone(), exec_id.to_owned(), exec, child, running);
        Ok(pid)
    }

    /// Opens the exec's stdio and makes its process.
    async fn exec_process(&self, record: &Arc<Record>, exec: &Arc<Exec>) -> Result<Child, Error> {
        let (io, files) = self.open_io("exec", &record.id, &exec.process.streams, record.io_owner).await?;
        let io = Arc::new(io);
        // Before the process is there: a client with little to say closes its stdin meanwhile.
        exec.process.set_io(io.clone());
        let (container, making, runtime) = (record.clone(), exec.clone(), self.runtime.clone());
        let made = blocking("exec", move || {
            container.container.exec(&making.spec, files, &runtime).map_err(Error::runtime("exec"))
        });
        let adopted = made.await.and_then(|mut child| {
            adopt(&exec.process, &io, &mut child, "exec")?;
            io.connect_stdin().map_err(Error::stdio("exec"))?;
            Ok(child)
        });
        match adopted {
            Ok(child) => Ok(child),
            Err(error) => {
                io.close().await;
                Err(error)
            }
        }
    }
}
