//! What must hold for any input: one function per fuzz target, called by cargo-fuzz (`fuzz_targets/`) and, on inputs
//! that are the same every time, by an ordinary test (`tests/seeded.rs`).
//!
//! A body panics where something is wrong. Most inputs are taken as a stream of [`Choices`](choices::Choices) with which something that
//! is right is spoiled, since bytes alone hardly ever make a config.json.

// These are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod choices;
mod messages;
mod options;
mod plan;
mod resources;
mod seccomp;

/// The shim has no library: its parsers are taken in by file.
#[path = "../../shim/src/args.rs"]
#[allow(dead_code, missing_docs)]
mod args;
#[path = "../../shim/src/bootstrap/params.rs"]
#[allow(dead_code)]
mod params;
#[path = "../../shim/src/options.rs"]
#[allow(dead_code, unused_imports)]
mod shim_options;

/// Private to its library, so likewise.
#[path = "../../runtime-core/src/container/passwd.rs"]
#[allow(dead_code)]
mod passwd_file;

// Where those files look for them.
use runtime_core::{program, step};

pub use messages::{arguments, messages, passwd};
pub use options::mount_options;
pub use plan::{config, process};
pub use resources::resources;
pub use seccomp::seccomp;

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target, for the test that runs them all.
pub const TARGETS: [(&str, Body); 8] = [
    ("config", config),
    ("process", process),
    ("mount_options", mount_options),
    ("seccomp", seccomp),
    ("messages", messages),
    ("arguments", arguments),
    ("passwd", passwd),
    ("resources", resources),
];
