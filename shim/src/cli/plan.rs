//! `plan`: what creating a container would do.

use std::io::{self, Write};
use std::path::Path;

use runtime_core::preview;

use super::flags::{Given, Until};
use super::home::Berth;
use super::{Command, Error};

pub const PLAN: Command = Command {
    name: "plan",
    words: "<bundle>",
    about: "print the steps that creating the container of a bundle would take",
    flags: &[],
    until: Until::End,
    clones: false,
    run: plan,
};

fn plan(_: &Berth, given: &Given) -> Result<u8, Error> {
    let [bundle] = given.words("plan")?;
    let plan = preview::preview(Path::new(bundle)).map_err(|error| Error::Plan(Box::new(error)))?;
    let printed = io::stdout().write_all(plan.to_string().as_bytes());
    printed.map_err(|source| Error::System { act: "write to standard output", source })?;
    Ok(0)
}
