//! `berth`: the command line. The verbs, flags, outputs and texts are those of runc, since its callers know them; each verb
//! is a short-lived process that does its part with [`Container`](runtime_core::container::Container) and leaves.

mod bundle;
mod cni;
mod console;
mod create;
mod error;
mod events;
mod exec;
mod flags;
mod foreground;
mod home;
mod list;
mod log;
mod net;
mod notify;
mod plan;
mod rootless;
mod signal;
mod stdio;
mod sys;
mod template;
mod time;
mod update;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

pub use error::Error;

use crate::error::chain;
use flags::{Flag, Given, Until};
use home::Berth;

/// A verb.
struct Command {
    name: &'static str,
    /// What stands behind the flags.
    words: &'static str,
    about: &'static str,
    flags: &'static [Flag],
    until: Until,
    /// It clones containers from its own binary, which they must not be able to write to.
    clones: bool,
    run: fn(&Berth, &Given) -> Result<u8, Error>,
}

const COMMANDS: &[Command] = &[
    create::CREATE,
    create::START,
    create::RUN,
    exec::EXEC,
    list::STATE,
    list::LIST,
    list::PS,
    signal::KILL,
    signal::DELETE,
    signal::PAUSE,
    signal::RESUME,
    update::UPDATE,
    events::EVENTS,
    template::SPEC,
    template::FEATURES,
    plan::PLAN,
    cni::CNI,
    net::NET,
    rootless::MAP_IDS,
    refused("checkpoint"),
    refused("restore"),
];

/// What runc does by CRIU.
const fn refused(name: &'static str) -> Command {
    Command {
        name,
        words: "<container-id>",
        about: "not supported: a container cannot be saved",
        flags: &[],
        until: Until::Start,
        clones: false,
        run: |_, given| Err(Error::NoCheckpoint(given.words.join(OsStr::new(" ")).to_string_lossy().into_owned())),
    }
}

/// Runs one command.
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.collect();
    let given = match flags::parse(home::FLAGS, Until::Word, words.iter().cloned()) {
        Ok(given) => given,
        Err(Error::Help) => return help(),
        Err(error) => return ExitCode::from(fail(&log::Log::default(), &error)),
    };
    if given.is_on("version") {
        return version();
    }
    let Some((verb, rest)) = given.words.split_first() else { return help() };
    let Some(command) = COMMANDS.iter().find(|command| *verb == command.name) else {
        let error = Error::NoCommand(verb.to_string_lossy().into_owned());
        return ExitCode::from(fail(&log::Log::default(), &error));
    };
    let berth = match Berth::new(&given) {
        Ok(berth) => berth,
        Err(error) => return ExitCode::from(fail(&log::Log::default(), &error)),
    };
    ExitCode::from(command.act(&berth, rest, &words).unwrap_or_else(|error| fail(&berth.log, &error)))
}

impl Command {
    fn act(&self, berth: &Berth, rest: &[OsString], all: &[OsString]) -> Result<u8, Error> {
        let given = match flags::parse(self.flags, self.until, rest.iter().cloned()) {
            Err(Error::Help) => {
                print!("{}", self.help());
                return Ok(0);
            }
            given => given?,
        };
        if self.clones {
            home::seal(berth, all)?;
        }
        berth.log.debug(&format!("{} {:?}", self.name, given.words));
        (self.run)(berth, &given)
    }

    fn help(&self) -> String {
        let Self { name, words, about, flags, .. } = self;
        format!(
            "NAME:\n   berth {name} - {about}\n\nUSAGE:\n   berth {name} [options] {words}\n\nOPTIONS:\n{}",
            flags::help(flags)
        )
    }
}

fn fail(log: &log::Log, error: &Error) -> u8 {
    log.fatal(&chain(error));
    error.code()
}

fn help() -> ExitCode {
    println!(
        "NAME:\n   berth - Open Container Initiative runtime\n\nUSAGE:\n   berth [global options] command [options] [arguments]\n"
    );
    println!("COMMANDS:");
    for command in COMMANDS.iter().filter(|command| !command.about.is_empty()) {
        println!("   {:<12} {}", command.name, command.about);
    }
    print!("\nGLOBAL OPTIONS:\n{}", flags::help(home::FLAGS));
    ExitCode::SUCCESS
}

fn version() -> ExitCode {
    println!("berth version {}", env!("CARGO_PKG_VERSION"));
    // Of a build by make: docker shows it.
    if let Some(commit) = option_env!("BERTH_COMMIT").filter(|commit| !commit.is_empty()) {
        println!("commit: {commit}");
    }
    println!("spec: {}", runtime_core::state::OCI_VERSION);
    ExitCode::SUCCESS
}
