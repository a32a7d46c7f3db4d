//! The stub in front of a filter: system calls that are newer than the profile do not exist.
//!
//! A profile that answers EPERM to what it does not name breaks C libraries on newer kernels: they take ENOSYS for
//! "use the older call" and EPERM for an answer. So, as runc does, a number above the largest that the profile
//! names for an architecture answers ENOSYS. That holds for a profile which denies by default; one that allows,
//! logs or traces by default has its tracer or the kernel to answer.

use libseccomp::{ScmpAction, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::rules::{default_action, native_arch, scmp_arch, syscalls};
use crate::step::SockFilter;

pub(super) const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub(super) const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
pub(super) const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
pub(super) const IF_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const IF_BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
pub(super) const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Offsets in `struct seccomp_data`. seccomp(2)
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;

/// The bit in an x32 system call's number that tells it from an x86_64 one: both have x86_64's AUDIT_ARCH.
const X32_BIT: u32 = 1 << 30;

const RETURN_ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

pub(super) const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter { code: code as u16, jt, jf, k }
}

/// What the stub tests for one value of `seccomp_data.arch`.
#[derive(Debug, PartialEq, Eq)]
enum Newest {
    /// The largest number that the profile names.
    One(u32),
    /// s390 and s390x: the kernel shows a number that it does not know as 0, which is setup(2) and gone.
    Multiplexed(u32),
    /// The largest x86_64 and the largest x32 number, as far as the profile names any.
    X86_64 { plain: Option<u32>, x32: Option<u32> },
}

/// The instructions to put in front of the profile's program; none where there is nothing to answer. What the stub
/// has no answer for falls off its end.
pub(super) fn stub(profile: &LinuxSeccomp) -> Vec<SockFilter> {
    if !denies_by_default(profile) {
        return Vec::new();
    }
    let sections: Vec<_> = newest(profile).iter().map(|(audit, newest)| (*audit, section(newest))).collect();
    if sections.is_empty() {
        return Vec::new();
    }
    assemble(&sections)
}

/// Whether the default answer differs from ENOSYS and is meant to stop the caller. An invalid profile is for `rules`
/// to refuse.
fn denies_by_default(profile: &LinuxSeccomp) -> bool {
    match default_action(profile) {
        Ok(ScmpAction::Errno(errno)) => errno != libc::ENOSYS,
        Ok(ScmpAction::KillThread | ScmpAction::KillProcess | ScmpAction::Trap) => true,
        _ => false,
    }
}

/// This machine's architecture first, whether the profile lists it or not (libseccomp always adds it).
pub(super) fn architectures(profile: &LinuxSeccomp) -> Vec<Arch> {
    let native = native_arch();
    let listed = profile.architectures().iter().flatten().copied();
    let mut archs: Vec<Arch> = Vec::new();
    for arch in std::iter::once(native).chain(listed) {
        if arch != Arch::ScmpArchNative && !archs.contains(&arch) {
            archs.push(arch);
        }
    }
    archs
}

/// The largest numbers of each architecture.
fn newest(profile: &LinuxSeccomp) -> Vec<(u32, Newest)> {
    let archs = architectures(profile);
    let mut all: Vec<(u32, Newest)> = Vec::new();
    for arch in archs {
        let Some(number) = largest(profile, arch) else { continue };
        let audit = audit_arch(arch);
        match (all.iter_mut().find(|(other, _)| *other == audit), arch) {
            (Some((_, Newest::X86_64 { x32, .. })), Arch::ScmpArchX32) => *x32 = Some(number),
            (Some((_, Newest::X86_64 { plain, .. })), _) => *plain = Some(number),
            (_, Arch::ScmpArchX86_64) => all.push((audit, Newest::X86_64 { plain: Some(number), x32: None })),
            (_, Arch::ScmpArchX32) => all.push((audit, Newest::X86_64 { plain: None, x32: Some(number) })),
            (_, Arch::ScmpArchS390 | Arch::ScmpArchS390x) => all.push((audit, Newest::Multiplexed(number))),
            _ => all.push((audit, Newest::One(number))),
        }
    }
    all
}

/// The largest number that the profile names on an architecture. libseccomp's negative numbers stand for system calls
/// that it has not.
fn largest(profile: &LinuxSeccomp, arch: Arch) -> Option<u32> {
    let arch = scmp_arch(arch);
    let number =
        |name| ScmpSyscall::from_name_by_arch(name, arch).ok().and_then(|nr| u32::try_from(i32::from(nr)).ok());
    syscalls(profile).filter_map(|(_, name)| number(name)).max().filter(|&number| number != 0)
}

/// The kernel's AUDIT_ARCH_*: libseccomp's tokens are the same numbers but for x32, which the kernel has not.
pub(super) fn audit_arch(arch: Arch) -> u32 {
    match arch {
        Arch::ScmpArchX32 => Arch::ScmpArchX86_64 as u32,
        other => other as u32,
    }
}

/// What follows the load of the number: three ways out by falling through to `ret ENOSYS`, or skipping it.
fn section(newest: &Newest) -> Vec<SockFilter> {
    let mut code = vec![instruction(LOAD, 0, 0, NUMBER)];
    match *newest {
        Newest::One(number) => code.push(instruction(IF_GREATER, 0, 1, number)),
        Newest::Multiplexed(number) => {
            code.push(instruction(IF_EQUAL, 1, 0, 0));
            code.push(instruction(IF_GREATER, 0, 1, number));
        }
        Newest::X86_64 { plain: Some(plain), x32: Some(x32) } => {
            code.push(instruction(IF_BITS, 1, 0, X32_BIT));
            code.push(instruction(IF_GREATER, 1, 2, plain));
            code.push(instruction(IF_GREATER, 0, 1, x32));
        }
        Newest::X86_64 { plain: Some(plain), x32: None } => {
            code.push(instruction(IF_BITS, 2, 0, X32_BIT));
            code.push(instruction(IF_GREATER, 0, 1, plain));
        }
        Newest::X86_64 { plain: None, x32 } => {
            code.push(instruction(IF_BITS, 0, 2, X32_BIT));
            code.push(instruction(IF_GREATER, 0, 1, x32.unwrap_or(u32::MAX)));
        }
    }
    code.push(instruction(RETURN, 0, 0, RETURN_ENOSYS));
    code
}

/// `load arch`, then for each: `unless equal, skip; section; jump to the end`.
fn assemble(sections: &[(u32, Vec<SockFilter>)]) -> Vec<SockFilter> {
    // Around each section stand the test before it and the jump behind it.
    let length = 1 + sections.iter().map(|(_, code)| code.len() + 2).sum::<usize>();
    let mut program = Vec::with_capacity(length);
    program.push(instruction(LOAD, 0, 0, ARCHITECTURE));
    for (audit, code) in sections {
        program.push(instruction(IF_EQUAL, 0, code.len() as u8 + 1, *audit));
        program.extend(code);
        program.push(instruction(JUMP, 0, 0, (length - program.len() - 1) as u32));
    }
    program
}
