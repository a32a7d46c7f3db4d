//! What may be done to a process in which state. Pure: the table that every RPC asks first.
//!
//! ```text
//! init:  Created ─Start─▶ Starting ─▶ Running ◀─Resume/Pause─▶ Paused
//!           └────────────────┴───────────┴── exit ──▶ Stopped ◀─ exit ┘      Delete: from Created and Stopped
//! exec:  Created ─Start─▶ Starting ─▶ Running ── exit ──▶ Stopped
//! ```
//! Starting, Pausing and Resuming are held only while the kernel works for us; an exit that is seen meanwhile is told
//! afterwards, so that no exit precedes its start.

use containerd_shim_protos::api::Status;
use runtime_core::children::Exit;

/// The state of an init or an exec.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// Made (an exec: registered), not started.
    Created,
    /// Between the start and its verdict.
    Starting,
    /// Started.
    Running,
    /// On the way to Paused.
    Pausing,
    /// Frozen.
    Paused,
    /// On the way back to Running.
    Resuming,
    /// Ended, and remembered until Delete.
    Stopped(Exit),
}

/// An operation that depends on the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start the process.
    Start,
    /// Add an exec beside it.
    Exec,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Change limits.
    Update,
}

/// The answer to an operation that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} in a {state} state", verb(*operation))]
pub struct Refusal {
    operation: Operation,
    state: &'static str,
}

impl Refusal {
    /// A process that is about to die of SIGKILL cannot be frozen: on cgroup v1 it would not die.
    pub fn of_killed(operation: Operation) -> Refusal {
        Refusal { operation, state: "killed" }
    }
}

fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Start => "start",
        Operation::Exec => "exec",
        Operation::Pause => "pause",
        Operation::Resume => "resume",
        Operation::Update => "update",
    }
}

impl State {
    /// The state while `operation` is under way, or why it may not begin.
    pub fn admit(self, operation: Operation) -> Result<State, Refusal> {
        use Operation::{Exec, Pause, Resume, Start, Update};
        match (operation, self) {
            (Start, State::Created) => Ok(State::Starting),
            (Exec, State::Created | State::Starting | State::Running) => Ok(self),
            (Pause, State::Running) => Ok(State::Pausing),
            (Resume, State::Paused) => Ok(State::Resuming),
            (Update, State::Created | State::Starting | State::Running | State::Paused) => Ok(self),
            _ => Err(Refusal { operation, state: self.name() }),
        }
    }

    /// True while an operation holds the state; it decides what comes next.
    pub fn is_transient(self) -> bool {
        matches!(self, State::Starting | State::Pausing | State::Resuming)
    }

    /// Its exit, if it has ended.
    pub fn exit(self) -> Option<Exit> {
        match self {
            State::Stopped(exit) => Some(exit),
            _ => None,
        }
    }

    /// True from Created and Stopped; the rest must be killed first.
    pub fn is_deletable(self) -> bool {
        matches!(self, State::Created | State::Stopped(_))
    }

    /// As containerd calls it.
    pub fn status(self) -> Status {
        match self {
            State::Created | State::Starting => Status::CREATED,
            State::Running => Status::RUNNING,
            State::Pausing => Status::PAUSING,
            State::Paused | State::Resuming => Status::PAUSED,
            State::Stopped(_) => Status::STOPPED,
        }
    }

    fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Starting => "starting",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Paused => "paused",
            State::Resuming => "resuming",
            State::Stopped(_) => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn all() -> [State; 7] {
        use State::{Created, Paused, Pausing, Resuming, Running, Starting, Stopped};
        [Created, Starting, Running, Pausing, Paused, Resuming, Stopped(Exit { status: 0, at: UNIX_EPOCH })]
    }

    fn admitted(operation: Operation) -> Vec<&'static str> {
        all().into_iter().filter(|state| state.admit(operation).is_ok()).map(State::name).collect()
    }

    #[test]
    fn each_operation_has_its_states() {
        assert_eq!(admitted(Operation::Start), ["created"]);
        assert_eq!(admitted(Operation::Exec), ["created", "starting", "running"]);
        assert_eq!(admitted(Operation::Pause), ["running"]);
        assert_eq!(admitted(Operation::Resume), ["paused"]);
        assert_eq!(admitted(Operation::Update), ["created", "starting", "running", "paused"]);
    }

    #[test]
    fn only_created_and_stopped_can_be_deleted() {
        let deletable: Vec<_> = all().into_iter().filter(|state| state.is_deletable()).map(State::name).collect();
        assert_eq!(deletable, ["created", "stopped"]);
    }

    #[test]
    fn transient_states_come_only_from_operations() {
        for state in all() {
            for operation in [Operation::Start, Operation::Pause, Operation::Resume] {
                assert!(state.admit(operation).map_or(true, State::is_transient), "{state:?} {operation:?}");
            }
        }
    }

    #[test]
    fn refusals_read_as_those_of_the_go_shim() {
        let refusal = State::Paused.admit(Operation::Exec).unwrap_err();
        assert_eq!(refusal.to_string(), "cannot exec in a paused state");
    }
}
