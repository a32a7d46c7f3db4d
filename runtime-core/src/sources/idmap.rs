//! Mounts whose files show other owners. mount_setattr(2), "ID-mapped mounts"

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode};
use rustix::mount::MoveMountFlags;

use super::{Error, make_filesystem, open_namespace, open_tree, overlay};
use crate::children::Children;
use crate::plan::IdMaps;
use crate::step::{Filesystem, Idmap, Namespace, Source};
use crate::sys::{self, MountAttr};
use crate::userns;

/// Where the layers of an overlay stand while it is made: any directory that every host has, covered in one thread's mount
/// namespace only.
const LAYERS: &CStr = c"/proc";

/// The user namespaces of one container: the same maps need no second one.
pub(super) struct UserNamespaces<'a> {
    children: &'a Children,
    made: Vec<(IdMaps, OwnedFd)>,
}

impl<'a> UserNamespaces<'a> {
    pub(super) fn new(children: &'a Children) -> Self {
        Self { children, made: Vec::new() }
    }

    fn of_maps(&mut self, maps: &IdMaps) -> Result<BorrowedFd<'_>, userns::Error> {
        let index = match self.made.iter().position(|(made, _)| made == maps) {
            Some(index) => index,
            None => {
                self.made.push((maps.clone(), userns::make(maps, self.children)?));
                self.made.len() - 1
            }
        };
        Ok(self.made[index].1.as_fd())
    }
}

/// An idmapped tree or file system, detached.
pub(super) fn make(
    source: &Source,
    by: &Idmap,
    recursive: bool,
    namespaces: &mut UserNamespaces<'_>,
) -> Result<OwnedFd, Error> {
    let joined;
    let namespace = match by {
        Idmap::Maps(maps) => namespaces.of_maps(maps)?,
        Idmap::Namespace(path) => {
            joined = open_namespace(path, Namespace::User)?;
            joined.as_fd()
        }
    };
    match source {
        Source::Filesystem(filesystem) if filesystem.fstype.as_c_str() == c"overlay" => {
            on_layers(filesystem, namespace)
        }
        Source::Filesystem(filesystem) => {
            let mount = super::filesystem(filesystem)?;
            set(mount.as_fd(), &filesystem.source, false, namespace)?;
            Ok(mount)
        }
        Source::Tree { path, recursive: tree } => {
            let tree = open_tree(path, *tree)?;
            set(tree.as_fd(), path, recursive, namespace)?;
            Ok(tree)
        }
        // The plan has no others.
        Source::Idmapped { .. } | Source::Namespace { .. } | Source::Init | Source::InitRoot | Source::Gate(_) => {
            Err(Error::Errno(rustix::io::Errno::INVAL))
        }
    }
}

/// Gives a detached tree that somebody else has made other owners.
pub(crate) fn apply(
    tree: BorrowedFd<'_>,
    of: &CStr,
    by: &Idmap,
    recursive: bool,
    children: &Children,
) -> Result<(), Error> {
    let namespace = match by {
        Idmap::Maps(maps) => userns::make(maps, children)?,
        Idmap::Namespace(path) => open_namespace(path, Namespace::User)?,
    };
    set(tree, of, recursive, namespace.as_fd())
}

fn set(mount: BorrowedFd<'_>, of: &CStr, recursive: bool, namespace: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = if recursive { sys::RECURSIVE } else { 0 };
    sys::mount_setattr(mount, flags, MountAttr::idmap(namespace))
        .map_err(|source| Error::Idmap { of: of.to_owned(), source })
}

/// An overlay on idmapped copies of its lower layers. overlayfs takes layers by path, so the copies are attached, in the mount
/// namespace of a thread; the overlay has copies of its own, and outlives that.
fn on_layers(filesystem: &Filesystem, namespace: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let layers = overlay::lower_layers(filesystem);
    let mapped = |layer: &CString| {
        let tree = open_tree(layer, false).map_err(|source| Error::Layer { path: layer.clone(), source })?;
        set(tree.as_fd(), layer, false, namespace)?;
        Ok::<_, Error>(tree)
    };
    let mapped = layers.iter().map(mapped).collect::<Result<Vec<_>, _>>()?;
    let moved = moved(filesystem, mapped.len());
    overlay::apart(|| {
        let ground = make_filesystem(&tmpfs())?;
        rustix::mount::move_mount(&ground, c"", CWD, LAYERS, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        for (index, layer) in mapped.iter().enumerate() {
            let name = index.to_string();
            rustix::fs::mkdirat(&ground, &name, Mode::RWXU)?;
            rustix::mount::move_mount(layer, c"", &ground, &name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        super::filesystem(&moved)
    })
    .map_err(Error::OverlayOnIdmapped)
}

/// The same overlay, with its layers at [`LAYERS`].
fn moved(filesystem: &Filesystem, layers: usize) -> Filesystem {
    let mut moved = filesystem.clone();
    let paths: Vec<_> = (0..layers).map(|index| format!("{}/{index}", LAYERS.to_string_lossy())).collect();
    for (key, value) in &mut moved.options {
        if key.as_c_str() == c"lowerdir" {
            *value = CString::new(paths.join(":")).ok();
        }
    }
    moved
}

fn tmpfs() -> Filesystem {
    Filesystem { fstype: c"tmpfs".into(), source: c"tmpfs".into(), options: Vec::new(), attributes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_move_and_the_rest_stays() {
        let options = [(c"lowerdir", c"/a:/b"), (c"upperdir", c"/u")];
        let options = options.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec();
        let overlay = Filesystem { fstype: c"overlay".into(), source: c"overlay".into(), options, attributes: 0 };
        let moved = moved(&overlay, 2);
        assert_eq!(moved.options[0].1.as_deref(), Some(c"/proc/0:/proc/1"));
        assert_eq!(moved.options[1], overlay.options[1]);
    }
}
