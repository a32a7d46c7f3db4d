//! `linux.resources` in the files of cgroup v2, kernel Documentation/admin-guide/cgroup-v2.rst.
//! OCI speaks in v1's units; the conversions are runc's, so that a container gets the same either way.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use super::{Error, Setting, huge_pages, nonzero, of_one_line, pids_max, rdma, throttles};
use crate::cgroup::layout::Controller;

/// The kernel's default, for a quota that comes without a period.
const DEFAULT_PERIOD: u64 = 100_000;

/// Everything but the device rules. Swappiness, the oom killer's switch and leaf weights have no
/// place on v2 and are passed over, as runc does; what would be a limit and cannot be one is refused.
pub(in crate::cgroup) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    if let Some(pids) = resources.pids() {
        settings.push(Setting::new("pids", "pids.max", pids_max(pids)));
    }
    if let Some(memory) = resources.memory() {
        self::memory(memory, &mut settings)?;
    }
    if let Some(block_io) = resources.block_io() {
        io(block_io, &mut settings);
    }
    if let Some(cpu) = resources.cpu() {
        self::cpu(cpu, &mut settings)?;
    }
    settings.extend(huge_pages(resources, "max")?);
    settings.extend(rdma(resources));
    if let Some(network) = resources.network() {
        self::network(network)?;
    }
    unified(resources, &mut settings)?;
    of_one_line(settings)
}

fn memory(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let limit = nonzero(memory.limit());
    if let Some(value) = swap_max(limit, nonzero(memory.swap()))? {
        let none_or_all = value == "max" || value == "0";
        let setting = Setting::new("memory", "memory.swap.max", value);
        // Without swap accounting there is none to give or to take.
        settings.push(if none_or_all { setting.if_present() } else { setting });
    }
    if let Some(limit) = limit {
        settings.push(Setting::new("memory", "memory.max", max_if_minus_one(limit)));
    }
    if let Some(reservation) = nonzero(memory.reservation()) {
        settings.push(Setting::new("memory", "memory.low", max_if_minus_one(reservation)));
    }
    Ok(())
}

/// v1 limits memory and swap together, v2 each: the difference. Both arguments are `None` if unset.
fn swap_max(limit: Option<i64>, swap: Option<i64>) -> Result<Option<String>, Error> {
    match (limit, swap) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some("max".to_owned())),
        (_, None) => Ok(None),
        (Some(-1), Some(swap)) => Ok(Some(swap.to_string())),
        (Some(limit), Some(swap)) if 0 < limit && limit <= swap => Ok(Some((swap - limit).to_string())),
        (limit, Some(swap)) => Err(Error::Swap { swap, limit }),
    }
}

fn max_if_minus_one(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

fn cpu(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), Error> {
    if nonzero(cpu.realtime_runtime()).is_some() || nonzero(cpu.realtime_period()).is_some() {
        return Err(Error::OnlyV1 { what: "realtime cpu limits" });
    }
    if let Some(idle) = cpu.idle() {
        settings.push(Setting::new("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = nonzero(cpu.shares()) {
        settings.push(Setting::new("cpu", "cpu.weight", weight(shares)));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(Setting::new("cpu", "cpu.max.burst", burst).or_later());
    }
    let (quota, period) = (nonzero(cpu.quota()), nonzero(cpu.period()));
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |q| q.to_string());
        let period = period.unwrap_or(DEFAULT_PERIOD);
        settings.push(Setting::new("cpu", "cpu.max", format!("{quota} {period}")));
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            settings.push(Setting::new("cpuset", file, value));
        }
    }
    Ok(())
}

/// `cpu.weight` (1…10000, default 100) for `cpu.shares` (2…262144, default 1024): the quadratic in
/// log2 that maps least, most and default onto each other. opencontainers/cgroups 0.0.5
fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn io(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    // BFQ counts as v1 did; io.weight has its own scale.
    if let Some(weight) = nonzero(block_io.weight()) {
        let setting = Setting::new("io", "io.bfq.weight", weight);
        settings.push(setting.or_else("io.weight", io_weight(weight)));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = nonzero(device.weight()) {
            let at = format!("{}:{}", device.major(), device.minor());
            let setting = Setting::new("io", "io.bfq.weight", format!("{at} {weight}"));
            let other = format!("{at} {}", io_weight(weight));
            settings.push(setting.or_else("io.weight", other));
        }
    }
    for (key, devices) in [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ] {
        for (major, minor, rate) in throttles(devices) {
            settings.push(Setting::new("io", "io.max", format!("{major}:{minor} {key}={rate}")));
        }
    }
}

/// 10…1000 onto 1…10000, linearly.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

