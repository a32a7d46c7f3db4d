//! `containerd-shim-berth-v2`: a containerd runtime v2 shim that is itself the runtime.
//!
//! ```text
//! containerd ─ start ──▶ us: bind, exec the server, print its address     bootstrap.rs
//!            ─ ttrpc ──▶ the server: rpc.rs → task.rs → runtime-core       serve.rs
//!            ─ delete ─▶ us: clean up after a server that is gone          cleanup.rs
//! ```
//! Under the name `berth` the same binary is the command line, and under the name `runc`, for callers that can be told of
//! no other: the BuildKit in dockerd looks for it in `PATH`. Under the name of a CNI plugin that we have it is that plugin.

use args::{Action, Args};
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

mod args;
mod bootstrap;
mod cleanup;
mod cli;
mod client;
mod containers;
mod convert;
mod error;
mod events;
mod exits;
mod features;
mod info;
mod lifetime;
mod log;
mod network;
mod options;
mod process;
mod rpc;
mod seal;
mod serve;
mod state;
mod stdio;
mod sys;
mod task;

#[cfg(debug_assertions)]
#[global_allocator]
static GUARD: runtime_core::sys::guard::Guard = runtime_core::sys::guard::Guard;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if is_command_line(name) {
        return cli::run(words);
    }
    if let Some(code) = netns::cni::skel::run(name) {
        return code;
    }
    match args::parse(words) {
        Ok(args) => act(&args),
        Err(error) => report::<args::Error>(Err(error)),
    }
}

fn is_command_line(name: &OsStr) -> bool {
    name == "berth" || name == "runc"
}

fn act(args: &Args) -> ExitCode {
    match args.action {
        Action::Start => report(bootstrap::start(args)),
        Action::Delete => report(cleanup::delete(args)),
        Action::Serve => serve_or_log(args),
        Action::Info => report(info::print()),
        Action::Version => {
            println!("containerd-shim-berth-v2 version {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

/// The server's standard error is its log.
fn serve_or_log(args: &Args) -> ExitCode {
    match serve::serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error::chain(&error), "the server ends");
            ExitCode::FAILURE
        }
    }
}

/// One line on standard error; containerd shows it to the user who asked.
fn report<E: std::error::Error>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}
