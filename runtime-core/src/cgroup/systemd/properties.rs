//! What systemd is told of a scope: its limits as properties, decided here without a call to anybody. The limits are also
//! written to the cgroup's files, since systemd knows but some of them; told they must be, or the next time systemd looks at
//! the unit (`systemctl daemon-reload`) it writes its own idea over them. org.freedesktop.systemd1(5),
//! systemd.resource-control(5)

use oci_spec::runtime::LinuxResources;
use rustbus::{Marshal, Signature};

use super::Unit;
use crate::cgroup::devices::Rules;
use crate::cgroup::resources::Setting;

/// What a property may be, as D-Bus has it: a variant.
#[derive(Clone, Debug, PartialEq, Eq, Marshal, Signature)]
pub(in crate::cgroup) enum Value {
    Bool(bool),
    Number(u64),
    Text(String),
    Pids(Vec<u32>),
    Bytes(Vec<u8>),
    /// Device and access.
    Devices(Vec<(String, String)>),
}

pub(in crate::cgroup) type Property = (&'static str, Value);

/// systemd's infinity.
const INFINITY: u64 = u64::MAX;
/// One percent of a second, the step in which systemd keeps a quota.
const PERCENT: u128 = 10_000;
/// The kernel's default.
const PERIOD: u64 = 100_000;

/// Since when systemd has what: versions by its NEWS.
const QUOTA_PERIOD: u32 = 242;
const CPUSETS: u32 = 244;
const IDLE: u32 = 252;
const SCOPE_OOM_POLICY: u32 = 253;

/// What makes a scope out of a process. Everything below it is ours to arrange (Delegate), and it is forgotten when it ends,
/// however it ends.
pub(super) fn of_scope(unit: &Unit, pid: u32) -> Vec<Property> {
    let text = |text: &str| Value::Text(text.to_owned());
    vec![
        ("Description", Value::Text(format!("container {}", unit.name))),
        ("Slice", text(&unit.slice)),
        ("PIDs", Value::Pids(vec![pid])),
        ("Delegate", Value::Bool(true)),
        ("DefaultDependencies", Value::Bool(false)),
        ("CollectMode", text("inactive-or-failed")),
        ("MemoryAccounting", Value::Bool(true)),
        ("CPUAccounting", Value::Bool(true)),
        ("TasksAccounting", Value::Bool(true)),
    ]
}

/// Accounting of input and output, which has a name on each version of cgroups.
pub(super) fn io_accounting(v2: bool) -> Property {
    (if v2 { "IOAccounting" } else { "BlockIOAccounting" }, Value::Bool(true))
}

/// What of the settings systemd of this version knows.
pub(super) fn of_limits(settings: &[Setting], systemd: u32) -> Vec<Property> {
    let value = |file: &str| settings.iter().rfind(|setting| setting.file == file).map(|setting| setting.value.trim());
    let idle = systemd >= IDLE && value("cpu.idle") == Some("1");
    let mut properties = Vec::new();
    for (file, name) in [
        ("memory.limit_in_bytes", "MemoryLimit"),
        ("memory.max", "MemoryMax"),
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.min", "MemoryMin"),
        ("memory.swap.max", "MemorySwapMax"),
        ("cpu.shares", "CPUShares"),
        ("cpu.weight", "CPUWeight"),
        ("blkio.weight", "BlockIOWeight"),
        ("pids.max", "TasksMax"),
    ] {
        if let Some(number) = value(file).and_then(number).filter(|_| !(idle && name == "CPUWeight")) {
            properties.push((name, Value::Number(number)));
        }
    }
    if idle {
        // Zero is how systemd says idle; the weight would take that back.
        properties.push(("CPUWeight", Value::Number(0)));
    }
    let v2 = value("cpu.max").map(|max| max.split_once(' ').unwrap_or((max, "")));
    let quota = v2.map(|(quota, _)| quota).or_else(|| value("cpu.cfs_quota_us")).and_then(number);
    let period = v2.map(|(_, period)| period).or_else(|| value("cpu.cfs_period_us")).and_then(number);
    properties.extend(cpu_quota(quota, period, systemd));
    for (file, name) in [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")] {
        if let Some(bits) = value(file).and_then(bits).filter(|_| systemd >= CPUSETS) {
            properties.push((name, Value::Bytes(bits)));
        }
    }
    properties
}

/// Which devices may be used, where systemd has words for it.
pub(super) fn of_devices(rules: &Rules) -> Vec<Property> {
    let (policy, list) = match rules.systemd() {
        Some(list) => ("strict", list),
        None => ("auto", Vec::new()),
    };
    vec![("DevicePolicy", Value::Text(policy.to_owned())), ("DeviceAllow", Value::Devices(list))]
}

/// What can be said of a scope only when it starts.
pub(super) fn at_start(settings: &[Setting], systemd: u32) -> Option<Property> {
    let group = settings.iter().rfind(|setting| setting.file == "memory.oom.group")?;
    let policy = match group.value.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None,
    };
    (systemd >= SCOPE_OOM_POLICY).then(|| ("OOMPolicy", Value::Text(policy.to_owned())))
}

