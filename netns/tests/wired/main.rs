//! Plugins on a real kernel: a namespace plays the host, others are its pods. Needs root.

#![allow(clippy::unwrap_used, clippy::panic)]

mod beside;
mod crash;
mod host;
mod links;
mod plugins;
mod pods;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Set where the tools that are not installed are found by name.
const TOOLS: &str = "BERTH_NETNS_TOOLS";

fn main() -> ExitCode {
    // Under a plugin's name this is that plugin, as the shim is: host::binaries links them.
    let name = std::env::args_os().next().unwrap_or_default();
    if let Some(code) = Path::new(&name).file_name().and_then(netns::cni::skel::run) {
        return code;
    }
    if std::env::var_os(TOOLS).is_none() {
        // The Go plugins run nft(8) by its name.
        let error =
            host::with_tools(Command::new("/proc/self/exe")).args(std::env::args_os().skip(1)).env(TOOLS, "1").exec();
        panic!("run the trials: {error}");
    }
    if crash::is_victim() || pods::is_victim() {
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let root = rustix::process::geteuid().is_root();
    let mut trials = plugins::trials();
    trials.extend(beside::trials());
    trials.extend(crash::trials());
    trials.extend(pods::trials());
    trials.extend(links::trials());
    if !host::cache().join("network/usr/sbin/nft").exists() {
        let needs = |trial: &Trial| {
            ["ipMasq", "portmap", "two hundred", "killed", "a pod"].iter().any(|name| trial.name().starts_with(name))
        };
        eprintln!("ignored, tests/setup has not fetched nft: {}", trials.iter().filter(|trial| needs(trial)).count());
        let ignore = |trial: Trial| if needs(&trial) { trial.with_ignored_flag(true) } else { trial };
        trials = trials.into_iter().map(ignore).collect();
    }
    if !root {
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
        eprintln!("ignored, needs root: all of them");
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A trial on a host of its own.
pub fn trial(name: &'static str, act: fn(&host::Host)) -> Trial {
    Trial::test(name, move || {
        host::Host::with(name, act);
        Ok(())
    })
}
