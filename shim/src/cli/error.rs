//! What can go wrong with a command, in the texts that callers of runc look for.

use std::io;
use std::path::PathBuf;

use runtime_core::{cgroup, container, preview, spec};
use rustix::io::Errno;

use crate::seal;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A verb that there is not, with runc's words and code.
    #[error("No help topic for '{0}'")]
    NoCommand(String),
    /// Help was asked for.
    #[error("help")]
    Help,
    /// A flag's value.
    #[error("invalid value {value:?} for {flag}: not {wanted}")]
    Value {
        /// The flag, or what else has the value.
        flag: &'static str,
        /// As given.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// No id.
    #[error("container id cannot be empty")]
    EmptyId,
    /// Not an id.
    #[error("invalid container ID format")]
    BadId,
    /// No such container.
    #[error("container does not exist")]
    NoContainer,
    /// The id is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// It has ended, or is paused.
    #[error("container not running")]
    NotRunning,
    /// There is nothing to resume.
    #[error("container not paused")]
    NotPaused,
    /// Not in this state.
    #[error("{0}")]
    State(String),
    /// The bundle has no config.json.
    #[error("JSON specification file {} not found", .0.display())]
    NoSpec(PathBuf),
    /// What a command needs is not in the spec.
    #[error("{0}")]
    Spec(&'static str),
    /// It is not what it should be.
    #[error(transparent)]
    BadSpec(#[from] spec::Error),
    /// A pod's network.
    #[error(transparent)]
    Network(#[from] netns::cni::fault::Fault),
    /// There is none.
    #[error("pod {0} has no network that a shim has made")]
    NoPod(String),
    /// Some other JSON.
    #[error("parse {what}")]
    Json {
        /// Which.
        what: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The runtime.
    #[error(transparent)]
    Runtime(container::Error),
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// There is no plan to be printed.
    #[error("berth plan")]
    Plan(#[source] Box<preview::Error>),
    /// A file.
    #[error("{act} {}", path.display())]
    File {
        /// `open`, `write`, …
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call of the command's own.
    #[error("{act}")]
    System {
        /// In words.
        act: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that is asked could not be run.
    #[error("run {program}")]
    Program {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Our own binary could not be made safe.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// Not a thing we do.
    #[error("{0}")]
    Unimplemented(&'static str),
    /// With all that was asked.
    #[error("checkpoint and restore are not supported: {0}")]
    NoCheckpoint(String),
    /// As runc begins the errors of some commands.
    #[error("{verb} failed")]
    Failed {
        /// `berth run`, `exec`.
        verb: &'static str,
        /// Why.
        #[source]
        source: Box<Error>,
    },
}

impl Error {
    /// An error of a command that says its name.
    pub fn of(verb: &'static str) -> impl FnOnce(Error) -> Error {
        move |source| match source {
            Error::Usage(_) | Error::Help => source,
            source => Error::Failed { verb, source: Box::new(source) },
        }
    }

    /// A file's.
    pub fn file<E: Into<io::Error>>(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Error {
        let path = path.into();
        move |source| Error::File { act, path, source: source.into() }
    }

    /// A system call's.
    pub fn system(act: &'static str) -> impl FnOnce(Errno) -> Error {
        move |source| Error::System { act, source: source.into() }
    }

    /// The exit code: an exec's own errors are told from its program's as far as they can be.
    pub fn code(&self) -> u8 {
        match self {
            Error::Failed { verb: "exec", .. } => 255,
            Error::NoCommand(_) => 3,
            _ => 1,
        }
    }
}

impl From<container::Error> for Error {
    fn from(error: container::Error) -> Error {
        match error {
            container::Error::Finished => Error::NotRunning,
            container::Error::Exists => Error::Exists,
            error => Error::Runtime(error),
        }
    }
}
