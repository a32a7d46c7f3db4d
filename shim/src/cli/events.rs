//! `events`: what a container uses, and when it ran out of memory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runtime_core::cgroup::Stats;
use runtime_core::cgroup::stats::{v1, v2};
use runtime_core::container::Container;
use runtime_core::state::Status;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};

use super::flags::{Given, Until, switch, value};
use super::home::Berth;
use super::{Command, Error};

pub const EVENTS: Command = Command {
    name: "events",
    words: "<container-id>",
    about: "print what a container uses, and when it runs out of memory, as JSON",
    flags: &[value("interval", None, "TIME", "how often: 5s, 500ms, 1m"), switch("stats", None, "once, and leave")],
    until: Until::End,
    clones: false,
    run: events,
};

fn events(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("events")?;
    let container = berth.container(id)?;
    let interval = match given.text("interval")? {
        None => Duration::from_secs(5),
        Some(text) => {
            duration(text).ok_or_else(|| Error::Value { flag: "interval", value: text.to_owned(), wanted: "a time" })?
        }
    };
    if interval.is_zero() {
        return Err(Error::Usage("duration interval must be greater than 0".to_owned()));
    }
    if container.status()? == Status::Stopped {
        return Err(Error::State(format!("container with id {id} is not running")));
    }
    if given.is_on("stats") { tell(id, "stats", Some(stats(&container)?)) } else { follow(&container, interval) }
}

fn follow(container: &Container, interval: Duration) -> Result<u8, Error> {
    let id = container.id();
    let mut oom = container.cgroup().watch_oom()?;
    let mut next = Instant::now() + interval;
    while container.status()? != Status::Stopped {
        // An end is noticed within a second.
        let left = next.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
        wait(oom.as_ref().map(AsFd::as_fd), left)?;
        if oom.as_mut().is_some_and(|oom| oom.triggered()) {
            tell(id, "oom", None)?;
        }
        if next <= Instant::now() {
            tell(id, "stats", Some(stats(container)?))?;
            next += interval;
        }
    }
    Ok(0)
}

fn wait(oom: Option<std::os::fd::BorrowedFd<'_>>, left: Duration) -> Result<(), Error> {
    let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    // Both versions of cgroups say POLLPRI or POLLIN; nothing else is watched.
    let flags = PollFlags::IN | PollFlags::PRI;
    let mut fds: Vec<PollFd<'_>> = oom.into_iter().map(|oom| PollFd::from_borrowed_fd(oom, flags)).collect();
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::system("wait for events")(errno)),
    }
}

fn tell(id: &str, kind: &str, data: Option<Value>) -> Result<u8, Error> {
    let mut event = json!({ "type": kind, "id": id });
    if let Some(data) = data {
        event["data"] = data;
    }
    let told = writeln!(io::stdout(), "{event}");
    told.map_err(|source| Error::System { act: "write to standard output", source })?;
    Ok(0)
}

/// In the shape of `runc events`.
fn stats(container: &Container) -> Result<Value, Error> {
    Ok(match container.cgroup().stats()? {
        Stats::V1(metrics) => of_v1(&metrics),
        Stats::V2(metrics) => of_v2(&metrics),
    })
}

/// No limit is none.
fn limit(limit: u64) -> u64 {
    if limit == u64::MAX { 0 } else { limit }
}

