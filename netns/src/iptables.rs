//! iptables by its own programs, for state that is shared with those who use nothing else: one reads a table, one
//! changes it, whole or not at all.

mod native;
mod table;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::cni::exec::{self, Printed};
use crate::cni::fault::{Code, Fault};
use crate::netlink::Family;
use crate::nft::Nft;

pub(crate) use table::{Edit, Rule, Table, foreign, foreign_chain, trimmed};

/// What a table of one family is to have, or to have no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edits {
    pub(crate) family: Family,
    pub(crate) table: &'static str,
    pub(crate) edits: Vec<Edit>,
}

impl Edits {
    /// Reads, decides, and writes. Where somebody else changed the table in between, the kernel refuses all of it, and
    /// it is read again.
    pub(crate) fn apply(&self, nft: &mut Nft, deadline: Instant) -> Result<(), Fault> {
        if let Some(plan) = self.native() {
            return plan.apply(nft, deadline);
        }
        let mut lines = read(self.family, self.table, deadline)?.lines(&self.edits);
        while !lines.is_empty() {
            let Err(fault) = write(self.family, self.table, &lines, deadline) else { break };
            let again = read(self.family, self.table, deadline)?.lines(&self.edits);
            if again == lines {
                return Err(fault);
            }
            lines = again;
        }
        Ok(())
    }

    /// What is not as it is to be.
    pub(crate) fn missing(&self, deadline: Instant) -> Result<Vec<String>, Fault> {
        if let Some(plan) = self.native() {
            return plan.missing();
        }
        Ok(read(self.family, self.table, deadline)?.lines(&self.edits))
    }

    /// The way without a program, where iptables' rules are nf_tables', or nobody has an iptables.
    fn native(&self) -> Option<native::Plan<'_>> {
        let plan = native::plan(self)?;
        if is_legacy(self.family, self.table) {
            return None;
        }
        let is_nft = |path: PathBuf| {
            let program = fs::canonicalize(path).unwrap_or_default();
            program.file_name().is_some_and(|name| name.to_string_lossy().contains("nft"))
        };
        find(&program(self.family, "restore")).map_or(true, is_nft).then_some(plan)
    }
}

/// A table as it is.
pub(crate) fn read(family: Family, table: &str, deadline: Instant) -> Result<Table, Fault> {
    let path = find(&program(family, "save"))?;
    let mut command = Command::new(path);
    command.args(["-t", table]);
    Ok(Table::parse(&String::from_utf8_lossy(&run(command, &program(family, "save"), "", deadline)?)))
}

fn write(family: Family, table: &str, lines: &[String], deadline: Instant) -> Result<(), Fault> {
    let name = program(family, "restore");
    let mut command = Command::new(find(&name)?);
    // The old iptables locks by a file, which a dead process holds no more and a living one not for long.
    command.args(["--noflush", "--wait=10"]);
    let text = format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"));
    run(command, &name, &text, deadline).map(drop)
}

fn run(command: Command, name: &str, input: &str, deadline: Instant) -> Result<Vec<u8>, Fault> {
    let Printed { status, stdout, stderr } = exec::complete(command, name, input.as_bytes(), deadline)?;
    if status.success() {
        return Ok(stdout);
    }
    let words = String::from_utf8_lossy(&stderr).trim_end().to_owned();
    Err(Fault::new(Code::INTERNAL, format!("{name} failed: {words}: {status}")))
}

fn program(family: Family, act: &str) -> String {
    match family {
        Family::V4 => format!("iptables-{act}"),
        Family::V6 => format!("ip6tables-{act}"),
    }
}

/// Daemons are started with all sorts of PATHs, and these lie beside each other where the system's administrator looks.
fn find(name: &str) -> Result<PathBuf, Fault> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut candidates = env::split_paths(&path).chain(usual).map(|directory| directory.join(name));
    candidates
        .find(|path| path.is_file())
        .ok_or_else(|| Fault::new(Code::INTERNAL, format!("failed to find {name} in PATH")))
}

/// Whether what a table has can be taken away: where it is the old iptables', whose program is gone, nobody can.
pub(crate) fn reachable(family: Family, table: &str) -> bool {
    !is_legacy(family, table) || find(&program(family, "restore")).is_ok()
}

/// Whether the kernel has a table of the old iptables, in the namespace of the calling thread. That of nf_tables has its
/// tables among nf_tables' own.
pub(crate) fn is_legacy(family: Family, table: &str) -> bool {
    let file = match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    };
    let names = fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap_or_default();
    names.lines().any(|name| name == table)
}
