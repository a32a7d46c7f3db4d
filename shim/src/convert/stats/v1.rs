//! `io.containerd.cgroups.v1.Metrics`.

use containerd_shim_protos::cgroups::metrics::*;
use runtime_core::cgroup::stats::{self, v1};

pub fn metrics(from: &v1::Metrics) -> Metrics {
    Metrics {
        hugetlb: from.hugetlb.iter().map(|from| message!(HugetlbStat from from, usage max failcnt pagesize)).collect(),
        pids: from.pids.as_ref().map(|from| message!(PidsStat from from, current limit)).into(),
        cpu: Some(cpu(&from.cpu)).into(),
        memory: from.memory.as_ref().map(memory).into(),
        blkio: from.blkio.as_ref().map(blkio).into(),
        rdma: from.rdma.as_ref().map(rdma).into(),
        memory_oom_control: from
            .memory_oom_control
            .as_ref()
            .map(|from| message!(MemoryOomControl from from, oom_kill_disable under_oom oom_kill))
            .into(),
        ..Metrics::default()
    }
}

fn cpu(from: &v1::CpuStat) -> CPUStat {
    let usage = message!(CPUUsage from &from.usage, total kernel user per_cpu);
    let throttling = message!(Throttle from &from.throttling, periods throttled_periods throttled_time);
    CPUStat { usage: Some(usage).into(), throttling: Some(throttling).into(), ..CPUStat::default() }
}

fn memory(from: &v1::MemoryStat) -> MemoryStat {
    message!(MemoryStat from from,
        cache rss rss_huge mapped_file dirty writeback pg_pg_in pg_pg_out pg_fault pg_maj_fault
        inactive_anon active_anon inactive_file active_file unevictable
        hierarchical_memory_limit hierarchical_swap_limit
        total_cache total_rss total_rss_huge total_mapped_file total_dirty total_writeback
        total_pg_pg_in total_pg_pg_out total_pg_fault total_pg_maj_fault
        total_inactive_anon total_active_anon total_inactive_file total_active_file total_unevictable;
        usage: Some(entry(&from.usage)).into(), swap: Some(entry(&from.swap)).into(),
        kernel: Some(entry(&from.kernel)).into(), kernel_tcp: Some(entry(&from.kernel_tcp)).into())
}

fn entry(from: &v1::MemoryEntry) -> MemoryEntry {
    message!(MemoryEntry from from, limit usage max failcnt)
}

fn blkio(from: &v1::BlkIoStat) -> BlkIOStat {
    let entries = |entries: &[v1::BlkIoEntry]| {
        entries.iter().map(|from| message!(BlkIOEntry from from, op device major minor value)).collect()
    };
    BlkIOStat {
        io_service_bytes_recursive: entries(&from.io_service_bytes_recursive),
        io_serviced_recursive: entries(&from.io_serviced_recursive),
        io_queued_recursive: entries(&from.io_queued_recursive),
        io_service_time_recursive: entries(&from.io_service_time_recursive),
        io_wait_time_recursive: entries(&from.io_wait_time_recursive),
        io_merged_recursive: entries(&from.io_merged_recursive),
        io_time_recursive: entries(&from.io_time_recursive),
        sectors_recursive: entries(&from.sectors_recursive),
        ..BlkIOStat::default()
    }
}

fn rdma(from: &stats::RdmaStat) -> RdmaStat {
    let entries = |entries: &[stats::RdmaEntry]| {
        entries.iter().map(|from| message!(RdmaEntry from from, device hca_handles hca_objects)).collect()
    };
    RdmaStat { current: entries(&from.current), limit: entries(&from.limit), ..RdmaStat::default() }
}
