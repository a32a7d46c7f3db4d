//! Mounts, made beneath the container's root and always by descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, statat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::in_root::{self, Missing};
use super::{Init, copy_up};
use crate::channel::ask_for_idmap;
use crate::sources::{configure, create, make_filesystem};
use crate::step::{Attributes, Entry, Filesystem, InRoot, MountSource, MountStep, Propagation, RootPlace, SourceIndex};
use crate::sys::{MountAttr, RECURSIVE, mount_setattr};

/// `MOUNT_ATTR_RDONLY`. linux/mount.h
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;

impl Init<'_> {
    /// Attaches the root file system over `/` of this mount namespace. `/` itself stays the old root for path lookups,
    /// and needs no directory of the host's. Elsewhere it goes to the working directory, where hooks look for it.
    pub(super) fn attach_rootfs(&mut self, source: SourceIndex, at: RootPlace) -> Result<(), Errno> {
        let rootfs = self.source(source)?;
        // A copy of a shared mount is its peer: the host would see what is mounted below, and pivot_root(2) refuses it.
        change(rootfs, RECURSIVE, Attributes::default(), libc::MS_SLAVE)?;
        // Private, or the host would see the attachment, and pivot_root(2) refuses a shared parent.
        match at {
            RootPlace::Slash => {
                rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE)?;
                over_slash(rootfs)?;
            }
            RootPlace::Path => {
                let place = working_directory()?;
                make_mount_of_cwd_private()?;
                attach(rootfs, place.as_fd())?;
            }
            // The host's own mounts keep their propagation, and give it to what is attached to them.
            RootPlace::Host => {
                attach(rootfs, working_directory()?.as_fd())?;
                change(rootfs, RECURSIVE, Attributes::default(), libc::MS_PRIVATE)?;
            }
        }
        self.root_below = at != RootPlace::Slash;
        self.root = Some(fcntl_dupfd_cloexec(rootfs, 3)?);
        Ok(())
    }

    pub(super) fn open_root(&mut self) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.root = Some(rustix::fs::openat(CWD, c"/", flags, Mode::empty())?);
        Ok(())
    }

    pub(super) fn open_procfs(&mut self) -> Result<(), Errno> {
        let context = rustix::mount::fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::from_bits_retain(
            (libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC) as u32,
        );
        self.procfs = Some(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?);
        Ok(())
    }

    pub(super) fn mount(&mut self, step: &MountStep) -> Result<(), Errno> {
        let (target, mount) = match &step.source {
            MountSource::Opened { source, slave_first } => {
                let tree = self.source(*source)?;
                let missing = if in_root::is_directory(tree)? { Missing::Directory } else { Missing::File };
                let target = self.target(step, missing)?;
                if *slave_first {
                    change(tree, RECURSIVE, Attributes::default(), libc::MS_SLAVE)?;
                }
                (target, fcntl_dupfd_cloexec(tree, 3)?)
            }
            MountSource::InRoot { path, recursive, idmap } => {
                let tree = clone_tree(in_root::open(self.root()?, &path.path)?.as_fd(), *recursive)?;
                let missing = if in_root::is_directory(tree.as_fd())? { Missing::Directory } else { Missing::File };
                let target = self.target(step, missing)?;
                change(tree.as_fd(), RECURSIVE, Attributes::default(), libc::MS_SLAVE)?;
                if idmap.is_some() {
                    ask_for_idmap(self.channel(), self.step, tree.as_fd())?;
                }
                (target, tree)
            }
            MountSource::Filesystem { filesystem, inherit_mode, copy_up } => {
                // A directory that had to be made has no mode of its own to hand on.
                let covers = *inherit_mode && in_root::open(self.root()?, &step.target.path).is_ok();
                let target = self.target(step, Missing::Directory)?;
                let mount =
                    if covers { make_with_mode_of(filesystem, target.as_fd())? } else { make_filesystem(filesystem)? };
                if *copy_up {
                    copy_up::copy_up(target.as_fd(), mount.as_fd())?;
                }
                (target, mount)
            }
        };
        must_not_change(mount.as_fd(), step.locked)?;
        change(mount.as_fd(), 0, step.attributes, 0)?;
        change(mount.as_fd(), RECURSIVE, step.recursive_attributes, 0)?;
        attach(mount.as_fd(), target.as_fd())?;
        for propagation in &step.propagation {
            propagate(mount.as_fd(), *propagation)?;
        }
        if let Some(slot) = step.keep.and_then(|slot| self.slots.get_mut(slot.0)) {
            *slot = Some(mount);
        }
        Ok(())
    }

    fn target(&self, step: &MountStep, missing: Missing) -> Result<OwnedFd, Errno> {
        let root = self.root()?;
        let target = if step.no_symlinks {
            match in_root::open_without_symlinks(root, &step.target.path) {
                Err(Errno::NOENT) => {
                    in_root::make(root, &step.target, missing)?;
                    in_root::open_without_symlinks(root, &step.target.path)?
                }
                other => other?,
            }
        } else {
            in_root::make(root, &step.target, missing)?
        };
        // A target that turns out to lie inside a procfs would let a mount stand in for a file of the kernel's.
        if !step.over_proc && !step.no_symlinks && fstatfs(&target)?.f_type == PROC_SUPER_MAGIC {
            return Err(Errno::PERM);
        }
        Ok(target)
    }

    pub(super) fn enter_root(&self, entry: Entry) -> Result<(), Errno> {
        rustix::process::fchdir(self.root()?)?;
        match entry {
            Entry::Pivot => pivot_root(),
            Entry::Move => self.move_root(),
            Entry::Chroot => enter(self.root()?),
        }
    }

    /// The new root is stacked over `/`, by now: entering it is all that is left where pivoting is not possible. The host's
    /// procfs and sysfs go, as with runc: whoever makes a user namespace inside may mount what is to be seen whole in the
    /// mount namespace already, whatever is masked of the container's own.
    fn move_root(&self) -> Result<(), Errno> {
        for path in [c"/proc", c"/sys"] {
            let _ = rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC);
            while rustix::mount::unmount(path, UnmountFlags::DETACH).is_ok() {}
            // What cannot be taken away (of a user namespace above ours) is covered; a path that is not there needs nothing.
            match rustix::mount::mount(c"tmpfs", path, c"tmpfs", MountFlags::RDONLY, None) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        if self.root_below {
            over_slash(self.root()?)?;
        }
        enter(self.root()?)
    }

    pub(super) fn mask(&mut self, path: &InRoot, null: SourceIndex) -> Result<(), Errno> {
        let target = match in_root::open(self.root()?, &path.path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        if !in_root::is_directory(target.as_fd())? {
            let null = self.source(null)?;
            if self.null_attached {
                return attach(clone_mount(null)?.as_fd(), target.as_fd());
            }
            // Read-only, or root in the container could give the host's device another owner or mode. Who may write to
            // a device asks its mode alone.
            change(null, 0, Attributes { set: NOSUID | RDONLY, clear: 0 }, libc::MS_PRIVATE)?;
            attach(null, target.as_fd())?;
            // A detached mount of another namespace cannot be copied; one that is attached here can.
            self.null_attached = true;
            return Ok(());
        }
        match &self.empty {
            Some(empty) => attach(clone_mount(empty.as_fd())?.as_fd(), target.as_fd()),
            None => {
                let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
                rustix::mount::fsconfig_set_flag(&context, c"ro")?;
                rustix::mount::fsconfig_set_string(&context, c"nr_blocks", c"1")?;
                rustix::mount::fsconfig_set_string(&context, c"nr_inodes", c"1")?;
                let empty = create(context.as_fd(), RDONLY)?;
                attach(empty.as_fd(), target.as_fd())?;
                self.empty = Some(empty);
                Ok(())
            }
        }
    }

    pub(super) fn readonly_path(&self, path: &InRoot) -> Result<(), Errno> {
        let target = match in_root::open(self.root()?, &path.path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
        let copy = clone_tree(target.as_fd(), true)?;
        readonly(copy.as_fd())?;
        attach(copy.as_fd(), target.as_fd())
    }
}

/// The propagation of every mount of this namespace.
pub(super) fn root_propagation(propagation: Propagation) -> Result<(), Errno> {
    let mut flags = MountPropagationFlags::from_bits_retain(propagation.kind as u32);
    if propagation.recursive {
        flags |= MountPropagationFlags::REC;
    }
    rustix::mount::mount_change(c"/", flags)
}

/// The propagation of one mount, or of its tree.
pub(super) fn propagate(mount: BorrowedFd<'_>, propagation: Propagation) -> Result<(), Errno> {
    let flags = if propagation.recursive { RECURSIVE } else { 0 };
    change(mount, flags, Attributes::default(), propagation.kind)
}

/// `pivot_root(".", ".")` stacks the old root on the new one's `/`, from where it is let go.
fn pivot_root() -> Result<(), Errno> {
    let old = rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::process::fchdir(&old)?;
    // It may still be shared where rootfsPropagation asks so: nothing of the unmounting may reach the host.
    rustix::mount::mount_change(c".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// Makes one mount read-only.
pub(super) fn readonly(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    change(mount, 0, Attributes { set: RDONLY, clear: 0 }, 0)
}

fn change(mount: BorrowedFd<'_>, flags: u32, attributes: Attributes, propagation: u64) -> Result<(), Errno> {
    if attributes == Attributes::default() && propagation == 0 {
        return Ok(());
    }
    let attr = MountAttr { set: attributes.set, clear: attributes.clear, propagation, userns_fd: 0 };
    mount_setattr(mount, flags, attr)
}

/// Whether a mount is already what it would be after a change.
fn must_not_change(mount: BorrowedFd<'_>, change: Attributes) -> Result<(), Errno> {
    if change == Attributes::default() {
        return Ok(());
    }
    let now = attributes_of(mount)?;
    if now & !change.clear | change.set == now { Ok(()) } else { Err(Errno::PERM) }
}

/// The attributes of a mount, from the flags of statfs(2): the first four have the same bits.
fn attributes_of(mount: BorrowedFd<'_>) -> Result<u64, Errno> {
    const SAME: u64 = RDONLY | NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    const RELATIME: u64 = 0x1000;
    let flags = rustix::fs::fstatvfs(mount)?.f_flag.bits();
    let noatime = if flags & libc::ST_NOATIME != 0 { libc::MOUNT_ATTR_NOATIME } else { 0 };
    // Every mode is a flag there but the strict one.
    let strict = if flags & (libc::ST_NOATIME | RELATIME) == 0 { libc::MOUNT_ATTR_STRICTATIME } else { 0 };
    let nodiratime = if flags & libc::ST_NODIRATIME != 0 { libc::MOUNT_ATTR_NODIRATIME } else { 0 };
    Ok(flags & SAME | noatime | strict | nodiratime)
}

fn over_slash(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::mount::move_mount(mount, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn working_directory() -> Result<OwnedFd, Errno> {
    rustix::fs::open(c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a directory the `/` of this process, and of no other.
pub(super) fn enter(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")
}

/// Walks up to the root of the mount that the working directory is on: only there its propagation can be changed.
fn make_mount_of_cwd_private() -> Result<(), Errno> {
    const DEEPEST: usize = libc::PATH_MAX as usize / 2;
    for _ in 0..DEEPEST {
        match rustix::mount::mount_change(c".", MountPropagationFlags::PRIVATE) {
            Err(Errno::INVAL) => rustix::process::chdir(c"..")?,
            other => return other,
        }
    }
    Err(Errno::INVAL)
}

/// Puts a detached mount on a target, both by descriptor.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}

/// A detached copy of a mount, without what is mounted below it.
pub(super) fn clone_mount(mount: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    clone_tree(mount, false)
}

fn clone_tree(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let more = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH | more;
    rustix::mount::open_tree(fd, c"", flags)
}

/// A tmpfs whose root has the mode of the directory that it will cover.
fn make_with_mode_of(filesystem: &Filesystem, target: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mode = statat(target, c"", AtFlags::EMPTY_PATH)?.st_mode & 0o7777;
    let mut octal = [b'0'; 5];
    for (digit, shift) in octal.iter_mut().zip([9, 6, 3, 0]) {
        *digit = b'0' + ((mode >> shift) & 7) as u8;
    }
    octal[4] = 0;
    let value = CStr::from_bytes_with_nul(&octal).map_err(|_| Errno::INVAL)?;
    let context = configure(filesystem)?;
    rustix::mount::fsconfig_set_string(&context, c"mode", value)?;
    create(context.as_fd(), filesystem.attributes)
}
