//! What containerd's messages have no place for, and `runc events` tells.

use std::collections::BTreeMap;

use super::{Keyed, text};
use crate::cgroup::Error;
use crate::cgroup::dir::Dir;
use crate::step::BitSet;

/// What is empty has no controller on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// `memory.stat`, by the kernel's names.
    pub memory: BTreeMap<String, u64>,
    /// v1: nanoseconds on each CPU, in the kernel.
    pub per_cpu_kernel: Vec<u64>,
    /// v1: nanoseconds on each CPU, out of it.
    pub per_cpu_user: Vec<u64>,
    /// v1.
    pub cpuset: Cpuset,
}

/// Which CPUs and memory nodes, and how they are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpuset {
    /// CPUs, by their numbers.
    pub cpus: Vec<u32>,
    /// Memory nodes, by their numbers.
    pub mems: Vec<u32>,
    /// The other files, of one number each, by their names without `cpuset.`.
    pub numbers: BTreeMap<&'static str, i64>,
}

impl Cpuset {
    /// The files of one number.
    pub const NUMBERS: [&str; 9] = [
        "cpu_exclusive",
        "mem_exclusive",
        "mem_hardwall",
        "memory_migrate",
        "memory_pressure",
        "memory_spread_page",
        "memory_spread_slab",
        "sched_load_balance",
        "sched_relax_domain_level",
    ];
}

/// Of v1; a directory for each controller that there is.
pub(in crate::cgroup) fn v1(memory: Option<&Dir>, cpuacct: Option<&Dir>, cpus: Option<&Dir>) -> Result<Details, Error> {
    let mut details = memory.map_or(Ok(Details::default()), v2)?;
    if let Some(dir) = cpuacct {
        (details.per_cpu_user, details.per_cpu_kernel) = per_cpu(&content(dir, "cpuacct.usage_all")?);
    }
    if let Some(dir) = cpus {
        details.cpuset = cpuset(dir)?;
    }
    Ok(details)
}

/// Of v2.
pub(in crate::cgroup) fn v2(dir: &Dir) -> Result<Details, Error> {
    let stat = content(dir, "memory.stat")?;
    let memory = Keyed::parse(&stat).0.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(Details { memory, ..Details::default() })
}

fn content(dir: &Dir, file: &str) -> Result<String, Error> {
    Ok(text(dir, file)?.unwrap_or_default())
}

fn cpuset(dir: &Dir) -> Result<Cpuset, Error> {
    let number = |name: &'static str| {
        let text = content(dir, &format!("cpuset.{name}"))?;
        Ok((name, text.trim().parse().unwrap_or(0)))
    };
    Ok(Cpuset {
        cpus: list(&content(dir, "cpuset.cpus")?),
        mems: list(&content(dir, "cpuset.mems")?),
        numbers: Cpuset::NUMBERS.into_iter().map(number).collect::<Result<_, Error>>()?,
    })
}

/// A line for each CPU below a heading: `0 30185 12046`, its number, out of the kernel, in it.
fn per_cpu(text: &str) -> (Vec<u64>, Vec<u64>) {
    let times = |line: &str| {
        let mut fields = line.split(' ').skip(1).map(str::parse::<u64>);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    text.lines().skip(1).filter_map(times).unzip()
}

/// What is no list is an empty one: the file of a cgroup that nobody gave any.
fn list(text: &str) -> Vec<u32> {
    BitSet::parse(text).unwrap_or_default().numbers().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_ranges() {
        assert_eq!(list("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(list("\n"), [0; 0]);
    }

    #[test]
    fn times_of_cpus_have_a_heading() {
        assert_eq!(per_cpu("cpu user system\n0 30185 12046\n1 5 6\n"), (vec![30185, 5], vec![12046, 6]));
        assert_eq!(per_cpu(""), (vec![], vec![]));
    }
}
