//! cgroup v2: one directory, kernel Documentation/admin-guide/cgroup-v2.rst.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;
use rustix::process::Pid;

use super::dir::{Dir, existing};
use super::made::Made;
use super::resources::{Found, Limits, Setting};
use super::{CgroupPath, Error, OomWatch, devices, processes, resources, stats, sys};

/// How long a freeze may take: a task deep in the kernel stops when it leaves it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directory of one container.
#[derive(Debug)]
pub(super) struct Group {
    dir: Dir,
    name: String,
}

impl Group {
    /// Makes the directory and sets the limits, or leaves nothing behind.
    pub(super) fn create(root: &Dir, path: &CgroupPath, limits: &Limits, found: Found) -> Result<Group, Error> {
        let path_text = path.within(&[""])?;
        let mut made = Made::default();
        let new = made.make(root, &path_text)?;
        enable(root, &path_text, &limits.settings)?;
        let group = Group { dir: open(root, &path_text)?, name: path.name().to_owned() };
        group.check_type(&path_text)?;
        if !new && found == Found::Left {
            group.reuse(&path_text)?;
        }
        group.apply(&limits.settings)?;
        // A program of systemd's stays beside ours: it replaces it when it likes.
        group.set_devices(&limits.rules, new || found == Found::Ours)?;
        made.keep();
        Ok(group)
    }

