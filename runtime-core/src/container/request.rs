//! What is asked for when a container or an exec is made.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::runtime::{Process, Spec};

use super::record::{Home, Kept, Poststop, Record};
use crate::cgroup::{Cgroup, CgroupPath, resctrl};
use crate::plan::rootfs::Mount;
use crate::state::Identity;

/// Standard input, output and error of a process.
#[derive(Debug)]
pub enum Stdio {
    /// These three.
    Files([OwnedFd; 3]),
    /// A new pty, whose master comes back as [`console`](crate::children::Child::console).
    Terminal,
}

/// How a container is made, beside its spec: what runc has flags for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// MS_MOVE and chroot(2) in the place of pivot_root(2).
    pub no_pivot_root: bool,
    /// Stay in the session keyring of the shim.
    pub no_new_keyring: bool,
    /// Let systemd make the cgroup.
    pub systemd_cgroup: bool,
    /// Without limits, go on in our own cgroup where we may not make another.
    pub cgroup_optional: bool,
    /// Descriptors from 3 on that the program gets beside stdio; they are open.
    pub preserve_fds: u32,
    /// A directory to be made, absolute, by which other processes find the container ([`open`](super::Container::open)). `None` if it is
    /// this process that starts it.
    pub state: Option<PathBuf>,
    /// A directory to be made in that one, for everybody who gets there: something that the spec mounts.
    pub state_directory: Option<&'static str>,
    /// It is this process that starts it, though others find it by its state.
    pub holds_gate: bool,
}

/// What [`create`](super::Container::create) needs.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Unique among the containers of its namespace.
    pub id: &'a str,
    /// Where `config.json` is; absolute.
    pub bundle: &'a Path,
    /// The contents of `config.json`.
    pub spec: &'a Spec,
    /// What is mounted to be the root file system; empty if the spec's `root.path` is it as it stands.
    pub rootfs: &'a [Mount],
    /// For the first process.
    pub stdio: Stdio,
    /// Flags.
    pub options: &'a Options,
}

/// What [`exec_with`](super::Container::exec_with) needs.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// What is to be run.
    pub process: &'a Process,
    /// Its standard input, output and error.
    pub stdio: Stdio,
    /// Descriptors from 3 on that it gets beside them.
    pub preserve_fds: u32,
    /// Another cgroup than the container's: one below it ([`Cgroup::below`](crate::cgroup::Cgroup::below)).
    pub cgroup: Option<&'a Cgroup>,
}

impl<'a> CreateRequest<'a> {
    /// Who it will be.
    pub(super) fn identity(&self) -> Identity<'a> {
        Identity { id: self.id, bundle: self.bundle, spec: self.spec }
    }

    pub(super) fn home(&self) -> Home {
        match &self.options.state {
            Some(state) => Home::Directory(state.clone()),
            None => Home::Bundle(self.bundle.to_owned()),
        }
    }

    /// Where another process opens the gate, if that is not for this one to do.
    pub(super) fn gate(&self) -> Option<PathBuf> {
        self.home().gate().filter(|_| !self.options.holds_gate)
    }

    pub(super) fn record(&self, cgroup: &CgroupPath, group: Option<&resctrl::Group>, created: SystemTime) -> Record {
        let container = self.options.state.as_ref().map(|_| Kept {
            id: self.id.to_owned(),
            bundle: self.bundle.to_owned(),
            created,
            spec: self.spec.clone(),
            no_new_keyring: self.options.no_new_keyring,
            without_cgroup: false,
            init: None,
        });
        let poststop = if container.is_some() { None } else { Poststop::of(self.identity()) };
        let resctrl = group.and_then(resctrl::Group::left);
        Record { cgroup: cgroup.clone(), resctrl, mounted: None, container, poststop }
    }
}

impl Stdio {
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal)
    }

    pub(super) fn files(&self) -> Option<&[OwnedFd; 3]> {
        match self {
            Self::Files(files) => Some(files),
            Self::Terminal => None,
        }
    }
}
