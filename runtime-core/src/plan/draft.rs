//! A plan while it is being written.

use std::ffi::CString;
use std::path::Path;

use super::Error;
use crate::step::{BitSet, InRoot, Slot, Source, SourceIndex, Step};

/// What the chapters of the plan write into, each in its turn.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub sources: Vec<Source>,
    pub steps: Vec<Step>,
    pub warnings: Vec<String>,
    pub slots: usize,
    pub born_on: Option<BitSet>,
}

impl Draft {
    /// One more thing for the parent to open. A tree or a file system can be mounted once, so nothing is shared.
    pub fn source(&mut self, source: Source) -> SourceIndex {
        self.sources.push(source);
        SourceIndex(self.sources.len() - 1)
    }

    pub fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots - 1)
    }

    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

/// A string for the kernel.
pub(super) fn c_string(field: &str, value: &str) -> Result<CString, Error> {
    CString::new(value).map_err(|_| Error::Nul { field: field.to_owned(), value: value.to_owned() })
}

/// A path of the container.
pub(super) fn in_root(field: &str, path: &str) -> Result<InRoot, Error> {
    InRoot::new(path).ok_or_else(|| Error::Nul { field: field.to_owned(), value: path.to_owned() })
}

/// A path of the host; a relative one is below the bundle.
pub(super) fn host_path(field: &str, path: &str, bundle: &Path) -> Result<CString, Error> {
    if path.starts_with('/') {
        return c_string(field, path);
    }
    c_string(field, &format!("{}/{}", bundle.to_string_lossy().trim_end_matches('/'), path.trim_start_matches("./")))
}

/// A field's path as text: JSON has nothing else.
pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
