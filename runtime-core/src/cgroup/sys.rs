//! bpf(2), for the device programs of cgroup v2.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// union bpf_attr. Kernels 6.16 to 7.1 write past the end of one that is shorter than theirs (fixed
/// by 21c4b99b27f3), so it is always longer; what a kernel does not know of must be zero, and is.
#[repr(C, align(8))]
struct Attr([u32; 64]);

// enum bpf_cmd, bpf_prog_type, bpf_attach_type; linux/bpf.h
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;
/// The most programs of one type that a cgroup can have. kernel/bpf/cgroup.c
const MOST_PROGRAMS: usize = 64;

impl Attr {
    fn new(words: &[u32]) -> Attr {
        let mut attr = Attr([0; 64]);
        attr.0[..words.len()].copy_from_slice(words);
        attr
    }

    fn set_pointer<T>(&mut self, word: usize, pointer: *const T) {
        let address = (pointer as usize as u64).to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = address;
        self.0[word] = u32::from_ne_bytes([a, b, c, d]);
        self.0[word + 1] = u32::from_ne_bytes([e, f, g, h]);
    }
}

/// # Safety
/// Pointers in `attr` must be valid for what `command` does with them.
unsafe fn bpf(command: libc::c_long, attr: &mut Attr) -> Result<i32, Errno> {
    loop {
        // SAFETY: the kernel reads and writes at most size_of::<Attr>() bytes of `attr`, which are
        // borrowed mutably for the call; the caller vouches for pointers inside.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<Attr>()) };
        if result >= 0 {
            return Ok(result as i32);
        }
        // SAFETY: errno's location is valid for the calling thread.
        match Errno::from_raw_os_error(unsafe { *libc::__errno_location() }) {
            // The verifier gives way to signals.
            Errno::AGAIN | Errno::INTR => {}
            errno => return Err(errno),
        }
    }
}

fn fd(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd() as u32
}

/// Loads a device program.
pub(super) fn load(program: &[u64]) -> Result<OwnedFd, Errno> {
    let license = c"Apache";
    let mut attr = Attr::new(&[TYPE_CGROUP_DEVICE, program.len() as u32]);
    attr.set_pointer(2, program.as_ptr());
    attr.set_pointer(4, license.as_ptr());
    // SAFETY: the kernel reads `program.len()` instructions of 8 bytes and a C string.
    let raw = unsafe { bpf(PROG_LOAD, &mut attr) }?;
    // SAFETY: PROG_LOAD gave a new descriptor, close-on-exec, that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Attaches `program` to the cgroup, beside others or in place of `old` in one step.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let flags = if old.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI };
    let old = old.map_or(0, fd);
    let mut attr = Attr::new(&[fd(cgroup), fd(program), ATTACH_CGROUP_DEVICE, flags, old]);
    // SAFETY: this command takes no pointers.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Detaches `program` from the cgroup.
pub(super) fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attr::new(&[fd(cgroup), fd(program), ATTACH_CGROUP_DEVICE]);
    // SAFETY: this command takes no pointers.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
}

/// The device programs attached to the cgroup itself, but for those that we may not touch.
pub(super) fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut attr = Attr::new(&[fd(cgroup), ATTACH_CGROUP_DEVICE]);
    attr.set_pointer(4, ids.as_mut_ptr());
    attr.0[6] = MOST_PROGRAMS as u32;
    // SAFETY: the kernel writes at most MOST_PROGRAMS words to `ids`.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    let count = (attr.0[6] as usize).min(MOST_PROGRAMS);
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        // SAFETY: this command takes no pointers.
        match unsafe { bpf(PROG_GET_FD_BY_ID, &mut Attr::new(&[*id])) } {
            // SAFETY: the command gave a new descriptor, close-on-exec, that nobody else has.
            Ok(raw) => programs.push(unsafe { OwnedFd::from_raw_fd(raw) }),
            // An LSM's business, or gone in between. More programs only forbid more.
            Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}
