//! A container: made, started, entered, and taken away again.
//!
//! ```text
//! create ──▶ process waits at its gate ──start──▶ program runs ──▶ ends ──delete──▶ nothing is left
//!    │                                              ▲ exec
//!    └─ fails: nothing is left
//! ```
//!
//! What must outlive this process is on disk before anything that would have to be found. In a shim that is `berth.json`
//! in the bundle, which says which cgroup to clean up; for a command that leaves the container to other commands it is
//! `state.json` in a directory of the container's own, from which [`Container::open`] makes the same object again.

mod error;
mod exec;
mod facts;
mod look;
mod made;
mod passwd;
mod record;
mod request;
mod runtime;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

pub use error::{Error, ErrorKind};
pub(crate) use facts::{cgroup_directories, cgroups_path, joins_host_network};
use facts::{cgroup_path, check_rootfs, resources, rootfs_of};
use made::Made;
pub use record::Lock;
use record::{First, Home, Poststop, Record};
pub use request::{CreateRequest, ExecRequest, Options, Stdio};
pub use runtime::Runtime;

use crate::cgroup::{Cgroup, CgroupPath, resctrl};
use crate::children::{Child, Children};
use crate::gate;
use crate::hooks::{self, Runner};
use crate::listener::Listener;
use crate::mounted::Mounted;
use crate::plan::seccomp::Filter;
use crate::plan::{CgroupDirectory, InitPlan, Input};
use crate::spawn::{self, Errands, Gated, Words};
use crate::state::{Identity, Status};
use crate::step::HookKind;
use crate::sys::send_signal;

/// The signature of a root file system's mounts, as containerd hands them over.
pub mod rootfs {
    pub use crate::plan::rootfs::Mount;
}

/// A container that exists. Every method blocks, and may be called from any thread.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    /// Without its seccomp profile: that one is `seccomp` by now.
    spec: Spec,
    seccomp: Option<Seccomp>,
    no_new_keyring: bool,
    cgroup: Cgroup,
    /// What it leaves in resctrl.
    resctrl: Option<resctrl::Left>,
    /// Where its root is mounted on the host, if it has no mount namespace.
    mounted: Option<Mounted>,
    /// Somebody else was at it when the container was opened.
    creating: bool,
    /// `None` if there was none, or it had ended, when the container was opened.
    init: Option<First>,
    gate: Mutex<Option<Gate>>,
    home: Home,
    created: SystemTime,
    children: Arc<Children>,
    /// The poststop hooks have run: delete may be repeated.
    poststop: AtomicBool,
}

/// A profile, ready for every process of a container.
#[derive(Debug, Clone)]
struct Seccomp {
    filter: Arc<Filter>,
    listener: Option<Listener>,
}

/// Where start finds the gate.
#[derive(Debug)]
enum Gate {
    /// This process holds it.
    Here(Gated),
    /// At the socket of the container's home.
    AtHome(Words),
}

