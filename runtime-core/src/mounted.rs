//! The root of a container that has no mount namespace: a mount on the host, which has to be found again and taken away.
//!
//! By a path alone it could be another's: an engine may have its own mount there, before ours and after it. So a mount is
//! known by its id too, which it has before it is attached.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};

use crate::errno::text;

/// What went wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{act} {}: {}", path.display(), text(*source))]
pub struct Error {
    /// `unmount`, `look at the mount on`.
    act: &'static str,
    path: PathBuf,
    source: Errno,
}

/// A mount on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mounted {
    path: PathBuf,
    id: u64,
}

impl Mounted {
    /// One that is detached yet, and will be attached at a path.
    pub(crate) fn about_to_be(path: &CStr, mount: BorrowedFd<'_>) -> Result<Self, Error> {
        let path = PathBuf::from(path.to_string_lossy().into_owned());
        match id(mount, c"") {
            Ok(id) => Ok(Self { path, id }),
            Err(source) => Err(Error { act: "look at the mount for", path, source }),
        }
    }

    /// Takes it away with all that is mounted below it. One that is not there needs nothing.
    pub(crate) fn unmount(&self) -> Result<(), Error> {
        let failed = |act, source| Err(Error { act, path: self.path.clone(), source });
        match id(CWD, self.path.as_path()) {
            Ok(found) if found == self.id => {}
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(source) => return failed("look at the mount on", source),
        }
        match rustix::mount::unmount(self.path.as_path(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(source) => failed("unmount", source),
        }
    }
}

/// Of the mount that is seen at a path. Before Linux 6.8 an id may be given to another mount when its first one is gone.
fn id(directory: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<u64, Errno> {
    /// `STATX_MNT_ID_UNIQUE`. linux/stat.h
    const UNIQUE: u32 = 0x4000;
    let asked = StatxFlags::MNT_ID | StatxFlags::from_bits_retain(UNIQUE);
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(directory, path, flags, asked)?;
    if found.stx_mask & (StatxFlags::MNT_ID.bits() | UNIQUE) == 0 {
        return Err(Errno::NOSYS);
    }
    Ok(found.stx_mnt_id)
}
