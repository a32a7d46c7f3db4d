//! Programs that are run as std runs them.

use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has a command begin with no signal blocked, whatever we have: a mask outlives execve(2).
pub(crate) fn unblock_signals(command: &mut Command) {
    let unblock = || {
        let none = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is zeroed memory of the right type, which is the empty set, and outlives the call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: it makes one system call. signal-safety(7)
    unsafe { command.pre_exec(unblock) };
}
