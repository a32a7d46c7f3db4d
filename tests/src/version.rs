//! Which containerds there are, and where the files under test lie.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};

/// A generation of containerd that Berth supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 1.6, Debian bookworm's.
    V1_6,
    /// 1.7, Debian trixie's.
    V1_7,
    /// 2.x, Debian forky's.
    V2,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 3] = [Version::V1_6, Version::V1_7, Version::V2];

    /// The name of its directory below the cache, and of its trials.
    pub fn name(self) -> &'static str {
        match self {
            Version::V1_6 => "v1_6",
            Version::V1_7 => "v1_7",
            Version::V2 => "v2",
        }
    }

    /// The directory with `containerd`, `ctr` and the Go shim.
    pub fn programs(self) -> PathBuf {
        cache().join(self.name()).join("usr/bin")
    }

    /// Whether `tests/setup` has been here.
    pub fn check(self) -> Result<()> {
        let daemon = self.programs().join("containerd");
        if !daemon.exists() {
            bail!("no containerd at {}: run tests/setup", daemon.display());
        }
        Ok(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Where `tests/setup` puts what it fetches: `$BERTH_CACHE`, else `target/containerds`.
pub fn cache() -> PathBuf {
    match std::env::var_os("BERTH_CACHE") {
        Some(cache) => workspace().join(cache),
        None => workspace().join("target/containerds"),
    }
}

/// Debian's runc, which the comparison runs.
pub fn runc() -> PathBuf {
    cache().join("tools/usr/sbin/runc")
}

/// A static busybox, which the image is made of.
pub fn busybox() -> PathBuf {
    cache().join("tools/bin/busybox")
}

/// The shim under test: `$BERTH_SHIM`, else the newest of the debug and release builds.
pub fn shim() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BERTH_SHIM") {
        let path = workspace().join(path);
        path.metadata().with_context(|| format!("find the shim that BERTH_SHIM names, {}", path.display()))?;
        return Ok(path);
    }
    let target = workspace().join("target");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let candidates = [target.join(&triple).join("debug"), target.join(&triple).join("release"), target.join("release")];
    candidates
        .into_iter()
        .map(|directory| directory.join("containerd-shim-berth-v2"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("find a built containerd-shim-berth-v2 below target: run cargo build, or set BERTH_SHIM")
}