/// The limits with a cpu quota of whole percents, rounded up: systemd keeps no others, and two values for one thing would
/// come and go.
pub(in crate::cgroup) fn whole_percents(limits: &LinuxResources) -> LinuxResources {
    let mut limits = limits.clone();
    if let Some(mut cpu) = limits.cpu().clone()
        && let Some(quota) = cpu.quota().and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0)
    {
        let period = cpu.period().filter(|period| *period > 0).unwrap_or(PERIOD);
        let rounded = per_second(quota, period) * u128::from(period) / 1_000_000;
        cpu.set_quota(i64::try_from(rounded).ok().or(cpu.quota()));
        limits.set_cpu(Some(cpu));
    }
    limits
}

fn cpu_quota(quota: Option<u64>, period: Option<u64>, systemd: u32) -> Vec<Property> {
    let mut properties = Vec::new();
    if let Some(period) = period.filter(|_| systemd >= QUOTA_PERIOD) {
        properties.push(("CPUQuotaPeriodUSec", Value::Number(period)));
    }
    if quota.is_some() || period.is_some() {
        let period = period.filter(|period| *period > 0).unwrap_or(PERIOD);
        let quota = quota.filter(|quota| *quota != INFINITY);
        let quota = quota.and_then(|quota| u64::try_from(per_second(quota, period)).ok());
        properties.push(("CPUQuotaPerSecUSec", Value::Number(quota.unwrap_or(INFINITY))));
    }
    properties
}

/// Microseconds of processor time in a second, in whole percents.
fn per_second(quota: u64, period: u64) -> u128 {
    (u128::from(quota) * 1_000_000 / u128::from(period)).div_ceil(PERCENT) * PERCENT
}

fn number(text: &str) -> Option<u64> {
    if matches!(text, "max" | "-1") { Some(INFINITY) } else { text.parse().ok() }
}

