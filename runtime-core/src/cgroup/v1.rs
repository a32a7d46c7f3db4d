//! cgroup v1: one directory in every hierarchy, kernel Documentation/admin-guide/cgroup-v1.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::dir::{Dir, existing};
use super::layout::{Controller, Hierarchy, UNIFIED};
use super::made::Made;
use super::resources::{Found, Limits};
use super::{CgroupPath, Error, devices, processes, resources, stats};

const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// The directories of one container.
#[derive(Debug)]
pub(super) struct Groups {
    groups: Vec<Group>,
    name: String,
}

#[derive(Debug)]
struct Group {
    controllers: Vec<Controller>,
    dir: Dir,
}

impl Groups {
    /// Makes the directories and sets the limits, or leaves nothing behind.
    pub(super) fn create(
        hierarchies: &[Hierarchy],
        path: &CgroupPath,
        limits: &Limits,
        found: Found,
    ) -> Result<Groups, Error> {
        let mut made = Made::default();
        let mut groups = Vec::with_capacity(hierarchies.len());
        for hierarchy in hierarchies {
            let path = path.within(&hierarchy.controllers)?;
            let new = made.make(&hierarchy.root, &path)?;
            let group = open(hierarchy, &path)?;
            if !new && found == Found::Left {
                group.reuse(&path)?;
            }
            if group.has("cpuset") {
                let asked = |file: &str| limits.settings.iter().any(|setting| setting.file == file);
                inherit_cpuset(&hierarchy.root, &path, &group.dir, new, asked)?;
            }
            groups.push(group);
        }
        let groups = Groups { groups, name: path.name().to_owned() };
        resources::apply(&limits.settings, |controller| groups.dir(controller))?;
        groups.set_devices(&limits.rules)?;
        made.keep();
        Ok(groups)
    }

