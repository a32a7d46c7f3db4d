//! `berth`: the command line.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;

use runtime_core::preview;

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No command, or none that we know.
    #[error("usage: berth plan BUNDLE")]
    Usage,
    /// There is no plan to be printed.
    #[error("berth plan")]
    Plan(#[source] Box<preview::Error>),
    /// It was not printed.
    #[error("write to standard output")]
    Output(#[source] io::Error),
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
        "plan" => match (words.next(), words.next()) {
            (Some(bundle), None) => plan(&bundle),
            _ => Err(Error::Usage),
        },
        name if LATER.contains(&name) => Err(Error::NotYet(command)),
        _ => Err(Error::Usage),
    }
}

/// Prints what creating the container of a bundle would do.
fn plan(bundle: &OsStr) -> Result<(), Error> {
    let plan = preview::preview(Path::new(bundle)).map_err(|error| Error::Plan(Box::new(error)))?;
    io::stdout().write_all(plan.to_string().as_bytes()).map_err(Error::Output)
}