/// `0-2,5` as bits, the lowest first. What is no such list is left for the kernel to refuse.
fn bits(list: &str) -> Option<Vec<u8>> {
    const MOST: usize = 8192;
    let mut bits = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        for bit in first..=last {
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{devices, resources};

    fn limits(json: &str) -> LinuxResources {
        whole_percents(&serde_json::from_str(json).unwrap())
    }

    fn v1(json: &str) -> Vec<Property> {
        of_limits(&resources::v1::settings(&limits(json)).unwrap(), 257)
    }

    fn v2(json: &str) -> Vec<Property> {
        of_limits(&resources::v2::settings(&limits(json)).unwrap(), 257)
    }

    fn numbers(expected: &[(&'static str, u64)]) -> Vec<Property> {
        expected.iter().map(|(name, number)| (*name, Value::Number(*number))).collect()
    }

    const POD: &str = r#"{"memory":{"limit":104857600,"swap":209715200,"reservation":52428800},
        "cpu":{"shares":1024,"quota":20000,"period":100000},"pids":{"limit":100},"blockIO":{"weight":500}}"#;

    #[test]
    fn limits_have_their_names_on_each_version() {
        let quota = [("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 200_000)];
        let expected = [("MemoryLimit", 104_857_600), ("CPUShares", 1024), ("BlockIOWeight", 500), ("TasksMax", 100)];
        assert_eq!(v1(POD), numbers(&[&expected[..], &quota].concat()));
        let memory = [("MemoryMax", 104_857_600), ("MemoryLow", 52_428_800), ("MemorySwapMax", 104_857_600)];
        let expected = [&memory[..], &[("CPUWeight", 100), ("TasksMax", 100)], &quota].concat();
        assert_eq!(v2(POD), numbers(&expected));
    }

    #[test]
    fn nothing_asked_is_nothing_told() {
        assert_eq!((v1("{}"), v2("{}")), (vec![], vec![]));
    }

    #[test]
    fn unlimited_is_systemds_infinity() {
        let expected = [("MemoryMax", INFINITY), ("MemorySwapMax", INFINITY), ("TasksMax", INFINITY)];
        assert_eq!(v2(r#"{"memory":{"limit":-1},"pids":{"limit":-1}}"#), numbers(&expected));
        let expected = [("CPUQuotaPeriodUSec", 50_000), ("CPUQuotaPerSecUSec", INFINITY)];
        assert_eq!(v2(r#"{"cpu":{"quota":-1,"period":50000}}"#), numbers(&expected));
        assert_eq!(v1(r#"{"cpu":{"quota":-1}}"#), numbers(&[("CPUQuotaPerSecUSec", INFINITY)]));
    }

    #[test]
    fn quota_is_rounded_up_to_whole_percents_in_both_places() {
        let limits = limits(r#"{"cpu":{"quota":12345,"period":100000}}"#);
        assert_eq!(limits.cpu().as_ref().unwrap().quota(), Some(13_000));
        let properties = of_limits(&resources::v2::settings(&limits).unwrap(), 241);
        assert_eq!(properties, numbers(&[("CPUQuotaPerSecUSec", 130_000)]));
    }

    #[test]
    fn idle_is_a_weight_of_zero_where_systemd_knows_it() {
        let settings = resources::v2::settings(&limits(r#"{"cpu":{"idle":1,"shares":2}}"#)).unwrap();
        assert_eq!(of_limits(&settings, 252), numbers(&[("CPUWeight", 0)]));
        assert_eq!(of_limits(&settings, 251), numbers(&[("CPUWeight", 1)]));
    }

    #[test]
    fn unified_resources_are_told_and_win() {
        let json = r#"{"memory":{"limit":100},"unified":{"memory.max":"200","memory.high":"150","memory.min":"max",
            "memory.oom.group":"1"}}"#;
        let expected = [("MemoryMax", 200), ("MemoryHigh", 150), ("MemoryMin", INFINITY)];
        assert_eq!(v2(json), numbers(&expected));
        let settings = resources::v2::settings(&limits(json)).unwrap();
        assert_eq!(at_start(&settings, 253), Some(("OOMPolicy", Value::Text("kill".to_owned()))));
        assert_eq!(at_start(&settings, 252), None);
    }

    #[test]
    fn cpusets_are_bits() {
        let json = r#"{"cpu":{"cpus":"0-2,9","mems":"0"}}"#;
        let expected = [("AllowedCPUs", Value::Bytes(vec![7, 2])), ("AllowedMemoryNodes", Value::Bytes(vec![1]))];
        assert_eq!(v2(json), expected);
        assert_eq!(bits("3-1"), None);
        assert_eq!(bits("0-99999999"), None);
    }

    #[test]
    fn devices_are_listed_by_number() {
        let json = r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"b","major":8,"minor":0,"access":"r"},{"allow":true,"type":"c","major":7,"access":"rw"}]}"#;
        let rules = devices::rules(Some(&limits(json))).unwrap();
        let properties = of_devices(&rules);
        assert_eq!(properties[0], ("DevicePolicy", Value::Text("strict".to_owned())));
        let Value::Devices(list) = &properties[1].1 else { panic!("{properties:?}") };
        for expected in [("/dev/block/8:0", "r"), ("char-7", "rw"), ("char-*", "m"), ("/dev/char/1:3", "rwm")] {
            assert!(list.iter().any(|(device, access)| (device.as_str(), access.as_str()) == expected), "{list:?}");
        }
        let rules = devices::rules(Some(&limits(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#))).unwrap();
        assert_eq!(of_devices(&rules)[0], ("DevicePolicy", Value::Text("auto".to_owned())));
    }
}
