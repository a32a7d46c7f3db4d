//! Calls that change what the calling process is: namespaces, signals, filters, the program itself.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::{check, errno};
use crate::step::SockFilter;

/// setns(2), by a namespace file or a pidfd.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: setns takes two integers.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags as libc::c_int) })?;
    Ok(())
}

/// setdomainname(2)
pub(crate) fn setdomainname(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads `name`'s bytes, as many as are given.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.count_bytes()) })?;
    Ok(())
}

/// keyctl(KEYCTL_JOIN_SESSION_KEYRING)
pub(crate) fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the kernel reads the C string `name`.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    Ok(())
}

/// ioctl(TIOCSCTTY): the terminal becomes the calling session's. tty_ioctl(4)
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// seccomp(SECCOMP_SET_MODE_FILTER). With `SECCOMP_FILTER_FLAG_NEW_LISTENER` the number of the listener comes back, which is
/// close-on-exec.
pub(crate) fn seccomp(program: &[SockFilter], flags: u32) -> Result<u32, Errno> {
    #[repr(C)]
    struct SockFprog {
        len: u16,
        filter: *const SockFilter,
    }
    let fprog = SockFprog { len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?, filter: program.as_ptr() };
    // SAFETY: `fprog` and the instructions it points to outlive the call; SockFilter has the layout of sock_filter.
    let result =
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) })?;
    Ok(result as u32)
}

/// close_range(2) of `first..=last`.
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: close_range takes integers; in the child nobody uses the descriptors that go.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: close_range takes integers.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// The mask of [`block_signals`], to give back to [`restore_signals`].
pub(crate) struct SignalMask(libc::sigset_t);

/// Blocks every signal of the calling thread, so that a child is born with them blocked.
pub(crate) fn block_signals() -> SignalMask {
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut old = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are zeroed memory of the right type, which is a valid sigset_t, and outlive the calls.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
        SignalMask(old.assume_init())
    }
}

/// Undoes [`block_signals`].
pub(crate) fn restore_signals(mask: &SignalMask) {
    // SAFETY: the mask came from pthread_sigmask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
}

/// Every signal as a program expects it, and none blocked. Handlers went with CLONE_CLEAR_SIGHAND; what is left is what
/// was ignored, bit 0 for signal 1: SIGPIPE by Rust, others by who started us (nohup(1), a shell's `&`).
pub(crate) fn reset_signals(ignored: u64) -> Result<(), Errno> {
    let resettable = |signal: &i32| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP);
    for signal in (1..=libc::SIGSYS).filter(|signal| ignored & 1 << (signal - 1) != 0).filter(resettable) {
        // SAFETY: SIG_DFL needs no handler.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(errno());
        }
    }
    let none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is zeroed memory of the right type, which is the empty set, and outlives the call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    Ok(())
}

/// Whoever ends a process at its gate means it, also where it is the first of its pid namespace: to that a signal without a
/// handler is nothing. pid_namespaces(7)
pub(crate) fn end_on_signals() -> Result<(), Errno> {
    extern "C" fn end(signal: libc::c_int) {
        super::exit(128 + signal)
    }
    let mut ending = MaybeUninit::<libc::sigset_t>::zeroed();
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: the handler takes a signal's number, and ends the process by a system call alone.
        if unsafe { libc::signal(signal, end as extern "C" fn(libc::c_int) as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(errno());
        }
        // SAFETY: the set is zeroed memory of the right type, which is the empty set, and the number is a signal's.
        unsafe { libc::sigaddset(ending.as_mut_ptr(), signal) };
    }
    // SAFETY: the set is a set, and outlives the call.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, ending.as_ptr(), std::ptr::null_mut()) };
    Ok(())
}

/// execve(2). Returns only if it failed.
///
/// `args` and `env` come from [`CStringArray::pointers`](crate::program::CStringArray), whose strings the plan holds.
pub(crate) fn execve(path: &CStr, args: &[*const c_char], env: &[*const c_char]) -> Errno {
    // SAFETY: `path` is a C string, both arrays are NULL-terminated arrays of C strings, and all outlive the call.
    unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    errno()
}

/// ioctl(NS_GET_NSTYPE): the `CLONE_NEW*` flag of a namespace file. ioctl_ns(2)
pub(crate) fn namespace_type(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument; on a file that is not a namespace it is refused.
    let flag = check(unsafe { libc::syscall(libc::SYS_ioctl, file.as_raw_fd(), NS_GET_NSTYPE) })?;
    Ok(flag.cast_unsigned())
}

/// unshare(2) of `CLONE_NEW*` flags.
pub(crate) fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: unshare takes an integer; CLONE_FILES, which would need care, is not among the namespaces' flags.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags as libc::c_int) })?;
    Ok(())
}

/// ioctl(SIOCSIFFLAGS) with IFF_UP. netdevice(7)
pub(crate) fn set_interface_up(socket: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: an ifreq of zeroes is valid.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is an ifreq with a terminated name, and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })?;
    Ok(())
}

/// close(2) of what may not even be open.
pub(crate) fn close_quietly(fd: u32) {
    // SAFETY: close takes an integer; in the child nobody uses the descriptors that go.
    unsafe { libc::close(fd.cast_signed()) };
}

/// Standard input, output or error of this process.
pub(crate) fn stdio(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: 0, 1 and 2 are open in a shim and in its children, and are only ever replaced, never closed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// dup2(2) onto 0, 1 or 2, without close-on-exec.
pub(crate) fn dup_to_stdio(from: BorrowedFd<'_>, to: i32) -> Result<(), Errno> {
    // SAFETY: dup2 takes integers; what `to` was is replaced, and nobody owns 0, 1 and 2.
    check(unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, 0) })?;
    Ok(())
}

/// The user at the other end of a socket, or who called listen(2) for one that listens, as our own user namespace sees
/// them. (rustix takes the pid, too, for never zero, which it is where a process is of another pid namespace.) unix(7)
pub(crate) fn peer_user(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: the kernel writes at most `size` bytes to `peer`, and the number of them to `size`; both outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_getsockopt, socket.as_raw_fd(), level, name, &raw mut peer, &raw mut size)
    })?;
    Ok(peer.uid)
}

/// setgroups(2) of this thread alone.
pub(crate) fn setgroups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `groups.len()` ids.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// prlimit(2) of the calling process.
pub(crate) fn setrlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: `limit` outlives the call, and no old limit is asked for.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, none) })?;
    Ok(())
}

/// Whether the working directory is beneath the root: the kernel's getcwd(2) starts with a slash then.
pub(crate) fn cwd_is_reachable() -> Result<bool, Errno> {
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most path.len() bytes.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

/// kill(2), of one process.
pub(crate) fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: only the kernel reads the two numbers.
    check(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }.into())?;
    Ok(())
}

/// pidfd_send_signal(2). A signal is a number wherever one comes from outside: rustix's `Signal` has none of the real-time
/// ones, with which systemd, say, is asked to stop.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let info = std::ptr::null_mut::<libc::siginfo_t>();
    // SAFETY: no siginfo is given; the kernel makes one as kill(2) would.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) })?;
    Ok(())
}
