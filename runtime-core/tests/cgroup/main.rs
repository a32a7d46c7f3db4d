//! Cgroups on a real kernel. What this host or user cannot do is skipped, and says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod inmate;
mod v1;
mod v2;

use std::os::fd::AsFd;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::event::{PollFd, PollFlags, Timespec};

/// Why a group of tests cannot run here, if it cannot.
type Check = Option<&'static str>;

fn main() {
    let arguments = Arguments::from_args();
    let root = (!rustix::process::getuid().is_root()).then_some("needs root");
    let v1 = (!std::path::Path::new("/sys/fs/cgroup/devices/tasks").exists()).then_some("needs cgroup v1");
    let trials = match v2::inside() {
        true => v2::trials(),
        false => v1::trials(root.or(v1)).into_iter().chain(v2::wrapped(root)).collect(),
    };
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(name: &str, check: Check, test: fn() -> Result<(), Failed>) -> Trial {
    match check {
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
        None => Trial::test(name, test),
    }
}

/// True once `fd` can be read.
fn readable(fd: &impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}
