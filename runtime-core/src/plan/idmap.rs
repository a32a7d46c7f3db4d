//! Mounts whose files show other owners: what a snapshotter says with `uidmap=` and `gidmap=`, and a bind with `idmap`,
//! `ridmap`, `uidMappings` and `gidMappings`.

use std::ffi::CString;

use super::draft::c_string;
use super::mounts::{Context, Entry};
use super::namespaces::{id_map, id_maps};
use super::options::Options;
use super::{Error, IdMaps};
use crate::step::{Idmap, Namespace, Source};

/// Takes `uidmap=` and `gidmap=` out of a snapshot's options. They are words of containerd's to whoever mounts, not of any
/// file system's.
pub(super) fn take(field: &str, options: &mut Options) -> Result<Option<Idmap>, Error> {
    if options.idmap.is_some() {
        return Err(Error::unsupported(format!("{field}.options \"idmap\", \"ridmap\"")));
    }
    let (uid, gid) = (take_one(field, "uidmap=", options)?, take_one(field, "gidmap=", options)?);
    match (uid, gid) {
        (Some(uid), Some(gid)) => Ok(Some(Idmap::Maps(IdMaps { uid, gid }))),
        (None, None) => Ok(None),
        _ => Err(Error::conflict(format!("{field}.options"), "\"uidmap=\" and \"gidmap=\" belong together")),
    }
}

fn take_one(field: &str, key: &str, options: &mut Options) -> Result<Option<CString>, Error> {
    let mut taken = None;
    for word in options.data.extract_if(.., |word| word.starts_with(key)) {
        taken = Some(lines(field, &word, &word[key.len()..])?);
    }
    Ok(taken)
}

/// `0:100000:65536,65536:5:1` as the lines of a uid_map.
fn lines(field: &str, word: &str, maps: &str) -> Result<CString, Error> {
    let invalid =
        || Error::invalid(format!("{field}.options"), word, "wants inside:outside:size, and more after commas");
    let mut lines = String::new();
    for map in maps.split(',') {
        let numbers: Vec<u32> = map.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| invalid())?;
        let &[inside, outside, size] = numbers.as_slice() else { return Err(invalid()) };
        if size == 0 {
            return Err(invalid());
        }
        lines.push_str(&format!("{inside} {outside} {size}\n"));
    }
    c_string(field, &lines)
}

/// A snapshot with the maps that were taken from its options.
pub(super) fn of_snapshot(field: &str, source: Source, by: Idmap) -> Result<Source, Error> {
    if let Source::Filesystem(filesystem) = &source
        && filesystem.fstype.as_c_str() == c"overlay"
        && !filesystem.options.iter().any(|(key, _)| key.as_c_str() == c"lowerdir")
    {
        return Err(Error::missing(format!("{field}.options \"lowerdir=\"")));
    }
    Ok(Source::Idmapped { of: Box::new(source), by, recursive: false })
}

/// Only what is bound can be idmapped, as in runc: a new file system belongs to the container's ids anyway.
pub(super) fn check_bind(entry: &Entry<'_>) -> Result<(), Error> {
    if entry.options.bind.is_none() && (entry.options.idmap.is_some() || has_maps(entry)) {
        return Err(Error::conflict(&entry.field, "id-mapped mounts are only supported for bind-mounts"));
    }
    Ok(())
}

/// By what a bind is idmapped, and whether with what is mounted below it, if it shall be: by its own maps, or else by those
/// of the container's user namespace.
pub(super) fn of_bind(context: &Context<'_>, entry: &Entry<'_>) -> Result<Option<(Idmap, bool)>, Error> {
    if entry.options.idmap.is_none() && !has_maps(entry) {
        return Ok(None);
    }
    let by = if has_maps(entry) { own_maps(entry)? } else { maps_of_container(context, entry)? };
    Ok(Some((by, entry.options.idmap.unwrap_or(false))))
}

fn has_maps(entry: &Entry<'_>) -> bool {
    [entry.mount.uid_mappings(), entry.mount.gid_mappings()]
        .iter()
        .any(|maps| maps.as_ref().is_some_and(|m| !m.is_empty()))
}

fn own_maps(entry: &Entry<'_>) -> Result<Idmap, Error> {
    let uid = id_map(&format!("{}.uidMappings", entry.field), entry.mount.uid_mappings())?;
    let gid = id_map(&format!("{}.gidMappings", entry.field), entry.mount.gid_mappings())?;
    if uid.is_empty() || gid.is_empty() {
        return Err(Error::conflict(&entry.field, "id-mapped mounts must have both uid and gid mappings specified"));
    }
    Ok(Idmap::Maps(IdMaps { uid, gid }))
}

fn maps_of_container(context: &Context<'_>, entry: &Entry<'_>) -> Result<Idmap, Error> {
    if let Some(path) = context.namespaces.joined(Namespace::User) {
        return Ok(Idmap::Namespace(path.clone()));
    }
    match context.input.spec.linux() {
        Some(linux) if context.namespaces.is_new(Namespace::User) => Ok(Idmap::Maps(id_maps(linux)?)),
        _ => Err(Error::conflict(
            format!("{}.options", entry.field),
            "\"idmap\" needs uidMappings and gidMappings, or a user namespace of the container's own",
        )),
    }
}
