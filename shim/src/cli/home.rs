//! Where containers are, and what holds for every command.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process;
use std::sync::Arc;

use runtime_core::children::Children;
use runtime_core::container::{Container, Lock, Runtime};
use rustix::fs::{SealFlags, StatVfsMountFlags};

use super::Error;
use super::flags::{Flag, Given, switch, value};
use super::log::{Format, Log};
use crate::seal as sealed;
use crate::serve::SECCOMP_CACHE;

pub const FLAGS: &[Flag] = &[
    value("root", None, "DIR", "where the state of containers is, on a tmpfs (/run/berth, or $XDG_RUNTIME_DIR/berth)"),
    value("log", None, "FILE", "where errors and warnings are appended (standard error)"),
    value("log-format", None, "FORMAT", "text or json"),
    switch("debug", None, "log more"),
    switch("systemd-cgroup", None, "have systemd make cgroups; cgroupsPath is slice:prefix:name"),
    value("cgroup-manager", None, "WHO", "cgroupfs, systemd or disabled"),
    value("rootless", None, "WHETHER", "go on without cgroups that may not be written: true, false or auto"),
    switch("version", Some('v'), "print the version"),
];

/// The directory of a host's containers.
const ROOT: &str = "/run/berth";

/// What holds for every command.
#[derive(Debug)]
pub struct Berth {
    /// Where containers are.
    pub root: PathBuf,
    /// Somebody named it.
    pub root_given: bool,
    /// Let systemd make cgroups.
    pub systemd_cgroup: bool,
    /// Whether to go on without a cgroup that may not be made; `None` if that depends on where we are.
    pub rootless: Option<bool>,
    /// What is told.
    pub log: Log,
    children: Arc<Children>,
}

impl Berth {
    /// From the flags in front of the verb.
    pub fn new(given: &Given) -> Result<Self, Error> {
        let format = match given.text("log-format")? {
            None | Some("text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(Error::Usage(format!("invalid log-format: {other}"))),
        };
        let log = Log::open(given.path("log").as_deref(), format, given.is_on("debug"))?;
        let manager = given.text("cgroup-manager")?;
        if let Some(other) = manager.filter(|manager| !["cgroupfs", "systemd", "disabled"].contains(manager)) {
            return Err(Error::Usage(format!("invalid cgroup-manager: {other}")));
        }
        let root_given = given.value("root").is_some();
        let root = match given.value("root") {
            Some(root) => clean(Path::new(root))?,
            None => default_root(),
        };
        Ok(Self {
            root,
            root_given,
            systemd_cgroup: given.is_on("systemd-cgroup") || manager == Some("systemd"),
            rootless: is_rootless(given)?,
            log,
            children: Arc::default(),
        })
    }

    /// The directory of a container. The id is a file name of a few harmless letters, as with runc.
    pub fn directory(&self, id: &str) -> Result<PathBuf, Error> {
        let harmless = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
        match id {
            "" => Err(Error::EmptyId),
            "." | ".." => Err(Error::BadId),
            id if id.len() > 1024 || !id.chars().all(harmless) => Err(Error::BadId),
            id => Ok(self.root.join(id)),
        }
    }

    /// A container that exists.
    pub fn container(&self, id: &str) -> Result<Container, Error> {
        Container::open(&self.directory(id)?, self.children.clone())?.ok_or(Error::NoContainer)
    }

    /// The same, which nobody else changes as long as the lock lives.
    pub fn locked(&self, id: &str) -> Result<(Lock, Container), Error> {
        let lock = Lock::take(&self.directory(id)?)?.ok_or(Error::NoContainer)?;
        let container = Container::open_locked(&lock, &self.directory(id)?, self.children.clone())?;
        Ok((lock, container.ok_or(Error::NoContainer)?))
    }

    /// What makes processes.
    pub fn runtime(&self) -> Result<Runtime, Error> {
        Ok(Runtime::new(Some(SECCOMP_CACHE.into()))?)
    }
}

fn is_rootless(given: &Given) -> Result<Option<bool>, Error> {
    match given.text("rootless")?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("auto") => Ok(None),
        Some("true" | "1" | "t") => Ok(Some(true)),
        Some("false" | "0" | "f") => Ok(Some(false)),
        Some(other) => Err(Error::Value { flag: "rootless", value: other.to_owned(), wanted: "true, false or auto" }),
    }
}

fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !is_real_root() => Path::new(&directory).join("berth"),
        _ => ROOT.into(),
    }
}

/// Not somebody who is root in a user namespace of his own, as podman makes one for an ordinary user. Who says to be root
/// there has a /run, too: as with runc, `$USER` tells.
fn is_real_root() -> bool {
    let in_user_namespace = || runtime_core::host::in_user_namespace().unwrap_or(false);
    let says_root = || std::env::var_os("USER").is_some_and(|user| user == "root");
    rustix::process::geteuid().is_root() && (!in_user_namespace() || says_root())
}

/// Absolute, and without dots. Never the root of the host, whose directories are no containers.
fn clean(root: &Path) -> Result<PathBuf, Error> {
    let refused = || Error::Usage("Option --root argument should not be set to /".to_owned());
    if root.as_os_str().is_empty() {
        return Err(refused());
    }
    let mut clean = PathBuf::from("/");
    for part in std::path::absolute(root).map_err(Error::file("find", root))?.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    if clean == Path::new("/") { Err(refused()) } else { Ok(clean) }
}

/// Goes on from a view of our own binary that nothing can write to, unless this is one: what we clone has it as its
/// `/proc/self/exe` until it executes its program (CVE-2019-5736).
pub fn seal(berth: &Berth, words: &[OsString]) -> Result<(), Error> {
    let exe = Path::new("/proc/self/exe");
    let read_only = || rustix::fs::statvfs(exe).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    let seals = || File::open(exe).ok().and_then(|exe| rustix::fs::fcntl_get_seals(exe).ok());
    if read_only() || seals().is_some_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(());
    }
    if !berth.root.is_dir() {
        std::fs::create_dir_all(&berth.root).map_err(Error::file("make", &berth.root))?;
    }
    let binary = sealed::own_binary(&berth.root)?;
    let source = process::Command::new(sealed::path(&binary)).arg0("berth").args(words).exec();
    Err(Error::Program { program: "our own sealed binary".to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berth(root: &str) -> Result<Berth, Error> {
        let words = ["--root", root].map(OsString::from);
        Berth::new(&super::super::flags::parse(FLAGS, super::super::flags::Until::Word, words)?)
    }

    #[test]
    fn root_is_never_the_hosts() {
        for root in ["/", "", "/a/..", "//"] {
            assert!(matches!(berth(root), Err(Error::Usage(_))), "{root:?}");
        }
        assert_eq!(berth("/run/./x/../berth/").unwrap().root, Path::new("/run/berth"));
    }

    #[test]
    fn no_container_is_in_the_place_of_the_seccomp_cache() {
        let berth = berth(ROOT).unwrap();
        let name = Path::new(SECCOMP_CACHE).strip_prefix(ROOT).unwrap().to_str().unwrap();
        assert!(matches!(berth.directory(name), Err(Error::BadId)), "{name}");
    }

    #[test]
    fn ids_are_harmless_file_names() {
        let berth = berth("/r").unwrap();
        assert_eq!(berth.directory("a_b+c-d.e").unwrap(), Path::new("/r/a_b+c-d.e"));
        assert!(matches!(berth.directory(""), Err(Error::EmptyId)));
        for id in [".", "..", "a/b", "a b", "ä", "a\0"] {
            assert!(matches!(berth.directory(id), Err(Error::BadId)), "{id:?}");
        }
    }
}
