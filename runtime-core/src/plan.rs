//! The OCI spec compiled into a list of steps: every path a C string, every BPF program built, every decision taken.

pub mod seccomp;

use std::ffi::CString;

use crate::program::Program;
use crate::step::{Source, Step};

/// Everything that is decided about a process before it exists: a container's init, or an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitPlan {
    /// What the parent opens before the clone.
    pub sources: Vec<Source>,
    /// `CLONE_NEW*` flags of clone3 itself.
    pub clone_flags: u64,
    /// What the parent writes for [`Step::UnshareUser`].
    pub maps: Option<IdMaps>,
    /// What the parent writes to the child's `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// What the child does.
    pub steps: Vec<Step>,
    /// What it becomes.
    pub program: Program,
}

/// The contents of `uid_map` and `gid_map`. user_namespaces(7)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// `inside outside count` lines.
    pub uid: CString,
    /// `inside outside count` lines.
    pub gid: CString,
}
