//! `io.containerd.cgroups.v1.Metrics`, and the files of cgroup v1 that it comes from.
#![allow(missing_docs, reason = "fields are the message's, metrics.proto")]

use std::collections::BTreeMap;

use super::{Keyed, RdmaStat, huge_page_sizes, number, rdma, required, text};
use crate::cgroup::Error;
use crate::cgroup::dir::Dir;
use crate::cgroup::layout::Controller;

/// What is `None` has no controller on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub hugetlb: Vec<HugetlbStat>,
    pub pids: Option<PidsStat>,
    pub cpu: CpuStat,
    pub memory: Option<MemoryStat>,
    pub blkio: Option<BlkIoStat>,
    pub rdma: Option<RdmaStat>,
    pub memory_oom_control: Option<MemoryOomControl>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugetlbStat {
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
    pub pagesize: String,
}

/// Without a limit `limit` is 0, as containerd has it on v1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsStat {
    pub current: u64,
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    pub usage: CpuUsage,
    pub throttling: Throttle,
}

/// In nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
    pub per_cpu: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    pub cache: u64,
    pub rss: u64,
    pub rss_huge: u64,
    pub mapped_file: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub pg_pg_in: u64,
    pub pg_pg_out: u64,
    pub pg_fault: u64,
    pub pg_maj_fault: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub hierarchical_memory_limit: u64,
    pub hierarchical_swap_limit: u64,
    pub total_cache: u64,
    pub total_rss: u64,
    pub total_rss_huge: u64,
    pub total_mapped_file: u64,
    pub total_dirty: u64,
    pub total_writeback: u64,
    pub total_pg_pg_in: u64,
    pub total_pg_pg_out: u64,
    pub total_pg_fault: u64,
    pub total_pg_maj_fault: u64,
    pub total_inactive_anon: u64,
    pub total_active_anon: u64,
    pub total_inactive_file: u64,
    pub total_active_file: u64,
    pub total_unevictable: u64,
    pub usage: MemoryEntry,
    pub swap: MemoryEntry,
    pub kernel: MemoryEntry,
    pub kernel_tcp: MemoryEntry,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryOomControl {
    pub oom_kill_disable: u64,
    pub under_oom: u64,
    pub oom_kill: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkIoStat {
    pub io_service_bytes_recursive: Vec<BlkIoEntry>,
    pub io_serviced_recursive: Vec<BlkIoEntry>,
    pub io_queued_recursive: Vec<BlkIoEntry>,
    pub io_service_time_recursive: Vec<BlkIoEntry>,
    pub io_wait_time_recursive: Vec<BlkIoEntry>,
    pub io_merged_recursive: Vec<BlkIoEntry>,
    pub io_time_recursive: Vec<BlkIoEntry>,
    pub sectors_recursive: Vec<BlkIoEntry>,
}

/// `device` is its path, empty if the host does not know it; `op` is `Read`, `Write`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkIoEntry {
    pub op: String,
    pub device: String,
    pub major: u64,
    pub minor: u64,
    pub value: u64,
}

/// Linux reports times to user space in this unit, on all architectures that run containers.
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// Reads everything; `dir_of` finds a controller's directory.
pub(in crate::cgroup) fn read<'a>(dir_of: impl Fn(Controller) -> Option<&'a Dir>) -> Result<Metrics, Error> {
    let mut metrics = Metrics::default();
    if let Some(dir) = dir_of("hugetlb") {
        metrics.hugetlb = hugetlb(dir)?;
    }
    if let Some(dir) = dir_of("pids") {
        let current = number(dir, "pids.current", 0)?;
        metrics.pids = Some(PidsStat { current, limit: number(dir, "pids.max", 0)? });
    }
    if let Some(dir) = dir_of("cpu") {
        metrics.cpu.throttling = throttling(&required(dir, "cpu.stat")?);
    }
    if let Some(dir) = dir_of("cpuacct") {
        metrics.cpu.usage = cpu_usage(dir)?;
    }
    if let Some(dir) = dir_of("memory") {
        let mut memory = memory_stat(&required(dir, "memory.stat")?);
        memory.usage = memory_entry(dir, "memory")?;
        memory.swap = memory_entry(dir, "memory.memsw")?;
        memory.kernel = memory_entry(dir, "memory.kmem")?;
        memory.kernel_tcp = memory_entry(dir, "memory.kmem.tcp")?;
        metrics.memory = Some(memory);
        metrics.memory_oom_control = Some(oom_control(&required(dir, "memory.oom_control")?));
    }
    if let Some(dir) = dir_of("blkio") {
        metrics.blkio = Some(blkio(dir)?);
    }
    if let Some(dir) = dir_of("rdma") {
        metrics.rdma = rdma(dir)?;
    }
    Ok(metrics)
}

fn hugetlb(dir: &Dir) -> Result<Vec<HugetlbStat>, Error> {
    let stat = |pagesize: String| {
        let value = |what: &str| number(dir, &format!("hugetlb.{pagesize}.{what}"), 0);
        Ok(HugetlbStat {
            usage: value("usage_in_bytes")?,
            max: value("max_usage_in_bytes")?,
            failcnt: value("failcnt")?,
            pagesize,
        })
    };
    huge_page_sizes().into_iter().map(stat).collect()
}

