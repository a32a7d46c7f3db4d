//! Who lives in a namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether any process lives in the namespace that has this path. A namespace is known by device and inode.
pub(super) fn lives_any(namespace: &Path) -> bool {
    let number = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let Some(wanted) = number(namespace) else { return false };
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| number(&process.path().join("ns/net")) == Some(wanted))
}
