//! The state of a container as the runtime specification defines it (runtime.md, "State"): what hooks read, what
//! `berth state` prints.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::process::Pid;
use serde::Serialize;

/// The version of the specification that the state complies with.
pub const OCI_VERSION: &str = "1.3.0";

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made: what the hooks of create see.
    Creating,
    /// Waits at its gate.
    Created,
    /// Runs.
    Running,
    /// Frozen. Not the specification's word but runc's, which everybody knows.
    Paused,
    /// Has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The state, in the order of runtime.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// [`OCI_VERSION`].
    pub oci_version: String,
    /// Of the container.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Its first process, as the reader counts; a container that has none yet, or no more, has no pid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Where `config.json` is; absolute.
    pub bundle: PathBuf,
    /// The spec's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Who a container is: it stays the same all its life.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Its id.
    pub id: &'a str,
    /// Where `config.json` is; absolute.
    pub bundle: &'a Path,
    /// Where its annotations are.
    pub spec: &'a Spec,
}

impl Identity<'_> {
    /// The state.
    #[must_use]
    pub fn state(&self, status: Status, pid: Option<Pid>) -> State {
        let annotations = self.spec.annotations().iter().flatten();
        State {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.to_owned(),
            status,
            pid: pid.map(|pid| pid.as_raw_nonzero().get()),
            bundle: self.bundle.to_owned(),
            annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}

impl State {
    /// As one line of JSON: what a hook reads.
    #[must_use]
    pub fn json(&self) -> String {
        // Strings, numbers and a path that was JSON before: nothing here cannot be JSON again.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_has_what_the_specification_requires() {
        let spec = crate::spec::parse(br#"{"ociVersion":"1.2.0","annotations":{"b":"2","a":"1"}}"#).unwrap();
        let identity = Identity { id: "box", bundle: Path::new("/bundle"), spec: &spec };
        let state = identity.state(Status::Running, Pid::from_raw(7));
        assert_eq!(
            state.json(),
            r#"{"ociVersion":"1.3.0","id":"box","status":"running","pid":7,"bundle":"/bundle","annotations":{"a":"1","b":"2"}}"#
        );
        assert!(!identity.state(Status::Stopped, None).json().contains("pid"));
    }
}
