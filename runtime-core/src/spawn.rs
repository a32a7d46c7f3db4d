//! One clone, and the talk with the child until it waits at its gate or has become its program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::PidfdGetfdFlags;
use serde::{Deserialize, Serialize};

use crate::cgroup::Attachment;
use crate::channel::{Channel, Report};
use crate::children::{Child, Children, Exit};
use crate::errno::text;
use crate::hooks::{self, Runner};
use crate::init::Init;
use crate::listener::{self, Listener};
use crate::netdev;
use crate::plan::InitPlan;
use crate::sources::{self, Joined};
use crate::stat;
use crate::state::{Identity, Status};
use crate::step::{BitSet, MountSource, Step};
use crate::sys::{CloneRequest, block_signals, clone_into, restore_signals, sched_setaffinity};
use crate::userns::{WriteMap, write_maps};

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not there, or may not be executed: the texts that users of runc know.
    #[error("unable to start container process: exec: {0}")]
    Program(String),
    /// execve(2) itself, of a program that is there.
    #[error("unable to start container process: exec {program}: {}", text(*source))]
    Exec {
        /// Its name.
        program: String,
        /// Why.
        source: Errno,
    },
    /// A step of the child failed, or what the parent opens for it.
    #[error("{step}: {}", text(*source))]
    Step {
        /// The step, as the plan prints it.
        step: String,
        /// Why.
        source: Errno,
    },
    /// Something that a step needs could not be opened, and the kernel's word alone would not tell why.
    #[error("{step}: {source}")]
    Open {
        /// The step, as the plan prints it.
        step: String,
        /// Why.
        source: sources::Error,
    },
    /// clone3 itself.
    #[error("clone the container's process: {}", text(*.0))]
    Clone(#[source] Errno),
    /// A hook, which stops what it was run for.
    #[error(transparent)]
    Hook(#[from] hooks::Error),
    /// Its network devices.
    #[error(transparent)]
    NetDevice(#[from] netdev::Error),
    /// Its seccomp listener.
    #[error(transparent)]
    Listener(#[from] listener::Error),
    /// The ids of a user namespace.
    #[error(transparent)]
    IdMap(#[from] WriteMap),
    /// It ended before it was ready: killed, most likely for want of memory.
    #[error("the container's process ended before it was ready, with status {}", .0.status)]
    Ended(Exit),
    /// It ended at its gate, or behind it.
    #[error("unable to start container process: exec {program}: the process ended before that{}", with(*.status))]
    NotExecuted {
        /// Its name.
        program: String,
        /// As of an [`Exit`]; 0 if nobody tells us.
        status: u32,
    },
    /// The socket between us and the child.
    #[error("talk with the container's process: {}", text(*.0))]
    Channel(#[source] Errno),
}

fn with(status: u32) -> String {
    match status {
        0 => String::new(),
        status => format!(", with status {status}"),
    }
}

/// A process that is ready and waits at its gate.
#[derive(Debug)]
pub(crate) struct Gated {
    channel: Channel,
    words: Words,
}

/// What the steps behind the gate are called, for the error of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Words {
    program: String,
    /// The index of the first of them.
    first: usize,
    steps: Vec<String>,
}

/// Opens what a plan needs; `init` is the container's init, for a plan that joins it.
pub(crate) fn open_sources(
    plan: &InitPlan,
    init: Option<&Joined<'_>>,
    children: &Children,
) -> Result<Vec<OwnedFd>, Error> {
    sources::open(&plan.sources, init, children).map_err(|(index, source)| {
        // What a person knows is the step that needs it: which mount, which namespace.
        let step = plan.steps.iter().position(|step| step.source().is_some_and(|needed| needed.0 == index));
        let step = step.and_then(|step| plan.describe(step)).map(|step| step.to_string()).unwrap_or_default();
        match source {
            sources::Error::Errno(source) => Error::Step { step, source },
            source => Error::Open { step, source },
        }
    })
}

/// Clones the plan's process. With a [`Step::Gate`] it comes back waiting there; without, when its execve succeeded.
/// What waits at a gate for another process comes back likewise, and this one could not open it.
pub(crate) fn spawn(
    plan: InitPlan,
    sources: Vec<OwnedFd>,
    attachment: &Attachment<'_>,
    stdio: Option<&[OwnedFd; 3]>,
    children: &Children,
    errands: Errands<'_>,
) -> Result<(Child, Option<Gated>), Error> {
    let (ours, theirs) = Channel::pair().map_err(Error::Channel)?;
    let spawning = children.spawning();
    let (pid, pidfd) = on_cpus(plan.born_on.as_ref(), || {
        let child = Init::new(&plan, &sources, &attachment.tasks, stdio, theirs.as_fd());
        let kept = child.kept();
        let request = CloneRequest { namespaces: plan.clone_flags, cgroup: attachment.directory, sibling: false };
        let mask = block_signals();
        let cloned = clone_into(request, || child.run(&kept));
        restore_signals(&mask);
        cloned.map_err(Error::Clone)
    })?;
    spawning.born(pid);
    drop((theirs, sources));
    let mut talk = Talk {
        plan,
        channel: ours,
        child: Child { pid, pidfd, console: None, warnings: Vec::new() },
        first: None,
        children,
        errands,
    };
    let outcome = talk.run(&spawning);
    talk.end(outcome)
}

/// Acts on these CPUs, on a thread made for it: ours keeps its own.
fn on_cpus<T: Send>(cpus: Option<&BitSet>, act: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let Some(cpus) = cpus else { return act() };
    let confined = || {
        let step = || Step::CpuAffinity(cpus.clone()).to_string();
        sched_setaffinity(&cpus.0).map_err(|source| Error::Step { step: step(), source })?;
        act()
    };
    std::thread::scope(|scope| scope.spawn(confined).join()).unwrap_or(Err(Error::Clone(Errno::AGAIN)))
}

/// What the parent does for the child, beside what the plan has it open.
#[derive(Clone, Copy)]
pub(crate) struct Errands<'a> {
    /// For whom.
    pub(crate) container: Identity<'a>,
    /// Where it is in its life.
    pub(crate) status: Status,
    /// Who answers the system calls that its filter leaves to others.
    pub(crate) listener: Option<&'a Listener>,
    /// Runs the hooks of our own namespaces; an exec has none.
    pub(crate) hooks: Option<Runner<'a>>,
}

impl<'a> Errands<'a> {
    fn hooks(&self) -> Result<Runner<'a>, Error> {
        self.hooks.ok_or(Error::Channel(Errno::PROTO))
    }
}

/// The parent's side of a spawn.
struct Talk<'a> {
    plan: InitPlan,
    channel: Channel,
    child: Child,
    /// The process that [`Step::EnterPidNamespace`] ended.
    first: Option<Child>,
    children: &'a Children,
    errands: Errands<'a>,
}

enum Outcome {
    AtGate,
    Executed,
}

impl Talk<'_> {
    fn run(&mut self, spawning: &crate::children::Spawning<'_>) -> Result<Outcome, Error> {
        loop {
            match self.report().map_err(Error::Channel)? {
                Some(Report::MapIds) => {
                    if let Some(maps) = &self.plan.maps {
                        write_maps(self.child.pid, maps)?;
                    }
                    self.channel.go().map_err(Error::Channel)?;
                }
                Some(Report::Born(born)) => {
                    spawning.born(born.pid);
                    let console = self.child.console.take();
                    let born = Child { pid: born.pid, pidfd: born.pidfd, console, warnings: Vec::new() };
                    self.first = Some(std::mem::replace(&mut self.child, born));
                    self.channel.go().map_err(Error::Channel)?;
                }
                Some(Report::Console(master)) => self.child.console = Some(master),
                Some(Report::Hooks) => {
                    self.errands.hooks()?.create(self.child.pid)?;
                    self.channel.go().map_err(Error::Channel)?;
                }
                Some(Report::NetDevices(socket)) => {
                    netdev::hand_over(self.plan.net_devices(), self.child.pid, socket.as_fd())?;
                    self.channel.go().map_err(Error::Channel)?;
                }
                Some(Report::Idmap { step, tree }) => {
                    self.idmap(step, tree.as_fd())?;
                    self.channel.go().map_err(Error::Channel)?;
                }
                Some(Report::Listener(number)) => {
                    self.hand_on_listener(number)?;
                    self.channel.go().map_err(Error::Channel)?;
                }
                Some(Report::HookFailed { step, ending, said }) => return Err(hook(&self.plan, step, ending, said)),
                Some(Report::Ready) => return Ok(Outcome::AtGate),
                Some(Report::Failed { step, errno }) => return Err(failed(&self.plan, step, errno)),
                None => return self.closed(),
            }
        }
    }

    /// What comes next. A second process has the channel as well before it is told of: if the first dies without a word, the
    /// other waits for ours, and ends when we leave.
    fn report(&self) -> Result<Option<Report>, Errno> {
        if self.first.is_none() && self.plan.steps.contains(&Step::EnterPidNamespace) {
            let (channel, child) = (self.channel.as_fd(), &self.child.pidfd);
            let mut polled = [PollFd::from_borrowed_fd(channel, PollFlags::IN), PollFd::new(child, PollFlags::IN)];
            retry_on_intr(|| poll(&mut polled, None))?;
            if polled[0].revents().is_empty() {
                return Ok(None);
            }
        }
        self.channel.report()
    }

    /// Who has a file system may give its mounts other owners; the child may not have it.
    fn idmap(&self, index: usize, tree: BorrowedFd<'_>) -> Result<(), Error> {
        let Some(Step::Mount(mount)) = self.plan.steps.get(index) else { return Err(Error::Channel(Errno::PROTO)) };
        let MountSource::InRoot { path, idmap: Some((by, recursive)), .. } = &mount.source else {
            return Err(Error::Channel(Errno::PROTO));
        };
        sources::idmap(tree, &path.path, by, *recursive, self.children)
            .map_err(|source| Error::Open { step: described(&self.plan, index), source })
    }

    fn hand_on_listener(&self, number: i32) -> Result<(), Error> {
        let Errands { listener: Some(listener), container, status, .. } = &self.errands else {
            return Err(Error::Channel(Errno::PROTO));
        };
        let ours = rustix::process::pidfd_getfd(&self.child.pidfd, number, PidfdGetfdFlags::empty());
        let state = container.state(*status, Some(self.child.pid));
        Ok(listener.send(ours.map_err(Error::Channel)?.as_fd(), self.child.pid, &state)?)
    }

    /// The child's end is closed: by execve, or because the child is gone.
    fn closed(&self) -> Result<Outcome, Error> {
        if self.plan.gate().is_none() && !matches!(stat::ended_as_cloned(self.child.pid), Ok(Some(_))) {
            return Ok(Outcome::Executed);
        }
        Err(Error::Ended(self.child.peek().map_err(Error::Channel)?))
    }

    /// Nothing of a failed spawn stays, not even a zombie.
    fn end(mut self, outcome: Result<Outcome, Error>) -> Result<(Child, Option<Gated>), Error> {
        if outcome.is_err() {
            self.child.discard(self.children);
        }
        if let Some(first) = &self.first {
            let _ = first.wait(self.children);
        }
        self.child.warnings = std::mem::take(&mut self.plan.warnings);
        match outcome? {
            Outcome::Executed => Ok((self.child, None)),
            Outcome::AtGate => {
                let words = Words::of(&self.plan);
                Ok((self.child, Some(Gated { channel: self.channel, words })))
            }
        }
    }
}

