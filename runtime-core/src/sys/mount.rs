//! mount_setattr(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::check;

/// `AT_RECURSIVE`: the whole tree below a mount.
pub(crate) const RECURSIVE: u32 = libc::AT_RECURSIVE as u32;

/// `struct mount_attr`. Linux 5.12.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_PRIVATE` …, or 0.
    pub(crate) propagation: u64,
    /// For `MOUNT_ATTR_IDMAP`.
    pub(crate) userns_fd: u64,
}

impl MountAttr {
    /// Idmapped by a user namespace, which must be open until the call.
    pub(crate) fn idmap(namespace: BorrowedFd<'_>) -> Self {
        Self { set: libc::MOUNT_ATTR_IDMAP, userns_fd: namespace.as_raw_fd() as u64, ..Self::default() }
    }
}

/// Changes the mount whose root `mount` is; `flags` is 0 or [`RECURSIVE`].
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, flags: u32, attr: MountAttr) -> Result<(), Errno> {
    // SAFETY: the path is a C string, `attr` outlives the call, and the kernel reads exactly size_of::<MountAttr>() bytes.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags | libc::AT_EMPTY_PATH as u32,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}