    /// The directories that exist; `None` if none does.
    pub(super) fn open(hierarchies: &[Hierarchy], path: &CgroupPath) -> Result<Option<Groups>, Error> {
        let mut groups = Vec::new();
        for hierarchy in hierarchies {
            let path = path.within(&hierarchy.controllers)?;
            match open(hierarchy, &path) {
                Ok(group) => groups.push(group),
                Err(Error::Directory { source: Errno::NOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((!groups.is_empty()).then(|| Groups { groups, name: path.name().to_owned() }))
    }

    /// The same, with cgroups below in the place of the hierarchies that are named, or of all.
    pub(super) fn below(&self, paths: &[(Option<String>, String)]) -> Result<Groups, Error> {
        let is_unknown = |name: &&String| !self.groups.iter().any(|group| group.is(name));
        if let Some(name) = paths.iter().filter_map(|(name, _)| name.as_ref()).find(is_unknown) {
            return Err(Error::UnknownController { name: name.clone() });
        }
        let reopen = |group: &Group| {
            let own = paths.iter().find(|(name, _)| name.as_ref().is_none_or(|name| group.is(name)));
            let path = own.map_or(".", |(_, path)| path);
            let error = |source| Error::SubCgroup { path: path.to_owned(), source };
            Ok(Group { controllers: group.controllers.clone(), dir: group.dir.below(path).map_err(error)? })
        };
        let groups = self.groups.iter().map(reopen).collect::<Result<Vec<_>, Error>>()?;
        Ok(Groups { groups, name: self.name.clone() })
    }

    /// The directory with `controller`'s files.
    pub(super) fn dir(&self, controller: Controller) -> Option<&Dir> {
        self.groups.iter().find(|group| group.has(controller)).map(|group| &group.dir)
    }

    /// `tasks` of every hierarchy, for a child that writes `0` into each. A single thread moving
    /// itself this way skips the grace period that a write to `cgroup.procs` waits for.
    pub(super) fn tasks(&self) -> Result<Vec<OwnedFd>, Error> {
        let open = |group: &Group| group.dir.open("tasks", OFlags::WRONLY);
        self.groups
            .iter()
            .filter(|group| !group.has(UNIFIED))
            .map(|group| {
                let path = || format!("{} tasks of {}", group.controllers.join(","), self.name);
                open(group).map_err(|source| Error::Directory { act: "open", path: path(), source })
            })
            .collect()
    }

    /// The directory of a hybrid host's v2 hierarchy.
    pub(super) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.dir(UNIFIED).map(AsFd::as_fd)
    }

    /// Changes limits. Device rules stay as they are, as with runc: rewriting them would for a
    /// moment forbid devices in use, and lose what a device plugin added.
    pub(super) fn update(&self, limits: &LinuxResources) -> Result<(), Error> {
        let settings = resources::v1::settings(limits)?;
        resources::apply(&settings, |controller| self.dir(controller))
    }

    fn set_devices(&self, rules: &devices::Rules) -> Result<(), Error> {
        let no_controller = |file: &str| Error::NoController { controller: "devices", file: file.to_owned() };
        // Not even for a container without rules is this left out: it would have every device.
        let dir = self.dir("devices").ok_or_else(|| no_controller("devices.deny"))?;
        let [default, exceptions] = rules.v1();
        for (file, lines) in [default, exceptions] {
            match dir.write_lines(file, &lines) {
                Err(("a", Errno::INVAL)) if file == DENY => deny_listed(dir)?,
                result => result.map_err(|(line, source)| devices_error(file, line, source))?,
            }
        }
        Ok(())
    }

    /// Stops all tasks.
    pub(super) fn freeze(&self) -> Result<(), Error> {
        let dir = self.freezer()?;
        freeze(dir, &self.name).inspect_err(|_| {
            // Half frozen is worse than either.
            let _ = dir.write(STATE, "THAWED");
        })
    }

    /// Lets all tasks run.
    pub(super) fn thaw(&self) -> Result<(), Error> {
        set_state(self.freezer()?, "THAWED")
    }

    /// Whether all tasks are stopped, or about to be.
    pub(super) fn is_frozen(&self) -> Result<bool, Error> {
        let Some(dir) = self.dir("freezer") else { return Ok(false) };
        let state = existing(dir.read(STATE)).map_err(|source| Error::Read { file: STATE.to_owned(), source })?;
        Ok(state.is_some_and(|state| state.trim() != "THAWED"))
    }

    fn freezer(&self) -> Result<&Dir, Error> {
        self.dir("freezer").ok_or(Error::NoController { controller: "freezer", file: STATE.to_owned() })
    }

    /// The hierarchy to look for processes in. Without a cgroup namespace of its own a container can
    /// move its processes about, so runc's choice is followed: what nobody has a reason to leave.
    fn primary(&self) -> Option<&Dir> {
        self.dir("devices").or_else(|| self.groups.first().map(|group| &group.dir))
    }

    pub(super) fn pids(&self) -> Result<Vec<Pid>, Error> {
        self.primary().map_or(Ok(Vec::new()), processes::all)
    }

    pub(super) fn signal_all(&self, signal: i32) -> Result<(), Error> {
        let Some(dir) = self.primary() else { return Ok(()) };
        if signal != libc::SIGKILL {
            return processes::signal_once(dir, signal);
        }
        let freezer = self.dir("freezer");
        let result = processes::kill_all(dir, || {
            let _ = freezer.map(|freezer| freezer.write(STATE, "FROZEN"));
        });
        // A frozen task of v1 does not even die.
        match freezer.map(|freezer| existing(freezer.write(STATE, "THAWED"))) {
            Some(Err(source)) => result.and(Err(state_error("THAWED", source))),
            _ => result,
        }
    }

    pub(super) fn stats(&self) -> Result<stats::v1::Metrics, Error> {
        stats::v1::read(|controller| self.dir(controller))
    }

    pub(super) fn details(&self) -> Result<stats::details::Details, Error> {
        stats::details::v1(self.dir("memory"), self.dir("cpuacct"), self.dir("cpuset"))
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        processes::remove(self.groups.iter().map(|group| &group.dir), &self.name)
    }
}

impl Group {
    fn is(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// A directory that is there already serves if it is empty. Who froze it wants nobody to run there.
    fn reuse(&self, path: &str) -> Result<(), Error> {
        let path = || format!("/{path}");
        match processes::all(&self.dir)?.len() {
            0 => {}
            count => return Err(Error::InUse { path: path(), count }),
        }
        let frozen = self.has("freezer") && read(&self.dir, STATE)?.trim() != "THAWED";
        if frozen { Err(Error::Frozen { path: path() }) } else { Ok(()) }
    }
}

fn open(hierarchy: &Hierarchy, path: &str) -> Result<Group, Error> {
    let error = |source| Error::Directory { act: "open", path: format!("/{path}"), source };
    let dir = hierarchy.root.below(path).map_err(error)?;
    Ok(Group { controllers: hierarchy.controllers.clone(), dir })
}

/// A cpuset of v1 is made without cpus and memory nodes and takes no task until it has both: what is
/// not asked for is taken from the parent.
fn inherit_cpuset(root: &Dir, path: &str, dir: &Dir, new: bool, asked: impl Fn(&str) -> bool) -> Result<(), Error> {
    let parent = filled_cpuset(root, parent(path))?;
    for (file, value) in CPUSET.iter().zip(parent) {
        if !asked(file) && (new || is_empty(&read(dir, file)?)) {
            write(dir, file, &value)?;
        }
    }
    Ok(())
}

/// The cpus and memory nodes of an ancestor, filled from above where it has none yet.
fn filled_cpuset(root: &Dir, path: &str) -> Result<[String; 2], Error> {
    let error = |source| Error::Directory { act: "open", path: format!("/{path}"), source };
    let below = match path {
        "" => None,
        path => Some(root.below(path).map_err(error)?),
    };
    let dir = below.as_ref().unwrap_or(root);
    let mut values = [read(dir, CPUSET[0])?, read(dir, CPUSET[1])?];
    if !path.is_empty() && values.iter().any(|value| is_empty(value)) {
        let above = filled_cpuset(root, parent(path))?;
        for ((file, value), from) in CPUSET.iter().zip(&mut values).zip(above) {
            if is_empty(value) {
                write(dir, file, &from)?;
                *value = from;
            }
        }
    }
    Ok(values)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn is_empty(value: &str) -> bool {
    value.trim().is_empty()
}

fn read(dir: &Dir, file: &str) -> Result<String, Error> {
    dir.read(file).map_err(|source| Error::Read { file: file.to_owned(), source })
}

fn write(dir: &Dir, file: &str, value: &str) -> Result<(), Error> {
    let value = value.trim();
    dir.write(file, value).map_err(|source| Error::Write { file: file.to_owned(), value: value.to_owned(), source })
}

const DENY: &str = "devices.deny";

/// The kernel takes no word for all devices of a cgroup that has others below it. Where it is a list of what is allowed
/// already, its lines are taken out one by one.
fn deny_listed(dir: &Dir) -> Result<(), Error> {
    let list = read(dir, "devices.list")?;
    let lines: Vec<String> = list.lines().map(str::to_owned).collect();
    if lines.iter().any(|line| line.starts_with('a')) {
        return Err(devices_error(DENY, "a", Errno::INVAL));
    }
    dir.write_lines(DENY, &lines).map_err(|(line, source)| devices_error(DENY, line, source))
}

fn devices_error(file: &str, value: &str, source: Errno) -> Error {
    Error::Write { file: file.to_owned(), value: value.to_owned(), source }
}

const STATE: &str = "freezer.state";

fn set_state(dir: &Dir, state: &str) -> Result<(), Error> {
    dir.write(STATE, state).map_err(|source| state_error(state, source))
}

fn state_error(state: &str, source: Errno) -> Error {
    Error::Write { file: STATE.to_owned(), value: state.to_owned(), source }
}

/// v1 tells nobody when the last task has stopped, and while tasks fork it may stay FREEZING until
/// asked again (kernel freezer-subsystem.txt before ef9fe980c6fc). Hence the rounds: they ask, look, and
/// now and then let go and pause, with the numbers that serve runc in the field.
fn freeze(dir: &Dir, name: &str) -> Result<(), Error> {
    for round in 0..1000 {
        if round % 50 == 49 {
            set_state(dir, "THAWED")?;
            std::thread::sleep(Duration::from_millis(10));
        }
        set_state(dir, "FROZEN")?;
        if round % 25 == 24 {
            std::thread::sleep(Duration::from_micros(10));
        }
        if read(dir, STATE)?.trim() == "FROZEN" {
            return Ok(());
        }
    }
    Err(Error::NotFrozen { path: name.to_owned() })
}
