//! The profile's rules in libseccomp's words, and the program that libseccomp makes of them.

use std::fs::File;
use std::io::{Read, Seek};

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::{Error, exact};
use crate::step::SockFilter;

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`. linux/seccomp.h, Linux 5.19
const WAIT_KILLABLE_RECV: u32 = 1 << 5;
/// How many arguments a system call has.
const ARGUMENTS: usize = 6;

/// libseccomp's name of each architecture. Both lists name the same kernel ABIs.
const ARCHITECTURES: [(Arch, ScmpArch); 24] = [
    (Arch::ScmpArchNative, ScmpArch::Native),
    (Arch::ScmpArchX86_64, ScmpArch::X8664),
    (Arch::ScmpArchX86, ScmpArch::X86),
    (Arch::ScmpArchX32, ScmpArch::X32),
    (Arch::ScmpArchArm, ScmpArch::Arm),
    (Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    (Arch::ScmpArchMips, ScmpArch::Mips),
    (Arch::ScmpArchMips64, ScmpArch::Mips64),
    (Arch::ScmpArchMips64n32, ScmpArch::Mips64N32),
    (Arch::ScmpArchMipsel, ScmpArch::Mipsel),
    (Arch::ScmpArchMipsel64, ScmpArch::Mipsel64),
    (Arch::ScmpArchMipsel64n32, ScmpArch::Mipsel64N32),
    (Arch::ScmpArchPpc, ScmpArch::Ppc),
    (Arch::ScmpArchPpc64, ScmpArch::Ppc64),
    (Arch::ScmpArchPpc64le, ScmpArch::Ppc64Le),
    (Arch::ScmpArchS390, ScmpArch::S390),
    (Arch::ScmpArchS390x, ScmpArch::S390X),
    (Arch::ScmpArchParisc, ScmpArch::Parisc),
    (Arch::ScmpArchParisc64, ScmpArch::Parisc64),
    (Arch::ScmpArchRiscv64, ScmpArch::Riscv64),
    (Arch::ScmpArchLoongarch64, ScmpArch::Loongarch64),
    (Arch::ScmpArchM68k, ScmpArch::M68k),
    (Arch::ScmpArchSh, ScmpArch::Sh),
    (Arch::ScmpArchSheb, ScmpArch::Sheb),
];

/// libseccomp's name of an architecture.
pub(super) fn scmp_arch(arch: Arch) -> ScmpArch {
    ARCHITECTURES.iter().find(|(oci, _)| *oci == arch).map_or(ScmpArch::Native, |(_, scmp)| *scmp)
}

/// The architecture of this machine.
pub(super) fn native_arch() -> Arch {
    let native = ScmpArch::native();
    ARCHITECTURES.iter().find(|(_, scmp)| *scmp == native).map_or(Arch::ScmpArchNative, |(oci, _)| *oci)
}

/// The profile's rules, one for each name, in order.
pub(super) fn syscalls(profile: &LinuxSeccomp) -> impl Iterator<Item = (&LinuxSyscall, &str)> {
    let rules = profile.syscalls().iter().flatten();
    rules.flat_map(|rule| rule.names().iter().map(move |name| (rule, name.as_str())))
}

/// `SECCOMP_FILTER_FLAG_*` for seccomp(2). No flags at all means SPEC_ALLOW, an empty list means none: as runc has it.
pub(super) fn flags(profile: &LinuxSeccomp) -> u32 {
    let listener = if notifies(profile) { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 } else { 0 };
    let Some(flags) = profile.flags() else { return listener | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32 };
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
        // The child has one thread: there is nothing to synchronise with.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        // It says how to wait for a listener's answer, and the kernel refuses it (EINVAL) for a filter without one.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if listener == 0 => 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
    };
    flags.iter().map(bit).fold(listener, |all, flag| all | flag)
}

/// Whether anything is left to a listener.
fn notifies(profile: &LinuxSeccomp) -> bool {
    syscalls(profile).any(|(rule, _)| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// libseccomp's program for the profile.
pub(super) fn program(profile: &LinuxSeccomp) -> Result<Vec<SockFilter>, Error> {
    let mut filter = filter(profile)?;
    // Never as a plain list but of no rules, which is what libseccomp up to 2.5.4 makes no right tree of: where the list
    // begins with a call that an architecture has not, it compares that architecture's token with the numbers.
    if add_rules(&mut filter, profile)? > 0 {
        filter.set_ctl_optimize(2).map_err(Error::Generate)?;
    }
    export(&filter)
}

/// A filter with the profile's default action and architectures, and no rules.
pub(super) fn filter(profile: &LinuxSeccomp) -> Result<ScmpFilterContext, Error> {
    let oci_action = profile.default_action();
    let action = default_action(profile)?;
    let mut filter = ScmpFilterContext::new(action).map_err(|source| Error::Init { action: oci_action, source })?;
    for &arch in profile.architectures().iter().flatten() {
        filter.add_arch(scmp_arch(arch)).map_err(|source| Error::Architecture { arch, source })?;
    }
    Ok(filter)
}

/// What happens to a system call that no rule names.
pub(super) fn default_action(profile: &LinuxSeccomp) -> Result<ScmpAction, Error> {
    match action(profile.default_action(), profile.default_errno_ret(), "defaultAction")? {
        ScmpAction::Notify => Err(Error::Notify { place: "as default action" }),
        action => Ok(action),
    }
}

/// There must be somebody, and the write(2) by which the child tells its parent of the listener must not need one.
fn check_notify(profile: &LinuxSeccomp, name: &str) -> Result<(), Error> {
    let subject = name.to_owned();
    if profile.listener_path().as_ref().is_none_or(|path| path.as_os_str().is_empty()) {
        return Err(Error::NoListener { subject });
    }
    if name == "write" { Err(Error::Notify { place: "for the write syscall" }) } else { Ok(()) }
}

/// Adds a rule for each name, and counts them.
pub(super) fn add_rules(filter: &mut ScmpFilterContext, profile: &LinuxSeccomp) -> Result<usize, Error> {
    let default = default_action(profile)?;
    let exact = exact::names(profile);
    let mut rules = 0;
    for (rule, name) in syscalls(profile) {
        if name.is_empty() {
            return Err(Error::EmptyName);
        }
        let action = action(rule.action(), rule.errno_ret(), name)?;
        if action == ScmpAction::Notify {
            check_notify(profile, name)?;
        }
        let conditions = conditions(name, rule.args().as_deref().unwrap_or_default())?;
        // libseccomp refuses a rule that says what the default says; with what `exact` decides it may be wrong, or for ever
        // at work.
        if action == default || exact.contains(name) {
            continue;
        }
        // A name that libseccomp does not know is of another machine, or newer than libseccomp: `enosys` answers it.
        let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
        add_rule(filter, syscall, action, &conditions).map_err(|source| Error::Rule {
            name: name.to_owned(),
            action: rule.action(),
            source,
        })?;
        rules += 1;
    }
    Ok(rules)
}

/// All conditions must hold. But libseccomp takes one condition on each argument, and since the first runc that met
/// profiles with more, several on one argument mean: any of the rule's conditions.
fn add_rule(
    filter: &mut ScmpFilterContext,
    syscall: ScmpSyscall,
    action: ScmpAction,
    conditions: &[(usize, ScmpArgCompare)],
) -> Result<(), SeccompError> {
    let mut seen = [false; ARGUMENTS];
    let repeated = conditions.iter().any(|(index, _)| std::mem::replace(&mut seen[*index], true));
    let comparators: Vec<ScmpArgCompare> = conditions.iter().map(|(_, comparator)| *comparator).collect();
    if repeated {
        return comparators.iter().try_for_each(|one| filter.add_rule_conditional(action, syscall, &[*one]).map(drop));
    }
    filter.add_rule_conditional(action, syscall, &comparators).map(drop)
}

/// libseccomp's name of an action, with EPERM where the profile gives no error number.
pub(super) fn action(action: LinuxSeccompAction, errno: Option<u32>, subject: &str) -> Result<ScmpAction, Error> {
    use LinuxSeccompAction::{
        ScmpActAllow, ScmpActErrno, ScmpActKill, ScmpActKillProcess, ScmpActKillThread, ScmpActLog, ScmpActNotify,
        ScmpActTrace, ScmpActTrap,
    };
    // libseccomp keeps errnos below the kernel's MAX_ERRNO; a tracer gets all 16 bits.
    let largest = match action {
        ScmpActErrno => Some(4094),
        ScmpActTrace => Some(u32::from(u16::MAX)),
        _ => None,
    };
    let data = match (errno, largest) {
        (None, _) => libc::EPERM as u16,
        (Some(_), None) => return Err(Error::UnexpectedErrno { subject: subject.to_owned(), action }),
        (Some(errno), Some(largest)) if errno > largest => {
            return Err(Error::ErrnoRange { subject: subject.to_owned(), action, errno });
        }
        (Some(errno), _) => errno as u16,
    };
    Ok(match action {
        ScmpActKill | ScmpActKillThread => ScmpAction::KillThread,
        ScmpActKillProcess => ScmpAction::KillProcess,
        ScmpActTrap => ScmpAction::Trap,
        ScmpActErrno => ScmpAction::Errno(i32::from(data)),
        ScmpActTrace => ScmpAction::Trace(data),
        ScmpActLog => ScmpAction::Log,
        ScmpActAllow => ScmpAction::Allow,
        ScmpActNotify => ScmpAction::Notify,
    })
}

/// libseccomp's comparisons, each with the index of its argument.
fn conditions(name: &str, args: &[LinuxSeccompArg]) -> Result<Vec<(usize, ScmpArgCompare)>, Error> {
    let condition = |arg: &LinuxSeccompArg| {
        let index = arg.index();
        if index >= ARGUMENTS {
            return Err(Error::ArgumentIndex { name: name.to_owned(), index });
        }
        let (operator, datum) = match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
            LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
            LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
            LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
            LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
            LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
            // `value` is the mask, `valueTwo` what is left of the argument behind it.
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
            }
        };
        Ok((index, ScmpArgCompare::new(index as u32, operator, datum)))
    };
    args.iter().map(condition).collect()
}

/// The program, through a file: libseccomp before 2.6 writes it nowhere else.
pub(super) fn export(filter: &ScmpFilterContext) -> Result<Vec<SockFilter>, Error> {
    let memfd = rustix::fs::memfd_create("seccomp", MemfdFlags::CLOEXEC).map_err(Error::Read)?;
    let mut file = File::from(memfd);
    filter.export_bpf(&file).map_err(Error::Generate)?;
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| Error::Read(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let (program, rest) = instructions(&bytes);
    if program.is_empty() || !rest.is_empty() {
        return Err(Error::Truncated { bytes: bytes.len() });
    }
    Ok(program)
}

/// Instructions from memory as the kernel has it, and the bytes behind the last whole one.
pub(super) fn instructions(bytes: &[u8]) -> (Vec<SockFilter>, &[u8]) {
    let (whole, rest) = bytes.as_chunks();
    let instruction = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; size_of::<SockFilter>()]| SockFilter {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    };
    (whole.iter().map(instruction).collect(), rest)
}
