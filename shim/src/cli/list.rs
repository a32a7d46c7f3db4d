//! `state`, `list` and `ps`: what there is.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process;

use runtime_core::container::Container;
use rustix::process::Pid;
use serde::Serialize;

use super::flags::{Given, Until, switch, text, value};
use super::home::Berth;
use super::{Command, Error, rootless, time};
use crate::error::chain;

pub const STATE: Command = Command {
    name: "state",
    words: "<container-id>",
    about: "print the state of a container",
    flags: &[],
    until: Until::End,
    clones: false,
    run: state,
};

pub const LIST: Command = Command {
    name: "list",
    words: "",
    about: "list the containers below --root",
    flags: &[value("format", Some('f'), "FORMAT", "table or json"), switch("quiet", Some('q'), "print ids alone")],
    until: Until::End,
    clones: false,
    run: list,
};

pub const PS: Command = Command {
    name: "ps",
    words: "<container-id> [ps options]",
    about: "show the processes of a container",
    flags: &[value("format", Some('f'), "FORMAT", "table or json")],
    until: Until::Word,
    clones: false,
    run: ps,
};

/// What is printed of a container: the specification's state, and what runc adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    oci_version: String,
    id: String,
    /// 0 if it has ended.
    pid: i32,
    status: String,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl Printed {
    fn of(container: &Container, owner: String) -> Result<Self, Error> {
        let state = container.state()?;
        let root = container.spec().root().as_ref().map(|root| state.bundle.join(root.path()));
        Ok(Self {
            oci_version: state.oci_version,
            id: state.id,
            pid: state.pid.unwrap_or(0),
            status: state.status.to_string(),
            rootfs: root.unwrap_or_default(),
            bundle: state.bundle,
            created: time::rfc3339(container.created(), 9),
            annotations: state.annotations,
            owner,
        })
    }
}

fn state(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("state")?;
    let printed = Printed::of(&berth.container(id)?, String::new())?;
    print(&(json(serde_json::to_string_pretty(&printed))? + "\n"))
}

fn list(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [] = given.words("list")?;
    let containers = containers(berth)?;
    if given.is_on("quiet") {
        return print(&containers.iter().map(|container| format!("{}\n", container.id)).collect::<String>());
    }
    match given.text("format")? {
        None | Some("table") => print(&table(&containers)),
        // As Go prints an empty slice that was never made.
        Some("json") if containers.is_empty() => print("null\n"),
        Some("json") => print(&(json(serde_json::to_string(&containers))? + "\n")),
        Some(_) => Err(Error::Usage("invalid format option".to_owned())),
    }
}

fn containers(berth: &Berth) -> Result<Vec<Printed>, Error> {
    let entries = match fs::read_dir(&berth.root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !berth.root_given => return Ok(Vec::new()),
        entries => entries.map_err(Error::file("open", &berth.root))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("read", &berth.root))?;
        let id = entry.file_name().to_string_lossy().into_owned();
        match load(berth, &entry, &id) {
            Ok(printed) => found.push(printed),
            // Deleted just now, or never a container.
            Err(Error::NoContainer | Error::BadId) => {}
            Err(error) => eprintln!("load container {id}: {}", chain(&error)),
        }
    }
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

fn load(berth: &Berth, entry: &DirEntry, id: &str) -> Result<Printed, Error> {
    let owner = entry.metadata().map(|file| owner(file.uid())).map_err(|_| Error::NoContainer)?;
    Printed::of(&berth.container(id)?, owner)
}

/// passwd(5): `name:password:uid:…`
fn owner(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Columns at least 12 wide with three blanks between them.
fn table(containers: &[Printed]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(containers.iter().map(|container| {
        let Printed { id, pid, status, bundle, created, owner, .. } = container;
        [id.clone(), pid.to_string(), status.clone(), bundle.display().to_string(), created.clone(), owner.clone()]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<String>() + &row[5] + "\n"
    };
    rows.iter().map(line).collect()
}

fn ps(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let Some((id, options)) = given.words.split_first() else {
        return Err(Error::Usage("berth: \"ps\" requires a minimum of 1 argument(s)".to_owned()));
    };
    let container = berth.container(text(id)?)?;
    let pids = if container.cgroup().is_none() { relatives(&container)? } else { members(&container)? };
    match given.text("format")? {
        None | Some("table") => {}
        Some("json") if pids.is_empty() => return print("null\n"),
        Some("json") => return print(&(json(serde_json::to_string(&pids))? + "\n")),
        Some(_) => return Err(Error::Usage("invalid format option".to_owned())),
    }
    let mut command = process::Command::new("ps");
    if options.is_empty() {
        command.arg("-ef")
    } else {
        command.args(options)
    };
    let output = command.output().map_err(|source| Error::Program { program: "ps".to_owned(), source })?;
    if !output.status.success() {
        return Err(Error::State(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    print(&chosen(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

fn members(container: &Container) -> Result<Vec<i32>, Error> {
    Ok(container.cgroup().pids()?.into_iter().map(Pid::as_raw_nonzero).map(std::num::NonZero::get).collect())
}

/// Without a cgroup: who lives in the pid namespace, if the container has its own.
fn relatives(container: &Container) -> Result<Vec<i32>, Error> {
    let Some(init) = container.state()?.pid else { return Ok(Vec::new()) };
    if container.shares_pid_namespace() {
        return Ok(vec![init]);
    }
    rootless::join(container)?;
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(init);
    let entries = fs::read_dir("/proc").map_err(Error::file("open", "/proc"))?.flatten();
    let mut pids: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.retain(|pid| own.is_some() && namespace(*pid) == own);
    pids.sort_unstable();
    Ok(pids)
}

/// Of what ps(1) prints, its header and the lines of these processes.
fn chosen(output: &str, pids: &[i32]) -> Result<String, Error> {
    let header = output.lines().next().unwrap_or_default();
    let column = header.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Error::State("couldn't find PID field in ps output".to_owned()))?;
    let ours = |line: &&str| {
        line.split_whitespace().nth(column).is_some_and(|pid| pid.parse::<i32>().is_ok_and(|pid| pids.contains(&pid)))
    };
    let lines = output.lines().take(1).chain(output.lines().skip(1).filter(ours));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

/// What can be printed can be JSON.
fn json(text: serde_json::Result<String>) -> Result<String, Error> {
    text.map_err(|source| Error::Json { what: "our own state".to_owned(), source })
}

fn print(text: &str) -> Result<u8, Error> {
    let printed = io::stdout().write_all(text.as_bytes());
    printed.map_err(|source| Error::System { act: "write to standard output", source })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_shows_the_containers_processes_alone() {
        let output = "UID   PID PPID CMD\nroot    1    0 init\nroot   42    1 sh -c 1\nroot  142    1 x\n";
        assert_eq!(chosen(output, &[42]).unwrap(), "UID   PID PPID CMD\nroot   42    1 sh -c 1\n");
        assert!(chosen("UID CMD\n", &[42]).is_err());
    }

    #[test]
    fn tables_have_columns() {
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn owners_have_names_or_numbers() {
        assert_eq!(owner(0), "root");
        assert_eq!(owner(4_000_000_000), "#4000000000");
    }
}
