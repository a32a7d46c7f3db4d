//! Plugins on a real kernel: a namespace plays the host, others are its pods. Needs root.

#![allow(clippy::unwrap_used, clippy::panic)]

mod beside;
mod cases;
mod crash;
mod filter;
mod host;
mod links;
mod plugins;
mod pods;
mod refused;
mod victim;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Which tools that are not installed are found by name: nft(8) alone, or an iptables beside it, one of nf_tables or the
/// old one. By name, as that is how the Go plugins find them.
const TOOLS: &str = "BERTH_NETNS_TOOLS";

/// Set in a process that runs one trial: its name.
const ALONE: &str = "BERTH_NETNS_ALONE";

fn main() -> ExitCode {
    // Under a plugin's name this is that plugin, as the shim is: host::binaries links them.
    let name = std::env::args_os().next().unwrap_or_default();
    if let Some(code) = Path::new(&name).file_name().and_then(netns::cni::skel::run) {
        return code;
    }
    if std::env::var_os(TOOLS).is_none() {
        let error = itself("nft").args(std::env::args_os().skip(1)).exec();
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
    trials.extend(filter::trials());
    trials.extend(refused::trials());
    if !host::cache().join("network/usr/iptables/iptables").exists() {
        let needs = |trial: &Trial| {
            let beginnings =
                ["ipMasq", "portmap", "firewall", "two hundred", "killed", "a pod", "what is no", "a read only", "by "];
            beginnings.iter().any(|name| trial.name().starts_with(name))
        };
        eprintln!(
            "ignored, tests/setup has not fetched nft and iptables: {}",
            trials.iter().filter(|trial| needs(trial)).count()
        );
        let ignore = |trial: Trial| if needs(&trial) { trial.with_ignored_flag(true) } else { trial };
        trials = trials.into_iter().map(ignore).collect();
    }
    if !root {
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
        eprintln!("ignored, needs root: all of them");
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn itself(tools: &str) -> Command {
    let mut command = host::with_tools(Command::new("/proc/self/exe"), tools);
    command.env(TOOLS, tools);
    command
}

/// A trial where these tools are found: what is found is a process' own.
pub fn trial_with(tools: &'static str, name: &'static str, act: fn(&host::Host)) -> Trial {
    alone(tools, format!("by {tools}: {name}"), act)
}

/// A trial of locks: a program that another trial just starts would have them, too, until its execve.
pub fn trial_alone(name: &'static str, act: fn(&host::Host)) -> Trial {
    alone("nft", name.to_owned(), act)
}

/// A trial in a process of its own.
fn alone(tools: &'static str, name: String, act: fn(&host::Host)) -> Trial {
    Trial::test(name.clone(), move || {
        if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
            host::Host::with(&name.replace(':', ""), act);
            return Ok(());
        }
        let output = itself(tools).env(ALONE, &name).args([&name, "--exact"]).output()?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if output.status.success() && text.contains("1 passed") { Ok(()) } else { Err(text.into()) }
    })
}

/// A trial on a host of its own.
pub fn trial(name: &'static str, act: fn(&host::Host)) -> Trial {
    Trial::test(name, move || {
        host::Host::with(name, act);
        Ok(())
    })
}