impl Gated {
    /// A process that another one made, at whose gate we are.
    pub(crate) fn visited(channel: Channel, words: Words) -> Self {
        Self { channel, words }
    }

    /// For the process that will open the gate, if that is not this one.
    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    /// Opens the gate and waits for execve's verdict. Who ends closes the channel as execve does: `ended` tells the status
    /// of one that has executed nothing.
    pub(crate) fn open(self, ended: impl FnOnce() -> Option<u32>) -> Result<(), Error> {
        let went = match self.channel.go() {
            // What it had to say before it left is there to be read.
            Err(Errno::PIPE) => false,
            sent => sent.map(|()| true).map_err(Error::Channel)?,
        };
        match self.channel.report().map_err(Error::Channel)? {
            Some(Report::Failed { step, errno }) => Err(self.words.failed(step, errno)),
            Some(Report::HookFailed { step, ending, said }) => {
                let hook = self.words.step(step).unwrap_or_default().to_owned();
                Err(hooks::Error { hook, ending, said }.into())
            }
            None => match ended() {
                None if went => Ok(()),
                status => Err(Error::NotExecuted { program: self.words.program, status: status.unwrap_or_default() }),
            },
            Some(_) => Ok(()),
        }
    }
}

fn described(plan: &InitPlan, step: usize) -> String {
    plan.describe(step).map(|step| step.to_string()).unwrap_or_default()
}

