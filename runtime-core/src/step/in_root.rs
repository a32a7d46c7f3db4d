//! Paths beneath the container's root, as data.

use std::ffi::CString;

/// A path beneath the container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InRoot {
    /// The whole path, without a leading slash; `.` for the root itself.
    pub path: CString,
    /// Where its last name stands; `.` for the root.
    pub parent: CString,
    /// Its last name; empty for the root itself.
    pub name: CString,
}

impl InRoot {
    /// Cleans a container path lexically: `.` and empty names go, `..` goes up and stops at the root.
    /// `None` if it holds a NUL.
    #[must_use]
    pub fn new(path: &str) -> Option<Self> {
        let mut names: Vec<&str> = Vec::new();
        for name in path.split('/') {
            match name {
                "" | "." => {}
                ".." => {
                    names.pop();
                }
                name => names.push(name),
            }
        }
        let joined =
            |names: &[&str]| CString::new(if names.is_empty() { ".".to_owned() } else { names.join("/") }).ok();
        let (name, parents) = names.split_last().map_or(("", &[][..]), |(name, parents)| (*name, parents));
        Some(Self { path: joined(&names)?, parent: joined(parents)?, name: CString::new(name).ok()? })
    }

    /// The path as the container sees it, for people.
    #[must_use]
    pub fn display(&self) -> String {
        if self.is_root() { "/".to_owned() } else { format!("/{}", self.path.to_string_lossy()) }
    }

    /// Whether it is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.name.is_empty()
    }
}

impl std::fmt::Display for InRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_names_keep_their_dots() {
        let shown = |path: &str| InRoot::new(path).map(|path| path.display());
        for (path, clean) in
            [("/", "/"), ("../.", "/"), ("a/./b//../c/", "/a/c"), ("/.proc", "/.proc"), ("..a/.b", "/..a/.b")]
        {
            assert_eq!(shown(path).as_deref(), Some(clean), "{path}");
        }
        assert_eq!(shown("/a\0b"), None);
    }
}
