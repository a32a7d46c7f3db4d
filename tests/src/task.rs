//! The requests of the task service, as containerd makes them.

use crate::shim::{Connection, Refusal, Shim};
use anyhow::{Result, anyhow};
use containerd_shim_protos::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

/// What a request was answered with.
pub type Answer<A> = Result<A, Refusal>;

/// The answer, or the refusal as an error.
pub fn granted<A>(answer: Result<Answer<A>>) -> Result<A> {
    answer?.map_err(|refusal| anyhow!("refused: {refusal:?}"))
}

/// The refusal, or an error if there is none.
pub fn refused<A: std::fmt::Debug>(answer: Result<Answer<A>>) -> Result<Refusal> {
    match answer? {
        Ok(answer) => Err(anyhow!("not refused, but answered {answer:?}")),
        Err(refusal) => Ok(refusal),
    }
}

/// A Create without a root filesystem of its own and without stdio.
pub fn create_request(shim: &Shim) -> CreateTaskRequest {
    CreateTaskRequest {
        id: shim.id().into(),
        bundle: shim.bundle().to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// Creates the container.
pub fn create(shim: &Shim, connection: &Connection) -> Result<Answer<CreateTaskResponse>> {
    connection.call("Create", &create_request(shim))
}

/// Starts the container, or the exec of this id.
pub fn start(shim: &Shim, connection: &Connection, exec: &str) -> Result<Answer<StartResponse>> {
    connection.call("Start", &StartRequest { id: shim.id().into(), exec_id: exec.into(), ..Default::default() })
}

/// Sends a signal to the container's init, or to the exec of this id.
pub fn kill(shim: &Shim, connection: &Connection, exec: &str, signal: u32) -> Result<Answer<Empty>> {
    let request = KillRequest { id: shim.id().into(), exec_id: exec.into(), signal, ..Default::default() };
    connection.call("Kill", &request)
}

/// Waits for the end of the container, or of the exec of this id.
pub fn wait(shim: &Shim, connection: &Connection, exec: &str) -> Result<Answer<WaitResponse>> {
    connection.call("Wait", &WaitRequest { id: shim.id().into(), exec_id: exec.into(), ..Default::default() })
}

/// Asks for the container's state.
pub fn state(shim: &Shim, connection: &Connection) -> Result<Answer<StateResponse>> {
    connection.call("State", &StateRequest { id: shim.id().into(), ..Default::default() })
}

/// Deletes the container, or the exec of this id.
pub fn delete(shim: &Shim, connection: &Connection, exec: &str) -> Result<Answer<DeleteResponse>> {
    connection.call("Delete", &DeleteRequest { id: shim.id().into(), exec_id: exec.into(), ..Default::default() })
}

/// Adds an exec of a command, as root with few words.
pub fn exec(shim: &Shim, connection: &Connection, exec: &str, argv: &[&str]) -> Result<Answer<Empty>> {
    let process = json!({ "args": argv, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } });
    connection.call("Exec", &exec_request(shim, exec, &process))
}

/// Adds an exec of an OCI process, without stdio.
pub fn exec_request(shim: &Shim, exec: &str, process: &Value) -> ExecProcessRequest {
    let spec = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value: process.to_string().into_bytes(),
        ..Default::default()
    };
    ExecProcessRequest {
        id: shim.id().into(),
        exec_id: exec.into(),
        spec: MessageField::some(spec),
        ..Default::default()
    }
}

/// Lets the shim go; its answer may be lost to its exit.
pub fn shutdown(shim: &Shim, connection: &Connection) {
    let _ = connection.call::<Empty>("Shutdown", &ShutdownRequest { id: shim.id().into(), ..Default::default() });
}

/// Kills and deletes what runs, and lets the shim go, as containerd does.
pub fn end(shim: &Shim, connection: &Connection) -> Result<()> {
    let _ = kill(shim, connection, "", 9)?;
    granted(wait(shim, connection, ""))?;
    granted(delete(shim, connection, ""))?;
    shutdown(shim, connection);
    shim.delete()?.success()?;
    Ok(())
}
