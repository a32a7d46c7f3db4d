//! An overlay of many layers, whose `lowerdir` is longer than the 255 bytes that fsconfig(2) takes.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};

use super::make_filesystem;
use crate::step::Filesystem;
use crate::sys;

/// The longest string that fsconfig(2) takes.
const LONGEST: usize = 255;

/// Whether some option is too long for fsconfig(2).
pub(super) fn is_long(filesystem: &Filesystem) -> bool {
    filesystem.options.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.count_bytes() > LONGEST))
}

/// Layer by layer where the kernel has `lowerdir+` (Linux 6.8), else by mount(2).
pub(super) fn make(filesystem: &Filesystem) -> Result<OwnedFd, Errno> {
    let layered = layered(filesystem);
    if is_long(&layered) {
        return classic(filesystem);
    }
    match make_filesystem(&layered) {
        Err(Errno::INVAL) => classic(filesystem),
        made => made,
    }
}

/// `lowerdir=a:b` as `lowerdir+=a`, `lowerdir+=b`.
fn layered(filesystem: &Filesystem) -> Filesystem {
    let options = filesystem.options.iter().flat_map(|(key, value)| match value {
        Some(value) if key.as_c_str() == c"lowerdir" => {
            layers(value).into_iter().map(|layer| (c"lowerdir+".to_owned(), Some(layer))).collect()
        }
        _ => vec![(key.clone(), value.clone())],
    });
    Filesystem { options: options.collect(), ..filesystem.clone() }
}

/// The lower layers of an overlay, uppermost first.
pub(super) fn lower_layers(filesystem: &Filesystem) -> Vec<CString> {
    let lower = filesystem.options.iter().find(|(key, _)| key.as_c_str() == c"lowerdir");
    lower.and_then(|(_, value)| value.as_deref()).map(layers).unwrap_or_default()
}

/// Splits at colons. A backslash keeps the next byte from being one, and goes: `lowerdir+` takes a path as it is.
fn layers(lowerdir: &CStr) -> Vec<CString> {
    let mut layers = vec![Vec::new()];
    let mut bytes = lowerdir.to_bytes().iter();
    while let Some(&byte) = bytes.next() {
        match (byte, layers.last_mut()) {
            (b'\\', Some(layer)) => layer.extend(bytes.next()),
            (b':', _) => layers.push(Vec::new()),
            (byte, Some(layer)) => layer.push(byte),
            (_, None) => {}
        }
    }
    layers.into_iter().filter_map(|layer| CString::new(layer).ok()).collect()
}

/// mount(2) takes a page of options, but has no detached mounts: so on a thread with a mount namespace of its own, and a
/// detached copy outlives both.
fn classic(filesystem: &Filesystem) -> Result<OwnedFd, Errno> {
    let data = filesystem.options.iter().map(|(key, value)| match value {
        Some(value) => [key.to_bytes(), b"=", value.to_bytes()].concat(),
        None => key.to_bytes().to_vec(),
    });
    let data = CString::new(data.collect::<Vec<_>>().join(&b","[..])).map_err(|_| Errno::INVAL)?;
    // Any directory that every host has: it is covered in this thread's namespace only.
    let target = c"/proc";
    let made = apart(|| {
        let flags = MountFlags::empty();
        rustix::mount::mount(&filesystem.source, target, &filesystem.fstype, flags, Some(data.as_c_str()))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        rustix::mount::open_tree(CWD, target, flags)
    })?;
    let attr = sys::MountAttr { set: filesystem.attributes, ..sys::MountAttr::default() };
    sys::mount_setattr(std::os::fd::AsFd::as_fd(&made), 0, attr)?;
    Ok(made)
}

/// Acts on a thread with a mount namespace of its own: what is mounted there is seen by nobody, and goes with the thread.
pub(super) fn apart(act: impl FnOnce() -> Result<OwnedFd, Errno> + Send) -> Result<OwnedFd, Errno> {
    let apart = || {
        sys::unshare((libc::CLONE_FS | libc::CLONE_NEWNS) as u64)?;
        rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        act()
    };
    std::thread::scope(|scope| scope.spawn(apart).join()).unwrap_or(Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_split_at_colons_that_are_not_escaped() {
        let expected = [c"/a", c"/b:c", c"/d\\"].map(CStr::to_owned);
        assert_eq!(layers(c"/a:/b\\:c:/d\\\\"), expected);
    }

    #[test]
    fn short_overlay_needs_no_detour() {
        let options = vec![(c"lowerdir".to_owned(), Some(c"/a:/b".to_owned()))];
        let short = Filesystem { fstype: c"overlay".into(), source: c"overlay".into(), options, attributes: 0 };
        assert!(!is_long(&short));
        assert_eq!(layered(&short).options.len(), 2);
    }
}
