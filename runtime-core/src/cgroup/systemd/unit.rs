//! The unit of a container: `slice:prefix:name`, understood.

use serde::{Deserialize, Serialize};

use crate::cgroup::Error;

/// Where a scope goes that names no slice, as with runc.
const DEFAULT_SLICE: &str = "system.slice";
/// In front of the id of a container that names no unit.
const DEFAULT_PREFIX: &str = "berth";
/// systemd's UNIT_NAME_MAX.
const LONGEST: usize = 255;

/// The scope that systemd makes for a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cgroup) struct Unit {
    /// The slice it is in, with all its own: `a-b.slice` is in `a.slice`.
    pub(super) slice: String,
    /// `prefix-name.scope`
    pub(super) name: String,
}

impl Unit {
    /// Understands a `cgroupsPath` of three parts, of which the first two may be empty; without any, it is
    /// `berth-<id>.scope` in system.slice.
    pub(in crate::cgroup) fn parse(cgroups_path: Option<&str>, id: &str) -> Result<Self, Error> {
        let text = cgroups_path.filter(|text| !text.is_empty());
        let bad = |why| Error::BadUnit { path: text.unwrap_or(id).to_owned(), why };
        let (slice, prefix, name) = match text {
            None => ("", DEFAULT_PREFIX, id),
            Some(text) => {
                let parts: Vec<&str> = text.split(':').collect();
                let [slice, prefix, name] = parts[..] else { return Err(bad("it is not SLICE:PREFIX:NAME")) };
                (slice, prefix, name)
            }
        };
        let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
        if slice_path(slice).is_none() {
            return Err(bad("its first part is no slice"));
        }
        if name.is_empty() || name.ends_with(".slice") {
            return Err(bad("its last part names no scope"));
        }
        let name = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        if name.len() > LONGEST || !name.bytes().all(valid) {
            return Err(bad("systemd takes no such name"));
        }
        Ok(Self { slice: slice.to_owned(), name })
    }

    /// Its cgroup, from the root of each hierarchy and without a leading slash.
    pub(in crate::cgroup) fn path(&self) -> String {
        match slice_path(&self.slice) {
            Some(slice) if !slice.is_empty() => format!("{slice}/{}", self.name),
            _ => self.name.clone(),
        }
    }
}

/// What a unit's name is made of. systemd.unit(5)
fn valid(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte)
}

/// A dash means *below* in the name of a slice: `a-b.slice` is `a.slice/a-b.slice`, and `-.slice` the root.
/// systemd.slice(5)
fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(String::new());
    }
    if name.is_empty() || slice.len() > LONGEST || !slice.bytes().all(valid) || name.split('-').any(str::is_empty) {
        return None;
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Some(ends.map(|end| format!("{}.slice", &name[..end])).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<String, Error> {
        Unit::parse(Some(text), "id").map(|unit| unit.path())
    }

    #[test]
    fn scope_is_in_its_slice_and_that_in_its_own() {
        assert_eq!(path("system.slice:cri-containerd:abc").unwrap(), "system.slice/cri-containerd-abc.scope");
        assert_eq!(
            path("kubepods-burstable-pod1_2.slice:cri-containerd:abc").unwrap(),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope"
        );
        assert_eq!(path("-.slice:a:b").unwrap(), "a-b.scope");
    }

    #[test]
    fn missing_parts_have_defaults() {
        assert_eq!(path(":a:b").unwrap(), "system.slice/a-b.scope");
        assert_eq!(path("::b").unwrap(), "system.slice/b.scope");
        for none in [None, Some("")] {
            assert_eq!(Unit::parse(none, "c1").unwrap().path(), "system.slice/berth-c1.scope");
        }
    }

    #[test]
    fn what_systemd_would_refuse_is_refused() {
        for text in [
            "/a/b",
            "a:b",
            "a:b:c",
            "a.slice:b:",
            "a--b.slice:c:d",
            "-a.slice:b:c",
            ".slice:b:c",
            "a/b.slice:c:d",
            "a.slice:b/c:d",
            "a.slice:b:c/d",
            "a.slice:b:c.slice",
            "a.slice:b:c:d",
            "a.slice:b:c d",
        ] {
            assert!(matches!(path(text), Err(Error::BadUnit { .. })), "{text}");
        }
        assert!(path(&format!("a.slice:b:{}", "c".repeat(300))).is_err());
    }
}
