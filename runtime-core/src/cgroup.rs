//! A container's cgroup: made with its limits before the container runs, watched and changed while
//! it does, emptied and removed after.
//!
//! We make it, or systemd does when it is asked to ([`systemd`]). Hosts differ: [`v2`] has one
//! hierarchy, [`v1`] (also beside an unused v2: hybrid) one for every controller. [`mod@layout`] finds
//! out which; [`resources`] and [`devices`] decide, without a system call, what is to be written;
//! everything else works on directory descriptors ([`dir`]).

mod decided;
mod devices;
mod dir;
mod error;
mod layout;
mod made;
mod oom;
mod path;
mod processes;
pub mod resctrl;
mod resources;
pub mod stats;
mod sys;
pub mod systemd;
mod v1;
mod v2;

use std::os::fd::{BorrowedFd, OwnedFd};

use oci_spec::runtime::LinuxResources;
use rustix::process::Pid;

pub use decided::Decided;
pub use error::Error;
pub use oom::OomWatch;
pub use path::CgroupPath;
pub use stats::Stats;
pub use stats::details::Details;

use crate::bystander::Bystander;
use crate::children::Children;
use crate::host::CgroupLayout;
use layout::Layout;
use resources::{Found, Limits};

/// Which cgroups the host has, for plans. That there may be none is told by who wants one.
pub(crate) fn layout() -> std::io::Result<CgroupLayout> {
    match Layout::discover() {
        Ok(layout) => Ok(layout.facts()),
        Err(Error::ProcessCgroup(source)) => Err(source),
        Err(_) => Ok(CgroupLayout::V1(Vec::new())),
    }
}

/// A container's cgroup, held by descriptors of its directories. What is said of "the cgroup"
/// includes all that is made below it.
#[derive(Debug)]
pub struct Cgroup {
    path: CgroupPath,
    groups: Groups,
}

#[derive(Debug)]
enum Groups {
    None,
    V1(v1::Groups),
    V2(v2::Group),
}

/// How a child gets into the cgroup.
#[derive(Debug)]
pub struct Attachment<'a> {
    /// v2, and the v2 side of a hybrid host: the directory, for clone3(2) with CLONE_INTO_CGROUP.
    pub directory: Option<BorrowedFd<'a>>,
    /// v1: `tasks` of each hierarchy; the child, while it has one thread, writes `0` into each.
    pub tasks: Vec<OwnedFd>,
}

impl Cgroup {
    /// Makes the cgroup and sets its limits; on error nothing is left of it. One that exists is
    /// taken over if it is empty, else that is [`Error::InUse`].
    pub fn create(path: &CgroupPath, resources: Option<&LinuxResources>) -> Result<Cgroup, Error> {
        if path.unit().is_some() {
            return Err(Error::Systemd { path: path.to_string() });
        }
        let path = path.pinned()?;
        let groups = match Layout::discover()? {
            // All that can be refused without looking is refused before anything is made.
            Layout::V1(roots) => Groups::V1(v1::Groups::create(&roots, &path, &Limits::v1(resources)?, Found::Left)?),
            Layout::V2(root) => Groups::V2(v2::Group::create(&root, &path, &Limits::v2(resources)?, Found::Left)?),
        };
        Ok(Cgroup { path, groups })
    }

