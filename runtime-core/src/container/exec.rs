//! One more process in a container.

use std::os::fd::AsFd;

use oci_spec::runtime::Process;
use rustix::io::Errno;

use super::record::First;
use super::{Container, Error, ExecRequest, Runtime, Stdio, compile_seccomp, passwd};
use crate::cgroup::{Cgroup, resctrl};
use crate::children::Child;
use crate::plan::{ExecInput, InitPlan};
use crate::sources::Joined;
use crate::spawn::{self, Errands};
use crate::state::Status;

impl Container {
    /// Runs one more process in the container; returns when its program has been executed.
    pub fn exec(&self, process: &Process, stdio: Stdio, runtime: &Runtime) -> Result<Child, Error> {
        self.exec_with(&ExecRequest { process, stdio, preserve_fds: 0, cgroup: None }, runtime)
    }

    /// Likewise, with all that can be asked for.
    pub fn exec_with(&self, request: &ExecRequest<'_>, runtime: &Runtime) -> Result<Child, Error> {
        let init = self.init.as_ref().ok_or(Error::Finished)?;
        if let Some(cgroup) = request.cgroup {
            return self.exec_in(cgroup, init, request, runtime);
        }
        match self.exec_in(&self.cgroup, init, request, runtime) {
            // A container with a systemd or docker of its own divides its cgroup, which then takes no process itself.
            Err(Error::Spawn(spawn::Error::Clone(Errno::BUSY))) => match self.cgroup.home_of(init.pid)? {
                Some(home) => self.exec_in(&home, init, request, runtime),
                None => Err(Error::Spawn(spawn::Error::Clone(Errno::BUSY))),
            },
            result => result,
        }
    }

    fn exec_in(
        &self,
        cgroup: &Cgroup,
        init: &First,
        request: &ExecRequest<'_>,
        runtime: &Runtime,
    ) -> Result<Child, Error> {
        let ExecRequest { process, stdio, preserve_fds, .. } = request;
        let seccomp = match &self.seccomp {
            Some(seccomp) => Some(seccomp.clone()),
            None => compile_seccomp(&self.spec, runtime)?,
        };
        let mut plan = InitPlan::compile_exec(&ExecInput {
            process,
            spec: &self.spec,
            id: &self.id,
            host: &runtime.host,
            terminal: stdio.is_terminal(),
            no_new_keyring: self.no_new_keyring,
            seccomp: seccomp.as_ref().map(|seccomp| seccomp.filter.clone()),
            home: None,
            preserve_fds: *preserve_fds,
        })?;
        let root = init.root();
        let joined = Joined { pidfd: init.pidfd.as_fd(), root: root.as_ref().map(AsFd::as_fd) };
        let sources = spawn::open_sources(&plan, Some(&joined), &runtime.children)?;
        if let Some(root) = root {
            passwd::set_home(&mut plan.program.env, root.as_fd(), process.user().uid());
        }
        let errands = Errands {
            container: self.identity(),
            status: Status::Running,
            listener: seccomp.as_ref().and_then(|seccomp| seccomp.listener.as_ref()),
            hooks: None,
        };
        let mut attachment = cgroup.attachment()?;
        if let Some(group) = resctrl::Group::of(&self.spec, &self.id)? {
            attachment.tasks.extend(group.tasks()?);
        }
        let (child, _) = spawn::spawn(plan, sources, &attachment, stdio.files(), &runtime.children, errands)?;
        Ok(child)
    }
}