    /// The directory, if it exists.
    pub(super) fn open(root: &Dir, path: &CgroupPath) -> Result<Option<Group>, Error> {
        match open(root, &path.within(&[""])?) {
            Ok(dir) => Ok(Some(Group { dir, name: path.name().to_owned() })),
            Err(Error::Directory { source: Errno::NOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The cgroup `path` below this one.
    pub(super) fn child(&self, path: &str) -> Result<Group, Error> {
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        Ok(Group { dir: open(&self.dir, path)?, name })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Changes limits; device rules stay as they are, as with runc.
    pub(super) fn update(&self, limits: &LinuxResources) -> Result<(), Error> {
        let settings = resources::v2::settings(limits)?;
        self.check_usage(limits)?;
        self.apply(&settings)
    }

    fn apply(&self, settings: &[Setting]) -> Result<(), Error> {
        resources::apply(settings, |_| Some(&self.dir))
    }

    /// `memory.checkBeforeUpdate`: v2 accepts a limit below the usage and kills down to it.
    pub(super) fn check_usage(&self, limits: &LinuxResources) -> Result<(), Error> {
        let Some(memory) = limits.memory() else { return Ok(()) };
        if memory.check_before_update() != Some(true) {
            return Ok(());
        }
        let read = self.dir.read("memory.current").ok();
        let Some(usage) = read.and_then(|text| text.trim().parse::<u64>().ok()) else {
            return Ok(());
        };
        for (file, limit) in [("memory.swap.max", memory.swap()), ("memory.max", memory.limit())] {
            match limit.map(u64::try_from) {
                Some(Ok(limit)) if limit > 0 && limit <= usage => {
                    return Err(Error::BelowUsage { file: file.to_owned(), limit, usage });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A cgroup below a threaded one, or below one with processes and controllers, takes no process.
    fn check_type(&self, path: &str) -> Result<(), Error> {
        match existing(self.dir.read("cgroup.type")) {
            Ok(Some(mode)) if mode.trim() != "domain" => {
                Err(Error::Threaded { path: format!("/{path}"), mode: mode.trim().to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn reuse(&self, path: &str) -> Result<(), Error> {
        let path = || format!("/{path}");
        match self.pids()?.len() {
            0 => {}
            count => return Err(Error::InUse { path: path(), count }),
        }
        if self.is_frozen()? { Err(Error::Frozen { path: path() }) } else { Ok(()) }
    }

    /// The rules as a program. A cgroup that was there may have one, which is replaced in one step:
    /// at no time is there none, or a stricter sum of both.
    fn set_devices(&self, rules: &devices::Rules, new: bool) -> Result<(), Error> {
        let error = |act| move |source| Error::DeviceProgram { act, source };
        let cgroup = self.dir.as_fd();
        let program = sys::load(&devices::bpf::program(rules)).map_err(error("load"))?;
        let old = match new {
            true => Vec::new(),
            false => sys::attached(cgroup).map_err(error("look for"))?,
        };
        if let [old] = old.as_slice() {
            match sys::attach(cgroup, program.as_fd(), Some(old.as_fd())) {
                // Linux before 5.6 has no BPF_F_REPLACE.
                Err(Errno::INVAL) => {}
                result => return result.map_err(error("replace")),
            }
        }
        sys::attach(cgroup, program.as_fd(), None).map_err(error("attach"))?;
        let detach = |old| sys::detach(cgroup, old).map_err(error("detach"));
        old.iter().try_for_each(|old| detach(old.as_fd()))
    }

    /// Stops all tasks.
    pub(super) fn freeze(&self) -> Result<(), Error> {
        self.set_frozen("1")?;
        let waited = processes::wait_event(&self.dir, "frozen 1", Instant::now() + PATIENCE);
        let error = match waited {
            Ok(waited) if waited.reached => return Ok(()),
            Ok(_) => Error::NotFrozen { path: self.name.clone() },
            Err(source) => Error::Wait { act: "wait for a cgroup to freeze", source },
        };
        // Half frozen is worse than either.
        let _ = self.set_frozen("0");
        Err(error)
    }

    /// Lets all tasks run.
    pub(super) fn thaw(&self) -> Result<(), Error> {
        self.set_frozen("0")
    }

    /// Whether all tasks are stopped, or about to be.
    pub(super) fn is_frozen(&self) -> Result<bool, Error> {
        const FILE: &str = "cgroup.freeze";
        let state = existing(self.dir.read(FILE)).map_err(|source| Error::Read { file: FILE.to_owned(), source })?;
        Ok(state.is_some_and(|state| state.trim() == "1"))
    }

    fn set_frozen(&self, value: &str) -> Result<(), Error> {
        const FILE: &str = "cgroup.freeze";
        match self.dir.write(FILE, value) {
            // Linux before 5.2 cannot freeze, so there is nothing to thaw.
            Err(Errno::NOENT) if value == "0" => Ok(()),
            result => result.map_err(|source| Error::Write { file: FILE.to_owned(), value: value.to_owned(), source }),
        }
    }

    pub(super) fn pids(&self) -> Result<Vec<Pid>, Error> {
        processes::all(&self.dir)
    }

    pub(super) fn signal_all(&self, signal: i32) -> Result<(), Error> {
        if signal != libc::SIGKILL {
            return processes::signal_once(&self.dir, signal);
        }
        // One write kills everybody, forks in flight and frozen tasks included. Since Linux 5.14.
        match self.dir.write("cgroup.kill", "1") {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(source) => {
                let file = "cgroup.kill".to_owned();
                return match existing::<()>(Err(source)) {
                    Ok(_) => Ok(()),
                    Err(source) => Err(Error::Write { file, value: "1".to_owned(), source }),
                };
            }
        }
        // A frozen task of v2 dies when it is killed.
        processes::kill_all(&self.dir, || {
            let _ = self.set_frozen("1");
        })
    }

    pub(super) fn stats(&self) -> Result<stats::v2::Metrics, Error> {
        stats::v2::read(&self.dir)
    }

    pub(super) fn details(&self) -> Result<stats::details::Details, Error> {
        stats::details::v2(&self.dir)
    }

    pub(super) fn watch_oom(&self) -> Result<Option<OomWatch>, Error> {
        self.dir.has("memory.events").then(|| OomWatch::v2(&self.dir)).transpose()
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        processes::remove([&self.dir], &self.name)
    }
}

fn open(root: &Dir, path: &str) -> Result<Dir, Error> {
    root.below(path).map_err(|source| Error::Directory { act: "open", path: format!("/{path}"), source })
}

/// Enables the root's controllers all the way down to the parent of `path`, writing only where one
/// is missing: each write may move tasks about. What `settings` need must succeed, the rest is for
/// the sake of statistics.
fn enable(root: &Dir, path: &str, settings: &[Setting]) -> Result<(), Error> {
    let needed = |name: &str| settings.iter().any(|setting| setting.controller == name);
    let mut wanted = words(root, "cgroup.controllers")?;
    let parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
    for parent in std::iter::once("").chain(parents) {
        let below = if parent.is_empty() { None } else { Some(open(root, parent)?) };
        let dir = below.as_ref().unwrap_or(root);
        let enabled = words(dir, SUBTREE)?;
        let missing: Vec<_> = wanted.iter().filter(|name| !enabled.contains(name)).cloned().collect();
        let failed = enable_in(dir, &missing);
        if let Some((controller, source)) = failed.iter().find(|(name, _)| needed(name)) {
            let (controller, path) = (controller.clone(), format!("/{parent}"));
            return Err(Error::Enable { controller, path, source: *source });
        }
        wanted.retain(|name| !failed.iter().any(|(other, _)| other == name));
    }
    Ok(())
}

const SUBTREE: &str = "cgroup.subtree_control";

/// Enables all of `missing` in one write, or one by one where one spoils it; gives what failed.
fn enable_in(dir: &Dir, missing: &[String]) -> Vec<(String, Errno)> {
    let line = |names: &[String]| names.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    if missing.is_empty() || dir.write(SUBTREE, &line(missing)).is_ok() {
        return Vec::new();
    }
    missing
        .iter()
        .filter_map(|name| {
            let result = dir.write(SUBTREE, &format!("+{name}"));
            result.err().map(|errno| (name.clone(), errno))
        })
        .collect()
}

fn words(dir: &Dir, file: &str) -> Result<Vec<String>, Error> {
    let text = dir.read(file).map_err(|source| Error::Read { file: file.to_owned(), source })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of plain files that looks like a cgroup2 with controllers: root, `p`, `p/q`.
    struct Fake(std::path::PathBuf);

    impl Fake {
        fn new(name: &str, enabled: [&str; 2]) -> Fake {
            let path = std::env::temp_dir().join(format!("berth-{}-{name}", std::process::id()));
            for (below, enabled) in ["", "p"].iter().zip(enabled) {
                std::fs::create_dir_all(path.join(below)).unwrap();
                std::fs::write(path.join(below).join("cgroup.controllers"), "cpu memory pids\n").unwrap();
                std::fs::write(path.join(below).join(SUBTREE), enabled).unwrap();
            }
            std::fs::create_dir_all(path.join("p/q")).unwrap();
            Fake(path)
        }

        fn enable(&self, settings: &[Setting]) -> Result<(), Error> {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            let root = rustix::fs::open(&self.0, flags, rustix::fs::Mode::empty()).unwrap();
            enable(&Dir::new(root), "p/q", settings)
        }

        fn subtree(&self, below: &str) -> String {
            std::fs::read_to_string(self.0.join(below).join(SUBTREE)).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn enabled_controllers_are_not_enabled_again() {
        let fake = Fake::new("enabled", ["cpu memory pids\n", "memory cpu pids\n"]);
        fake.enable(&[]).unwrap();
        assert_eq!(fake.subtree(""), "cpu memory pids\n");
        assert_eq!(fake.subtree("p"), "memory cpu pids\n");
    }

    #[test]
    fn missing_controllers_are_enabled_in_one_write_and_not_in_the_leaf() {
        let fake = Fake::new("missing", ["memory\n", ""]);
        fake.enable(&[]).unwrap();
        assert_eq!(fake.subtree(""), "+cpu +pids");
        assert_eq!(fake.subtree("p"), "+cpu +memory +pids");
        assert!(!fake.0.join("p/q").join(SUBTREE).exists());
    }
}
