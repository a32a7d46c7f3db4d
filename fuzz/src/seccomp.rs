//! A profile and the program that the kernel would get, against what the profile's own words say.

use std::collections::BTreeSet;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use runtime_core::plan::seccomp::{Cache, Filter};
use serde_json::{Value, json};

use crate::choices::Choices;
use interpreter::verdict;

/// The interpreter that runtime-core's tests have.
#[path = "../../runtime-core/src/plan/seccomp/testing.rs"]
#[allow(dead_code)]
mod interpreter;

const X32_BIT: u32 = 1 << 30;
const KILL_THREAD: u32 = libc::SECCOMP_RET_KILL_THREAD;
const RETURN_ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Each with `seccomp_data.arch` and the bit that its numbers have.
const ARCHITECTURES: [(&str, ScmpArch, Arch, u32, u32); 4] = [
    ("SCMP_ARCH_X86_64", ScmpArch::X8664, Arch::ScmpArchX86_64, 0xc000_003e, 0),
    ("SCMP_ARCH_X32", ScmpArch::X32, Arch::ScmpArchX32, 0xc000_003e, X32_BIT),
    ("SCMP_ARCH_X86", ScmpArch::X86, Arch::ScmpArchX86, 0x4000_0003, 0),
    ("SCMP_ARCH_AARCH64", ScmpArch::Aarch64, Arch::ScmpArchAarch64, 0xc000_00b7, 0),
];