    /// Like [`Cgroup::create`], for a container: where systemd makes it, somebody is in it, who must stay until the
    /// container's own process is.
    pub(crate) fn create_for<'a>(
        path: &CgroupPath,
        resources: Option<&LinuxResources>,
        children: &'a Children,
    ) -> Result<(Cgroup, Option<Bystander<'a>>), Error> {
        let Some(unit) = path.unit() else { return Ok((Cgroup::create(path, resources)?, None)) };
        let resources = resources.map(systemd::whole_percents);
        let layout = Layout::discover()?;
        let limits = match layout {
            Layout::V1(_) => Limits::v1(resources.as_ref())?,
            Layout::V2(_) => Limits::v2(resources.as_ref())?,
        };
        let bystander = Bystander::new(0, children)?;
        systemd::start(unit, bystander.pid(), &limits, matches!(layout, Layout::V2(_)))?;
        let groups = match layout {
            Layout::V1(roots) => v1::Groups::create(&roots, path, &limits, Found::Ours).map(Groups::V1),
            Layout::V2(root) => v2::Group::create(&root, path, &limits, Found::Ours).map(Groups::V2),
        };
        match groups {
            Ok(groups) => Ok((Cgroup { path: path.clone(), groups }, Some(bystander))),
            Err(error) => {
                // systemd would wait for it to end, and then the name is free again.
                drop(bystander);
                let _ = systemd::stop(unit);
                Err(error)
            }
        }
    }

    /// The cgroup as somebody else left it, for cleaning up; `None` if nothing of it exists.
    pub fn open(path: &CgroupPath) -> Result<Option<Cgroup>, Error> {
        let path = path.pinned()?;
        let groups = match Layout::discover()? {
            Layout::V1(roots) => v1::Groups::open(&roots, &path)?.map(Groups::V1),
            Layout::V2(root) => v2::Group::open(&root, &path)?.map(Groups::V2),
        };
        Ok(groups.map(|groups| Cgroup { path, groups }))
    }

    /// No cgroup: it is gone, or was never made. It holds no process, and keeps no limit.
    #[must_use]
    pub fn none(path: &CgroupPath) -> Cgroup {
        Cgroup { path: path.clone(), groups: Groups::None }
    }

    /// Whether it is [`Cgroup::none`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self.groups, Groups::None)
    }

    /// Where it is, in a form that means the same to every process: for a state file.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// How a child gets into it.
    pub fn attachment(&self) -> Result<Attachment<'_>, Error> {
        Ok(match &self.groups {
            Groups::None => Attachment { directory: None, tasks: Vec::new() },
            Groups::V1(groups) => Attachment { directory: groups.unified(), tasks: groups.tasks()? },
            Groups::V2(group) => Attachment { directory: Some(group.fd()), tasks: Vec::new() },
        })
    }

    /// Where `pid`, a process of it, lives, if that is a cgroup below this one; `None` if it is this
    /// one, and on v1. A v2 cgroup whose children have controllers takes no processes itself (EBUSY):
    /// an exec into a container that divided its cgroup so goes where its init is.
    pub fn home_of(&self, pid: Pid) -> Result<Option<Cgroup>, Error> {
        let Groups::V2(group) = &self.groups else { return Ok(None) };
        let own = self.path.within(&[""])?;
        let Some(below) = path::below(&own, pid)? else { return Ok(None) };
        let path = self.path.join(&below);
        Ok(Some(Cgroup { path, groups: Groups::V2(group.child(&below)?) }))
    }

    /// This cgroup with another one below it in its place: at a path; on v1 a hierarchy, by the name of a controller, may
    /// have one each, and those that are not named stay. None of it is made here.
    pub fn below(&self, paths: &[(Option<&str>, &str)]) -> Result<Cgroup, Error> {
        let refused = |path: &str| Error::BadSubPath { path: path.to_owned() };
        let relative = |path: &str| {
            let path = path.trim_matches('/');
            let climbs = path.split('/').any(|part| part == "..");
            if climbs { Err(refused(path)) } else { Ok(if path.is_empty() { "." } else { path }.to_owned()) }
        };
        let groups = match (&self.groups, paths) {
            (Groups::V1(groups), paths) => {
                let named =
                    |(controller, path): &(Option<&str>, &str)| Ok((controller.map(str::to_owned), relative(path)?));
                Groups::V1(groups.below(&paths.iter().map(named).collect::<Result<Vec<_>, Error>>()?)?)
            }
            (Groups::V2(group), [(None, path)]) => Groups::V2(group.child(&relative(path)?)?),
            (_, paths) => return Err(refused(paths.first().map_or("", |(_, path)| path))),
        };
        Ok(Cgroup { path: self.path.clone(), groups })
    }

    /// Changes the limits that are given. Device rules are not touched.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(unit) = self.path.unit() {
            let resources = systemd::whole_percents(resources);
            self.tell(unit, &resources)?;
            return self.write(&resources);
        }
        self.write(resources)
    }

    /// Has systemd know of new limits, in whose hands they would be forgotten else.
    fn tell(&self, unit: &systemd::Unit, resources: &LinuxResources) -> Result<(), Error> {
        let settings = match &self.groups {
            // Nothing is left of it; that is told when its files are to be written.
            Groups::None => return Ok(()),
            Groups::V1(_) => resources::v1::settings(resources)?,
            Groups::V2(group) => {
                group.check_usage(resources)?;
                resources::v2::settings(resources)?
            }
        };
        systemd::update(unit, &settings)
    }

    fn write(&self, resources: &LinuxResources) -> Result<(), Error> {
        match &self.groups {
            Groups::None => Err(self.absent()),
            Groups::V1(groups) => groups.update(resources),
            Groups::V2(group) => group.update(resources),
        }
    }

    /// Stops every task, and returns when all have stopped. Freezing a frozen one is no error.
    pub fn freeze(&self) -> Result<(), Error> {
        match &self.groups {
            Groups::None => Err(self.absent()),
            Groups::V1(groups) => groups.freeze(),
            Groups::V2(group) => group.freeze(),
        }
    }

    /// Lets every task run again.
    pub fn thaw(&self) -> Result<(), Error> {
        match &self.groups {
            Groups::None => Err(self.absent()),
            Groups::V1(groups) => groups.thaw(),
            Groups::V2(group) => group.thaw(),
        }
    }

    /// Whether it is frozen. A cgroup that cannot be is not.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match &self.groups {
            Groups::None => Ok(false),
            Groups::V1(groups) => groups.is_frozen(),
            Groups::V2(group) => group.is_frozen(),
        }
    }

    /// Sends `signal` to every process. SIGKILL reaches also those that are forked meanwhile, and
    /// those that are frozen.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        match &self.groups {
            Groups::None => Ok(()),
            Groups::V1(groups) => groups.signal_all(signal),
            Groups::V2(group) => group.signal_all(signal),
        }
    }

    /// Every process, by its pid in our pid namespace; none if the cgroup is gone.
    pub fn pids(&self) -> Result<Vec<Pid>, Error> {
        match &self.groups {
            Groups::None => Ok(Vec::new()),
            Groups::V1(groups) => groups.pids(),
            Groups::V2(group) => group.pids(),
        }
    }

    /// What it used so far. [`Error::Read`] if it is gone.
    pub fn stats(&self) -> Result<Stats, Error> {
        match &self.groups {
            Groups::None => Err(self.absent()),
            Groups::V1(groups) => groups.stats().map(|metrics| Stats::V1(Box::new(metrics))),
            Groups::V2(group) => group.stats().map(|metrics| Stats::V2(Box::new(metrics))),
        }
    }

    /// The rest of what it used: see there. [`Error::Read`] if it is gone.
    pub fn details(&self) -> Result<Details, Error> {
        match &self.groups {
            Groups::None => Err(self.absent()),
            Groups::V1(groups) => groups.details(),
            Groups::V2(group) => group.details(),
        }
    }

    /// Watches for OOM kills from now on; `None` if nobody counts memory here.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>, Error> {
        match &self.groups {
            Groups::None => Ok(None),
            Groups::V1(groups) => groups.dir("memory").map(OomWatch::v1).transpose(),
            Groups::V2(group) => group.watch_oom(),
        }
    }

    /// Removes it. Waits some seconds for killed processes to leave, then [`Error::Busy`]. What is
    /// gone already is no error.
    pub fn remove(&self) -> Result<(), Error> {
        match &self.groups {
            Groups::None => Ok(()),
            Groups::V1(groups) => groups.remove(),
            Groups::V2(group) => group.remove(),
        }?;
        self.path.unit().map_or(Ok(()), systemd::stop)
    }

    fn absent(&self) -> Error {
        Error::Absent { path: self.path.to_string() }
    }
}
