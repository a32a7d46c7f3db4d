//! `io.containerd.cgroups.v2.Metrics`.

use containerd_shim_protos::cgroups_v2::metrics::*;
use runtime_core::cgroup::stats::{self, v2};

pub fn metrics(from: &v2::Metrics) -> Metrics {
    Metrics {
        pids: Some(message!(PidsStat from &from.pids, current limit)).into(),
        cpu: Some(cpu(&from.cpu)).into(),
        memory: Some(memory(&from.memory)).into(),
        rdma: Some(rdma(&from.rdma)).into(),
        io: Some(io(&from.io)).into(),
        hugetlb: from
            .hugetlb
            .iter()
            .map(|from| message!(HugeTlbStat from from, current max pagesize failcnt))
            .collect(),
        memory_events: from
            .memory_events
            .as_ref()
            .map(|from| message!(MemoryEvents from from, low high max oom oom_kill oom_group_kill))
            .into(),
        ..Metrics::default()
    }
}

fn cpu(from: &v2::CpuStat) -> CPUStat {
    message!(CPUStat from from,
        usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec nr_bursts burst_usec;
        psi: from.psi.as_ref().map(psi).into())
}

fn memory(from: &v2::MemoryStat) -> MemoryStat {
    message!(MemoryStat from from,
        anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp
        inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable
        pgfault pgmajfault workingset_refault workingset_activate workingset_nodereclaim
        pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc
        usage usage_limit swap_usage swap_limit max_usage swap_max_usage;
        psi: from.psi.as_ref().map(psi).into())
}

fn psi(from: &v2::PsiStats) -> PSIStats {
    let data = |from: &v2::PsiData| message!(PSIData from from, avg10 avg60 avg300 total);
    PSIStats {
        some: from.some.as_ref().map(data).into(),
        full: from.full.as_ref().map(data).into(),
        ..PSIStats::default()
    }
}

fn io(from: &v2::IoStat) -> IOStat {
    let usage =
        from.usage.iter().map(|from| message!(IOEntry from from, major minor rbytes wbytes rios wios)).collect();
    IOStat { usage, psi: from.psi.as_ref().map(psi).into(), ..IOStat::default() }
}

fn rdma(from: &stats::RdmaStat) -> RdmaStat {
    let entries = |entries: &[stats::RdmaEntry]| {
        entries.iter().map(|from| message!(RdmaEntry from from, device hca_handles hca_objects)).collect()
    };
    RdmaStat { current: entries(&from.current), limit: entries(&from.limit), ..RdmaStat::default() }
}
