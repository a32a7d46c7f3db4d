//! Hooks that run inside the container, as data.

use std::ffi::CString;

use crate::program::CStringArray;

/// Which list of `hooks` in config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// Before createRuntime; deprecated by OCI, and still used.
    Prestart,
    /// In the runtime's namespaces, when everything is mounted and the root is not yet pivoted into.
    CreateRuntime,
    /// At the same time, in the container's namespaces, from a path of the host.
    CreateContainer,
    /// In the container, as its user, before the program.
    StartContainer,
    /// In the runtime's namespaces, when the program runs.
    Poststart,
    /// In the runtime's namespaces, when the container is gone.
    Poststop,
}

impl HookKind {
    /// As config.json has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// A program that the child runs, with the state of the container on its standard input, and waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookStep {
    /// Which list it stands in.
    pub kind: HookKind,
    /// Its place there, from 0.
    pub index: usize,
    /// What is executed.
    pub path: CString,
    /// Arguments, the name first.
    pub args: CStringArray,
    /// Environment; `None` is that of the container's program.
    pub env: Option<CStringArray>,
    /// How many seconds it may take.
    pub timeout: Option<u32>,
    /// The state as JSON, but for `{"pid":1,` at its beginning: only the child knows its pid there.
    pub state: Vec<u8>,
}
