//! Calls about CPUs, priorities and memory.

use rustix::io::Errno;

use super::check;
use crate::step::{BitSet, SchedAttr};

/// sched_setattr(2) of the calling process.
pub(crate) fn sched_setattr(attr: &SchedAttr) -> Result<(), Errno> {
    /// `struct sched_attr`, as of Linux 3.14. linux/sched/types.h
    #[repr(C)]
    struct Attr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let &SchedAttr { policy, flags, nice, priority, runtime, deadline, period } = attr;
    let attr = Attr { size: size_of::<Attr>() as u32, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: `attr` outlives the call, and the kernel reads as many bytes as it says.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })?;
    Ok(())
}

/// ioprio_set(2) of the calling process.
pub(crate) fn ioprio_set(priority: u32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: ioprio_set takes integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })?;
    Ok(())
}

/// sched_setaffinity(2) of the calling process.
pub(crate) fn sched_setaffinity(cpus: &[u64]) -> Result<(), Errno> {
    let bytes = size_of_val(cpus);
    // SAFETY: the kernel reads `bytes` bytes of the set.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, cpus.as_ptr()) })?;
    Ok(())
}

/// set_mempolicy(2)
pub(crate) fn set_mempolicy(mode: u32, nodes: &BitSet) -> Result<(), Errno> {
    let words = nodes.0.as_slice();
    // The kernel takes the number of bits, plus one.
    let bits = if words.is_empty() { 0 } else { words.len() * 64 + 1 };
    let mask = if words.is_empty() { std::ptr::null() } else { words.as_ptr() };
    // SAFETY: the kernel reads the set's bits, rounded up to words, of which the one for the extra bit is not read: it takes
    // one off first.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })?;
    Ok(())
}

/// personality(2)
pub(crate) fn personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: personality takes an integer.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) })?;
    Ok(())
}
