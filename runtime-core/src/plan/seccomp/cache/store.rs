//! One file per filter, in a directory of this user.
//!
//! A file is `magic, key, flags, instructions, SHA-256 of all before`; numbers are in the machine's byte order, as the
//! kernel reads them. It appears whole, by rename.

use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::super::rules::instructions;
use super::super::{Filter, MAX_INSTRUCTIONS};
use super::Key;
use crate::step::SockFilter;

const MAGIC: [u8; 8] = *b"berthbpf";
const HASH: usize = 32;
const HEADER: usize = MAGIC.len() + HASH + size_of::<u32>();
const LARGEST: usize = HEADER + MAX_INSTRUCTIONS * size_of::<SockFilter>() + HASH;

/// How many files a directory keeps. A node has a handful of profiles, each once per set of capabilities.
const FILES: usize = 128;

/// The filter that is stored under a key, if it is there, whole, and nobody else could have written it.
pub(super) fn load(directory: &Path, key: &Key) -> Option<Filter> {
    let directory = open(directory).ok()?;
    // NONBLOCK: a fifo of that name must not hold us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, name(key), flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !is_ours(&stat, FileType::RegularFile) || stat.st_size > LARGEST as i64 {
        return None;
    }
    let mut bytes = Vec::with_capacity(stat.st_size as usize);
    File::from(file).take(LARGEST as u64 + 1).read_to_end(&mut bytes).ok()?;
    decode(&bytes, key)
}

/// Stores a filter, in place of what is there under its key.
pub(super) fn save(directory: &Path, key: &Key, filter: &Filter) -> Result<(), Errno> {
    let directory = match open(directory) {
        Err(Errno::NOENT) => {
            make(directory)?;
            open(directory)?
        }
        other => other?,
    };
    prune(&directory);
    let (name, temporary) = (name(key), format!(".{}.{}", name(key), std::process::id()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // EXIST: another thread is at it, or a process died here; `prune` will take the file away.
    let file = rustix::fs::openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let stored = File::from(file)
        .write_all(&encode(key, filter))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .and_then(|()| rustix::fs::renameat(&directory, &temporary, &directory, &name));
    if stored.is_err() {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    }
    stored
}

fn name(key: &Key) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make(directory: &Path) -> Result<(), Errno> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// The directory; PERM where others may write to it.
fn open(directory: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    if is_ours(&rustix::fs::fstat(&directory)?, FileType::Directory) { Ok(directory) } else { Err(Errno::PERM) }
}

/// Whether only this user may have written it.
fn is_ours(stat: &Stat, kind: FileType) -> bool {
    let mode = Mode::from_raw_mode(stat.st_mode);
    FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && !mode.intersects(Mode::WGRP | Mode::WOTH)
}

/// Takes the oldest files away until there is room for one more.
fn prune(directory: &OwnedFd) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let stat = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            is_file.then(|| ((stat.st_mtime, stat.st_mtime_nsec), entry.file_name().to_owned()))
        })
        .collect();
    let surplus = (files.len() + 1).saturating_sub(FILES);
    files.sort();
    for (_, name) in files.iter().take(surplus) {
        let _ = rustix::fs::unlinkat(directory, name.as_c_str(), AtFlags::empty());
    }
}

fn encode(key: &Key, filter: &Filter) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + filter.program.len() * size_of::<SockFilter>() + HASH);
    bytes.extend(MAGIC);
    bytes.extend(key);
    bytes.extend(filter.flags.to_ne_bytes());
    for instruction in &filter.program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    let checksum: [u8; HASH] = Sha256::digest(&bytes).into();
    bytes.extend(checksum);
    bytes
}

/// The filter, if these are the bytes of one that was stored under this key.
fn decode(bytes: &[u8], key: &Key) -> Option<Filter> {
    let (content, checksum) = bytes.split_last_chunk::<HASH>()?;
    if bytes.len() > LARGEST || Sha256::digest(content)[..] != checksum[..] {
        return None;
    }
    let (magic, rest) = content.split_first_chunk::<{ MAGIC.len() }>()?;
    let (stored, rest) = rest.split_first_chunk::<HASH>()?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (program, tail) = instructions(rest);
    if *magic != MAGIC || stored != key || program.is_empty() || !tail.is_empty() {
        return None;
    }
    Some(Filter { program, flags: u32::from_ne_bytes(*flags) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; 32];

    fn filter() -> Filter {
        Filter { program: vec![SockFilter { code: 6, jt: 1, jf: 2, k: 0x7fff_0000 }; 3], flags: 4 }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode(&encode(&KEY, &filter()), &KEY), Some(filter()));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let bytes = encode(&KEY, &filter());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged, &KEY), None, "byte {at}");
        }
    }

    #[test]
    fn half_a_file_is_no_file() {
        let bytes = encode(&KEY, &filter());
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length], &KEY), None, "{length} bytes");
        }
    }

    #[test]
    fn a_file_under_another_name_is_not_taken() {
        assert_eq!(decode(&encode(&KEY, &filter()), &[8; 32]), None);
    }

    #[test]
    fn a_file_without_instructions_is_not_taken() {
        assert_eq!(decode(&encode(&KEY, &Filter { program: Vec::new(), flags: 0 }), &KEY), None);
    }
}
