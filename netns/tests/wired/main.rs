//! Plugins on a real kernel: a namespace plays the host, others are its pods. Needs root.

#![allow(clippy::unwrap_used)]

mod host;
mod plugins;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let root = rustix::process::geteuid().is_root();
    let mut trials = plugins::trials();
    if !root {
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
        eprintln!("ignored, needs root: all of them");
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A trial on a host of its own.
pub fn trial(name: &'static str, act: fn(&host::Host)) -> Trial {
    Trial::test(name, move || {
        host::Host::run(name, act);
        Ok(())
    })
}
