//! The scenarios: each runs with runc and with Berth, on each containerd, and what it sees must be the same.
//!
//! `cargo test -p berth-tests --test suite -- v2::run` runs those whose name holds `v2::run`; `--list` lists them.
//! `BERTH_SHOW=1` prints what runc's containers saw. Needs root, and what `tests/setup` fetches. A scenario that this host cannot run is ignored, with the reason.

mod bad_input;
mod contract;
mod contract_at_once;
mod contract_refusals;
mod crash;
mod events;
mod exec;
mod lifecycle;
mod limits;
mod mounts;
mod namespaces;
mod network;
mod network_crash;
mod output;
mod pods;
mod pods_exec;
mod pods_faults;
mod pods_many;
mod pods_mounts;
mod pods_network;
mod pods_resources;
mod pods_security;
mod pods_stop;
mod run;
mod self_exe;
mod stress;
mod systemd;
mod terminals;

use anyhow::{Error, Result, bail};
use berth_tests::containerd::{Config, Containerd};
use berth_tests::cri::kubelet::{Kubelet, play};
use berth_tests::scene::{Runtime, Scene, Skip};
use berth_tests::version::{self, Version};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// A scenario, named by the fact that it shows.
pub struct Scenario {
    name: &'static str,
    run: Run,
}

