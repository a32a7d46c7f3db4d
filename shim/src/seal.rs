//! A view of our own binary that nothing can write to.
//!
//! The server's `/proc/<pid>/exe` is within reach of containers (CVE-2019-5736 and its children): whoever opens it must
//! find something read-only that is not the host's file. A detached read-only overlay of the binary's directory is
//! that, and its pages are the page cache's own, shared between all servers. Where overlayfs cannot do it, a sealed
//! memfd is used, at the price of a copy per server.

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Why the server cannot be executed safely.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/proc/self/exe` cannot be read.
    #[error("find our own binary by /proc/self/exe")]
    Find(#[source] std::io::Error),
    /// The copy failed.
    #[error("copy our own binary into a sealed memfd")]
    Copy(#[source] std::io::Error),
}

/// Our own binary, sealed. `empty` is a directory that has nothing to do with the binary's.
pub fn own_binary(empty: &Path) -> Result<OwnedFd, Error> {
    let path = std::fs::read_link("/proc/self/exe").map_err(Error::Find)?;
    overlay(&path, empty).or_else(|_| copy())
}

/// What to execute: the kernel finds the descriptor before it closes it.
pub fn path(binary: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", binary.as_raw_fd()))
}

/// An overlay needs two lower layers where it has no upper one, and they must not lie within each other.
fn overlay(binary: &Path, empty: &Path) -> Result<OwnedFd, Errno> {
    let (Some(directory), Some(name)) = (binary.parent(), binary.file_name()) else { return Err(Errno::INVAL) };
    let layers = format!("{}:{}", escape(directory)?, escape(empty)?);
    let filesystem = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&filesystem, "source", "berth")?;
    fsconfig_set_string(&filesystem, "lowerdir", layers)?;
    fsconfig_set_flag(&filesystem, "ro")?;
    fsconfig_create(&filesystem)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let root = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    openat(&root, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// overlayfs splits its layers at colons; a backslash protects one.
fn escape(path: &Path) -> Result<String, Errno> {
    let path = path.to_str().ok_or(Errno::INVAL)?;
    Ok(path.replace('\\', "\\\\").replace(':', "\\:"))
}

fn copy() -> Result<OwnedFd, Error> {
    let mut source = File::open("/proc/self/exe").map_err(Error::Find)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is new in 6.3, and needed where vm.memfd_noexec asks for it.
    let memory = memfd_create("berth", flags | MemfdFlags::EXEC).or_else(|_| memfd_create("berth", flags));
    let mut memory = File::from(memory.map_err(|error| Error::Copy(error.into()))?);
    std::io::copy(&mut source, &mut memory).map_err(Error::Copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&memory, seals).map_err(|error| Error::Copy(error.into()))?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    /// The kernel keeps the descriptor open until it has looked the path up.
    fn runs(binary: &OwnedFd) -> bool {
        Command::new(path(binary)).arg("--list").output().unwrap().status.success()
    }

    fn writable(binary: &OwnedFd) -> bool {
        File::options().write(true).open(path(binary)).and_then(|mut file| file.write_all(b"x")).is_ok()
    }

    #[test]
    fn a_memfd_can_be_executed_and_not_written() {
        let binary = copy().unwrap();
        assert!(runs(&binary) && !writable(&binary));
    }

    #[test]
    fn an_overlay_can_be_executed_and_not_written() {
        let empty = std::env::temp_dir().join(format!("berth-seal-{}", std::process::id()));
        std::fs::create_dir_all(&empty).unwrap();
        let overlay = overlay(&std::fs::read_link("/proc/self/exe").unwrap(), &empty);
        std::fs::remove_dir_all(&empty).unwrap();
        match overlay {
            Ok(binary) => assert!(runs(&binary) && !writable(&binary)),
            Err(error) => eprintln!("skipped: no overlay here: {error}"),
        }
    }
}
