//! What a shim costs while its container runs: memory, and mounts on the host.

use anyhow::{Context, Result};
use berth_tests::containerd::Containerd;
use std::fs;
use std::time::Duration;

use crate::contender::{Contender, remove};
use crate::report::Report;

/// What one contender's shims cost, per container.
#[derive(Default)]
struct Cost {
    pss: f64,
    private_dirty: f64,
    mounts: f64,
    threads: f64,
}

/// Measures every contender with `count` containers at once, one contender after the other.
pub fn measure(containerd: &Containerd, contenders: &[Contender], count: usize, report: &mut Report) -> Result<()> {
    let mut costs = Vec::new();
    for contender in contenders {
        eprintln!("{}: {count} containers at once", contender.name);
        costs.push(cost(containerd, contender, count)?);
    }
    let column = |value: fn(&Cost) -> f64| costs.iter().map(value).collect::<Vec<_>>();
    report.amounts(format!("shim's PSS per container, {count} running (kB)"), &column(|cost| cost.pss));
    report.amounts(format!("shim's private dirty memory, {count} running (kB)"), &column(|cost| cost.private_dirty));
    report.amounts("shim's threads".to_owned(), &column(|cost| cost.threads));
    report.amounts("mounts on the host per container".to_owned(), &column(|cost| cost.mounts));
    Ok(())
}

fn cost(containerd: &Containerd, contender: &Contender, count: usize) -> Result<Cost> {
    let ids: Vec<String> = (0..count).map(|number| format!("m{number}-{}", contender.name)).collect();
    let mounts = mounts()?;
    for id in &ids {
        contender.start(containerd, id)?;
    }
    // What start-up left to the background is over.
    std::thread::sleep(Duration::from_secs(2));
    let tasks = containerd.ctr(&["task", "ls"])?.success()?.stdout;
    let mut sum = Cost { mounts: self::mounts()? - mounts, ..Cost::default() };
    for id in &ids {
        let shim = shim_of(&tasks, id)?;
        let memory = fs::read_to_string(format!("/proc/{shim}/smaps_rollup"))?;
        sum.pss += field(&memory, "Pss:")?;
        sum.private_dirty += field(&memory, "Private_Dirty:")?;
        sum.threads += field(&fs::read_to_string(format!("/proc/{shim}/status"))?, "Threads:")?;
    }
    for id in &ids {
        remove(containerd, id)?;
    }
    let per = |value: f64| value / count as f64;
    Ok(Cost {
        pss: per(sum.pss),
        private_dirty: per(sum.private_dirty),
        mounts: per(sum.mounts),
        threads: per(sum.threads),
    })
}

/// The process id of the shim: the parent of the container's first process.
fn shim_of(tasks: &str, id: &str) -> Result<u32> {
    let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id));
    let init = line.and_then(|line| line.split_whitespace().nth(1)).with_context(|| format!("find the task {id}"))?;
    Ok(field(&fs::read_to_string(format!("/proc/{init}/status"))?, "PPid:")? as u32)
}

/// A number in the manner of /proc: the first word after the key, at the start of a line.
fn field(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).with_context(|| format!("read {key} in\n{text}"))
}

/// How many mounts the host, that is our own mount namespace, shows.
fn mounts() -> Result<f64> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count() as f64)
}
