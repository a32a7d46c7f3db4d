//! The program: arguments, environment, where to look.

use std::collections::HashSet;
use std::ffi::CString;

use oci_spec::runtime::Process;

use super::Error;
use super::draft::{c_string, text};
use crate::program::{CStringArray, Program};

/// What `process` will execute. `home` is for a process without HOME.
pub(super) fn compile(process: &Process, home: Option<&str>, preserve_fds: u32) -> Result<Program, Error> {
    let args = process.args().as_deref().unwrap_or_default();
    let name = args.first().ok_or_else(|| Error::missing("process.args"))?;
    let args: Vec<CString> = args.iter().map(|arg| c_string("process.args", arg)).collect::<Result<_, _>>()?;
    let env = environment(process.env().as_deref().unwrap_or_default(), home)?;
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    Ok(Program {
        name: c_string("process.args", name)?,
        candidates: candidates(name, path)?,
        args: CStringArray::new(args),
        preserve_fds,
        env: CStringArray::new(env.iter().map(|entry| c_string("process.env", entry)).collect::<Result<_, _>>()?),
    })
}

/// A name with a slash is a path. Of PATH only absolute directories count: `.` would be wherever cwd is.
fn candidates(name: &str, path: &str) -> Result<Vec<CString>, Error> {
    if name.contains('/') {
        return Ok(vec![c_string("process.args", name)?]);
    }
    let directories = path.split(':').filter(|directory| directory.starts_with('/') && !name.is_empty());
    directories
        .map(|directory| c_string("process.env", &format!("{}/{name}", directory.trim_end_matches('/'))))
        .collect()
}

/// Of several values for a name the last one counts, in its place.
fn environment(entries: &[String], home: Option<&str>) -> Result<Vec<String>, Error> {
    let mut seen = HashSet::new();
    let mut env = Vec::with_capacity(entries.len() + 1);
    for entry in entries.iter().rev() {
        let invalid = |reason| Error::invalid("process.env", entry, reason);
        let (name, value) =
            entry.split_once('=').ok_or_else(|| invalid("invalid environment variable: missing '='"))?;
        if name.is_empty() {
            return Err(invalid("invalid environment variable: name cannot be empty"));
        }
        // An empty HOME is none.
        if seen.insert(name) && !(name == "HOME" && value.is_empty()) {
            env.push(entry.clone());
        }
    }
    env.reverse();
    let home = home.filter(|_| !env.iter().any(|entry| entry.starts_with("HOME=")));
    env.extend(home.map(|home| format!("HOME={home}")));
    Ok(env)
}

/// `process.cwd`, which has to be absolute.
pub(super) fn cwd(process: &Process) -> Result<&str, Error> {
    match text(process.cwd()) {
        "" => Err(Error::missing("process.cwd")),
        cwd if cwd.starts_with('/') => Ok(cwd),
        cwd => Err(Error::invalid("process.cwd", cwd, "must be an absolute path")),
    }
}