fn hook(plan: &InitPlan, step: usize, ending: hooks::Ending, said: String) -> Error {
    hooks::Error { hook: described(plan, step), ending, said }.into()
}

impl Words {
    fn of(plan: &InitPlan) -> Self {
        let first = plan.gate().map_or(0, |gate| gate + 1);
        let steps = (first..plan.steps.len()).filter_map(|step| plan.describe(step));
        Self {
            program: plan.program.name.to_string_lossy().into_owned(),
            first,
            steps: steps.map(|step| step.to_string()).collect(),
        }
    }

    /// What a step is called that is not execve, the last one.
    fn step(&self, step: usize) -> Option<&str> {
        let (_exec, others) = self.steps.split_last()?;
        others.get(step.checked_sub(self.first)?).map(String::as_str)
    }

    fn failed(&self, step: usize, source: Errno) -> Error {
        match self.step(step) {
            Some(step) => Error::Step { step: step.to_owned(), source },
            None => Error::Exec { program: self.program.clone(), source },
        }
    }
}

fn failed(plan: &InitPlan, step: usize, errno: Errno) -> Error {
    let program = plan.program.name.to_string_lossy();
    match plan.steps.get(step) {
        Some(Step::FindProgram) if errno == Errno::NOENT && !program.contains('/') => {
            Error::Program(format!("{program:?}: executable file not found in $PATH"))
        }
        Some(Step::FindProgram) if errno == Errno::NOENT => {
            Error::Program(format!("{program:?}: stat {program}: {}", text(errno)))
        }
        // runc's words.
        Some(step @ Step::Mount(mount)) if mount.no_symlinks && matches!(errno, Errno::LOOP | Errno::NOTDIR) => {
            Error::Step { step: format!("{step}: must be mounted on ordinary directory"), source: errno }
        }
        Some(Step::FindProgram) => Error::Program(format!("{program:?}: {}", text(errno))),
        Some(Step::Exec) => Error::Exec { program: program.into_owned(), source: errno },
        _ => Error::Step { step: described(plan, step), source: errno },
    }
}
