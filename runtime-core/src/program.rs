//! The program that a process becomes: its arguments, environment and where to look for it.

use std::ffi::{CStr, CString, c_char};

/// Strings for execve(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CStringArray(Vec<CString>);

impl CStringArray {
    /// Takes the strings over.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        Self(strings)
    }

    /// Adds one at the end.
    pub fn push(&mut self, string: CString) {
        self.0.push(string);
    }

    /// The strings.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.0.iter().map(CString::as_c_str)
    }

    /// The NULL-terminated array of pointers that execve(2) takes: made before the clone, since the child has no heap.
    pub(crate) fn pointers(&self) -> Vec<*const c_char> {
        self.iter().map(CStr::as_ptr).chain([std::ptr::null()]).collect()
    }
}

/// What the last steps of a plan look up and execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// As the spec names it, for errors: `args[0]`.
    pub name: CString,
    /// The paths to try, in order: `args[0]` itself if it holds a slash, else one for each directory of the process's PATH.
    pub candidates: Vec<CString>,
    /// Arguments, `args[0]` first.
    pub args: CStringArray,
    /// Environment, `NAME=value`.
    pub env: CStringArray,
    /// Descriptors from 3 on that it gets beside stdio, under the numbers that the parent has them.
    pub preserve_fds: u32,
}
