//! The plan of a process that joins a running container.

use std::sync::Arc;

use oci_spec::runtime::{Process, Spec};

use super::draft::Draft;
use super::namespaces::Namespaces;
use super::tail::Tail;
use super::{Error, InitPlan, finish, identity, keyring, labels, linux, program, scheduling, terminal};
use crate::host::{CgroupLayout, Host};
use crate::step::{Namespace, Seccomp, Source, Step};

/// What the plan of an exec is made of.
#[derive(Debug, Clone)]
pub struct ExecInput<'a> {
    /// The process to be.
    pub process: &'a Process,
    /// The spec of the container that it joins.
    pub spec: &'a Spec,
    /// The container's id.
    pub id: &'a str,
    /// Facts of the host.
    pub host: &'a Host,
    /// The user's home according to the container's passwd, likewise.
    pub home: Option<&'a str>,
    /// Whether it gets a pty.
    pub terminal: bool,
    /// Keep the session keyring of the shim.
    pub no_new_keyring: bool,
    /// `linux.seccomp` of the container, compiled.
    pub seccomp: Option<Arc<Seccomp>>,
    /// How many descriptors from 3 on the program gets, beside stdio.
    pub preserve_fds: u32,
}

impl InitPlan {
    /// The plan of a process that joins a running container.
    pub fn compile_exec(input: &ExecInput<'_>) -> Result<Self, Error> {
        let ExecInput { process, spec, .. } = input;
        let linux = linux(spec)?;
        let container = spec.process().as_ref();
        let namespaces = Namespaces::parse(linux)?;
        let labels = &labels(process, container, input.host)?;
        let seccomp = input.seccomp.as_ref();
        let tail = Tail { process, container, linux, host: input.host, labels, seccomp };

        let mut draft = Draft::default();
        join(input, &namespaces, &mut draft)?;
        draft.step(Step::OpenRoot);
        if labels.any() {
            draft.step(Step::OpenProcfs);
        }
        draft.step(terminal(process, input.terminal, false)?);
        if !input.terminal {
            draft.step(Step::ReopenNull { if_any: true });
        }
        tail.become_user(&mut draft)?;
        tail.execute(None, &mut draft)?;
        Ok(finish(draft, 0, None, program::compile(process, input.home, input.preserve_fds)?))
    }
}

/// An exec: into everything that the container has of its own, at once.
fn join(input: &ExecInput<'_>, namespaces: &Namespaces, draft: &mut Draft) -> Result<(), Error> {
    let (initial, last) = scheduling::affinity(input.process, input.spec.process().as_ref())?;
    let reset = (initial.is_none() && last.is_none()).then_some(Step::EveryCpu);
    match input.host.cgroup {
        // It is born in the cgroup: what is before that is before its birth.
        CgroupLayout::V2 => draft.born_on = initial,
        CgroupLayout::V1(_) => draft.steps.extend(initial.map(Step::CpuAffinity)),
    }
    draft.step(Step::JoinCgroup);
    draft.steps.extend(last.map(Step::CpuAffinity).or(reset));
    identity::oom_score_adj(input.process, draft)?;
    keyring(input.id, input.no_new_keyring, draft)?;
    if namespaces.own(Namespace::User) {
        identity::early_rlimits(input.process, draft);
    }
    let source = draft.source(Source::Init);
    draft.step(Step::JoinInit { source, flags: namespaces.flags() });
    if !namespaces.own(Namespace::Mount) {
        let root = draft.source(Source::InitRoot);
        draft.step(Step::EnterInitRoot(root));
    }
    if namespaces.own(Namespace::User) {
        draft.step(Step::BecomeRoot);
    }
    if namespaces.own(Namespace::Pid) {
        draft.step(Step::EnterPidNamespace);
    }
    Ok(())
}
