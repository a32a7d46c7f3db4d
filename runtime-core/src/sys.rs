//! The system calls that rustix does not have, and the allocator guard. The only `unsafe` of the crate stands here.
//!
//! Every function but [`unblock_signals`] is callable in the child of clone3: none allocates, locks or logs.

#![allow(unsafe_code)]

mod clone;
mod command;
pub mod guard;
mod mount;
mod privilege;
mod sched;
mod wait;

pub(crate) use clone::{CloneRequest, Cloned, clone_again, clone_into, exit, fork};
pub(crate) use command::unblock_signals;
pub(crate) use mount::{MountAttr, RECURSIVE, mount_setattr};
pub use privilege::send_signal;
pub(crate) use privilege::{
    block_signals, close_from, close_quietly, close_range, cwd_is_reachable, dup_to_stdio, end_on_signals, execve,
    join_session_keyring, kill, namespace_type, peer_user, reset_signals, restore_signals, seccomp,
    set_controlling_terminal, set_interface_up, setdomainname, setgroups, setns, setrlimit, stdio, unshare,
};
pub(crate) use sched::{ioprio_set, personality, sched_setaffinity, sched_setattr, set_mempolicy};
pub(crate) use wait::first_ended;

use rustix::io::Errno;

/// A raw system call's result as a `Result`.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// The calling thread's `errno`, as libc's wrapper left it.
fn errno() -> Errno {
    // SAFETY: __errno_location returns the address of a thread-local int that lives as long as the thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
