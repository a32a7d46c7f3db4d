//! waitid(2) that tells who ended, which rustix keeps to itself.

use std::mem::MaybeUninit;

use rustix::process::Pid;

/// The first child in the line that has ended, its status left where it is.
pub(crate) fn first_ended() -> Option<Pid> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is zeroed memory of the right type and outlives the call; where no child has ended the kernel leaves
    // si_pid 0, and si_pid is the member that waitid fills.
    let pid = unsafe {
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) != 0 {
            return None;
        }
        info.assume_init().si_pid()
    };
    Pid::from_raw(pid)
}