const ACTIONS: [&str; 8] = ["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "TRACE", "LOG"];
const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
const NAMES: [&str; 20] = [
    "read",
    "write",
    "openat",
    "clone",
    "clone3",
    "execve",
    "mkdir",
    "mkdirat",
    "chown",
    "lseek",
    "prctl",
    "ptrace",
    "unshare",
    "personality",
    "renameat2",
    "openat2",
    "keyctl",
    "bpf",
    "arm_fadvise64_64",
    "no_such_call",
];
const VALUES: [u64; 12] = [
    0,
    1,
    2,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x7e02_0000,
    u64::MAX - 1,
    u64::MAX,
];

/// A profile of the bytes' choosing; what the program says to calls that it names, and to their neighbours.
pub fn seccomp(data: &[u8]) {
    let mut choices = Choices::new(data);
    let profile = profile(&mut choices);
    let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
    let filter = match Cache::new(None).compile(&profile) {
        Ok(filter) => filter,
        Err(error) => {
            let error = error.to_string();
            return assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
        }
    };
    assert!(!filter.program.is_empty() && filter.program.len() <= 4096);
    // libseccomp has its own machine's architecture in every filter.
    let listed = |arch: Arch| {
        arch == Arch::ScmpArchX86_64 || profile.architectures().iter().flatten().any(|listed| *listed == arch)
    };
    for architecture in ARCHITECTURES {
        let calls = Architecture { profile: &profile, filter: &filter, architecture, listed: listed(architecture.2) };
        calls.check(&mut choices);
    }
}

fn profile(choices: &mut Choices<'_>) -> Value {
    let action = |choices: &mut Choices<'_>| format!("SCMP_ACT_{}", choices.of(&ACTIONS));
    let default = action(choices);
    let mut profile = json!({ "defaultAction": default });
    if default.ends_with("ERRNO") || choices.once_in(16) {
        profile["defaultErrnoRet"] = json!(choices.below(4200));
    }
    profile["architectures"] =
        ARCHITECTURES.iter().filter(|_| choices.once_in(2)).map(|(name, ..)| json!(name)).collect();
    let mut rules = Vec::new();
    for _ in 0..=choices.below(10) {
        let names: Vec<_> = (0..=choices.below(3)).map(|_| choices.of(&NAMES)).collect();
        let action = action(choices);
        let mut rule = json!({ "names": names, "action": action });
        if (action.ends_with("ERRNO") && choices.once_in(2)) || choices.once_in(32) {
            rule["errnoRet"] = json!(choices.below(50));
        }
        let conditions = choices.below(4);
        let condition = |_| {
            let operator = format!("SCMP_CMP_{}", choices.of(&OPERATORS));
            let index = if choices.once_in(64) { 6 } else { choices.below(3) };
            // Never equal: a second value with bits outside of the mask. libseccomp finds them equal where the mask is 0.
            let (value, two) = (value(choices), value(choices));
            let two = if operator.ends_with("MASKED_EQ") { two & value } else { two };
            json!({ "index": index, "value": value, "valueTwo": two, "op": operator })
        };
        rule["args"] = (0..conditions).map(condition).collect();
        rules.push(rule);
    }
    profile["syscalls"] = json!(rules);
    profile
}

fn value(choices: &mut Choices<'_>) -> u64 {
    if choices.once_in(4) { choices.word() } else { choices.of(&VALUES) }
}

/// A filter seen from one architecture.
struct Architecture<'a> {
    profile: &'a LinuxSeccomp,
    filter: &'a Filter,
    architecture: (&'a str, ScmpArch, Arch, u32, u32),
    listed: bool,
}

impl Architecture<'_> {
    fn check(&self, choices: &mut Choices<'_>) {
        let (.., audit, bit) = self.architecture;
        let named: BTreeSet<u32> =
            self.rules().flat_map(|rule| rule.names()).filter_map(|name| self.number(name)).collect();
        // As in runc: a profile that names nothing above 0 says nothing about what is newer.
        let newest = named.last().copied().filter(|newest| *newest != 0);
        let neighbours = named.iter().flat_map(|number| [*number, number ^ 1, number + 1]).chain([bit, bit | 1000]);
        for number in neighbours.collect::<BTreeSet<u32>>() {
            for _ in 0..4 {
                let args = [value(choices), value(choices), value(choices), 0, 1, u64::MAX];
                let Some(expected) = self.expected(number, newest, &args) else { continue };
                let verdict = verdict(self.filter, audit, number, &args);
                assert!(
                    expected.contains(&verdict),
                    "{} {:#x} {args:x?}: {verdict:#x}, not one of {expected:x?}\n{}",
                    self.architecture.0,
                    number & !bit,
                    serde_json::to_string(self.profile).unwrap(),
                );
            }
        }
    }

    fn rules(&self) -> impl Iterator<Item = &LinuxSyscall> {
        self.profile.syscalls().iter().flatten()
    }

    fn number(&self, name: &str) -> Option<u32> {
        u32::try_from(i32::from(ScmpSyscall::from_name_by_arch(name, self.architecture.1).ok()?)).ok()
    }

    /// The answers that the profile allows; `None` where this model has no opinion. Of several rules that fit, any: the
    /// specification does not order them.
    fn expected(&self, number: u32, newest: Option<u32>, args: &[u64; 6]) -> Option<Vec<u32>> {
        if !self.listed {
            return Some(vec![KILL_THREAD]);
        }
        let default = returns(self.profile.default_action(), self.profile.default_errno_ret());
        let fitting: Vec<&LinuxSyscall> = self
            .rules()
            .filter(|rule| rule.names().iter().any(|name| self.number(name) == Some(number)))
            .filter(|rule| holds(rule.args().as_deref().unwrap_or_default(), args))
            .collect();
        // libseccomp looks at the lower halves only where words have 32 bits.
        let wide = |rule: &&LinuxSyscall| {
            rule.args().iter().flatten().any(|arg| arg.value().max(arg.value_two().unwrap_or(0)) >> 32 != 0)
        };
        let narrow = matches!(self.architecture.1, ScmpArch::X86 | ScmpArch::X32);
        if narrow && (args.iter().any(|arg| arg >> 32 != 0) || self.rules().any(|rule| wide(&rule))) {
            return None;
        }
        if !fitting.is_empty() {
            return Some(fitting.iter().map(|rule| returns(rule.action(), rule.errno_ret())).collect());
        }
        let denies = !matches!(
            self.profile.default_action(),
            LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
        );
        let beyond = newest.is_some_and(|newest| number > newest);
        Some(vec![if denies && beyond { RETURN_ENOSYS } else { default }])
    }
}

/// seccomp(2)'s word for an action.
fn returns(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(libc::EPERM as u32);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
    }
}

/// Every condition; or, where one argument has several, any of them (as in runc).
fn holds(conditions: &[LinuxSeccompArg], args: &[u64; 6]) -> bool {
    let holds = |arg: &LinuxSeccompArg| {
        let (argument, value) = (args[arg.index()], arg.value());
        match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => argument != value,
            LinuxSeccompOperator::ScmpCmpLt => argument < value,
            LinuxSeccompOperator::ScmpCmpLe => argument <= value,
            LinuxSeccompOperator::ScmpCmpEq => argument == value,
            LinuxSeccompOperator::ScmpCmpGe => argument >= value,
            LinuxSeccompOperator::ScmpCmpGt => argument > value,
            LinuxSeccompOperator::ScmpCmpMaskedEq => argument & value == arg.value_two().unwrap_or(0),
        }
    };
    let indices: BTreeSet<usize> = conditions.iter().map(LinuxSeccompArg::index).collect();
    if indices.len() < conditions.len() { conditions.iter().any(holds) } else { conditions.iter().all(holds) }
}
