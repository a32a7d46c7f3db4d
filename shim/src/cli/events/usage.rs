//! What a container uses, in the shape of `runc events`: the keys of its version 1.5, which programs read by name.

use std::collections::BTreeMap;

use runtime_core::cgroup::stats::details::Cpuset;
use runtime_core::cgroup::stats::{v1, v2};
use runtime_core::cgroup::{Details, Stats};
use serde_json::{Map, Value, json};

/// The statistics of a cgroup.
pub fn of(stats: &Stats, details: &Details) -> Value {
    match stats {
        Stats::V1(metrics) => of_v1(metrics, details),
        Stats::V2(metrics) => of_v2(metrics, details),
    }
}

/// No limit is none.
fn limit(limit: u64) -> u64 {
    if limit == u64::MAX { 0 } else { limit }
}

fn of_v1(metrics: &v1::Metrics, details: &Details) -> Value {
    let (usage, throttling) = (&metrics.cpu.usage, &metrics.cpu.throttling);
    let pids = |pids: &v1::PidsStat| json!({ "current": pids.current, "limit": limit(pids.limit) });
    let hugetlb = metrics
        .hugetlb
        .iter()
        .map(|page| (page.pagesize.clone(), json!({ "usage": page.usage, "max": page.max, "failcnt": page.failcnt })));
    json!({
        "cpu": {
            "usage": {
                "total": usage.total, "percpu": usage.per_cpu, "percpu_kernel": details.per_cpu_kernel,
                "percpu_user": details.per_cpu_user, "kernel": usage.kernel, "user": usage.user,
            },
            "throttling": {
                "periods": throttling.periods, "throttledPeriods": throttling.throttled_periods,
                "throttledTime": throttling.throttled_time,
            },
        },
        "cpuset": cpuset(&details.cpuset),
        "memory": metrics.memory.as_ref().map_or_else(|| json!({}), |memory| memory_of_v1(memory, details)),
        "pids": metrics.pids.as_ref().map_or_else(|| json!({}), pids),
        "blkio": metrics.blkio.as_ref().map_or_else(|| json!({}), blkio_of_v1),
        "hugetlb": hugetlb.collect::<BTreeMap<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn cpuset(cpuset: &Cpuset) -> Value {
    let number = |name: &str| (name.to_owned(), cpuset.numbers.get(name).copied().unwrap_or(0).into());
    let mut object: Map<String, Value> = Cpuset::NUMBERS.into_iter().map(number).collect();
    for (name, list) in [("cpus", &cpuset.cpus), ("mems", &cpuset.mems)] {
        if !list.is_empty() {
            object.insert(name.to_owned(), json!(list));
        }
    }
    Value::Object(object)
}

fn memory_of_v1(memory: &v1::MemoryStat, details: &Details) -> Value {
    let entry = |entry: &v1::MemoryEntry| json!({ "limit": entry.limit, "usage": entry.usage, "max": entry.max, "failcnt": entry.failcnt });
    json!({
        "cache": memory.cache,
        "usage": entry(&memory.usage),
        "swap": entry(&memory.swap),
        "kernel": entry(&memory.kernel),
        "kernelTCP": entry(&memory.kernel_tcp),
        "raw": details.memory,
    })
}

fn blkio_of_v1(blkio: &v1::BlkIoStat) -> Value {
    let entries = |entries: &[v1::BlkIoEntry]| {
        let entry = |entry: &v1::BlkIoEntry| json!({ "major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value });
        Value::Array(entries.iter().map(entry).collect())
    };
    json!({
        "ioServiceBytesRecursive": entries(&blkio.io_service_bytes_recursive),
        "ioServicedRecursive": entries(&blkio.io_serviced_recursive),
        "ioQueueRecursive": entries(&blkio.io_queued_recursive),
        "ioServiceTimeRecursive": entries(&blkio.io_service_time_recursive),
        "ioWaitTimeRecursive": entries(&blkio.io_wait_time_recursive),
        "ioMergedRecursive": entries(&blkio.io_merged_recursive),
        "ioTimeRecursive": entries(&blkio.io_time_recursive),
        "sectorsRecursive": entries(&blkio.sectors_recursive),
    })
}

/// Times in nanoseconds there, too.
fn of_v2(metrics: &v2::Metrics, details: &Details) -> Value {
    let v2::Metrics { cpu, pids, hugetlb, .. } = metrics;
    let pages = hugetlb.iter().map(|page| {
        (page.pagesize.clone(), json!({ "usage": page.current, "max": limit(page.max), "failcnt": page.failcnt }))
    });
    let mut used = json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_usec * 1000, "kernel": cpu.system_usec * 1000, "user": cpu.user_usec * 1000,
            },
            "throttling": {
                "periods": cpu.nr_periods, "throttledPeriods": cpu.nr_throttled,
                "throttledTime": cpu.throttled_usec * 1000,
            },
        },
        "cpuset": cpuset(&details.cpuset),
        "memory": memory_of_v2(metrics, details),
        "pids": { "current": pids.current, "limit": limit(pids.limit) },
        "blkio": blkio_of_v2(&metrics.io),
        "hugetlb": pages.collect::<BTreeMap<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    });
    let pressure = [("cpu", &cpu.psi), ("memory", &metrics.memory.psi), ("blkio", &metrics.io.psi)];
    for (part, psi) in pressure {
        if let Some(psi) = psi {
            used[part]["psi"] =
                json!({ "some": pressure_of(psi.some.as_ref()), "full": pressure_of(psi.full.as_ref()) });
        }
    }
    used
}

fn pressure_of(data: Option<&v2::PsiData>) -> Value {
    let v2::PsiData { avg10, avg60, avg300, total } = data.cloned().unwrap_or_default();
    json!({ "avg10": avg10, "avg60": avg60, "avg300": avg300, "total": total })
}

/// The swap of v1 counts memory as well, and has no maximum on v2 then.
fn memory_of_v2(metrics: &v2::Metrics, details: &Details) -> Value {
    let memory = &metrics.memory;
    let oom = metrics.memory_events.as_ref().map_or(0, |events| events.oom);
    json!({
        "cache": memory.file,
        "usage": { "limit": memory.usage_limit, "usage": memory.usage, "max": memory.max_usage, "failcnt": oom },
        "swap": {
            "limit": memory.swap_limit.saturating_add(memory.usage_limit),
            "usage": memory.swap_usage.saturating_add(memory.usage), "failcnt": 0,
        },
        "kernel": { "limit": 0, "failcnt": 0 },
        "kernelTCP": { "limit": 0, "failcnt": 0 },
        "raw": details.memory,
    })
}

fn blkio_of_v2(io: &v2::IoStat) -> Value {
    let entries = |of: fn(&v2::IoEntry) -> [(&'static str, u64); 2]| {
        let pair = |entry: &v2::IoEntry| {
            of(entry).map(|(op, value)| json!({ "major": entry.major, "minor": entry.minor, "op": op, "value": value }))
        };
        Value::Array(io.usage.iter().flat_map(pair).collect())
    };
    json!({
        "ioServiceBytesRecursive": entries(|entry| [("Read", entry.rbytes), ("Write", entry.wbytes)]),
        "ioServicedRecursive": entries(|entry| [("Read", entry.rios), ("Write", entry.wios)]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_counts_memory_as_on_v1() {
        let memory =
            v2::MemoryStat { usage: 5, usage_limit: 100, swap_usage: 2, swap_limit: u64::MAX, ..Default::default() };
        let used = of(&Stats::V2(Box::new(v2::Metrics { memory, ..Default::default() })), &Details::default());
        assert_eq!(used["memory"]["swap"], json!({ "limit": u64::MAX, "usage": 7, "failcnt": 0 }));
    }

    #[test]
    fn pressure_is_told_where_it_is_counted() {
        let some = v2::PsiData { avg10: 1.5, total: 7, ..Default::default() };
        let psi = Some(v2::PsiStats { some: Some(some), full: None });
        let cpu = v2::CpuStat { psi, ..Default::default() };
        let used = of(&Stats::V2(Box::new(v2::Metrics { cpu, ..Default::default() })), &Details::default());
        assert_eq!(used["cpu"]["psi"]["some"], json!({ "avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 7 }));
        assert_eq!(used["cpu"]["psi"]["full"]["total"], 0);
        assert_eq!(used["memory"].get("psi"), None);
    }
}
