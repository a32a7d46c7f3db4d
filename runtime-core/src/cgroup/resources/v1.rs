//! `linux.resources` in the files of cgroup v1, kernel Documentation/admin-guide/cgroup-v1.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{Error, Setting, huge_pages, nonzero, of_one_line, pids_max, rdma, throttles};

/// The kernel clamps what is outside, silently; the request is refused instead.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Everything but the device rules.
pub(in crate::cgroup) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, Error> {
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(Error::UnifiedOnV1);
    }
    let mut settings = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpuset(cpu, &mut settings);
    }
    if let Some(memory) = resources.memory() {
        self::memory(memory, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        self::cpu(cpu, &mut settings)?;
    }
    if let Some(pids) = resources.pids() {
        settings.push(Setting::new("pids", "pids.max", pids_max(pids)));
    }
    if let Some(block_io) = resources.block_io() {
        blkio(block_io, &mut settings);
    }
    settings.extend(huge_pages(resources, "limit_in_bytes")?);
    if let Some(network) = resources.network() {
        if let Some(class) = nonzero(network.class_id()) {
            settings.push(Setting::new("net_cls", "net_cls.classid", class));
        }
        for priority in network.priorities().iter().flatten() {
            let line = format!("{} {}", priority.name(), priority.priority());
            settings.push(Setting::new("net_prio", "net_prio.ifpriomap", line));
        }
    }
    settings.extend(rdma(resources));
    of_one_line(settings)
}

fn cpuset(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            settings.push(Setting::new("cpuset", file, value));
        }
    }
}

fn memory(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let limit = nonzero(memory.limit());
    let swap = nonzero(memory.swap());
    if let Some(limit) = limit {
        // memsw must never be below the limit: raised first, or lowered last.
        settings.push(Setting::new("memory", "memory.limit_in_bytes", limit).or_later());
    }
    match (limit, swap) {
        (_, Some(swap)) => {
            settings.push(Setting::new("memory", "memory.memsw.limit_in_bytes", swap));
        }
        // No limit on memory and no word on swap: no limit on swap, if it is accounted at all.
        (Some(-1), None) => settings.push(Setting::new("memory", "memory.memsw.limit_in_bytes", -1).if_present()),
        _ => {}
    }
    if let Some(reservation) = nonzero(memory.reservation()) {
        settings.push(Setting::new("memory", "memory.soft_limit_in_bytes", reservation));
    }
    // `kernel`, `kernelTCP` and `useHierarchy` are ignored, as runc does: gone from kernels since 5.4, 5.16 and 5.11.
    if memory.disable_oom_killer() == Some(true) {
        settings.push(Setting::new("memory", "memory.oom_control", 1));
    }
    match memory.swappiness() {
        None | Some(u64::MAX) => {} // -1, written by clients that have no null
        Some(value @ 0..=100) => {
            settings.push(Setting::new("memory", "memory.swappiness", value));
        }
        Some(value) => {
            return Err(Error::OutOfRange { what: "memory.swappiness", value, least: 0, most: 100 });
        }
    }
    Ok(())
}

