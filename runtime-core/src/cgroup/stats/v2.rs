//! `io.containerd.cgroups.v2.Metrics`, and the files of cgroup v2 that it comes from. What has no
//! controller here is zero; what has no limit is `u64::MAX`.
#![allow(missing_docs, reason = "fields are the message's, metrics.proto")]

use rustix::io::Errno;

use super::{Keyed, RdmaStat, huge_page_sizes, number, parse_number, rdma, required, text};
use crate::cgroup::Error;
use crate::cgroup::dir::Dir;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub pids: PidsStat,
    pub cpu: CpuStat,
    pub memory: MemoryStat,
    pub rdma: RdmaStat,
    pub io: IoStat,
    pub hugetlb: Vec<HugeTlbStat>,
    pub memory_events: Option<MemoryEvents>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PsiData {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// `None` on a kernel that does not count pressure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PsiStats {
    pub some: Option<PsiData>,
    pub full: Option<PsiData>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsStat {
    pub current: u64,
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuStat {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub psi: Option<PsiStats>,
    pub nr_bursts: u64,
    pub burst_usec: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryStat {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub workingset_refault: u64,
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
    pub usage: u64,
    pub usage_limit: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    pub max_usage: u64,
    pub swap_max_usage: u64,
    pub psi: Option<PsiStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoStat {
    pub usage: Vec<IoEntry>,
    pub psi: Option<PsiStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugeTlbStat {
    pub current: u64,
    pub max: u64,
    pub pagesize: String,
    pub failcnt: u64,
}

/// Reads everything.
pub(in crate::cgroup) fn read(dir: &Dir) -> Result<Metrics, Error> {
    Ok(Metrics {
        // Every cgroup has cpu.stat, with or without controllers: a missing one is a missing cgroup.
        cpu: CpuStat { psi: psi(dir, "cpu.pressure")?, ..cpu(&required(dir, "cpu.stat")?) },
        pids: PidsStat { current: number(dir, "pids.current", 0)?, limit: number(dir, "pids.max", u64::MAX)? },
        memory: memory(dir)?,
        rdma: rdma(dir)?.unwrap_or_default(),
        io: IoStat { usage: parse_io(&text(dir, "io.stat")?.unwrap_or_default()), psi: psi(dir, "io.pressure")? },
        hugetlb: hugetlb(dir)?,
        memory_events: text(dir, "memory.events")?.map(|text| events(&text)),
    })
}

fn cpu(text: &str) -> CpuStat {
    let stat = Keyed::parse(text);
    CpuStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        psi: None,
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
    }
}

fn memory(dir: &Dir) -> Result<MemoryStat, Error> {
    let Some(text) = text(dir, "memory.stat")? else { return Ok(MemoryStat::default()) };
    let value = |file: &str| number(dir, file, u64::MAX);
    Ok(MemoryStat {
        usage: value("memory.current")?,
        usage_limit: value("memory.max")?,
        max_usage: value("memory.peak")?,
        swap_usage: value("memory.swap.current")?,
        swap_limit: value("memory.swap.max")?,
        swap_max_usage: value("memory.swap.peak")?,
        psi: psi(dir, "memory.pressure")?,
        ..memory_stat(&text)
    })
}

fn memory_stat(text: &str) -> MemoryStat {
    let stat = Keyed::parse(text);
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        workingset_refault: stat.get("workingset_refault"),
        workingset_activate: stat.get("workingset_activate"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        ..MemoryStat::default()
    }
}

fn events(text: &str) -> MemoryEvents {
    let events = Keyed::parse(text);
    MemoryEvents {
        low: events.get("low"),
        high: events.get("high"),
        max: events.get("max"),
        oom: events.get("oom"),
        oom_kill: events.get("oom_kill"),
        oom_group_kill: events.get("oom_group_kill"),
    }
}

/// Lines like `8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0`. A device
/// that did nothing has a bare `8:16`, and is left out.
fn parse_io(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let pairs: Vec<(&str, &str)> = fields.filter_map(|pair| pair.split_once('=')).collect();
        let value = |key: &str| {
            let pair = pairs.iter().find(|(other, _)| *other == key);
            pair.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        (!pairs.is_empty()).then_some(())?;
        Some(IoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: value("rbytes"),
            wbytes: value("wbytes"),
            rios: value("rios"),
            wios: value("wios"),
        })
    };
    text.lines().filter_map(entry).collect()
}

fn hugetlb(dir: &Dir) -> Result<Vec<HugeTlbStat>, Error> {
    let mut stats = Vec::new();
    for pagesize in huge_page_sizes() {
        let Some(current) = text(dir, &format!("hugetlb.{pagesize}.current"))? else { continue };
        let events = text(dir, &format!("hugetlb.{pagesize}.events"))?.unwrap_or_default();
        stats.push(HugeTlbStat {
            current: parse_number(&current, 0),
            max: number(dir, &format!("hugetlb.{pagesize}.max"), u64::MAX)?,
            failcnt: Keyed::parse(&events).get("max"),
            pagesize,
        });
    }
    Ok(stats)
}

/// Reading fails with EOPNOTSUPP where the kernel could count pressure and was told not to.
fn psi(dir: &Dir, file: &str) -> Result<Option<PsiStats>, Error> {
    match text(dir, file) {
        Err(Error::Read { source: Errno::OPNOTSUPP, .. }) => Ok(None),
        text => Ok(text?.map(|text| parse_psi(&text))),
    }
}

/// Lines like `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn parse_psi(text: &str) -> PsiStats {
    let data = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let value = |key: &str| line.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let average = |key: &str| value(key).and_then(|value| value.parse().ok()).unwrap_or(0.0);
        Some(PsiData {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: value("total").and_then(|value| value.parse().ok()).unwrap_or(0),
        })
    };
    PsiStats { some: data("some"), full: data("full") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read() {
        let psi = parse_psi("some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n");
        let some = PsiData { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 77 };
        assert_eq!(psi, PsiStats { some: Some(some), full: None });
    }

    #[test]
    fn idle_devices_have_no_io() {
        let io = parse_io("8:0\n8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n");
        assert_eq!(io, [IoEntry { major: 8, minor: 16, rbytes: 10, wbytes: 20, rios: 1, wios: 2 }]);
    }
}
