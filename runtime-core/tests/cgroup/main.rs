//! Cgroups on a real kernel. What this host or user cannot do is skipped, and says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod v1;

use libtest_mimic::{Arguments, Failed, Trial};

/// Why a group of tests cannot run here, if it cannot.
type Check = Option<&'static str>;

fn main() {
    let arguments = Arguments::from_args();
    let root = (!rustix::process::getuid().is_root()).then_some("needs root");
    let v1 = (!std::path::Path::new("/sys/fs/cgroup/devices/tasks").exists()).then_some("needs cgroup v1");
    let trials = v1::trials(root.or(v1));
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(name: &str, check: Check, test: fn() -> Result<(), Failed>) -> Trial {
    match check {
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
        None => Trial::test(name, test),
    }
}
