//! The program that a process becomes: its arguments, environment and where to look for it.

use std::ffi::{CStr, CString, c_char};

/// A NULL-terminated array of C strings, as execve(2) wants it, built before the clone.
#[derive(Debug)]
pub struct CStringArray {
    strings: Vec<CString>,
    pointers: Pointers,
}

/// Pointers into the heap of the `strings` beside them: they stay valid when the array moves.
#[derive(Debug)]
struct Pointers(Vec<*const c_char>);

impl CStringArray {
    /// Takes the strings over.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = Pointers::of(&strings);
        Self { strings, pointers }
    }

    /// What execve(2) takes.
    #[must_use]
    pub fn as_ptr(&self) -> *const *const c_char {
        self.pointers.0.as_ptr()
    }

    /// The strings.
    pub fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.strings.iter().map(CString::as_c_str)
    }
}

impl Pointers {
    fn of(strings: &[CString]) -> Self {
        Self(strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect())
    }
}

impl Clone for CStringArray {
    fn clone(&self) -> Self {
        Self::new(self.strings.clone())
    }
}

impl PartialEq for CStringArray {
    fn eq(&self, other: &Self) -> bool {
        self.strings == other.strings
    }
}

impl Eq for CStringArray {}

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
}
