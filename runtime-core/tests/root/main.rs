//! Containers on a real kernel, made by the library alone. What this host or user cannot do is skipped, and says so.
//!
//! The trials run one after another in a mount namespace of their own, whose mounts are all shared: what a container
//! lets out is seen. After each of them nothing may be left, and the allocator refuses to serve a container's child.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod attacks;
mod binds;
mod budget;
mod bundle;
mod confine;
mod crash;
mod devices;
mod fake_devices;
mod faults;
mod gate;
mod hooks;
mod host_mounts;
mod hunt;
mod identity;
mod labels;
mod leftovers;
mod lifecycle;
mod limits;
mod listener;
mod mounts;
mod namespaces;
mod null;
mod outgrown;
mod probe;
mod propagation;
mod races;
mod rootfs;
mod scheduling;
mod sys;
mod systemd;
mod terminal;

use std::panic::{AssertUnwindSafe, catch_unwind};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use runtime_core::sys::guard::Guard;

use leftovers::Leftovers;

#[global_allocator]
static ALLOCATOR: Guard = Guard;

/// Its name, a fact, and what shows it.
type Test = (&'static str, fn() -> Result<(), Stop>);

/// Why a trial ended early.
enum Stop {
    Failed(String),
    /// This host cannot do what the trial needs.
    CannotRun(&'static str),
}

impl<E: std::fmt::Display> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

fn main() {
    if let Some(status) = probe::play() {
        std::process::exit(status);
    }
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let root = rustix::process::getuid().is_root();
    if root && !arguments.list {
        bundle::enter_scratch();
    }
    let trials = TESTS.iter().flat_map(|tests| tests.iter()).map(|test| trial(*test, root)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    bundle::leave_scratch();
    conclusion.exit();
}

const TESTS: &[&[Test]] = &[
    lifecycle::TESTS,
    gate::TESTS,
    identity::TESTS,
    terminal::TESTS,
    confine::TESTS,
    namespaces::TESTS,
    limits::TESTS,
    systemd::TESTS,
    labels::TESTS,
    mounts::TESTS,
    binds::TESTS,
    propagation::TESTS,
    rootfs::TESTS,
    hooks::TESTS,
    host_mounts::TESTS,
    devices::TESTS,
    budget::TESTS,
    listener::TESTS,
    scheduling::TESTS,
    crash::TESTS,
    faults::TESTS,
    hunt::TESTS,
    attacks::TESTS,
    fake_devices::TESTS,
    null::TESTS,
    races::TESTS,
    outgrown::TESTS,
];

fn trial((name, test): Test, root: bool) -> Trial {
    Trial::ignorable_test(name, move || {
        if !root {
            return Ok(Completion::ignored_with("needs root"));
        }
        let before = Leftovers::look();
        let outcome = catch_unwind(AssertUnwindSafe(test));
        let left = before.compare();
        match outcome {
            Err(panic) => Err(words(panic.as_ref()).into()),
            Ok(Err(Stop::Failed(text))) => Err(format!("{text}\n{}", left.err().unwrap_or_default()).into()),
            Ok(Err(Stop::CannotRun(why))) => Ok(Completion::ignored_with(why)),
            Ok(Ok(())) => left.map(|()| Completion::Completed).map_err(Failed::from),
        }
    })
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
