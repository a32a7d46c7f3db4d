//! `berth` as its callers see it: each verb, each bad input, as root and as an ordinary user, and beside runc.
//!
//! `cargo test -p berth-tests --test berth -- exec` runs those whose name holds `exec`. Needs root; what this host cannot
//! run is ignored, with the reason.

mod budget;
mod cni;
mod descriptors;
mod exec;
mod life;
mod limits;
mod notify;
mod refusals;
mod rootless;
mod runc;
mod stage;
mod systemd;

use std::process::ExitCode;

use anyhow::Result;
use berth_tests::scene::Skip;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use stage::{Runtime, Stage};

/// A trial, named by the fact that it shows.
pub type Fact = (&'static str, fn(&Stage) -> Result<()>);

/// Lists facts by their functions' names.
#[macro_export]
macro_rules! facts {
    ($($name:ident),+ $(,)?) => { vec![$((stringify!($name), $name as fn(&$crate::stage::Stage) -> anyhow::Result<()>)),+] };
}

fn trial(chapter: &str, (name, run): Fact) -> Trial {
    Trial::ignorable_test(format!("{chapter}::{name}"), move || {
        let stage = Stage::new(Runtime::Berth).map_err(failed)?;
        match stage.finish(run(&stage)) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(Skip(reason)) => {
                    eprintln!("SKIPPED {name}: {reason}");
                    Ok(Completion::ignored_with(reason))
                }
                None => Err(failed(error)),
            },
        }
    })
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list && !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: every trial, for they need root");
        return ExitCode::SUCCESS;
    }
    let chapters = [
        ("life", life::facts()),
        ("exec", exec::facts()),
        ("limits", limits::facts()),
        ("descriptors", descriptors::facts()),
        ("notify", notify::facts()),
        ("refusals", refusals::facts()),
        ("cni", cni::facts()),
        ("rootless", rootless::facts()),
        ("runc", runc::facts()),
        ("budget", budget::facts()),
        ("systemd", systemd::facts()),
    ];
    let trials =
        chapters.into_iter().flat_map(|(chapter, facts)| facts.into_iter().map(move |fact| trial(chapter, fact)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
