//! The child of clone3: one loop over the steps of the plan.
//!
//! From its first instruction to execve it uses no heap, takes no lock, writes no log and cannot panic; the first step
//! that fails goes up to the parent as (index, errno), and the child is gone. The parent owns all words.

mod copy_up;
mod dev;
mod hook;
mod identity;
mod in_root;
mod mounts;
mod namespaces;

use std::ffi::{CStr, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::channel::{ask_for_hooks, hand_on_listener, report_failed, wait_at_gate};
use crate::gate;
use crate::host::ignored_signals;
use crate::plan::InitPlan;
use crate::step::{Seccomp, Slot, SourceIndex, Step};
use crate::sys;

/// What the child works with: the plan, what its parent opened, and what it opens itself.
pub(crate) struct Init<'a> {
    plan: &'a InitPlan,
    /// What [`InitPlan::sources`] became.
    sources: &'a [OwnedFd],
    /// `tasks` files to write to, on cgroup v1.
    tasks: &'a [OwnedFd],
    stdio: Option<&'a [OwnedFd; 3]>,
    creator: BorrowedFd<'a>,
    /// Who opened the gate, if that was another process.
    visitor: Option<OwnedFd>,
    /// The program's arguments and environment, as execve(2) takes them.
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    hooks: Vec<hook::Arguments>,
    /// How many of them have run.
    hooks_run: usize,
    /// Index of the step that is being carried out.
    step: usize,
    /// The container's root.
    root: Option<OwnedFd>,
    /// Where the last node or symlink was made.
    directory: Option<(&'a CStr, OwnedFd)>,
    /// The root is attached somewhere below `/`, not over it.
    root_below: bool,
    /// A procfs of our own.
    procfs: Option<OwnedFd>,
    /// An empty tmpfs that covers masked directories, once it is attached somewhere.
    empty: Option<OwnedFd>,
    /// The host's `/dev/null` covers some masked file already.
    null_attached: bool,
    slots: Vec<Option<OwnedFd>>,
    /// The file of the new time namespace's offsets.
    time_offsets: Option<OwnedFd>,
    /// `CLONE_NEW*` flags of what was joined.
    joined: u64,
    /// Which of the program's candidates it is.
    candidate: usize,
    /// The working directory was refused to root, and is the user's to enter.
    cwd_refused: bool,
    /// What is ignored when it is born, bit 0 for signal 1.
    ignored_signals: u64,
    /// Its filter is in force: it may deny what is not the program's to do.
    filtered: bool,
}

impl<'a> Init<'a> {
    /// Everything the child needs, gathered before the clone.
    pub(crate) fn new(
        plan: &'a InitPlan,
        sources: &'a [OwnedFd],
        tasks: &'a [OwnedFd],
        stdio: Option<&'a [OwnedFd; 3]>,
        creator: BorrowedFd<'a>,
    ) -> Self {
        Self {
            plan,
            sources,
            tasks,
            stdio,
            creator,
            visitor: None,
            args: plan.program.args.pointers(),
            env: plan.program.env.pointers(),
            hooks: hook::arguments(plan),
            hooks_run: 0,
            step: 0,
            root: None,
            directory: None,
            root_below: false,
            procfs: None,
            empty: None,
            null_attached: false,
            slots: (0..plan.slots).map(|_| None).collect(),
            time_offsets: None,
            joined: 0,
            candidate: 0,
            cwd_refused: false,
            ignored_signals: ignored_signals(),
            filtered: false,
        }
    }

    /// Every descriptor that the child keeps, in ascending order: the gaps between them are closed first of all.
    pub(crate) fn kept(&self) -> Vec<u32> {
        let ours =
            self.sources.iter().chain(self.tasks).chain(self.stdio.into_iter().flatten()).map(AsRawFd::as_raw_fd);
        let mut kept: Vec<u32> = ours.chain([self.creator.as_raw_fd()]).map(i32::cast_unsigned).collect();
        kept.sort_unstable();
        kept.dedup();
        kept
    }

    /// Runs the plan. Called in the child only.
    pub(crate) fn run(mut self, kept: &[u32]) -> ! {
        sys::guard::enter_child();
        if self.take_stdio().is_err() {
            sys::exit(1);
        }
        close_others(self.first_of_ours(), kept);
        // What is made has the mode that was asked for; the program's own umask is a step.
        rustix::process::umask(rustix::fs::Mode::empty());
        let plan = self.plan;
        for (index, step) in plan.steps.iter().enumerate() {
            self.step = index;
            // What is mounted may cover it.
            if !matches!(step, Step::Device(_) | Step::Symlink { .. }) {
                self.directory = None;
            }
            if let Err(errno) = self.act(step) {
                report_failed(self.channel(), index, errno);
                sys::exit(1);
            }
        }
        sys::exit(0)
    }

    /// 0, 1 and 2 are the program's from the beginning, or stand for a terminal to come: what is opened later must never
    /// land there.
    fn take_stdio(&self) -> Result<(), Errno> {
        let stand_in = [self.channel(); 3];
        dev::stdio_from(self.stdio.map_or(stand_in, |files| files.each_ref().map(AsFd::as_fd)))
    }

    fn act(&mut self, step: &'a Step) -> Result<(), Errno> {
        match step {
            Step::JoinCgroup => self.join_cgroup(),
            Step::OomScoreAdj(score) => identity::oom_score_adj(score),
            Step::SessionKeyring(name) => identity::session_keyring(name),
            Step::Rlimit { resource, soft, hard } => identity::rlimit(*resource, *soft, *hard),
            Step::Join { source, kind, before_user } => self.join(*source, *kind, *before_user),
            Step::JoinInit { source, flags } => sys::setns(self.source(*source)?, *flags),
            Step::UnshareUser => self.unshare_user(),
            Step::BecomeRoot => identity::become_root(),
            Step::Unshare(flags) => sys::unshare(*flags),
            Step::OpenTimeOffsets => self.open_time_offsets(),
            Step::TimeOffsets(offsets) => self.write_time_offsets(offsets),
            Step::EnterPidNamespace => self.enter_pid_namespace(),
            Step::LoopbackUp => namespaces::loopback_up(),
            Step::NetDevices(_) => namespaces::ask_for_devices(self.channel()),
            Step::RootPropagation(propagation) => mounts::root_propagation(*propagation),
            Step::RootfsPropagation(propagation) => mounts::propagate(self.root()?, *propagation),
            Step::EnterRootPath(path) => rustix::process::chdir(path.as_c_str()),
            Step::AttachRootfs { source, at } => self.attach_rootfs(*source, *at),
            Step::OpenRoot => self.open_root(),
            Step::OpenProcfs => self.open_procfs(),
            Step::Mount(mount) => self.mount(mount),
            Step::Device(device) => self.device(device),
            Step::Symlink { target, path } => self.symlink(target, path),
            Step::RuntimeHooks => ask_for_hooks(self.channel()),
            Step::Hook(hook) => self.run_hook(hook),
            Step::EnterRoot(entry) => self.enter_root(*entry),
            Step::EnterInitRoot(root) => mounts::enter(self.source(*root)?),
            Step::Readonly(slot) => mounts::readonly(self.slot(*slot)?),
            Step::ReadonlyRoot => mounts::readonly(self.root()?),
            Step::Console { size, bind, uid } => self.console(*size, *bind, *uid),
            Step::Stdio => dev::become_session_leader(),
            Step::ReopenNull { if_any } => self.reopen_null(*if_any),
            Step::ChownStdio { uid } => identity::chown_stdio(*uid),
            Step::Hostname(name) => rustix::system::sethostname(name.to_bytes()),
            Step::Domainname(name) => sys::setdomainname(name),
            Step::Sysctl { path, value } => self.write_proc(path, value.to_bytes()),
            Step::Mask { path, null } => self.mask(path, *null),
            Step::ReadonlyPath(path) => self.readonly_path(path),
            Step::Scheduler(attr) => sys::sched_setattr(attr),
            Step::IoPriority(priority) => sys::ioprio_set(*priority),
            Step::CpuAffinity(cpus) => sys::sched_setaffinity(&cpus.0),
            Step::EveryCpu => identity::every_cpu(),
            Step::MemoryPolicy { mode, nodes } => sys::set_mempolicy(*mode, nodes),
            Step::Personality(persona) => sys::personality(*persona),
            Step::Umask(mask) => {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(*mask));
                Ok(())
            }
            Step::NoNewPrivileges => rustix::thread::set_no_new_privs(true),
            Step::MakeCwd(path) => self.make_cwd(path),
            Step::Chdir(path) => self.chdir(path),
            Step::VerifyCwd(path) => self.verify_cwd(path),
            Step::AppArmor(command) => self.write_attribute(c"apparmor/exec", Some(c"exec"), command),
            Step::SelinuxExec(label) => self.write_attribute(c"exec", None, label),
            Step::BoundingSet(set) => identity::bounding_set(*set),
            Step::Ids { uid, gid, groups } => identity::ids(*uid, *gid, groups.as_deref()),
            Step::Capabilities(capabilities) => identity::capabilities(capabilities),
            Step::Seccomp(filter) => self.load_seccomp(filter),
            Step::FindProgram => self.find_program(),
            Step::Gate { listener } => self.gate(*listener),
            Step::ResetSignals => sys::reset_signals(self.ignored_signals),
            Step::Exec => self.exec(),
        }
    }

    fn source(&self, index: SourceIndex) -> Result<BorrowedFd<'a>, Errno> {
        self.sources.get(index.0).map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    fn slot(&self, slot: Slot) -> Result<BorrowedFd<'_>, Errno> {
        self.slots.get(slot.0).and_then(Option::as_ref).map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    /// Where what becomes of this is told.
    fn channel(&self) -> BorrowedFd<'_> {
        self.visitor.as_ref().map_or(self.creator, AsFd::as_fd)
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    /// Ready. What was needed to get here is closed, so that a container that is never started pins nothing.
    fn gate(&mut self, listener: Option<SourceIndex>) -> Result<(), Errno> {
        sys::end_on_signals()?;
        let channel = self.creator.as_raw_fd().cast_unsigned();
        let Some(listener) = listener else {
            close_others(self.first_of_ours(), &[channel]);
            return wait_at_gate(self.channel());
        };
        let listener = self.source(listener)?;
        let number = listener.as_raw_fd().cast_unsigned();
        close_others(self.first_of_ours(), &[channel.min(number), channel.max(number)]);
        self.visitor = Some(gate::wait(listener, self.creator)?);
        Ok(())
    }

    /// The descriptors below this one are the program's: nothing of ours ever lands there, since they are open.
    fn first_of_ours(&self) -> u32 {
        3 + self.plan.program.preserve_fds
    }

    /// close_range(2) is younger than many profiles: it is over when they begin. What is opened after that (a visitor at the
    /// gate, a listener) is close-on-exec from birth.
    fn load_seccomp(&mut self, filter: &Seccomp) -> Result<(), Errno> {
        sys::close_from(self.first_of_ours())?;
        self.filtered = true;
        let listener = sys::seccomp(&filter.program, filter.flags)?;
        if filter.has_listener() { hand_on_listener(self.channel(), listener) } else { Ok(()) }
    }

    fn find_program(&mut self) -> Result<(), Errno> {
        self.candidate = identity::find_program(&self.plan.program)?;
        Ok(())
    }

    /// Nothing but what the program shall have outlives this: not even a descriptor that a step forgot (CVE-2024-21626).
    fn exec(&mut self) -> Result<(), Errno> {
        if !self.filtered {
            sys::close_from(self.first_of_ours())?;
        }
        let path = self.plan.program.candidates.get(self.candidate).ok_or(Errno::NOENT)?;
        Err(sys::execve(path, &self.args, &self.env))
    }
}

/// Closes every descriptor from `first` on but these, which are in ascending order. What cannot be closed was not open.
pub(crate) fn close_others(first: u32, kept: &[u32]) {
    let mut next = first;
    for &fd in kept.iter().filter(|fd| **fd >= first) {
        if fd > next {
            let _ = sys::close_range(next, fd - 1);
        }
        next = fd + 1;
    }
    let _ = sys::close_range(next, u32::MAX);
}