fn of_v1(metrics: &v1::Metrics) -> Value {
    let entry = |entry: &v1::MemoryEntry| json!({ "limit": entry.limit, "usage": entry.usage, "max": entry.max, "failcnt": entry.failcnt });
    let memory = metrics.memory.as_ref().map(|memory| {
        json!({
            "cache": memory.cache,
            "usage": entry(&memory.usage),
            "swap": entry(&memory.swap),
            "kernel": entry(&memory.kernel),
            "kernelTCP": entry(&memory.kernel_tcp),
            "raw": {
                "active_anon": memory.active_anon, "active_file": memory.active_file, "cache": memory.cache,
                "inactive_anon": memory.inactive_anon, "inactive_file": memory.inactive_file,
                "mapped_file": memory.mapped_file, "pgfault": memory.pg_fault, "pgmajfault": memory.pg_maj_fault,
                "rss": memory.rss, "total_cache": memory.total_cache, "total_rss": memory.total_rss,
                "total_inactive_file": memory.total_inactive_file, "unevictable": memory.unevictable,
            },
        })
    });
    let blkio = metrics.blkio.as_ref().map(|blkio| {
        let entries = |entries: &[v1::BlkIoEntry]| {
            let entry = |entry: &v1::BlkIoEntry| {
                json!({ "major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value })
            };
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
    });
    let (usage, throttling) = (&metrics.cpu.usage, &metrics.cpu.throttling);
    let hugetlb = metrics
        .hugetlb
        .iter()
        .map(|page| (page.pagesize.clone(), json!({ "usage": page.usage, "max": page.max, "failcnt": page.failcnt })));
    json!({
        "cpu": {
            "usage": {
                "total": usage.total, "percpu": usage.per_cpu, "kernel": usage.kernel, "user": usage.user,
            },
            "throttling": {
                "periods": throttling.periods, "throttledPeriods": throttling.throttled_periods,
                "throttledTime": throttling.throttled_time,
            },
        },
        "memory": memory.unwrap_or_else(|| json!({})),
        "pids": metrics.pids.as_ref().map_or_else(
            || json!({}), |pids| json!({ "current": pids.current, "limit": limit(pids.limit) })),
        "blkio": blkio.unwrap_or_else(|| json!({})),
        "hugetlb": hugetlb.collect::<BTreeMap<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// Times in nanoseconds there, too.
fn of_v2(metrics: &v2::Metrics) -> Value {
    let v2::Metrics { cpu, memory, pids, io, hugetlb, .. } = metrics;
    let oom = metrics.memory_events.as_ref().map_or(0, |events| events.oom);
    let bytes = io.usage.iter().flat_map(|entry| {
        let of = |op: &str, value: u64| json!({ "major": entry.major, "minor": entry.minor, "op": op, "value": value });
        [of("Read", entry.rbytes), of("Write", entry.wbytes)]
    });
    let operations = io.usage.iter().flat_map(|entry| {
        let of = |op: &str, value: u64| json!({ "major": entry.major, "minor": entry.minor, "op": op, "value": value });
        [of("Read", entry.rios), of("Write", entry.wios)]
    });
    let pages = hugetlb.iter().map(|page| {
        (page.pagesize.clone(), json!({ "usage": page.current, "max": limit(page.max), "failcnt": page.failcnt }))
    });
    json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_usec * 1000, "kernel": cpu.system_usec * 1000, "user": cpu.user_usec * 1000,
            },
            "throttling": {
                "periods": cpu.nr_periods, "throttledPeriods": cpu.nr_throttled,
                "throttledTime": cpu.throttled_usec * 1000,
            },
        },
        "memory": {
            "cache": memory.file,
            "usage": { "limit": memory.usage_limit, "usage": memory.usage, "max": memory.max_usage, "failcnt": oom },
            "swap": { "limit": memory.swap_limit, "usage": memory.swap_usage, "max": memory.swap_max_usage, "failcnt": 0 },
            "kernel": { "limit": 0, "failcnt": 0 },
            "kernelTCP": { "limit": 0, "failcnt": 0 },
            "raw": {
                "active_anon": memory.active_anon, "active_file": memory.active_file, "anon": memory.anon,
                "file": memory.file, "file_mapped": memory.file_mapped, "inactive_anon": memory.inactive_anon,
                "inactive_file": memory.inactive_file, "kernel_stack": memory.kernel_stack, "pgfault": memory.pgfault,
                "pgmajfault": memory.pgmajfault, "shmem": memory.shmem, "slab": memory.slab, "sock": memory.sock,
                "unevictable": memory.unevictable,
            },
        },
        "pids": { "current": pids.current, "limit": limit(pids.limit) },
        "blkio": {
            "ioServiceBytesRecursive": bytes.collect::<Vec<_>>(),
            "ioServicedRecursive": operations.collect::<Vec<_>>(),
        },
        "hugetlb": pages.collect::<BTreeMap<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// As Go writes a duration, of one unit.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, unit) = text.split_at_checked(unit)?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_go_writes_them() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Some(Duration::from_secs(90)));
        for bad in ["", "5", "s", "-1s", "5d"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
