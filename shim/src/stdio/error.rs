//! What can go wrong with stdio.

use std::io;
use std::path::PathBuf;

/// Why stdio could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Stdout's URI has a scheme that is none of ours.
    #[error("unknown STDIO scheme {scheme}")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// A URI without an absolute path, or with a broken escape.
    #[error("parse stdio URI {uri}")]
    Uri {
        /// The whole URI.
        uri: String,
    },
    /// A fifo or file could not be opened.
    #[error("open {path}")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No client opened its end of an output fifo.
    #[error("open {path}: no reader came")]
    NoReader {
        /// The fifo.
        path: PathBuf,
    },
    /// The directory of a `file://` log.
    #[error("create directory {path}")]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A pipe to the container.
    #[error("create the pipe of {stream}")]
    Pipe {
        /// stdin, stdout or stderr.
        stream: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A logger could not be run.
    #[error("start logger {path}")]
    Logger {
        /// Its program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A `binary-v2` logger closed its pipe without the byte that says ready.
    #[error("start logger {path}: it ended before it was ready")]
    LoggerNotReady {
        /// Its program.
        path: PathBuf,
    },
    /// The console could not be watched or resized.
    #[error("{act} the console")]
    Console {
        /// attach or resize.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// Whether the request itself was wrong, rather than the machine's state.
    pub fn is_invalid_argument(&self) -> bool {
        matches!(self, Self::Scheme { .. } | Self::Uri { .. })
    }
}