impl Container {
    /// Makes the container and its first process, which waits at its gate. On error nothing is left.
    pub fn create(request: CreateRequest<'_>, runtime: &Runtime) -> Result<(Self, Child), Error> {
        let spec = request.spec;
        check_rootfs(&request)?;
        let seccomp = compile_seccomp(spec, runtime)?;
        let group = resctrl::Group::of(spec, request.id)?;
        let home = request.home();
        let gate_at = request.gate();
        let cgroup_path = cgroup_path(&request)?.pinned()?;
        let compile = |cgroup: &[CgroupDirectory]| {
            InitPlan::compile(&Input {
                spec,
                id: request.id,
                bundle: request.bundle,
                rootfs: request.rootfs,
                host: &runtime.host,
                terminal: request.stdio.is_terminal(),
                no_pivot_root: request.options.no_pivot_root,
                no_new_keyring: request.options.no_new_keyring,
                cgroup,
                host_network: joins_host_network(spec),
                seccomp: seccomp.as_ref().map(|seccomp| seccomp.filter.clone()),
                home: None,
                gate: gate_at.as_deref(),
                preserve_fds: request.options.preserve_fds,
            })
        };
        let mut plan = compile(&cgroup_directories(&runtime.host, &cgroup_path)?)?;
        let created = SystemTime::now();
        let _lock = home.claim()?;
        let mut made = Made::record(
            &home,
            request.record(&cgroup_path, group.as_ref(), created),
            request.options.state_directory,
        )?;
        let cgroup = made.cgroup(&cgroup_path, resources(spec), request.options.cgroup_optional, &runtime.children)?;
        if cgroup.is_none() {
            plan = compile(&cgroup_directories(&runtime.host, &CgroupPath::own()?)?)?;
        }
        // After the cgroup: where the container has no cgroup namespace, its own directory is mounted.
        let sources = spawn::open_sources(&plan, None, &runtime.children)?;
        if let (Some(rootfs), Some(process)) = (rootfs_of(&plan).and_then(|index| sources.get(index.0)), spec.process())
        {
            passwd::set_home(&mut plan.program.env, rootfs.as_fd(), process.user().uid());
        }
        made.mounts_on_host(&plan, &sources)?;
        let mut attachment = made.attachment()?;
        if let Some(group) = &group {
            group.make()?;
            attachment.tasks.extend(group.tasks()?);
        }
        let hooks = Runner { container: request.identity(), children: &runtime.children };
        let errands = Errands {
            container: request.identity(),
            status: Status::Creating,
            listener: seccomp.as_ref().and_then(|seccomp| seccomp.listener.as_ref()),
            hooks: Some(hooks),
        };
        let spawned = spawn::spawn(plan, sources, &attachment, request.stdio.files(), &runtime.children, errands);
        let (child, gate) = match spawned {
            Err(spawn::Error::Hook(error)) => {
                drop(made);
                // The error that brought us here is the one to tell.
                let _ = hooks.run_all(HookKind::Poststop, Status::Stopped, None);
                return Err(spawn::Error::Hook(error).into());
            }
            spawned => spawned?,
        };
        let init = match made.born(&child, gate.as_ref()) {
            Ok(init) => init,
            Err(error) => {
                child.discard(&runtime.children);
                return Err(error);
            }
        };
        let gate = gate.map(|gate| match &gate_at {
            None => Gate::Here(gate),
            Some(_) => Gate::AtHome(gate.words().clone()),
        });
        let container = Self {
            id: request.id.to_owned(),
            bundle: request.bundle.to_owned(),
            spec: without_seccomp(spec),
            seccomp,
            no_new_keyring: request.options.no_new_keyring,
            resctrl: group.and_then(|group| group.left()),
            mounted: made.mounted().cloned(),
            cgroup: made.keep()?,
            creating: false,
            init: Some(init),
            gate: Mutex::new(gate),
            home,
            created,
            children: runtime.children.clone(),
            poststop: AtomicBool::new(false),
        };
        Ok((container, child))
    }

    /// The container that some process made, or is making, by the directory of its state; `None` if there is none.
    pub fn open(state: &Path, children: Arc<Children>) -> Result<Option<Self>, Error> {
        let found = Self::found(state, children)?;
        Ok(found.map(|container| Self { creating: container.init.is_none() && Lock::is_held(state), ..container }))
    }

    /// The same by who has it locked, so that nobody is making it.
    pub fn open_locked(_lock: &Lock, state: &Path, children: Arc<Children>) -> Result<Option<Self>, Error> {
        Self::found(state, children)
    }

    fn found(state: &Path, children: Arc<Children>) -> Result<Option<Self>, Error> {
        let home = Home::Directory(state.to_owned());
        let Some(Record { cgroup, resctrl, mounted, container: Some(kept), .. }) = home.read()? else {
            return Ok(None);
        };
        let found = if kept.without_cgroup { None } else { Cgroup::open(&cgroup)? };
        let cgroup = found.unwrap_or_else(|| Cgroup::none(&cgroup));
        let (process, words) = kept.init.map(|born| (born.process, born.words)).unzip();
        Ok(Some(Self {
            id: kept.id,
            bundle: kept.bundle,
            spec: kept.spec,
            seccomp: None,
            no_new_keyring: kept.no_new_keyring,
            cgroup,
            resctrl,
            mounted,
            creating: false,
            init: process.and_then(|process| process.find()),
            gate: Mutex::new(words.map(Gate::AtHome)),
            home,
            created: kept.created,
            children,
            poststop: AtomicBool::new(false),
        }))
    }

    /// Opens the gate, and returns when the program has been executed. One that a hook fails has ended: what is left to do
    /// is to delete it.
    pub fn start(&self) -> Result<(), Error> {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = || self.init.as_ref().and_then(First::ended_as_cloned);
        match (gate.ok_or(Error::Started)?, self.home.gate()) {
            (Gate::Here(gate), _) => gate.open(ended)?,
            (Gate::AtHome(words), Some(path)) => {
                let has_ended = || self.init.as_ref().is_none_or(First::has_ended);
                let nobody = || if has_ended() { Error::Finished } else { Error::Started };
                let channel = gate::visit(&path).map_err(spawn::Error::Channel)?.ok_or_else(nobody)?;
                Gated::visited(channel, words).open(ended)?;
                // A look tells as well, if this fails.
                let _ = std::fs::remove_file(path);
            }
            (Gate::AtHome(_), None) => return Err(Error::Started),
        }
        let pid = self.init.as_ref().map(|init| init.pid);
        self.let_program_begin();
        if let Err(error) = self.hooks().run(HookKind::Poststart, Status::Running, pid) {
            // Its processes too, where they do not die with the first. What has ended by itself needs nothing.
            let _ = self.cgroup.signal_all(libc::SIGKILL);
            let _ = self.signal(libc::SIGKILL);
            return Err(spawn::Error::Hook(error).into());
        }
        Ok(())
    }

