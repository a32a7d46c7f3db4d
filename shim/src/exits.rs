//! From pidfds to exits: one task per process waits for its end and tells everybody, in the right order.
//!
//! An exit is read from a descriptor that was there before the process could run, so looking late loses nothing. Init's
//! exit is told last: after its TaskStart, after whatever the container still ran was killed, after its execs' exits.

use crate::containers::{Exec, Record, RunningExec};
use crate::convert::timestamp;
use crate::events::{self, Events};
use crate::process::Process;
use crate::state::State;
use crate::sys;
use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use runtime_core::cgroup::OomWatch;
use runtime_core::children::{Child, Children, Exit};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::SystemTime;

/// What telling an exit needs.
#[derive(Clone)]
pub struct Exits {
    /// Where they are told.
    pub events: Arc<Events>,
    /// Whose they are.
    pub children: Arc<Children>,
}

impl Exits {
    /// Waits for the end of a container's init.
    pub fn watch_init(&self, record: Arc<Record>, child: Child, oom: Option<OomWatch>) {
        let exits = self.clone();
        tokio::spawn(async move {
            let exit = exits.init_ended(&record, &child, oom).await;
            exits.end_init(&record, exit).await;
        });
    }

    /// Waits for the end of an exec. Its TaskExecStarted is told already.
    pub fn watch_exec(&self, record: Arc<Record>, id: String, exec: Arc<Exec>, child: Child, running: RunningExec) {
        let exits = self.clone();
        tokio::spawn(async move {
            let exit = exits.ended(&exec.process, &child).await;
            exits.tell(&record.id, &id, &exec.process, exit).await;
            drop(running);
        });
    }

    /// Tells each OOM kill until init has ended.
    async fn init_ended(&self, record: &Record, child: &Child, oom: Option<OomWatch>) -> Exit {
        let ended = self.ended(&record.init, child);
        let Some(mut oom) = oom else { return ended.await };
        let watch = match sys::watch(oom.as_fd()) {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(id = record.id, %error, "no OOM events");
                return ended.await;
            }
        };
        tokio::pin!(ended);
        let exit = loop {
            tokio::select! {
                exit = &mut ended => break exit,
                ready = watch.readable() => {
                    let Ok(mut ready) = ready else { break ended.await };
                    ready.clear_ready();
                    if oom.triggered() {
                        self.tell_oom(record);
                    }
                }
            }
        };
        // The kernel may wake us for the death first and for its reason second.
        if oom.triggered() {
            self.tell_oom(record);
        }
        exit
    }

    /// Waits for a process's end and reaps it; not while it is being started, for that has to look what it died as.
    async fn ended(&self, process: &Process, child: &Child) -> Exit {
        let lost = |reason: &dyn std::fmt::Display| {
            tracing::error!(pid = child.pid.as_raw_nonzero().get(), %reason, "a process's exit status is lost");
            Exit { status: 255, at: SystemTime::now() }
        };
        let watch = match sys::watch(child.pidfd.as_fd()) {
            Ok(watch) => watch,
            Err(error) => return lost(&error),
        };
        loop {
            let mut ready = match watch.readable().await {
                Ok(ready) => ready,
                Err(error) => return lost(&error),
            };
            process.settled().await;
            match child.reap(&self.children) {
                Ok(Some(exit)) => return exit,
                Ok(None) => ready.clear_ready(),
                Err(errno) => return lost(&errno),
            }
        }
    }

    async fn end_init(&self, record: &Arc<Record>, exit: Exit) {
        // An operation under way decides first what state was left: its TaskStart comes before this TaskExit.
        let state = record.init.settled().await;
        let paused = matches!(state, State::Paused);
        if paused || record.container.shares_pid_namespace() {
            let container = record.clone();
            let cleared = tokio::task::spawn_blocking(move || {
                // Its other processes have no pid namespace that dies with init, or are frozen and cannot die.
                let cgroup = container.container.cgroup();
                cgroup.signal_all(libc::SIGKILL).and_then(|()| if paused { cgroup.thaw() } else { Ok(()) })
            });
            if let Ok(Err(error)) = cleared.await {
                tracing::error!(id = record.id, error = crate::error::chain(&error), "kill what init left");
            }
        }
        record.execs_ended().await;
        self.tell(&record.id, &record.id, &record.init, exit).await;
    }

    /// What it said comes before the news of its end: whoever hears that stops listening. Then the event: who is woken
    /// by the state may ask for the next one.
    async fn tell(&self, container_id: &str, id: &str, process: &Process, exit: Exit) {
        if let Some(io) = process.io() {
            io.taken().await;
        }
        let event = TaskExit {
            container_id: container_id.to_owned(),
            id: id.to_owned(),
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..TaskExit::default()
        };
        self.events.publish(events::EXIT, &event);
        process.settle(State::Stopped(exit));
    }

    fn tell_oom(&self, record: &Record) {
        self.events.publish(events::OOM, &TaskOOM { container_id: record.id.clone(), ..TaskOOM::default() });
    }
}
