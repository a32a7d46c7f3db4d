//! What an RPC can answer instead of its result, and the one place where kinds of errors become status codes.

use crate::{network, options, stdio};
use runtime_core::cgroup;
use runtime_core::container::{self, ErrorKind};
use std::sync::Arc;
use ttrpc::proto::{Code, Response, Status};

/// A failed RPC. The texts are those users of runc know where they look for them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No such container.
    #[error("container not created")]
    NoContainer,
    /// No such exec.
    #[error("process does not exist {0}")]
    NoProcess(String),
    /// It has ended.
    #[error("process already finished")]
    Finished,
    /// An id that is taken.
    #[error("{what} {id}: already exists")]
    Exists {
        /// container or exec.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The state does not allow it.
    #[error("{0}")]
    Refused(#[from] crate::state::Refusal),
    /// An exec whose container's init has ended.
    #[error("container {0} init process is not running")]
    InitGone(String),
    /// An exec that was only added.
    #[error("process not created")]
    NotStarted,
    /// Delete of something that runs. UNKNOWN, as from the Go shim.
    #[error("cannot delete a running process")]
    DeleteRunning,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The request's message does not decode.
    #[error("decode {what}: {reason}")]
    Decode {
        /// Which message.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// Not a thing we do.
    #[error("{0}")]
    Unimplemented(String),
    /// Runtime options.
    #[error(transparent)]
    Options(Arc<options::Error>),
    /// config.json.
    #[error("OCI runtime create failed")]
    Spec(#[source] Arc<runtime_core::spec::Error>),
    /// The container's network.
    #[error("OCI runtime create failed: network")]
    Network(#[source] Arc<network::Error>),
    /// A container operation.
    #[error("OCI runtime {verb} failed")]
    Runtime {
        /// create, start, exec, …
        verb: &'static str,
        /// Why.
        #[source]
        source: Arc<container::Error>,
    },
    /// A cgroup operation.
    #[error("OCI runtime {verb} failed")]
    Cgroup {
        /// pause, resume, kill, …
        verb: &'static str,
        /// Why.
        #[source]
        source: Arc<cgroup::Error>,
    },
    /// Standard input, output or error.
    #[error("OCI runtime {verb} failed")]
    Stdio {
        /// create or exec.
        verb: &'static str,
        /// Why.
        #[source]
        source: Arc<stdio::Error>,
    },
    /// A signal could not be sent.
    #[error("send signal {signal} to process {pid}")]
    Signal {
        /// Its number.
        signal: i32,
        /// The process.
        pid: i32,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
    /// No descriptor is left.
    #[error("duplicate a pidfd")]
    Descriptor(#[source] Arc<std::io::Error>),
    /// The work's thread is gone. Only a panic could do that, and a panic ends the process.
    #[error("the {0} was abandoned")]
    Abandoned(&'static str),
}

impl Error {
    /// The gRPC code that containerd turns into its own kinds of errors.
    pub fn code(&self) -> Code {
        match self {
            Error::NoContainer | Error::NoProcess(_) | Error::Finished => Code::NOT_FOUND,
            Error::Exists { .. } => Code::ALREADY_EXISTS,
            Error::Refused(_) | Error::InitGone(_) | Error::NotStarted => Code::FAILED_PRECONDITION,
            Error::Invalid(_) | Error::Decode { .. } | Error::Spec(_) => Code::INVALID_ARGUMENT,
            Error::Unimplemented(_) => Code::UNIMPLEMENTED,
            Error::Options(error) => match **error {
                options::Error::Decode { .. } | options::Error::Toml { .. } => Code::INVALID_ARGUMENT,
                options::Error::Read { .. } | options::Error::BinaryName(_) => Code::UNKNOWN,
            },
            Error::Network(error) if error.is_invalid_argument() => Code::INVALID_ARGUMENT,
            Error::Runtime { source, .. } => code_of(source.kind()),
            Error::Stdio { source, .. } => match source.is_invalid_argument() {
                true => Code::INVALID_ARGUMENT,
                false => Code::UNKNOWN,
            },
            Error::DeleteRunning
            | Error::Cgroup { .. }
            | Error::Network(_)
            | Error::Signal { .. }
            | Error::Descriptor(_)
            | Error::Abandoned(_) => Code::UNKNOWN,
        }
    }

    /// The whole story: the error and its causes, from the outside in.
    pub fn text(&self) -> String {
        chain(self)
    }

    /// What a client gets. Its kind stands at the end, as in the texts of Go's shim: some clients show nothing else of it.
    pub fn answer(&self) -> Response {
        let kind = match self.code() {
            Code::NOT_FOUND => ": not found",
            Code::ALREADY_EXISTS => ": already exists",
            Code::FAILED_PRECONDITION => ": failed precondition",
            Code::INVALID_ARGUMENT => ": invalid argument",
            Code::UNIMPLEMENTED => ": not implemented",
            _ => "",
        };
        response(self.code(), self.text() + kind)
    }

    pub(crate) fn runtime(verb: &'static str) -> impl FnOnce(container::Error) -> Error {
        move |source| Error::Runtime { verb, source: Arc::new(source) }
    }

    pub(crate) fn cgroup(verb: &'static str) -> impl FnOnce(cgroup::Error) -> Error {
        move |source| Error::Cgroup { verb, source: Arc::new(source) }
    }

    pub(crate) fn descriptor(source: std::io::Error) -> Error {
        Error::Descriptor(Arc::new(source))
    }

    pub(crate) fn stdio(verb: &'static str) -> impl FnOnce(stdio::Error) -> Error {
        move |source| Error::Stdio { verb, source: Arc::new(source) }
    }
}

impl From<network::Error> for Error {
    fn from(error: network::Error) -> Error {
        Error::Network(Arc::new(error))
    }
}

impl From<options::Error> for Error {
    fn from(error: options::Error) -> Error {
        Error::Options(Arc::new(error))
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorKind::Unimplemented => Code::UNIMPLEMENTED,
        ErrorKind::Other => Code::UNKNOWN,
    }
}

/// An error and its causes on one line, each once, errnos as Go's programs print them. Some errors name their cause
/// themselves.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = without_errno(cause.to_string());
        if !without_errno(text.clone()).ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// `No such file or directory (os error 2)` is `no such file or directory` to users of runc.
fn without_errno(mut text: String) -> String {
    if let Some(end) = text.rfind(" (os error ") {
        text.truncate(end);
        let start = text.rfind(": ").map_or(0, |colon| colon + 2);
        if let Some(first) = text.get_mut(start..start + 1) {
            first.make_ascii_lowercase();
        }
    }
    text
}

/// The answer that carries an error.
pub fn response(code: Code, message: String) -> Response {
    let status = Status { code: code.into(), message, ..Status::default() };
    Response { status: Some(status).into(), ..Response::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_containerd_asks_for() {
        assert_eq!(Error::NoContainer.code(), Code::NOT_FOUND);
        assert_eq!(Error::Finished.code(), Code::NOT_FOUND);
        assert_eq!(Error::DeleteRunning.code(), Code::UNKNOWN);
        assert_eq!(Error::Exists { what: "exec", id: "x".into() }.code(), Code::ALREADY_EXISTS);
        assert_eq!(Error::InitGone("c".into()).code(), Code::FAILED_PRECONDITION);
        assert_eq!(code_of(ErrorKind::Unimplemented), Code::UNIMPLEMENTED);
        assert_eq!(Error::from(options::Error::BinaryName("no-runc".into())).code(), Code::UNKNOWN);
    }

    #[test]
    fn causes_are_told_once_each() {
        let error =
            Error::from(options::Error::Read { path: "/x".into(), source: std::io::ErrorKind::NotFound.into() });
        assert_eq!(error.text(), "read runtime options from /x: entity not found");
        let errno = || std::io::Error::from_raw_os_error(2);
        let error = Error::from(options::Error::Read { path: "/x".into(), source: errno() });
        assert_eq!(error.text(), "read runtime options from /x: no such file or directory");

        #[derive(Debug, thiserror::Error)]
        #[error("open /x: {0}")]
        struct Itself(#[source] std::io::Error);
        assert_eq!(chain(&Itself(errno())), "open /x: No such file or directory (os error 2)");
    }
}