fn throttling(text: &str) -> Throttle {
    let stat = Keyed::parse(text);
    Throttle {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
    }
}

fn cpu_usage(dir: &Dir) -> Result<CpuUsage, Error> {
    let text = required(dir, "cpuacct.stat")?;
    let stat = Keyed::parse(&text);
    let per_cpu = required(dir, "cpuacct.usage_percpu")?;
    Ok(CpuUsage {
        total: number(dir, "cpuacct.usage", 0)?,
        kernel: stat.get("system").saturating_mul(NANOSECONDS_PER_TICK),
        user: stat.get("user").saturating_mul(NANOSECONDS_PER_TICK),
        per_cpu: per_cpu.split_whitespace().filter_map(|value| value.parse().ok()).collect(),
    })
}

fn memory_stat(text: &str) -> MemoryStat {
    let stat = Keyed::parse(text);
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        ..MemoryStat::default()
    }
}

/// Swap and kernel memory may not be accounted: zeros.
fn memory_entry(dir: &Dir, prefix: &str) -> Result<MemoryEntry, Error> {
    let value = |what: &str| number(dir, &format!("{prefix}.{what}"), 0);
    Ok(MemoryEntry {
        limit: value("limit_in_bytes")?,
        usage: value("usage_in_bytes")?,
        max: value("max_usage_in_bytes")?,
        failcnt: value("failcnt")?,
    })
}

fn oom_control(text: &str) -> MemoryOomControl {
    let control = Keyed::parse(text);
    MemoryOomControl {
        oom_kill_disable: control.get("oom_kill_disable"),
        under_oom: control.get("under_oom"),
        oom_kill: control.get("oom_kill"),
    }
}

/// CFQ's files, on kernels and disks that still have it; else what the throttling layer counted.
fn blkio(dir: &Dir) -> Result<BlkIoStat, Error> {
    let mut names = None;
    let mut entries = |file: &str| -> Result<Vec<BlkIoEntry>, Error> {
        let mut entries = parse_blkio(&text(dir, file)?.unwrap_or_default());
        if !entries.is_empty() {
            // Read only for a container that did any input or output.
            let names = names.get_or_insert_with(device_names);
            for entry in &mut entries {
                entry.device = names.get(&(entry.major, entry.minor)).cloned().unwrap_or_default();
            }
        }
        Ok(entries)
    };
    let mut stat = BlkIoStat::default();
    if dir.has("blkio.io_serviced_recursive") {
        stat = BlkIoStat {
            io_service_bytes_recursive: entries("blkio.io_service_bytes_recursive")?,
            io_serviced_recursive: entries("blkio.io_serviced_recursive")?,
            io_queued_recursive: entries("blkio.io_queued_recursive")?,
            io_service_time_recursive: entries("blkio.io_service_time_recursive")?,
            io_wait_time_recursive: entries("blkio.io_wait_time_recursive")?,
            io_merged_recursive: entries("blkio.io_merged_recursive")?,
            io_time_recursive: entries("blkio.time_recursive")?,
            sectors_recursive: entries("blkio.sectors_recursive")?,
        };
    }
    if stat == BlkIoStat::default() {
        stat.io_serviced_recursive = entries("blkio.throttle.io_serviced")?;
        stat.io_service_bytes_recursive = entries("blkio.throttle.io_service_bytes")?;
    }
    Ok(stat)
}

/// Lines like `8:0 Read 1282048` or `8:0 6792`; the sum over all devices, `Total 0`, is left out.
fn parse_blkio(text: &str) -> Vec<BlkIoEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let rest: Vec<&str> = fields.collect();
        let (op, value) = match rest[..] {
            [value] => ("", value),
            [op, value] => (op, value),
            _ => return None,
        };
        Some(BlkIoEntry {
            op: op.to_owned(),
            device: String::new(),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn device_names() -> BTreeMap<(u64, u64), String> {
    parse_partitions(&std::fs::read_to_string("/proc/partitions").unwrap_or_default())
}

/// `major minor blocks name`, after a heading. The first name of a device counts.
fn parse_partitions(text: &str) -> BTreeMap<(u64, u64), String> {
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [major, minor, _, name] = fields[..]
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            names.entry((major, minor)).or_insert_with(|| format!("/dev/{name}"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkio_lines_are_read_without_the_total() {
        let entries = parse_blkio("8:0 Read 12\n8:0 Total 12\n8:16 6792\nTotal 12\n");
        assert_eq!(entries.len(), 3);
        assert_eq!((entries[0].op.as_str(), entries[0].value), ("Read", 12));
        assert_eq!((entries[2].op.as_str(), entries[2].minor, entries[2].value), ("", 16, 6792));
    }

    #[test]
    fn partitions_name_devices() {
        let names = parse_partitions("major minor  #blocks  name\n\n 254  0  1024 vda\n 254  1  512 vda1\n");
        assert_eq!(names.get(&(254, 1)).unwrap(), "/dev/vda1");
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn memory_is_read_by_the_kernel_s_names() {
        let stat = memory_stat("cache 1\npgpgin 2\nhierarchical_memsw_limit 3\ntotal_pgmajfault 4\n");
        assert_eq!((stat.cache, stat.pg_pg_in, stat.hierarchical_swap_limit), (1, 2, 3));
        assert_eq!(stat.total_pg_maj_fault, 4);
    }
}
