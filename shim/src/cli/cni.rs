//! `cni`: this program under the names of the CNI plugins that it has, in a directory where containerd looks for them.
//!
//! The links are symbolic. A hard link would go on naming the old program after an upgrade, cannot cross file systems, and
//! gives one inode two paths, of whose SELinux labels the one restored last wins; a copy is of the day when it was made.
//! libcni and containerd follow links, and execute the plugin by the link's name.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use netns::plugin;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::flags::{Given, Until, switch, value};
use super::home::Berth;
use super::{Command, Error};

pub const CNI: Command = Command {
    name: "cni",
    words: "install | uninstall | ls",
    about: "be the CNI plugins of a directory",
    flags: &[
        value("bin-dir", None, "DIR", "where containerd looks for plugins"),
        switch("force", Some('f'), "install: replace files that are not Berth's"),
    ],
    until: Until::End,
    clones: false,
    run: cni,
};

fn cni(_: &Berth, given: &Given) -> Result<u8, Error> {
    let [verb] = given.words("cni")?;
    let directory = given.path("bin-dir");
    let missing = || Error::Usage(format!("berth cni {verb}: --bin-dir is missing"));
    let done = match verb {
        "install" => install(&directory.ok_or_else(missing)?, &own_program()?, given.is_on("force"))?,
        "uninstall" => uninstall(&directory.ok_or_else(missing)?, &own_program()?)?,
        "ls" => list(directory.as_deref(), &own_program()?)?,
        other => return Err(Error::Usage(format!("no such command: cni {other} (try berth cni --help)"))),
    };
    done.iter().for_each(|line| println!("{line}"));
    Ok(0)
}

fn own_program() -> Result<PathBuf, Error> {
    let exe = Path::new("/proc/self/exe");
    let program = fs::read_link(exe).map_err(Error::file("read", exe))?;
    // Replaced while it runs, its path has a mark and names nothing.
    if program.exists() { Ok(program) } else { Err(Error::State(format!("{}: it is gone", program.display()))) }
}

/// What has a plugin's name.
#[derive(Debug, PartialEq)]
enum Found {
    Nothing,
    /// A link to this program.
    Link,
    /// A link to where this program was, or to another copy of it.
    OldLink,
    Foreign,
}

impl Found {
    fn at(path: &Path, program: &Path) -> Result<Self, Error> {
        match fs::read_link(path) {
            Ok(target) if target == program => Ok(Self::Link),
            Ok(target) if target.file_name() == program.file_name() => Ok(Self::OldLink),
            // EINVAL: it is no link.
            Ok(_) => Ok(Self::Foreign),
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(Self::Foreign),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }
}

/// What is there under each plugin's name.
fn look(directory: &Path, program: &Path) -> Result<Vec<(PathBuf, Found)>, Error> {
    let at = |kind| {
        let path = directory.join(kind);
        Found::at(&path, program).map(|found| (path, found))
    };
    plugin::natives().map(at).collect()
}

/// Links every plugin, or changes nothing.
fn install(directory: &Path, program: &Path, force: bool) -> Result<Vec<String>, Error> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.map_err(Error::file("make", directory))?,
    }
    let plugins = look(directory, program)?;
    let foreign: Vec<_> = plugins.iter().filter(|(_, found)| *found == Found::Foreign).collect();
    if !foreign.is_empty() && !force {
        let paths: Vec<_> = foreign.iter().map(|(path, _)| path.display().to_string()).collect();
        return Err(Error::State(format!("not Berth's, and not replaced without --force: {}", paths.join(", "))));
    }
    let mut done = Vec::new();
    let mut new: Vec<&Path> = Vec::new();
    for (path, found) in &plugins {
        let act = match found {
            Found::Nothing => "linked",
            Found::Link => "kept",
            Found::OldLink | Found::Foreign => "replaced",
        };
        if *found != Found::Link
            && let Err(error) = link(path, program, *found == Found::Nothing)
        {
            new.into_iter().for_each(|path| drop(fs::remove_file(path)));
            return Err(Error::file("link", path)(error));
        }
        if *found == Found::Nothing {
            new.push(path);
        }
        done.push(format!("{act} {}", path.display()));
    }
    Ok(done)
}

/// A link appears whole, and nothing that came meanwhile is overwritten.
fn link(path: &Path, program: &Path, new: bool) -> io::Result<()> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let draft = path.with_file_name(format!(".{name}.berth"));
    // Of an install that was killed.
    let _ = fs::remove_file(&draft);
    symlink(program, &draft)?;
    let flags = if new { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
    renameat_with(CWD, &draft, CWD, path, flags).map_err(|errno| {
        let _ = fs::remove_file(&draft);
        errno.into()
    })
}

/// Removes the links, and nothing else.
fn uninstall(directory: &Path, program: &Path) -> Result<Vec<String>, Error> {
    fs::read_dir(directory).map_err(Error::file("read", directory))?;
    let mut done = Vec::new();
    for (path, found) in look(directory, program)? {
        match found {
            Found::Nothing => {}
            Found::Foreign => done.push(format!("left {}, which is not Berth's", path.display())),
            Found::Link | Found::OldLink => {
                fs::remove_file(&path).map_err(Error::file("remove", &path))?;
                done.push(format!("removed {}", path.display()));
            }
        }
    }
    Ok(done)
}

/// The plugins, and what each one's name is in a directory.
fn list(directory: Option<&Path>, program: &Path) -> Result<Vec<String>, Error> {
    let Some(directory) = directory else { return Ok(plugin::natives().map(str::to_owned).collect()) };
    fs::read_dir(directory).map_err(Error::file("read", directory))?;
    let says = |path: &Path, found: Found| {
        let what = match found {
            Found::Nothing => "absent",
            Found::Link => "Berth",
            Found::OldLink => "a link to another Berth",
            Found::Foreign => "not Berth's",
        };
        format!("{:<12} {what}", path.file_name().unwrap_or_default().to_string_lossy())
    };
    Ok(look(directory, program)?.into_iter().map(|(path, found)| says(&path, found)).collect())
}
