//! Protobuf messages ⇄ our types. Pure.

use crate::error::Error;
use crate::process::{Process, Streams};
use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest, Mount, StateResponse, Status};
use containerd_shim_protos::events::task::TaskIO;
use containerd_shim_protos::shim::oci::ProcessDetails;
use oci_spec::runtime::LinuxResources;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use runtime_core::plan::rootfs;
use runtime_core::spec;
use std::time::{SystemTime, UNIX_EPOCH};

mod stats;

pub use stats::metrics;

/// A time as protobuf has it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: since.subsec_nanos().cast_signed(), ..Timestamp::default() }
}

/// A message in an `Any`, by the bare name that containerd registers it under.
pub fn any(type_url: &str, message: &impl Message) -> Any {
    // Encoding fails only on messages with required fields.
    Any { type_url: type_url.into(), value: message.write_to_bytes().unwrap_or_default(), ..Any::default() }
}

/// The rootfs mounts that containerd's snapshotter asks for.
pub fn rootfs(mounts: Vec<Mount>) -> Vec<rootfs::Mount> {
    let convert = |mount: Mount| rootfs::Mount {
        fstype: mount.type_,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    mounts.into_iter().map(convert).collect()
}

impl From<&CreateTaskRequest> for Streams {
    fn from(request: &CreateTaskRequest) -> Streams {
        Streams {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        }
    }
}

impl From<&ExecProcessRequest> for Streams {
    fn from(request: &ExecProcessRequest) -> Streams {
        Streams {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        }
    }
}

impl From<&Streams> for TaskIO {
    fn from(streams: &Streams) -> TaskIO {
        TaskIO {
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            terminal: streams.terminal,
            ..TaskIO::default()
        }
    }
}

/// The process of an exec: JSON of the OCI `Process`, whose terminal the request decides. With it comes what is to be told.
pub fn process(request: &ExecProcessRequest) -> Result<spec::Read<oci_spec::runtime::Process>, Error> {
    let read = spec::read_process(json(request.spec.as_ref()));
    let (mut process, warnings) = read.map_err(undecodable("process"))?;
    process.set_terminal(Some(request.terminal));
    Ok((process, warnings))
}

/// The limits of an Update: JSON of the OCI `LinuxResources`.
pub fn resources(resources: Option<&Any>) -> Result<LinuxResources, Error> {
    serde_json::from_slice(json(resources)).map_err(undecodable("resources"))
}

fn json(any: Option<&Any>) -> &[u8] {
    any.map(|any| any.value.as_slice()).unwrap_or_default()
}

fn undecodable(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    move |error| Error::Decode { what, reason: error.to_string() }
}

/// What State answers. Without an exec id, `id` is the container's; an exec of a paused container is paused too.
pub fn state(id: &str, exec_id: &str, bundle: &str, process: &Process, container: Status) -> StateResponse {
    let state = process.state();
    let status = match (state.status(), container) {
        (Status::RUNNING, Status::PAUSED) => Status::PAUSED,
        (status, _) => status,
    };
    let exit = state.exit();
    StateResponse {
        id: if exec_id.is_empty() { id } else { exec_id }.to_owned(),
        bundle: bundle.to_owned(),
        pid: process.pid(),
        status: status.into(),
        stdin: process.streams.stdin.clone(),
        stdout: process.streams.stdout.clone(),
        stderr: process.streams.stderr.clone(),
        terminal: process.streams.terminal,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| timestamp(exit.at)).into(),
        exec_id: exec_id.to_owned(),
        ..StateResponse::default()
    }
}

/// The mark on an exec's leader in the answer of Pids.
pub fn process_details(exec_id: &str) -> Any {
    let details = ProcessDetails { exec_id: exec_id.to_owned(), ..ProcessDetails::default() };
    any("containerd.runc.v1.ProcessDetails", &details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_keep_their_nanoseconds() {
        let stamp = timestamp(UNIX_EPOCH + Duration::new(5, 7));
        assert_eq!((stamp.seconds, stamp.nanos), (5, 7));
    }

    #[test]
    fn the_request_decides_about_an_execs_terminal() {
        let spec = br#"{"args":["sh"],"cwd":"/","terminal":true,"user":{"uid":0,"gid":0}}"#;
        let spec = Any { value: spec.to_vec(), ..Any::default() };
        let mut request = ExecProcessRequest { spec: Some(spec).into(), ..ExecProcessRequest::default() };
        assert_eq!(process(&request).unwrap().0.terminal(), Some(false));
        request.spec = None.into();
        assert!(matches!(process(&request), Err(Error::Decode { .. })));
    }

    #[test]
    fn an_exec_that_was_added_is_created_and_has_no_pid() {
        let exec = Process::new(Streams { stdout: "/fifo".into(), ..Streams::default() });
        let answer = state("web", "probe", "/bundle", &exec, Status::RUNNING);
        assert_eq!((answer.id.as_str(), answer.exec_id.as_str(), answer.pid), ("probe", "probe", 0));
        assert_eq!((answer.status.enum_value().unwrap(), answer.stdout.as_str()), (Status::CREATED, "/fifo"));
        assert!(answer.exited_at.is_none());
    }
}
