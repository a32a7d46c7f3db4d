//! Filters that were compiled before: in this process, and in a directory that processes share.
//!
//! A key is the hash of the whole profile, so two profiles that differ in anything have different keys (crun's leaves
//! out `errnoRet` and the ends of strings). What guards the directory is who may write to it; the checksum in a file
//! guards against half a file.

mod store;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use libseccomp::ScmpVersion;
use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest, Sha256};

use super::{Error, Filter, build};

/// To be raised when the same profile gives another program, or a file another layout.
const REVISION: u32 = 3;

/// How many filters a process keeps: a pod's containers share one or two profiles, and a filter has up to 32 KiB.
const KEPT: usize = 8;

/// The hash of a profile and of everything else that decides about its program.
type Key = [u8; 32];

/// The filters of a process. One compilation at a time: two containers of a pod that start together want the same one.
#[derive(Debug, Default)]
pub struct Cache {
    directory: Option<PathBuf>,
    /// The most recently used last.
    kept: Mutex<Vec<(Key, Arc<Filter>)>>,
}

impl Cache {
    /// An empty cache. The directory is shared with other processes: it is made when there is something to put into
    /// it, mode 0700, and used only while it and its files belong to this user and nobody else may write to them.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, kept: Mutex::default() }
    }

    /// The filter of a profile, compiled if it is not kept. Blocks for up to some 10 ms.
    pub fn compile(&self, profile: &LinuxSeccomp) -> Result<Arc<Filter>, Error> {
        let key = key(profile);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = key.and_then(|key| kept.iter().position(|(other, _)| *other == key)) {
            let entry = kept.remove(at);
            let filter = Arc::clone(&entry.1);
            kept.push(entry);
            return Ok(filter);
        }
        let filter = Arc::new(load_or_build(profile, key.as_ref(), self.directory.as_deref())?);
        if let Some(key) = key {
            if kept.len() >= KEPT {
                kept.remove(0);
            }
            kept.push((key, Arc::clone(&filter)));
        }
        Ok(filter)
    }
}

/// As [`Cache::compile`], without a memory.
pub(super) fn compile(profile: &LinuxSeccomp, directory: Option<&Path>) -> Result<Filter, Error> {
    let key = directory.and_then(|_| key(profile));
    load_or_build(profile, key.as_ref(), directory)
}

/// A directory that cannot be used costs a compilation, never the container: its failures end here.
fn load_or_build(profile: &LinuxSeccomp, key: Option<&Key>, directory: Option<&Path>) -> Result<Filter, Error> {
    let place = key.zip(directory);
    if let Some(filter) = place.and_then(|(key, directory)| store::load(directory, key)) {
        return Ok(filter);
    }
    let filter = build(profile)?;
    if let Some((key, directory)) = place {
        // Another process may have stored it first, or the disk be full: what counts is in our hands.
        let _ = store::save(directory, key, &filter);
    }
    Ok(filter)
}

/// None for a profile that cannot be hashed whole; it is compiled every time.
///
/// The serialisation is JSON by the type's own `Serialize`: it writes every field, those of later versions of the
/// specification too, and quotes and separators keep neighbours apart.
fn key(profile: &LinuxSeccomp) -> Option<Key> {
    let profile = serde_json::to_vec(profile).ok()?;
    let ScmpVersion { major, minor, micro } = ScmpVersion::current().ok()?;
    let mut hash = Sha256::new();
    for number in [REVISION, major, minor, micro] {
        hash.update(number.to_le_bytes());
    }
    for part in [env!("CARGO_PKG_VERSION").as_bytes(), std::env::consts::ARCH.as_bytes(), &profile] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Some(hash.finalize().into())
}

#[cfg(test)]
mod tests;
