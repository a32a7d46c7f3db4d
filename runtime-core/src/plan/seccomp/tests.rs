//! The verdicts of whole filters. Numbers are x86_64's, so is the machine.

#![allow(clippy::unwrap_used, clippy::panic)]

use libseccomp::{ScmpArch, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator};

use super::testing::{Call, parse, profile, run, verdict};
use super::*;

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const X32_BIT: u32 = 1 << 30;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL_THREAD: u32 = libc::SECCOMP_RET_KILL_THREAD;

const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

fn number(name: &str, arch: ScmpArch) -> u32 {
    i32::from(ScmpSyscall::from_name_by_arch(name, arch).unwrap()) as u32
}

fn native(name: &str) -> u32 {
    number(name, ScmpArch::X8664)
}

fn one_rule(rule: &str) -> LinuxSeccomp {
    parse(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#))
}

fn filter_of(rule: &str) -> Filter {
    compile(&one_rule(rule), None).unwrap()
}

fn refusal(profile: &LinuxSeccomp) -> String {
    compile(profile, None).unwrap_err().to_string()
}

#[test]
fn every_action_returns_its_value() {
    let expected = [
        ("SCMP_ACT_KILL", KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", errno(libc::EPERM)),
        ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE | libc::EPERM as u32),
        ("SCMP_ACT_LOG", libc::SECCOMP_RET_LOG),
    ];
    for (action, value) in expected {
        let filter = filter_of(&format!(r#"{{"names": ["mkdir"], "action": "{action}"}}"#));
        assert_eq!(verdict(&filter, X86_64, native("mkdir"), &[]), value, "{action}");
        assert_eq!(verdict(&filter, X86_64, native("rmdir"), &[]), ALLOW, "{action}");
    }
}

#[test]
fn a_rule_returns_its_own_error_number() {
    for (action, base, most) in [("ERRNO", libc::SECCOMP_RET_ERRNO, 4094), ("TRACE", libc::SECCOMP_RET_TRACE, 65535)] {
        for value in [0, 38, most] {
            let rule = format!(r#"{{"names": ["mkdir"], "action": "SCMP_ACT_{action}", "errnoRet": {value}}}"#);
            assert_eq!(verdict(&filter_of(&rule), X86_64, native("mkdir"), &[]), base | value);
        }
    }
}

#[test]
fn a_rule_that_repeats_the_default_is_skipped_and_one_with_another_errno_is_not() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
            {"names": ["mkdir", "write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#,
    );
    let filter = compile(&profile, None).unwrap();
    assert_eq!(verdict(&filter, X86_64, native("mkdir"), &[]), errno(13));
    assert_eq!(verdict(&filter, X86_64, native("rmdir"), &[]), errno(1));
}

#[test]
fn every_operator_compares_64_bits() {
    const HIGH: u64 = 0x1_0000_0005;
    type Case = (&'static str, u64, Option<u64>, &'static [u64], &'static [u64]);
    const CASES: [Case; 8] = [
        ("NE", HIGH, None, &[0, 5, HIGH + 1], &[HIGH]),
        ("LT", HIGH, None, &[0, 5, HIGH - 1], &[HIGH, HIGH + 1, u64::MAX]),
        ("LE", HIGH, None, &[0, HIGH], &[HIGH + 1, 0x2_0000_0000]),
        ("EQ", HIGH, None, &[HIGH], &[5, 0x1_0000_0000, 0x2_0000_0005]),
        ("GE", HIGH, None, &[HIGH, u64::MAX], &[HIGH - 1, 0xffff_ffff]),
        ("GT", HIGH, None, &[HIGH + 1, 0x2_0000_0000], &[HIGH, 0xffff_ffff]),
        ("MASKED_EQ", 0xff00_0000_00ff, Some(0x1200_0000_0034), &[0x1200_0000_0034, 0x12ab_cdef_0034], &[0x34, 0]),
        ("MASKED_EQ", 0xff, None, &[0, 0x100], &[1, 0xff]),
    ];
    for (operator, value, two, matching, others) in CASES {
        let two = two.map_or(String::new(), |two| format!(r#", "valueTwo": {two}"#));
        let filter = filter_of(&format!(
            r#"{{"names": ["lseek"], "action": "SCMP_ACT_ERRNO",
                "args": [{{"index": 1, "value": {value}{two}, "op": "SCMP_CMP_{operator}"}}]}}"#
        ));
        for &argument in matching {
            assert_eq!(verdict(&filter, X86_64, native("lseek"), &[0, argument]), errno(1), "{operator} {argument:#x}");
        }
        for &argument in others {
            assert_eq!(verdict(&filter, X86_64, native("lseek"), &[0, argument]), ALLOW, "{operator} {argument:#x}");
        }
    }
}

#[test]
fn conditions_on_several_arguments_must_all_hold_and_on_one_argument_any() {
    let both = filter_of(
        r#"{"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 5, "value": 2, "op": "SCMP_CMP_EQ"}]}"#,
    );
    assert_eq!(verdict(&both, X86_64, native("lseek"), &[1, 0, 0, 0, 0, 2]), errno(1));
    assert_eq!(verdict(&both, X86_64, native("lseek"), &[1, 0, 0, 0, 0, 3]), ALLOW);
    let any = filter_of(
        r#"{"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}"#,
    );
    for (argument, expected) in [(1, errno(1)), (2, errno(1)), (3, ALLOW)] {
        assert_eq!(verdict(&any, X86_64, native("lseek"), &[argument]), expected);
    }
}

#[test]
fn names_that_nobody_knows_are_skipped() {
    let long = "x".repeat(200);
    let rule = format!(r#"{{"names": ["no_such_call", "{long}", "mkdir"], "action": "SCMP_ACT_ERRNO"}}"#);
    assert_eq!(verdict(&filter_of(&rule), X86_64, native("mkdir"), &[]), errno(1));
}

/// Found by fuzzing: libseccomp's program allowed 0xffffffff, whose lower half it took for the upper one.
#[test]
fn alternatives_of_one_argument_do_not_mix_its_halves() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": 4294967294, "op": "SCMP_CMP_LE"}]},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": 8353313672819141176, "op": "SCMP_CMP_GE"}]}]}"#,
    );
    let filter = compile(&profile, None).unwrap();
    for (value, expected) in [
        (0, ALLOW),
        (0xffff_fffe, ALLOW),
        (0xffff_ffff, KILL_THREAD),
        (0x1_0000_0000, KILL_THREAD),
        (8_353_313_672_819_141_175, KILL_THREAD),
        (8_353_313_672_819_141_176, ALLOW),
        (u64::MAX, ALLOW),
    ] {
        assert_eq!(verdict(&filter, X86_64, native("read"), &[0, value]), expected, "{value:#x}");
    }
}

