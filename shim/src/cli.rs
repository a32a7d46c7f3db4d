//! `berth`: the command line.

use std::ffi::OsString;

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No command, or none that we know.
    #[error("usage: berth plan BUNDLE")]
    Usage,
    /// An OCI command that comes later.
    #[error("berth {0}: not implemented yet")]
    NotYet(String),
}

const LATER: [&str; 15] = [
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "kill",
    "list",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "start",
    "state",
];

/// Runs one command.
pub fn run(mut words: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let command = words.next().unwrap_or_default().to_string_lossy().into_owned();
    match command.as_str() {
        "plan" => Err(Error::NotYet(command)),
        name if LATER.contains(&name) => Err(Error::NotYet(command)),
        _ => Err(Error::Usage),
    }
}