fn network(network: &LinuxNetwork) -> Result<(), Error> {
    let priorities = network.priorities().as_ref().is_some_and(|list| !list.is_empty());
    if nonzero(network.class_id()).is_some() || priorities {
        return Err(Error::OnlyV1 { what: "network class and priorities" });
    }
    Ok(())
}

fn unified(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    for (file, value) in files {
        let is_name = file.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        let prefix = file.split_once('.').filter(|_| is_name).map(|(name, _)| name);
        let Some(controller) = prefix.and_then(controller) else {
            return Err(Error::UnifiedName { file: file.clone() });
        };
        // Files with a line for each device take one line at a time.
        for line in value.lines() {
            settings.push(Setting::new(controller, file.clone(), line));
        }
    }
    Ok(())
}

/// The controller that a file name begins with.
fn controller(prefix: &str) -> Option<Controller> {
    const KNOWN: [Controller; 12] =
        ["cgroup", "cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc", "dmem", "irq", "perf_event"];
    KNOWN.into_iter().find(|known| *known == prefix)
}

#[cfg(test)]
mod tests {
    use super::super::{resources, written};
    use super::*;

    fn lines(json: &str) -> Vec<String> {
        written(&settings(&resources(json)).unwrap())
    }

    #[test]
    fn kubernetes_container_is_a_write_for_each_limit() {
        let json = r#"{"memory":{"limit":100,"swap":150,"reservation":50},
            "cpu":{"shares":1024,"quota":20000,"period":50000,"cpus":"0-1","mems":"0"},
            "pids":{"limit":0}}"#;
        assert_eq!(
            lines(json),
            [
                "pids.max=1",
                "memory.swap.max=50",
                "memory.max=100",
                "memory.low=50",
                "cpu.weight=100",
                "cpu.max=20000 50000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
            ]
        );
    }

    #[test]
    fn shares_map_least_default_and_most_exactly() {
        for (shares, expected) in [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (1 << 20, 10_000), (204, 29)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn swap_is_the_difference() {
        assert_eq!(swap_max(Some(100), Some(100)).unwrap().unwrap(), "0");
        assert_eq!(swap_max(Some(100), Some(-1)).unwrap().unwrap(), "max");
        assert_eq!(swap_max(Some(-1), None).unwrap().unwrap(), "max");
        assert_eq!(swap_max(Some(-1), Some(7)).unwrap().unwrap(), "7");
        assert_eq!(swap_max(Some(100), None).unwrap(), None);
        assert!(matches!(swap_max(None, Some(7)), Err(Error::Swap { .. })));
        assert!(matches!(swap_max(Some(100), Some(99)), Err(Error::Swap { .. })));
    }

    #[test]
    fn quota_or_period_alone_are_completed() {
        assert_eq!(lines(r#"{"cpu":{"quota":5}}"#), ["cpu.max=5 100000"]);
        assert_eq!(lines(r#"{"cpu":{"period":7}}"#), ["cpu.max=max 7"]);
        assert_eq!(lines(r#"{"cpu":{"quota":-1,"period":7}}"#), ["cpu.max=max 7"]);
    }

    #[test]
    fn weights_without_bfq_are_converted() {
        let all = settings(&resources(r#"{"blockIO":{"weight":1000}}"#)).unwrap();
        assert_eq!(all, [Setting::new("io", "io.bfq.weight", 1000).or_else("io.weight", 10000)]);
        assert_eq!((io_weight(10), io_weight(500)), (1, 4950));
    }

    #[test]
    fn unified_is_written_line_by_line_in_name_order() {
        let json = r#"{"unified":{"memory.high":"5","io.max":"8:0 rbps=1\n8:16 wbps=2"}}"#;
        assert_eq!(lines(json), ["io.max=8:0 rbps=1", "io.max=8:16 wbps=2", "memory.high=5"]);
    }

    #[test]
    fn unified_names_must_be_files_of_a_controller() {
        for name in ["../x.max", "memory/max", "nonsense", "unknown.max", "memory.max\\u0000", "memory.max\\n"] {
            let json = format!(r#"{{"unified":{{"{name}":"1"}}}}"#);
            let result = settings(&resources(&json));
            assert!(matches!(result, Err(Error::UnifiedName { .. })), "{name}");
        }
    }

    #[test]
    fn what_only_v1_can_limit_is_refused() {
        for json in [r#"{"network":{"classID":1}}"#, r#"{"cpu":{"realtimeRuntime":1}}"#] {
            assert!(matches!(settings(&resources(json)), Err(Error::OnlyV1 { .. })), "{json}");
        }
        assert!(lines(r#"{"network":{"classID":0},"cpu":{"realtimePeriod":0}}"#).is_empty());
    }
}