/// Found by fuzzing: libseccomp's plain list answered every call with the default.
#[test]
fn a_name_of_another_machine_spoils_no_other_rule() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"], "syscalls": [
            {"names": ["mkdirat"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]},
            {"names": ["arm_fadvise64_64"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let filter = compile(&profile, None).unwrap();
    assert_eq!(verdict(&filter, X86_64, native("mkdirat"), &[7]), ALLOW);
    assert_eq!(verdict(&filter, X86_64, native("mkdirat"), &[8]), KILL_THREAD);
    assert_eq!(verdict(&filter, X86_64, native("chown"), &[7]), KILL_THREAD);
    assert_eq!(verdict(&filter, AARCH64, number("mkdirat", ScmpArch::Aarch64), &[7]), ALLOW);
}

#[test]
fn a_rule_may_be_given_twice() {
    let filter = filter_of(
        r#"{"names": ["mkdir", "mkdir"], "action": "SCMP_ACT_ERRNO"},
           {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"},
           {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
           {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}"#,
    );
    assert_eq!(verdict(&filter, X86_64, native("mkdir"), &[]), errno(1));
    assert_eq!(verdict(&filter, X86_64, native("lseek"), &[1]), errno(1));
}

#[test]
fn an_unlisted_architecture_is_killed() {
    let filter = compile(&profile("default.json"), None).unwrap();
    assert_eq!(verdict(&filter, AARCH64, 64, &[]), KILL_THREAD);
    assert_eq!(verdict(&filter, AARCH64, 100_000, &[]), KILL_THREAD);
}

#[test]
fn x32_needs_to_be_listed() {
    let rules =
        r#""defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["write", "mkdir"], "action": "SCMP_ACT_ALLOW"}]"#;
    let without = compile(&parse(&format!(r#"{{{rules}, "architectures": ["SCMP_ARCH_X86_64"]}}"#)), None).unwrap();
    let with = parse(&format!(r#"{{{rules}, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]}}"#));
    let with = compile(&with, None).unwrap();
    let (write, mkdir) = (X32_BIT | native("write"), X32_BIT | native("mkdir"));
    assert_eq!(verdict(&without, X86_64, write, &[]), KILL_THREAD);
    assert_eq!(verdict(&without, X86_64, mkdir + 1, &[]), KILL_THREAD);
    assert_eq!(verdict(&with, X86_64, write, &[]), ALLOW);
    assert_eq!(verdict(&with, X86_64, write + 1, &[]), errno(1));
    assert_eq!(verdict(&with, X86_64, mkdir + 1, &[]), errno(libc::ENOSYS));
    assert_eq!(verdict(&with, X86_64, native("mkdir") + 1, &[]), errno(libc::ENOSYS));
}

#[test]
fn flags_are_those_of_runc() {
    let spec_allow = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    let log = libc::SECCOMP_FILTER_FLAG_LOG as u32;
    let cases = [
        ("", spec_allow),
        (r#", "flags": null"#, spec_allow),
        (r#", "flags": []"#, 0),
        (r#", "flags": ["SECCOMP_FILTER_FLAG_LOG"]"#, log),
        (r#", "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]"#, 0),
        (r#", "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"]"#, spec_allow | log),
        (r#", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#, 0),
    ];
    for (flags, expected) in cases {
        let profile = parse(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{flags}}}"#));
        assert_eq!(compile(&profile, None).unwrap().flags, expected, "{flags}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let cases = [
        (one_rule(r#"{"names": [""], "action": "SCMP_ACT_ERRNO"}"#), "seccomp rule has an empty system call name"),
        (
            one_rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}"#),
            "seccomp action SCMP_ACT_NOTIFY for mkdir needs listenerPath",
        ),
        (parse(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#), "seccomp: SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            parse(
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
                    "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            ),
            "seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            one_rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 1}"#),
            "seccomp action SCMP_ACT_KILL for mkdir takes no errnoRet",
        ),
        (
            one_rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4095}"#),
            "seccomp errnoRet 4095 for mkdir is too large for SCMP_ACT_ERRNO",
        ),
        (
            one_rule(
                r#"{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#,
            ),
            "seccomp rule for mkdir tests argument 6, system calls have 0 to 5",
        ),
        (
            parse(r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#),
            "add architecture SCMP_ARCH_S390X to the seccomp filter",
        ),
    ];
    for (profile, text) in cases {
        assert_eq!(refusal(&profile), text);
    }
}

#[test]
fn a_program_longer_than_the_kernel_takes_is_refused() {
    let rules: Vec<String> = (0..4200)
        .map(|value| {
            format!(
                r#"{{"names": ["lseek"], "action": "SCMP_ACT_ERRNO",
                    "args": [{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let error = compile(&one_rule(&rules.join(",")), None).map(drop).unwrap_err();
    assert!(matches!(error, Error::TooLong { instructions } if instructions > 4096), "{error}");
}

#[test]
fn newer_system_calls_than_the_profile_do_not_exist() {
    let filter = compile(&profile("default.json"), None).unwrap();
    for beyond in [500, 1000, X32_BIT - 1] {
        assert_eq!(verdict(&filter, X86_64, beyond, &[]), errno(libc::ENOSYS), "x86_64 {beyond}");
        assert_eq!(verdict(&filter, X86, beyond, &[]), errno(libc::ENOSYS), "x86 {beyond}");
    }
    assert_eq!(verdict(&filter, X86_64, X32_BIT | 5000, &[]), errno(libc::ENOSYS));
    assert_eq!(verdict(&filter, X86_64, native("mount"), &[]), errno(libc::EPERM));
}

#[test]
fn a_profile_that_allows_logs_traces_or_answers_enosys_by_default_gets_no_stub() {
    for default in ["ALLOW", "LOG", "TRACE", "ERRNO\", \"defaultErrnoRet\": 38, \"listenerMetadata\": \""] {
        let profile = parse(&format!(
            r#"{{"defaultAction": "SCMP_ACT_{default}", "syscalls": [{{"names": ["mkdir"], "action": "SCMP_ACT_KILL"}}]}}"#
        ));
        assert!(enosys::stub(&profile).is_empty(), "{default}");
    }
    for default in ["ERRNO", "KILL", "KILL_PROCESS", "TRAP"] {
        let profile = parse(&format!(
            r#"{{"defaultAction": "SCMP_ACT_{default}", "syscalls": [{{"names": ["mkdir"], "action": "SCMP_ACT_LOG"}}]}}"#
        ));
        let filter = compile(&profile, None).unwrap();
        assert_eq!(verdict(&filter, X86_64, native("mkdir") + 1, &[]), errno(libc::ENOSYS), "{default}");
        assert_ne!(verdict(&filter, X86_64, native("mkdir") - 1, &[]), errno(libc::ENOSYS), "{default}");
    }
}

/// What the profile says about a name, read rule by rule.
fn expected(profile: &LinuxSeccomp, name: &str, args: &[u64; 6]) -> u32 {
    let holds = |arg: &LinuxSeccompArg| match arg.op() {
        LinuxSeccompOperator::ScmpCmpLt => args[arg.index()] < arg.value(),
        LinuxSeccompOperator::ScmpCmpEq => args[arg.index()] == arg.value(),
        LinuxSeccompOperator::ScmpCmpGt => args[arg.index()] > arg.value(),
        LinuxSeccompOperator::ScmpCmpMaskedEq => args[arg.index()] & arg.value() == arg.value_two().unwrap_or(0),
        other => panic!("{other} is not in the profile"),
    };
    let rule = rules::syscalls(profile).find(|(rule, other)| *other == name && rule.args().iter().flatten().all(holds));
    rule.map_or(profile.default_action().as_u32(profile.default_errno_ret()), |(rule, _)| {
        rule.action().as_u32(rule.errno_ret())
    })
}

#[test]
fn the_default_profile_means_what_it_says_for_every_number() {
    let profile = profile("default.json");
    let filter = compile(&profile, None).unwrap();
    let firsts = [0, 1, 8, 38, 39, 40, 41, 0x20000, 0x20008, 0x0200_0000, 0x7e02_0000, 0x1000_0000, 0xffff_ffff];
    for (scmp, arch, bit) in [(ScmpArch::X8664, X86_64, 0), (ScmpArch::X32, X86_64, X32_BIT), (ScmpArch::X86, X86, 0)] {
        let named = |(_, name)| ScmpSyscall::from_name_by_arch(name, scmp).map_or(-1, i32::from);
        let newest = rules::syscalls(&profile).map(named).max().unwrap() as u32;
        for number in (0..700).chain([0x3fff_ffff]).map(|number| number | bit) {
            let name = ScmpSyscall::from(number as i32).get_name_by_arch(scmp).unwrap_or_default();
            // 32-bit x86 reaches socket(2) through socketcall(2) as well, where libseccomp cannot see its arguments.
            if scmp == ScmpArch::X86 && (name == "socket" || name == "socketcall") {
                continue;
            }
            for first in firsts {
                let args = [first, 2, 3, 4, 5, 6];
                let verdict = run(&filter.program, &Call { arch, number, args }).0;
                let expected = if number > newest { errno(libc::ENOSYS) } else { expected(&profile, &name, &args) };
                assert_eq!(verdict, expected, "{scmp:?} {number:#x} {name} ({first:#x})");
            }
        }
    }
}

/// libseccomp's plain list of the same rules, as a second opinion on its tree.
fn linear(profile: &LinuxSeccomp) -> Vec<SockFilter> {
    let mut filter: ScmpFilterContext = rules::filter(profile).unwrap();
    rules::add_rules(&mut filter, profile).unwrap();
    rules::export(&filter).unwrap()
}

#[test]
fn the_tree_decides_as_the_list_does_in_fewer_steps() {
    let profile = profile("default.json");
    let (tree, list) = (rules::program(&profile).unwrap(), linear(&profile));
    let (mut most, mut most_in_list) = (0, 0);
    for (arch, bit) in [(X86_64, 0), (X86_64, X32_BIT), (X86, 0), (AARCH64, 0)] {
        for number in 0..700 {
            for first in [0, 39, 40, 0x0200_0000] {
                let call = Call { arch, number: number | bit, args: [first, 0, 0, 0, 0, 0] };
                let ((verdict, steps), (in_list, list_steps)) = (run(&tree, &call), run(&list, &call));
                assert_eq!(verdict, in_list, "{call:x?}");
                (most, most_in_list) = (most.max(steps), most_in_list.max(list_steps));
            }
        }
    }
    assert!(most <= 40 && most_in_list > 300, "{most} steps in the tree, {most_in_list} in the list");
}

#[test]
#[ignore = "prints figures"]
fn figures_of_the_default_profile() {
    let profile = profile("default.json");
    let start = std::time::Instant::now();
    let filter = compile(&profile, None).unwrap();
    let took = start.elapsed();
    let stub = enosys::stub(&profile).len();
    println!("{} instructions, {stub} of them the stub, compiled in {took:?}", filter.program.len());
    println!("{} instructions as a list", linear(&profile).len());
    for (name, arch, bit) in [("x86_64", X86_64, 0), ("x32", X86_64, X32_BIT), ("x86", X86, 0)] {
        let steps = |number| run(&filter.program, &Call { arch, number: number | bit, args: [0; 6] }).1;
        let all: Vec<usize> = (0..450).map(steps).collect();
        let mean = all.iter().sum::<usize>() as f64 / all.len() as f64;
        println!("{name}: {mean:.1} steps on average, {:?} at most", all.iter().max());
    }
}
