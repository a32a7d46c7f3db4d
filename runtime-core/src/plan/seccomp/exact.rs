//! System calls whose rules compare arguments more than once: decided here, in front of libseccomp's program.
//!
//! libseccomp lets the branches of several comparisons share what they loaded, and up to 2.5.4 at least some of them get
//! the wrong half of an argument: a profile may then allow what it denies. (Found by the fuzz target `seccomp`.) So a
//! system call with at most one comparison, or with a rule that has none, is libseccomp's; of the others every rule is
//! written out, in the profile's order, each comparison with loads of its own.

use std::collections::{BTreeMap, BTreeSet};

use libseccomp::{ScmpAction, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator};

use super::enosys::{
    ARCHITECTURE, IF_EQUAL, IF_GREATER, JUMP, LOAD, NUMBER, RETURN, architectures, audit_arch, instruction,
};
use super::rules::{action, default_action, scmp_arch, syscalls};
use crate::step::SockFilter;

const IF_NOT_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;

/// Where `seccomp_data.args` begins. seccomp(2)
const ARGUMENTS: u32 = 16;

/// Conditions that must all hold, and what is returned then.
struct Rule<'a> {
    conditions: Vec<&'a LinuxSeccompArg>,
    returns: u32,
}

/// The instructions to put in front; none where nothing is compared twice. An invalid profile is for `rules` to refuse.
pub(super) fn stub(profile: &LinuxSeccomp) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for arch in architectures(profile) {
        let section = section(profile, arch);
        if !section.is_empty() {
            program.push(instruction(LOAD, 0, 0, ARCHITECTURE));
            skip_unless(audit_arch(arch), section, &mut program);
        }
    }
    program
}

/// `body`, jumped over unless the accumulator is `value`.
fn skip_unless(value: u32, body: Vec<SockFilter>, program: &mut Vec<SockFilter>) {
    match u8::try_from(body.len()) {
        Ok(length) => program.push(instruction(IF_EQUAL, 0, length, value)),
        Err(_) => {
            program.push(instruction(IF_EQUAL, 1, 0, value));
            program.push(instruction(JUMP, 0, 0, body.len() as u32));
        }
    }
    program.extend(body);
}

/// What is done with an architecture's calls.
fn section(profile: &LinuxSeccomp, arch: Arch) -> Vec<SockFilter> {
    let Ok(default) = default_action(profile) else { return Vec::new() };
    let mut section = Vec::new();
    for (name, rules) in compared(profile) {
        // Negative numbers are libseccomp's, for what the architecture has not.
        let number = ScmpSyscall::from_name_by_arch(name, scmp_arch(arch)).map_or(-1, i32::from);
        let Ok(number) = u32::try_from(number) else { continue };
        if section.is_empty() {
            section.push(instruction(LOAD, 0, 0, NUMBER));
        }
        let mut body: Vec<SockFilter> = rules.iter().flat_map(|rule| written_out(rule, is_wide(arch))).collect();
        body.push(instruction(RETURN, 0, 0, value(default)));
        skip_unless(number, body, &mut section);
    }
    section
}

/// The rules of each name that is compared more than once, those left out that say what the default says.
fn compared(profile: &LinuxSeccomp) -> BTreeMap<&str, Vec<Rule<'_>>> {
    let mut all: BTreeMap<&str, Vec<Rule<'_>>> = BTreeMap::new();
    let default = default_action(profile).ok();
    for (rule, name) in syscalls(profile) {
        let Ok(action) = action(rule.action(), rule.errno_ret(), name) else { continue };
        if Some(action) == default {
            continue;
        }
        let conditions: Vec<&LinuxSeccompArg> = rule.args().iter().flatten().collect();
        let returns = value(action);
        let rules = all.entry(name).or_default();
        // As in `rules::add_rule`: several conditions on one argument mean any of the rule's.
        if (1..conditions.len()).any(|at| conditions[..at].iter().any(|other| other.index() == conditions[at].index()))
        {
            rules.extend(conditions.into_iter().map(|one| Rule { conditions: vec![one], returns }));
        } else {
            rules.push(Rule { conditions, returns });
        }
    }
    all.retain(|_, rules| {
        let comparisons: usize = rules.iter().map(|rule| rule.conditions.len()).sum();
        comparisons > 1 && rules.iter().all(|rule| !rule.conditions.is_empty())
    });
    all
}

/// What libseccomp need not know.
pub(super) fn names(profile: &LinuxSeccomp) -> BTreeSet<&str> {
    compared(profile).into_keys().collect()
}

