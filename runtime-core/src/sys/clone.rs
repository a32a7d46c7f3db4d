//! clone3(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::check;

/// `struct clone_args`, as of Linux 5.7. linux/sched.h
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Resets signal handlers (not ignored signals) in the child. Linux 5.5.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// Starts the child in the cgroup of a descriptor. Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CloneRequest<'a> {
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u64,
    /// A cgroup v2 directory to be born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// A sibling of the caller instead of its child (`CLONE_PARENT`).
    pub(crate) sibling: bool,
}

/// clone3 returns twice.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the child.
    Child,
    /// In the caller.
    Parent {
        /// The child, as the caller's pid namespace counts.
        pid: Pid,
        /// The child's pidfd, close-on-exec.
        pidfd: OwnedFd,
    },
}

/// Clones the calling thread into a process of its own, with a copy of memory and descriptors, that runs `child`.
///
/// Other threads may hold locks at this moment, and the child has them held for ever: `child` may call nothing that
/// allocates or locks. (Debug builds abort where it does: [`super::guard`].)
pub(crate) fn clone_into(request: CloneRequest<'_>, child: impl FnOnce()) -> Result<(Pid, OwnedFd), Errno> {
    match clone3(request)? {
        Cloned::Child => {
            child();
            exit(0)
        }
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
    }
}

/// Goes on as a sibling of the calling process, which is a child of clone3 itself and so has a single thread.
pub(crate) fn clone_again() -> Result<Cloned, Errno> {
    clone3(CloneRequest { namespaces: 0, cgroup: None, sibling: true })
}

/// A child of the calling process, which is a child of clone3 itself and so has a single thread: a copy of it, by the clone
/// that profiles of seccomp let through where they deny clone3(2), whose flags they cannot look at.
pub(crate) fn fork() -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let flags = (libc::CLONE_PIDFD | libc::SIGCHLD) as u64;
    // SAFETY: no stack is given, so the new process runs on a copy of this one; `pidfd`, where the kernel stores the
    // descriptor, outlives the call; the other arguments are not used without their flags.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0_u64, &raw mut pidfd, 0_u64, 0_u64) })?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel stored a new descriptor in `pidfd`, and nobody else owns it.
        Some(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

fn clone3(request: CloneRequest<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: request.namespaces | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: if request.sibling { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if request.sibling {
        args.flags |= libc::CLONE_PARENT as u64;
    }
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` and `pidfd` outlive the call; the kernel reads exactly size_of::<CloneArgs>() bytes. The new process
    // runs on a copy of this stack, since no stack is given and memory is not shared.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel stored a new descriptor in `pidfd`, and nobody else owns it.
        Some(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Ends the calling process without running anything of the process it was copied from.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: exit_group takes one integer and does not return, unless a seccomp filter of the container's denies it.
    unsafe { libc::syscall(libc::SYS_exit_group, status) };
    fault()
}

/// Ends the calling process by a fault, for which no system call is needed: it would spin for ever else.
fn fault() -> ! {
    loop {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an invalid instruction, which the kernel answers with a SIGILL that nothing can block here.
        unsafe {
            std::arch::asm!("ud2")
        };
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("udf #0")
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        std::hint::spin_loop();
    }
}
