//! `make bench`: Berth beside containerd's own shim with runc and with crun, on one containerd 2.x, in one run.
//!
//! Every contender is a `ctr run --runtime …` of the same daemon, image and spec. Further tables take the same apart:
//! there the bench asks the shims itself what containerd would ask them, and times every action.
//!
//! Latencies are taken in blocks; in each block every contender runs twice, in a random order and then in the reverse
//! of it, so that drift and neighbours hit all alike. The ratio is the median of the blocks' ratios. The seed is printed, for the same order again.
//!
//! - `BERTH_BENCH_BLOCKS`: blocks per series, 25 unless told
//! - `BERTH_BENCH_CONTAINERS`: containers at once for the memory figures, 20 unless told
//! - `BERTH_BENCH_SEED`: the order of the contenders
//! - `BERTH_BENCH_ONLY=network`: the tables of pod networks alone
//! - `BERTH_RUNTIME`: the runtime in Berth's place, for work on the bench itself

mod blocks;
mod command_line;
mod contender;
mod counts;
mod inside;
mod latency;
mod memory;
mod network;
mod report;
mod stage;
mod statistics;

use anyhow::{Context, Result, bail};
use berth_tests::containerd::{Config, Containerd};
use berth_tests::version::Version;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use contender::Contender;
use report::Report;
use statistics::Random;

fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the bench needs root: it runs containers");
    }
    without_hybrid_cgroup()?;
    let done = bench();
    berth_tests::image::remove();
    done
}

fn bench() -> Result<()> {
    let blocks = number("BERTH_BENCH_BLOCKS", 25)?;
    let containers = number("BERTH_BENCH_CONTAINERS", 20)?;
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as usize;
    let seed = number("BERTH_BENCH_SEED", time)?;

    let containerd = Containerd::start(Version::V2, &Config { env: contender::environment(), ..Config::default() })?;
    quieten(&containerd)?;
    let mut contenders = Contender::all();
    contenders.retain_mut(|contender| contender.is_usable(&containerd));
    if contenders.first().is_none_or(|contender| !contender.is_ours()) {
        bail!("Berth does not run a container: nothing to compare");
    }

    let mut report = Report::new(&containerd, &contenders, blocks, containers, seed);
    let mut random = Random::new(seed as u64);
    if std::env::var("BERTH_BENCH_ONLY").is_ok_and(|only| only == "network") {
        eprintln!("BERTH_BENCH_ONLY: pod networks alone");
    } else {
        latency::measure(&containerd, &contenders, blocks, &mut random, &mut report)?;
        memory::measure(&containerd, &contenders, containers, &mut report)?;
        counts::measure(&containerd, &contenders, &mut report)?;
        inside::measure(&containerd, &contenders, blocks, &mut random, &mut report)?;
        command_line::measure(&containerd, &contenders, blocks, &mut random, &mut report)?;
    }
    // What was measured until then is printed, whatever becomes of these.
    let networks = network::measure(&containerd, blocks, &mut random, &mut report);
    report.print();
    networks
}

fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(value) => value.parse().with_context(|| format!("read {variable}={value}")),
        Err(_) => Ok(default),
    }
}

/// crun refuses a cgroup2 beside cgroup v1. Where the host has one, all of the bench, the daemon and every contender
/// runs in a mount namespace without it.
fn without_hybrid_cgroup() -> Result<()> {
    const APART: &str = "BERTH_BENCH_APART";
    let hybrid = Path::new("/sys/fs/cgroup/unified/cgroup.controllers");
    if !hybrid.exists() {
        return Ok(());
    }
    if std::env::var_os(APART).is_some() {
        bail!("the mount namespace still has /sys/fs/cgroup/unified");
    }
    let program = std::env::current_exe()?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#"umount /sys/fs/cgroup/unified && exec "$0""#)
        .arg(program)
        .env(APART, "1")
        .exec();
    Err(error).context("run the bench in a mount namespace of its own by unshare")
}

/// The harness's daemon logs for people who look for a fault, and has its shims do so; nobody runs one like that.
fn quieten(containerd: &Containerd) -> Result<()> {
    containerd.stop()?;
    let path = containerd.directory().join("config.toml");
    let config = fs::read_to_string(&path)?;
    fs::write(&path, config.replace(r#"level = "debug""#, r#"level = "info""#))?;
    containerd.launch()
}