/// What a filter returns for it. seccomp(2)
fn value(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        ScmpAction::Trap => libc::SECCOMP_RET_TRAP,
        ScmpAction::Notify => libc::SECCOMP_RET_USER_NOTIF,
        ScmpAction::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA),
        ScmpAction::Trace(message) => libc::SECCOMP_RET_TRACE | u32::from(message),
        ScmpAction::Log => libc::SECCOMP_RET_LOG,
        ScmpAction::Allow => libc::SECCOMP_RET_ALLOW,
        // What this does not know, it does not let through.
        _ => libc::SECCOMP_RET_KILL_THREAD,
    }
}

/// Whether arguments have 64 bits.
fn is_wide(arch: Arch) -> bool {
    use Arch::{
        ScmpArchAarch64, ScmpArchLoongarch64, ScmpArchMips64, ScmpArchMipsel64, ScmpArchParisc64, ScmpArchPpc64,
        ScmpArchPpc64le, ScmpArchRiscv64, ScmpArchS390x, ScmpArchX86_64,
    };
    matches!(
        arch,
        ScmpArchX86_64
            | ScmpArchAarch64
            | ScmpArchLoongarch64
            | ScmpArchMips64
            | ScmpArchMipsel64
            | ScmpArchParisc64
            | ScmpArchPpc64
            | ScmpArchPpc64le
            | ScmpArchRiscv64
            | ScmpArchS390x
    )
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum To {
    /// The instruction behind it.
    Next,
    /// The condition holds.
    Pass,
    /// It does not, and so neither does the rule.
    Fail,
}

use To::{Fail, Next, Pass};

/// An instruction whose jumps are not resolved yet.
struct Part(u32, u32, To, To);

/// One condition after another; behind the last the return; a condition that fails leads behind that.
fn written_out(rule: &Rule<'_>, wide: bool) -> Vec<SockFilter> {
    let conditions: Vec<Vec<Part>> = rule.conditions.iter().map(|arg| condition(arg, wide)).collect();
    let end = conditions.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(end);
    for parts in conditions {
        let pass = code.len() + parts.len();
        for Part(operation, operand, yes, no) in parts {
            let at = code.len() + 1;
            // Six conditions have fifty instructions at most.
            let jump = |to| match to {
                Next => 0,
                Pass => (pass - at) as u8,
                Fail => (end - at) as u8,
            };
            code.push(instruction(operation, jump(yes), jump(no), operand));
        }
    }
    code.push(instruction(RETURN, 0, 0, rule.returns));
    code
}

/// A comparison of 64 bits by halves, the upper one first; of the lower one alone where there is no other.
fn condition(arg: &LinuxSeccompArg, wide: bool) -> Vec<Part> {
    let (value, two) = (arg.value(), arg.value_two().unwrap_or(0));
    let load = |upper: bool| {
        let second = upper == cfg!(target_endian = "little");
        Part(LOAD, ARGUMENTS + 8 * arg.index() as u32 + if second { 4 } else { 0 }, Next, Next)
    };
    let (high, low) = ((value >> 32) as u32, value as u32);
    // Above and below decide at once, equal leaves it to the lower half.
    let ordered = |operation: u32, above: To, below: To| {
        let mut parts = Vec::new();
        if wide {
            parts.extend([load(true), Part(IF_GREATER, high, above, Next), Part(IF_EQUAL, high, Next, below)]);
        }
        parts.extend([load(false), Part(operation, low, above, below)]);
        parts
    };
    let equal = |upper_differs: To, equal: To, differs: To| {
        let mut parts = Vec::new();
        if wide {
            parts.extend([load(true), Part(IF_EQUAL, high, Next, upper_differs)]);
        }
        parts.extend([load(false), Part(IF_EQUAL, low, equal, differs)]);
        parts
    };
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => equal(Fail, Pass, Fail),
        LinuxSeccompOperator::ScmpCmpNe => equal(Pass, Fail, Pass),
        LinuxSeccompOperator::ScmpCmpGt => ordered(IF_GREATER, Pass, Fail),
        LinuxSeccompOperator::ScmpCmpGe => ordered(IF_NOT_LESS, Pass, Fail),
        LinuxSeccompOperator::ScmpCmpLe => ordered(IF_GREATER, Fail, Pass),
        LinuxSeccompOperator::ScmpCmpLt => ordered(IF_NOT_LESS, Fail, Pass),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let mut parts = Vec::new();
            if wide {
                let masked = Part(AND, high, Next, Next);
                parts.extend([load(true), masked, Part(IF_EQUAL, (two >> 32) as u32, Next, Fail)]);
            }
            parts.extend([load(false), Part(AND, low, Next, Next), Part(IF_EQUAL, two as u32, Pass, Fail)]);
            parts
        }
    }
}
