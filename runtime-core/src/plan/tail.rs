//! The last steps, which an init and an exec share: from root with every right to the program with its own.

use std::sync::Arc;

use oci_spec::runtime::{Linux, PosixRlimit, Process, User};

use super::confine::Labels;
use super::draft::{Draft, c_string};
use super::hooks::Checked;
use super::{Error, capabilities, identity, program, scheduling};
use crate::host::Host;
use crate::step::{Seccomp, Step};

/// What the last steps are made of.
pub(super) struct Tail<'a> {
    pub process: &'a Process,
    /// The container's process, for an exec that leaves something open.
    pub container: Option<&'a Process>,
    pub linux: &'a Linux,
    pub host: &'a Host,
    pub labels: &'a Labels,
    pub seccomp: Option<&'a Arc<Seccomp>>,
}

impl Tail<'_> {
    /// Limits, ids, rights, and the program looked up with them.
    pub fn become_user(&self, draft: &mut Draft) -> Result<(), Error> {
        scheduling::compile(self.process, self.container, self.linux, draft)?;
        identity::rlimits(self.rlimits(), draft)?;
        if self.no_new_privileges() {
            draft.step(Step::NoNewPrivileges);
        }
        let cwd = c_string("process.cwd", program::cwd(self.process)?)?;
        draft.step(Step::Chdir(cwd.clone()));
        draft.steps.extend(self.labels.selinux.clone().map(Step::SelinuxExec));
        // Without no_new_privs a filter takes CAP_SYS_ADMIN, so it is loaded while there still is one. It may forbid
        // getcwd, so that has to be over by then.
        let early = self.seccomp.filter(|_| !self.no_new_privileges());
        if let Some(seccomp) = early {
            draft.step(Step::VerifyCwd(cwd.clone()));
            draft.step(Step::Seccomp(seccomp.clone()));
        }
        let capabilities = self.capabilities(draft);
        draft.step(Step::BoundingSet(capabilities.bounding));
        draft.step(Step::ChownStdio { uid: self.user().uid() });
        identity::ids(self.user(), self.linux, self.host, draft)?;
        if early.is_none() {
            draft.step(Step::VerifyCwd(cwd));
        }
        draft.step(Step::Capabilities(capabilities));
        // An init has its profile set before the paths are masked; for an exec there is nothing left that it forbids.
        if self.container.is_some() {
            draft.steps.extend(self.labels.apparmor.clone().map(Step::AppArmor));
        }
        draft.step(identity::umask(self.user(), self.container.map(Process::user)));
        draft.step(Step::FindProgram);
        // Whoever creates the container hands the listener on, and starting it is another's.
        if let Some(seccomp) = self.late_seccomp().filter(|seccomp| seccomp.has_listener()) {
            draft.step(Step::Seccomp(seccomp.clone()));
        }
        Ok(())
    }

    fn late_seccomp(&self) -> Option<&'_ Arc<Seccomp>> {
        self.seccomp.filter(|_| self.no_new_privileges())
    }

    /// The very last: with no_new_privs the filter comes as late as possible, so that it need not allow what we do.
    /// Hooks of the container's may be the image's: they have no more rights than the program.
    pub fn execute(&self, hooks: Option<&Checked<'_>>, draft: &mut Draft) -> Result<(), Error> {
        draft.step(Step::ResetSignals);
        if let Some(seccomp) = self.late_seccomp().filter(|seccomp| !seccomp.has_listener()) {
            draft.step(Step::Seccomp(seccomp.clone()));
        }
        hooks.map_or(Ok(()), |hooks| hooks.start(draft))?;
        draft.step(Step::Exec);
        Ok(())
    }

    fn user(&self) -> &User {
        self.process.user()
    }

    fn no_new_privileges(&self) -> bool {
        let container = self.container.and_then(Process::no_new_privileges);
        self.process.no_new_privileges().or(container).unwrap_or(false)
    }

    fn rlimits(&self) -> &[PosixRlimit] {
        let own = self.process.rlimits().as_deref().filter(|limits| !limits.is_empty());
        own.or_else(|| self.container?.rlimits().as_deref()).unwrap_or_default()
    }

    fn capabilities(&self, draft: &mut Draft) -> crate::step::Capabilities {
        let own = self.process.capabilities().as_ref();
        let sets = own.or_else(|| self.container?.capabilities().as_ref());
        capabilities::compile(sets, self.host, draft)
    }
}