    /// execve has succeeded, but the program may not have had a processor since. Hooks that run after it (runtime-tools has
    /// them look at what it did) leave it a moment; where there are none, nobody waits.
    fn let_program_begin(&self) {
        const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let poststart = self.spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
        if let (Some(init), Some(1..)) = (&self.init, poststart.map(Vec::len)) {
            let _ = rustix::event::poll(&mut [PollFd::new(&init.pidfd, PollFlags::IN)], Some(&MOMENT));
        }
    }

    fn identity(&self) -> Identity<'_> {
        Identity { id: &self.id, bundle: &self.bundle, spec: &self.spec }
    }

    fn hooks(&self) -> Runner<'_> {
        Runner { container: self.identity(), children: &self.children }
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let init = self.init.as_ref().ok_or(Error::Finished)?;
        match send_signal(init.pidfd.as_fd(), signal) {
            Err(Errno::SRCH) => Err(Error::Finished),
            Err(source) => Err(Error::Signal { signal, source }),
            Ok(()) => Ok(()),
        }
    }

    /// Whether its processes live on when its first one ends: it has no pid namespace of its own.
    pub fn shares_pid_namespace(&self) -> bool {
        let namespaces = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let pid = namespaces.into_iter().flatten().find(|namespace| namespace.typ() == LinuxNamespaceType::Pid);
        pid.is_none_or(|namespace| namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()))
    }

    /// Changes its limits.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        Ok(self.cgroup.update(resources)?)
    }

    /// Ends what still runs and takes everything away. What is gone already is no error. What comes back are the poststop
    /// hooks that failed, which OCI wants logged.
    pub fn delete(&self) -> Result<Vec<hooks::Error>, Error> {
        self.cgroup.signal_all(libc::SIGKILL)?;
        if let Some(init) = self.init.as_ref().filter(|_| self.cgroup.is_none()) {
            init.end()?;
        }
        self.cgroup.remove()?;
        self.resctrl.as_ref().map_or(Ok(()), resctrl::Left::remove)?;
        self.mounted.as_ref().map_or(Ok(()), Mounted::unmount).map_err(Error::Unmount)?;
        self.home.remove()?;
        if self.poststop.swap(true, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        Ok(self.hooks().run_all(HookKind::Poststop, Status::Stopped, None))
    }
}

/// Whether a bundle's container exists, or may: it does from shortly before it is made until it is deleted.
#[must_use]
pub fn is_recorded(bundle: &Path) -> bool {
    Home::Bundle(bundle.to_owned()).file().exists()
}

/// Cleans up after a process that had containers and died: from what is on disk alone. What is gone already is no error.
/// What comes back are the poststop hooks that failed.
pub fn destroy(bundle: &Path, children: &Children) -> Result<Vec<hooks::Error>, Error> {
    let home = Home::Bundle(bundle.to_owned());
    let Some(record) = home.read()? else { return Ok(Vec::new()) };
    if let Some(cgroup) = Cgroup::open(&record.cgroup)? {
        cgroup.signal_all(libc::SIGKILL)?;
        cgroup.remove()?;
    }
    record.resctrl.as_ref().map_or(Ok(()), resctrl::Left::remove)?;
    record.mounted.as_ref().map_or(Ok(()), Mounted::unmount).map_err(Error::Unmount)?;
    home.remove()?;
    let Some(Poststop { id, spec }) = &record.poststop else { return Ok(Vec::new()) };
    let runner = Runner { container: Identity { id, bundle, spec }, children };
    Ok(runner.run_all(HookKind::Poststop, Status::Stopped, None))
}

fn compile_seccomp(spec: &Spec, runtime: &Runtime) -> Result<Option<Seccomp>, Error> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else { return Ok(None) };
    Ok(Some(Seccomp { filter: runtime.seccomp.compile(profile)?, listener: Listener::of(profile) }))
}

/// A profile of 400 names is most of a spec, and of no use once it is compiled.
fn without_seccomp(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None);
    }
    spec
}
