//! What the snapshotter hands over to be the root file system.

/// A mount, as containerd's `api/types/mount.proto` has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// `overlay`, `bind`, `ext4` …
    pub fstype: String,
    /// A device, a directory, or the file system's name.
    pub source: String,
    /// Where below the root; empty for the root itself. containerd 1.7 and newer.
    pub target: String,
    /// In the words of fstab(5).
    pub options: Vec<String>,
}
