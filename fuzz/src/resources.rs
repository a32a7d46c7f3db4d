//! `linux.resources`: an error of one line or writes that stay in the container's own cgroup, and the same every time; and
//! device rules against what their own words say, the last one that matches.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use runtime_core::cgroup::{Decided, Error};
use serde_json::{Value, json};

use crate::choices::Choices;
use crate::plan::one_line;
use crate::plan::support::mutate;

/// The interpreter that runtime-core's tests have.
#[path = "../../runtime-core/src/cgroup/devices/bpf/interpreter.rs"]
mod interpreter;

/// Everything that has a place in `linux.resources`, and it is right on v1, or on v2 without what only v1 has.
const ALL: &str = r#"{"cpu":{"shares":1024,"quota":20000,"period":100000,"burst":10,"cpus":"0-1","mems":"0","idle":0},
    "memory":{"limit":1000,"swap":2000,"reservation":500,"swappiness":60,"disableOOMKiller":true},"pids":{"limit":10},
    "blockIO":{"weight":500,"leafWeight":10,"weightDevice":[{"major":8,"minor":0,"weight":500,"leafWeight":10}],
        "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],"throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":2}]},
    "hugepageLimits":[{"pageSize":"2MB","limit":1}],"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10}},"devices":[]}"#;
const ONLY_V1: &str = r#"{"classID":1,"priorities":[{"name":"eth0","priority":5}]}"#;
const ONLY_V2: &str = r#"{"memory.high":"5","io.max":"8:0 rbps=1\n8:16 wbps=2","cpu.idle":"1","memory.oom.group":"1"}"#;

const CONTROLLERS: [&str; 17] = [
    "cgroup",
    "cpu",
    "cpuset",
    "io",
    "memory",
    "pids",
    "hugetlb",
    "rdma",
    "misc",
    "dmem",
    "irq",
    "perf_event",
    "blkio",
    "net_cls",
    "net_prio",
    "devices",
    "freezer",
];
const PROPERTIES: [&str; 17] = [
    "MemoryLimit",
    "MemoryMax",
    "MemoryHigh",
    "MemoryLow",
    "MemoryMin",
    "MemorySwapMax",
    "CPUShares",
    "CPUWeight",
    "BlockIOWeight",
    "TasksMax",
    "CPUQuotaPeriodUSec",
    "CPUQuotaPerSecUSec",
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "OOMPolicy",
    "DevicePolicy",
    "DeviceAllow",
];
/// What leads elsewhere, ends a line or a string, or means something to the kernel.
const WORDS: [&str; 12] =
    ["", ".", "..", "/", "../../x", "x/../../y", "a\nb", "a\0b", "max", "-1", "cpu.max/../../cpu.max", "2MB\n"];

/// The bytes themselves as resources, or some that are right, spoiled by them.
pub fn resources(data: &[u8]) {
    let value = match data.first() {
        Some(b'{') => serde_json::from_slice(data).unwrap_or_default(),
        _ => spoiled(&mut Choices::new(data)),
    };
    let Ok(limits) = serde_json::from_value::<LinuxResources>(value) else { return };
    let told = Decided::for_systemd(&limits);
    for systemd in [219, 257] {
        for limits in [&limits, &told] {
            check(limits, || Decided::v1(limits, systemd));
            check(limits, || Decided::v2(limits, systemd));
        }
    }
}

fn spoiled(choices: &mut Choices<'_>) -> Value {
    let mut value: Value = serde_json::from_str(ALL).unwrap();
    match choices.below(3) {
        0 => value["network"] = serde_json::from_str(ONLY_V1).unwrap(),
        1 => value["unified"] = serde_json::from_str(ONLY_V2).unwrap(),
        _ => {}
    }
    value["devices"] = (0..choices.below(6)).map(|_| rule(choices)).collect();
    match choices.below(8) {
        0 => value["hugepageLimits"][0]["pageSize"] = json!(choices.of(&WORDS)),
        1 => value["unified"] = json!({ format!("memory.{}", choices.of(&WORDS)): choices.of(&WORDS) }),
        2 => value["unified"] = json!({ choices.of(&WORDS): choices.of(&WORDS) }),
        3 => value["cpu"][choices.of(&["cpus", "mems"])] = json!(choices.of(&WORDS)),
        4 => value["rdma"] = json!({ choices.of(&WORDS): { "hcaHandles": 1 } }),
        5 => value["network"] = json!({ "priorities": [{ "name": choices.of(&WORDS), "priority": 1 }] }),
        6 => mutate(&mut value, &mut |below| choices.below(below)),
        _ => {}
    }
    value
}

/// A rule about few devices, so that rules meet.
fn rule(choices: &mut Choices<'_>) -> Value {
    let number = |choices: &mut Choices<'_>| choices.of(&[-1, 1, 3, 8, -1, i64::from(i32::MAX), 1 << 31]);
    json!({
        "allow": choices.once_in(2),
        "type": choices.of(&["a", "b", "c", "c", "b", "c", "b"]),
        "major": number(choices),
        "minor": number(choices),
        "access": choices.of(&["r", "w", "m", "rw", "rwm", "rm", "rwm", "x"]),
    })
}

fn check(limits: &LinuxResources, decide: impl Fn() -> Result<Decided, Error>) {
    let decided = match decide() {
        Ok(decided) => decided,
        Err(error) => return one_line(&error.to_string()),
    };
    assert_eq!(decide().ok().as_ref(), Some(&decided), "the same resources are decided otherwise");
    for (controller, file, value) in &decided.writes {
        assert!(
            CONTROLLERS.contains(controller) && file.starts_with(&format!("{controller}.")),
            "{controller}: {file}"
        );
        assert!(!file.contains(['/', '\n', '\0']), "{file:?} is no name of a file");
        assert!(!value.contains(['\n', '\0']), "{file}: {value:?} is more than one line");
    }
    for (file, lines) in &decided.device_lines {
        assert!(["devices.allow", "devices.deny"].contains(file), "{file}");
        lines.iter().for_each(|line| one_line(line));
    }
    for (name, value) in &decided.properties {
        assert!(PROPERTIES.contains(name), "{name}={value}");
    }
    devices(limits.devices().as_deref().unwrap_or_default(), &decided.device_program);
}

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

fn devices(rules: &[LinuxDeviceCgroup], program: &[u64]) {
    // Whether all is allowed that is not denied by name.
    let open = rules.iter().rfind(|rule| is_all(rule)).is_some_and(LinuxDeviceCgroup::allow);
    for kind in [LinuxDeviceType::B, LinuxDeviceType::C] {
        for (major, minor) in [(1, 1), (1, 3), (3, 1), (8, 8), (8, 9), (136, 8), (200, 200), (i32::MAX, 3)] {
            for access in 1..8 {
                let bits = [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0);
                // Where little is allowed, every container may make nodes.
                let expected =
                    bits.clone().all(|bit| (bit == MKNOD && !open) || allows(rules, kind, major, minor, bit));
                let number = if kind == LinuxDeviceType::B { 1 } else { 2 };
                let context = [number | access << 16, major.cast_unsigned(), minor.cast_unsigned()];
                let verdict = interpreter::run(program, context) == 1;
                // Where little is allowed, one exception must allow all that is asked for at once.
                let exact = open || bits.count() == 1;
                assert!(
                    if exact { verdict == expected } else { !verdict || expected },
                    "{context:?} {verdict} {rules:?}"
                );
            }
        }
    }
}

/// What the last rule that is about it says; the defaults for devices come after all others.
fn allows(rules: &[LinuxDeviceCgroup], kind: LinuxDeviceType, major: i32, minor: i32, access: u32) -> bool {
    let default = kind == LinuxDeviceType::C
        && matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0 | 2) | (136, _) | (10, 200));
    let is_about = |rule: &&LinuxDeviceCgroup| {
        let number = |wanted: Option<i64>, is: i32| wanted.is_none_or(|wanted| wanted == -1 || wanted == i64::from(is));
        let letter = [(MKNOD, 'm'), (READ, 'r'), (WRITE, 'w')].into_iter().find(|(bit, _)| *bit == access).unwrap().1;
        let named = rule.typ() == Some(kind) && number(rule.major(), major) && number(rule.minor(), minor);
        is_all(rule) || (named && rule.access().as_ref().is_some_and(|access| access.contains(letter)))
    };
    default || rules.iter().rfind(is_about).is_some_and(LinuxDeviceCgroup::allow)
}

fn is_all(rule: &LinuxDeviceCgroup) -> bool {
    matches!(rule.typ(), None | Some(LinuxDeviceType::A))
}