/// How a scenario runs.
pub enum Run {
    /// With runc and with Berth on the shared daemon; the records are compared.
    Both(fn(&Scene<'_>) -> Result<()>),
    /// With Berth only on the shared daemon: what it shows is not so, or cannot be run, with runc.
    Berth(fn(&Scene<'_>) -> Result<()>),
    /// Pods, through the handlers of runc and of Berth on the shared daemon with CRI; the records are compared.
    Pods(fn(&Kubelet<'_>) -> Result<()>),
    /// Pods, through Berth's handler only.
    BerthPods(fn(&Kubelet<'_>) -> Result<()>),
    /// With a daemon of its own, which it starts: it needs a configuration, or hurts the daemon.
    Alone(fn(Version) -> Result<()>),
}

/// Lists scenarios by their functions' names.
#[macro_export]
macro_rules! scenarios {
    ($run:ident: $($name:ident),+ $(,)?) => {
        vec![$($crate::Scenario { name: stringify!($name), run: $crate::Run::$run($name) }),+]
    };
}

/// Says that this scenario cannot be run here.
pub fn skip(reason: impl Into<String>) -> Result<()> {
    bail!(Skip(reason.into()))
}

fn chapters() -> Vec<(&'static str, Vec<Scenario>)> {
    vec![
        ("run", run::scenarios()),
        ("output", output::scenarios()),
        ("pods", pods::scenarios()),
        ("pods_exec", pods_exec::scenarios()),
        ("pods_many", pods_many::scenarios()),
        ("pods_mounts", pods_mounts::scenarios()),
        ("pods_network", pods_network::scenarios()),
        ("pods_resources", pods_resources::scenarios()),
        ("pods_security", pods_security::scenarios()),
        ("pods_faults", pods_faults::scenarios()),
        ("pods_stop", pods_stop::scenarios()),
        ("limits", limits::scenarios()),
        ("systemd", systemd::scenarios()),
        ("mounts", mounts::scenarios()),
        ("namespaces", namespaces::scenarios()),
        ("network", network::scenarios()),
        ("network_crash", network_crash::scenarios()),
        ("terminals", terminals::scenarios()),
        ("exec", exec::scenarios()),
        ("lifecycle", lifecycle::scenarios()),
        ("events", events::scenarios()),
        ("bad_input", bad_input::scenarios()),
        ("contract", contract::scenarios()),
        ("contract_at_once", contract_at_once::scenarios()),
        ("contract_refusals", contract_refusals::scenarios()),
        ("self_exe", self_exe::scenarios()),
        ("stress", stress::scenarios()),
        ("crash", crash::scenarios()),
    ]
}

/// The daemons that the scenarios share, one per version and one more with CRI, started when first needed.
#[derive(Default)]
struct Daemons {
    plain: [Daemon; Version::ALL.len()],
    cri: [Daemon; Version::ALL.len()],
}

type Daemon = Mutex<Option<Arc<Containerd>>>;

impl Daemons {
    fn plain(&self, version: Version) -> Result<Arc<Containerd>> {
        shared(&self.plain[version as usize], || Containerd::start(version, &Config::default()))
    }

    fn cri(&self, version: Version) -> Result<Arc<Containerd>> {
        shared(&self.cri[version as usize], || berth_tests::cri::daemon::start(version))
    }

    /// Ends them here and not in whichever thread drops its last closure, which the process would not wait for.
    fn stop(&self) {
        for slot in self.plain.iter().chain(&self.cri) {
            drop(slot.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

fn shared(slot: &Daemon, start: impl FnOnce() -> Result<Containerd>) -> Result<Arc<Containerd>> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(daemon) = &*slot {
        return Ok(daemon.clone());
    }
    let daemon = Arc::new(start()?);
    *slot = Some(daemon.clone());
    Ok(daemon)
}

fn perform(daemons: &Daemons, version: Version, scenario: &Scenario) -> Result<()> {
    let record = |runtime, run: fn(&Scene<'_>) -> Result<()>| {
        let daemon = daemons.plain(version)?;
        let scene = Scene::new(&daemon, runtime);
        let outcome = run(&scene);
        scene.finish(outcome)
    };
    let pods = |runtime, run: fn(&Kubelet<'_>) -> Result<()>| {
        let daemon = daemons.cri(version)?;
        let scene = Scene::new(&daemon, runtime);
        let outcome = play(&scene, run);
        scene.finish(outcome)
    };
    match scenario.run {
        Run::Both(run) => {
            let ours = record(Runtime::Berth, run)?;
            let compared = || {
                let runc = record(Runtime::Runc, run)?;
                if std::env::var_os("BERTH_SHOW").is_some() {
                    runc.iter().for_each(|(what, seen)| eprintln!("{} {what}:\n{seen}", scenario.name));
                }
                compare(&runc, &ours)
            };
            // On a busy machine output is lost with the Go shim (output.rs says how); ours gets no second chance.
            compared().or_else(|error| {
                if error.is::<Skip>() {
                    return Err(error);
                }
                eprintln!("note: {version} {} is compared with runc once more, after: {error:#}", scenario.name);
                compared()
            })
        }
        Run::Berth(run) => record(Runtime::Berth, run).map(drop),
        Run::Pods(run) => compare(&pods(Runtime::Runc, run)?, &pods(Runtime::Berth, run)?),
        Run::BerthPods(run) => pods(Runtime::Berth, run).map(drop),
        Run::Alone(run) => run(version),
    }
}

/// Two records of the same scenario must say the same.
fn compare(runc: &[(String, String)], ours: &[(String, String)]) -> Result<()> {
    let mut differences = String::new();
    for index in 0..runc.len().max(ours.len()) {
        let nothing = ("nothing".to_owned(), String::new());
        let (theirs, own) = (runc.get(index).unwrap_or(&nothing), ours.get(index).unwrap_or(&nothing));
        if theirs != own {
            differences += &difference(theirs, own);
        }
    }
    if !differences.is_empty() {
        bail!("not as with runc (- runc, + ours):\n{differences}");
    }
    Ok(())
}

/// The lines that differ, in the order in which they are.
fn difference((what, runc): &(String, String), (own_what, ours): &(String, String)) -> String {
    let mut text = format!("{what}:\n");
    if what != own_what {
        text = format!("{what} / {own_what}:\n");
    }
    let (theirs, own): (Vec<&str>, Vec<&str>) = (runc.lines().collect(), ours.lines().collect());
    for line in theirs.iter().filter(|line| !own.contains(line)) {
        text += &format!("  - {line}\n");
    }
    for line in own.iter().filter(|line| !theirs.contains(line)) {
        text += &format!("  + {line}\n");
    }
    if text.lines().count() == 1 {
        text += &format!("  the same lines in another order or number:\n  - {runc}\n  + {ours}\n");
    }
    text
}

fn trial(daemons: &Arc<Daemons>, version: Version, chapter: &str, scenario: Scenario) -> Trial {
    let name = format!("{version}::{chapter}::{}", scenario.name);
    let daemons = daemons.clone();
    Trial::ignorable_test(name.clone(), move || match perform(&daemons, version, &scenario) {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => {
                eprintln!("SKIPPED {name}: {reason}");
                Ok(Completion::ignored_with(reason))
            }
            None => Err(failed(&error)),
        },
    })
}

fn failed(error: &Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two at a time for each core: most of a scenario is waiting.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    arguments.test_threads = arguments.test_threads.or(Some(cores * 2));
    if !arguments.list {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: every scenario, for they need root");
            return ExitCode::SUCCESS;
        }
        if let Err(error) = version::shim() {
            eprintln!("{error:#}");
        }
    }
    let daemons = Arc::new(Daemons::default());
    let mut trials = Vec::new();
    for version in Version::ALL {
        for (chapter, scenarios) in chapters() {
            trials.extend(scenarios.into_iter().map(|scenario| trial(&daemons, version, chapter, scenario)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    daemons.stop();
    if !arguments.list {
        berth_tests::image::remove();
    }
    conclusion.exit_code()
}
