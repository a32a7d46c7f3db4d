//! A container half made.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxResources;

use super::Error;
use super::record::{Born, First, Home, Identity, Record};
use crate::bystander::Bystander;
use crate::cgroup::{Attachment, Cgroup, CgroupPath, resctrl};
use crate::children::{Child, Children};
use crate::mounted::Mounted;
use crate::plan::InitPlan;
use crate::spawn::Gated;

/// What [`create`](super::Container::create) has made on the host so far; taken away again unless it is kept.
pub(super) struct Made<'a> {
    home: &'a Home,
    record: Record,
    cgroup: Option<Cgroup>,
    /// Keeps systemd's scope until the container's process is in it.
    bystander: Option<Bystander<'a>>,
    kept: bool,
}

impl<'a> Made<'a> {
    pub fn record(home: &'a Home, record: Record, directory: Option<&str>) -> Result<Self, Error> {
        let made = Self { home, record, cgroup: None, bystander: None, kept: false };
        home.write(&made.record)?;
        directory.map_or(Ok(()), |name| home.make(name))?;
        Ok(made)
    }

    /// There is a process now.
    pub fn born(&mut self, child: &Child, gate: Option<&Gated>) -> Result<First, Error> {
        self.home.write_pid(child.pid)?;
        if let (Some(container), Some(gate)) = (&mut self.record.container, gate) {
            let process = Identity::of(child.pid).map_err(Error::Descriptor)?;
            container.init = Some(Born { process, words: gate.words().clone() });
            self.home.write(&self.record)?;
        }
        Ok(First { pid: child.pid, pidfd: child.pidfd.try_clone().map_err(Error::Descriptor)? })
    }

    /// The cgroup; [`Cgroup::none`] where it is `optional`, we may not make it, and no limit is lost by that.
    pub fn cgroup(
        &mut self,
        path: &CgroupPath,
        resources: Option<&LinuxResources>,
        optional: bool,
        children: &'a Children,
    ) -> Result<&Cgroup, Error> {
        let (made, bystander) = match Cgroup::create_for(path, resources, children) {
            Err(error) if optional && error.is_forbidden() && !resources.is_some_and(has_limits) => {
                (Cgroup::none(path), None)
            }
            made => made?,
        };
        self.bystander = bystander;
        if let Some(container) = self.record.container.as_mut().filter(|_| made.is_none()) {
            container.without_cgroup = true;
            self.home.write(&self.record)?;
        }
        Ok(self.cgroup.insert(made))
    }

    /// How the first process gets into the cgroup.
    pub fn attachment(&self) -> Result<Attachment<'_>, Error> {
        Ok(self.cgroup.as_ref().ok_or(Error::Started)?.attachment()?)
    }

    /// Notes what the plan will mount on the host, before it does.
    pub fn mounts_on_host(&mut self, plan: &InitPlan, sources: &[OwnedFd]) -> Result<(), Error> {
        let Some((path, source)) = plan.root_on_host() else { return Ok(()) };
        let root = sources.get(source.0).map(|root| Mounted::about_to_be(path, root.as_fd()));
        self.record.mounted = root.transpose().map_err(Error::Unmount)?;
        self.home.write(&self.record)
    }

    /// What is.
    pub fn mounted(&self) -> Option<&Mounted> {
        self.record.mounted.as_ref()
    }

    pub fn keep(mut self) -> Result<Cgroup, Error> {
        self.kept = true;
        self.cgroup.take().ok_or(Error::Started)
    }
}

/// Rules for devices do not count: who may not make a cgroup gets no device either.
fn has_limits(resources: &LinuxResources) -> bool {
    let mut others = resources.clone();
    others.set_devices(None);
    // Parts that say nothing are parts that tools write.
    let empty = |part: &serde_json::Value| {
        part.is_null() || part.as_object().is_some_and(serde_json::Map::is_empty) || part == &serde_json::json!([])
    };
    let json = serde_json::to_value(others).unwrap_or_default();
    json.as_object().is_some_and(|parts| !parts.values().all(empty))
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.bystander = None;
        if let Some(cgroup) = &self.cgroup {
            // The error that brought us here is the one to tell.
            let _ = cgroup.signal_all(libc::SIGKILL);
            let _ = cgroup.remove();
        }
        let _ = self.record.resctrl.as_ref().map(resctrl::Left::remove);
        let _ = self.record.mounted.as_ref().map(Mounted::unmount);
        let _ = self.home.remove();
    }
}