fn cpu(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut push = |file, value: String| settings.push(Setting::new("cpu", file, value));
    if let Some(shares) = nonzero(cpu.shares()) {
        if !SHARES.contains(&shares) {
            let (least, most) = (*SHARES.start(), *SHARES.end());
            return Err(Error::OutOfRange { what: "cpu.shares", value: shares, least, most });
        }
        push("cpu.shares", shares.to_string());
    }
    // A period is checked against the quota in force, a burst against both.
    if let Some(period) = nonzero(cpu.period()) {
        settings.push(Setting::new("cpu", "cpu.cfs_period_us", period).or_later());
    }
    if let Some(burst) = cpu.burst() {
        // Since Linux 5.14.
        settings.push(Setting::new("cpu", "cpu.cfs_burst_us", burst).or_later().if_present());
    }
    if let Some(quota) = nonzero(cpu.quota()) {
        settings.push(Setting::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(idle) = cpu.idle() {
        settings.push(Setting::new("cpu", "cpu.idle", idle));
    }
    if let Some(period) = nonzero(cpu.realtime_period()) {
        settings.push(Setting::new("cpu", "cpu.rt_period_us", period).or_later());
    }
    if let Some(runtime) = nonzero(cpu.realtime_runtime()) {
        settings.push(Setting::new("cpu", "cpu.rt_runtime_us", runtime));
    }
    Ok(())
}

fn blkio(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) {
    // CFQ had blkio.weight; since Linux 5.0 only BFQ has weights, under its own name.
    if let Some(weight) = nonzero(block_io.weight()) {
        let setting = Setting::new("blkio", "blkio.weight", weight);
        settings.push(setting.or_else("blkio.bfq.weight", weight));
    }
    if let Some(weight) = nonzero(block_io.leaf_weight()) {
        settings.push(Setting::new("blkio", "blkio.leaf_weight", weight));
    }
    for device in block_io.weight_device().iter().flatten() {
        let at = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = nonzero(device.weight()) {
            let line = format!("{at} {weight}");
            let setting = Setting::new("blkio", "blkio.weight_device", &line);
            settings.push(setting.or_else("blkio.bfq.weight_device", &line));
        }
        if let Some(weight) = nonzero(device.leaf_weight()) {
            let line = format!("{at} {weight}");
            settings.push(Setting::new("blkio", "blkio.leaf_weight_device", line));
        }
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device()),
    ] {
        for (major, minor, rate) in throttles(devices) {
            settings.push(Setting::new("blkio", file, format!("{major}:{minor} {rate}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{resources, written};
    use super::*;

    fn lines(json: &str) -> Vec<String> {
        written(&settings(&resources(json)).unwrap())
    }

    #[test]
    fn nothing_asked_is_nothing_written() {
        assert!(lines("{}").is_empty());
        assert!(
            lines(
                r#"{"memory":{"limit":0,"swap":0,"reservation":0,"disableOOMKiller":false},
                    "cpu":{"shares":0,"quota":0,"period":0,"cpus":"","realtimePeriod":0},
                    "network":{"classID":0},"blockIO":{"weight":0}}"#
            )
            .is_empty()
        );
    }

    #[test]
    fn kubernetes_container_is_a_write_for_each_limit() {
        let json = r#"{"memory":{"limit":104857600,"swap":104857600},
            "cpu":{"shares":204,"quota":20000,"period":100000},"pids":{"limit":100}}"#;
        assert_eq!(
            lines(json),
            [
                "memory.limit_in_bytes=104857600",
                "memory.memsw.limit_in_bytes=104857600",
                "cpu.shares=204",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=20000",
                "pids.max=100",
            ]
        );
    }

    #[test]
    fn values_checked_against_neighbours_may_come_later() {
        let json = r#"{"memory":{"limit":1,"swap":2},"cpu":{"period":3,"quota":4,"burst":5}}"#;
        let settings = settings(&resources(json)).unwrap();
        let later: Vec<_> = settings.iter().filter(|s| s.later).map(|s| s.file.as_ref()).collect();
        assert_eq!(later, ["memory.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_burst_us"]);
    }

    #[test]
    fn unlimited_memory_takes_swap_along() {
        let expected = ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"];
        assert_eq!(lines(r#"{"memory":{"limit":-1}}"#), expected);
    }

    #[test]
    fn pids_limit_zero_is_one_and_negative_is_max() {
        assert_eq!(lines(r#"{"pids":{"limit":0}}"#), ["pids.max=1"]);
        assert_eq!(lines(r#"{"pids":{"limit":-1}}"#), ["pids.max=max"]);
    }

    #[test]
    fn shares_and_swappiness_outside_of_their_range_are_refused() {
        for json in [r#"{"cpu":{"shares":1}}"#, r#"{"cpu":{"shares":262145}}"#, r#"{"memory":{"swappiness":101}}"#] {
            let result = settings(&resources(json));
            assert!(matches!(result, Err(Error::OutOfRange { .. })), "{json}");
        }
        assert!(lines(r#"{"memory":{"swappiness":18446744073709551615}}"#).is_empty());
    }

    #[test]
    fn unified_is_refused() {
        let result = settings(&resources(r#"{"unified":{"memory.high":"1"}}"#));
        assert!(matches!(result, Err(Error::UnifiedOnV1)));
        assert!(lines(r#"{"unified":{}}"#).is_empty());
    }

    #[test]
    fn devices_and_networks_have_their_lines() {
        let json = r#"{"blockIO":{"weight":500,"leafWeight":300,
              "weightDevice":[{"major":8,"minor":0,"weight":400,"leafWeight":200}],
              "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],
              "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":2}]},
            "network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":4096}],
            "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"mlx4_0":{"hcaObjects":1}}}"#;
        assert_eq!(
            lines(json),
            [
                "blkio.weight=500",
                "blkio.leaf_weight=300",
                "blkio.weight_device=8:0 400",
                "blkio.leaf_weight_device=8:0 200",
                "blkio.throttle.read_bps_device=8:0 1",
                "blkio.throttle.write_iops_device=8:16 2",
                "hugetlb.2MB.limit_in_bytes=4096",
                "hugetlb.2MB.rsvd.limit_in_bytes=4096",
                "net_cls.classid=1048577",
                "net_prio.ifpriomap=eth0 5",
                "rdma.max=mlx4_0 hca_object=1",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=10",
            ]
        );
    }
}
