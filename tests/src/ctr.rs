//! `ctr` of the daemon's own version, in its namespace, with a deadline.

use crate::command::{self, DEADLINE, Outcome, Running};
use crate::containerd::Containerd;
use anyhow::Result;
use std::process::{Command, Stdio};
use std::time::Duration;

impl Containerd {
    /// `ctr` with these arguments, not yet started.
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = self.program("ctr");
        match args {
            // ctr removes the fifos of an exec that it waits for, and never those of a detached one.
            ["task", "exec", "-d", rest @ ..] => {
                command.args(["task", "exec", "-d", "--fifo-dir"]).arg(self.directory().join("fifo")).args(rest)
            }
            _ => command.args(args),
        };
        command
    }

    /// Runs `ctr` with these arguments and a stdin that says nothing and does not end: at an end that comes too early
    /// ctr now and then loses what the container says, whoever runs it.
    pub fn ctr(&self, args: &[&str]) -> Result<Outcome> {
        self.ctr_within(DEADLINE, args)
    }

    /// The same with a deadline of the caller's.
    pub fn ctr_within(&self, deadline: Duration, args: &[&str]) -> Result<Outcome> {
        self.ctr_start(args)?.wait(deadline)
    }

    /// Starts `ctr` with these arguments; its stdin is a pipe that the caller takes, or that stays open.
    pub fn ctr_start(&self, args: &[&str]) -> Result<Running> {
        command::start(self.ctr_command(args).stdin(Stdio::piped()))
    }
}
