//! Delete. It may take long (a client that does not read, a slow unmount), and containerd gives up after ten seconds and
//! asks again: the second request gets the answer of the first one's work.

use super::{Task, blocking};
use crate::containers::{Deleted, Record};
use crate::convert::timestamp;
use crate::error::Error;
use crate::events;
use crate::state::State;
use crate::stdio::DRAIN;
use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};
use containerd_shim_protos::events::task::TaskDelete;
use runtime_core::children::Exit;
use std::sync::Arc;
use std::time::Duration;

/// How long a killed init may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

impl Task {
    pub(super) async fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse, Error> {
        let record = self.containers.get_created(&request.id).await?;
        if !request.exec_id.is_empty() {
            return self.delete_exec(&record, &request.exec_id).await;
        }
        if !record.init.state().is_deletable() {
            return Err(Error::DeleteRunning);
        }
        let exit = match record.begin_delete() {
            Ok(result) => {
                let deleted = self.delete_container(&record).await;
                result.send_replace(Some(deleted.clone()));
                deleted?
            }
            Err(mut under_way) => match under_way.wait_for(Option::is_some).await {
                Ok(deleted) => deleted.clone().unwrap_or(Err(Error::Abandoned("delete")))?,
                Err(_) => return Err(Error::Abandoned("delete")),
            },
        };
        Ok(answer(record.init.pid(), Some(exit)))
    }

    async fn delete_container(&self, record: &Arc<Record>) -> Deleted {
        if matches!(record.init.state(), State::Created) {
            // Its end may come between the look and the kill.
            match record.init.signal(libc::SIGKILL) {
                Ok(()) | Err(Error::Finished) => {}
                Err(error) => return Err(error),
            }
        }
        let exit = match tokio::time::timeout(DEATH, record.init.exited()).await {
            Ok(exit) => exit,
            Err(_) => return Err(Error::DeleteRunning),
        };
        let container = record.clone();
        let task = self.clone();
        let deleted = blocking("delete", move || {
            let deleted = container.container.delete().map_err(Error::runtime("delete"))?;
            task.unwire(&container.id, container.network.as_deref());
            Ok(deleted)
        });
        for error in deleted.await? {
            tracing::warn!(id = record.id, error = %error, "after delete");
        }
        // Nothing of the container is left to write, so this waits for the client's reading only.
        record.init.close_io(DRAIN).await;
        for (_, exec) in record.execs() {
            exec.process.close_io(Duration::ZERO).await;
            exec.process.never_runs();
        }
        self.containers.remove(&record.id);
        let event = TaskDelete {
            container_id: record.id.clone(),
            pid: record.init.pid(),
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..TaskDelete::default()
        };
        self.events.publish(events::DELETE, &event);
        Ok(exit)
    }

    async fn delete_exec(&self, record: &Arc<Record>, exec_id: &str) -> Result<DeleteResponse, Error> {
        let exec = record.exec(exec_id)?;
        if !exec.process.state().is_deletable() {
            return Err(Error::DeleteRunning);
        }
        // A child that the exec left behind may hold its output for ever.
        exec.process.close_io(DRAIN).await;
        record.remove_exec(exec_id);
        let exit = exec.process.state().exit();
        exec.process.never_runs();
        Ok(answer(exec.process.pid(), exit))
    }
}

fn answer(pid: u32, exit: Option<Exit>) -> DeleteResponse {
    DeleteResponse {
        pid,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| timestamp(exit.at)).into(),
        ..DeleteResponse::default()
    }
}
