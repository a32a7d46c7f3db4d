//! Cgroups on a real kernel. What this host or user cannot do is skipped, and says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod both;
mod inmate;
mod scratch;
mod v1;
mod v2;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::event::{PollFd, PollFlags, Timespec};

/// Its name, a fact without the version that it is tested on.
type Test = (&'static str, fn() -> Result<(), Failed>);

/// Why a test cannot run here, if it cannot.
type Check = Option<&'static str>;

fn main() {
    let arguments = Arguments::from_args();
    let root = (!rustix::process::getuid().is_root()).then_some("needs root");
    let v1 = (!Path::new("/sys/fs/cgroup/devices/tasks").exists()).then_some("needs cgroup v1");
    let mut trials = Vec::new();
    if v2::inside() {
        trials.extend(v2::tests().map(|((name, test), check)| trial("v2", name, check, test)));
    } else {
        let v1_tests = both::TESTS.into_iter().chain(v1::TESTS);
        trials.extend(v1_tests.map(|(name, test)| trial("v1", name, root.or(v1), test)));
        let run = |name| move || v2::run_inside(&format!("v2_{name}"));
        trials.extend(v2::tests().map(|((name, _), check)| trial("v2", name, root.or(check), run(name))));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(version: &str, name: &str, check: Check, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    match check {
        Some(why) => Trial::test(format!("{version}_{name} ({why})"), || Ok(())).with_ignored_flag(true),
        None => Trial::test(format!("{version}_{name}"), test),
    }
}

/// True once `fd` can be read.
fn readable(fd: &impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// What `look` finds, within ten seconds.
fn eventually<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}
