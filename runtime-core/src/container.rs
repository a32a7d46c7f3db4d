//! A container: made, started, entered, and taken away again.
//!
//! ```text
//! create ──▶ process waits at its gate ──start──▶ program runs ──▶ ends ──delete──▶ nothing is left
//!    │                                              ▲ exec
//!    └─ fails: nothing is left
//! ```
//!
//! What must outlive this process is in the bundle: `berth.json` says which cgroup to clean up, and is there before
//! anything that would have to be.

mod error;
mod passwd;
mod record;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

pub use error::{Error, ErrorKind};
use record::Poststop;

use crate::cgroup::{self, Cgroup, CgroupPath};
use crate::children::{Child, Children};
use crate::hooks::{self, Runner};
use crate::host::{CgroupLayout, Hierarchy, Host};
use crate::plan::rootfs::Mount;
use crate::plan::seccomp::{Cache, Filter};
use crate::plan::{CgroupDirectory, ExecInput, InitPlan, Input};
use crate::spawn::{self, Gated};
use crate::state::{Identity, Status};
use crate::step::{HookKind, SourceIndex, Step};
use crate::sys::send_signal;

/// The signature of a root file system's mounts, as containerd hands them over.
pub mod rootfs {
    pub use crate::plan::rootfs::Mount;
}

/// What all containers of this process share.
#[derive(Debug)]
pub struct Runtime {
    /// The processes it has made; shared with who makes more, such as loggers.
    pub children: Arc<Children>,
    host: Host,
    seccomp: Cache,
}

impl Runtime {
    /// Looks at the host. Compiled seccomp profiles are kept below `seccomp_cache`, for other processes too.
    pub fn new(seccomp_cache: Option<PathBuf>) -> Result<Self, Error> {
        let host = Host::probe().map_err(Error::Host)?;
        Ok(Self { children: Arc::default(), host, seccomp: Cache::new(seccomp_cache) })
    }
}

/// Standard input, output and error of a process.
#[derive(Debug)]
pub enum Stdio {
    /// These three.
    Files([OwnedFd; 3]),
    /// A new pty, whose master comes back as [`Child::console`].
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
}

/// What [`Container::create`] needs.
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

/// A container that exists. Every method blocks, and may be called from any thread.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    /// Without its seccomp profile: that one is `seccomp` by now.
    spec: Spec,
    seccomp: Option<Arc<Filter>>,
    no_new_keyring: bool,
    cgroup: Cgroup,
    pid: Pid,
    init: OwnedFd,
    gate: Mutex<Option<Gated>>,
    children: Arc<Children>,
    /// The poststop hooks have run: delete may be repeated.
    poststop: AtomicBool,
}

impl Container {
    /// Makes the container and its first process, which waits at its gate. On error nothing is left.
    pub fn create(request: CreateRequest<'_>, runtime: &Runtime) -> Result<(Self, Child), Error> {
        if request.options.systemd_cgroup {
            return Err(Error::SystemdCgroup);
        }
        let spec = request.spec;
        check_rootfs(&request)?;
        let seccomp = compile_seccomp(spec, runtime)?;
        let cgroup_path = CgroupPath::parse(cgroups_path(spec), request.id)?.pinned()?;
        let mut plan = InitPlan::compile(&Input {
            spec,
            id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            host: &runtime.host,
            terminal: request.stdio.is_terminal(),
            no_pivot_root: request.options.no_pivot_root,
            no_new_keyring: request.options.no_new_keyring,
            cgroup: &cgroup_directories(&runtime.host, &cgroup_path)?,
            host_network: joins_host_network(spec),
            seccomp: seccomp.as_deref().cloned(),
            home: None,
        })?;
        let mut made = Made::record(identity(&request), &cgroup_path)?;
        let cgroup = made.cgroup(&cgroup_path, resources(spec))?;
        let attachment = cgroup.attachment()?;
        // After the cgroup: where the container has no cgroup namespace, its own directory is mounted.
        let sources = spawn::open_sources(&plan, None, &runtime.children)?;
        if let (Some(rootfs), Some(process)) = (rootfs_of(&plan).and_then(|index| sources.get(index.0)), spec.process())
        {
            passwd::set_home(&mut plan.program.env, rootfs.as_fd(), process.user().uid());
        }
        let hooks = Runner { container: identity(&request), children: &runtime.children };
        let at_hooks = |pid| hooks.create(pid);
        let spawned = spawn::spawn(plan, sources, &attachment, request.stdio.files(), &runtime.children, &at_hooks);
        let (child, gate) = match spawned {
            Err(spawn::Error::Hook(error)) => {
                drop(made);
                // The error that brought us here is the one to tell.
                let _ = hooks.run_all(HookKind::Poststop, Status::Stopped, None);
                return Err(spawn::Error::Hook(error).into());
            }
            spawned => spawned?,
        };
        let init = match record::write_pid(request.bundle, child.pid)
            .and_then(|()| child.pidfd.try_clone().map_err(Error::Descriptor))
        {
            Ok(init) => init,
            Err(error) => {
                child.discard(&runtime.children);
                return Err(error);
            }
        };
        let container = Self {
            id: request.id.to_owned(),
            bundle: request.bundle.to_owned(),
            spec: without_seccomp(spec),
            seccomp,
            no_new_keyring: request.options.no_new_keyring,
            cgroup: made.keep()?,
            pid: child.pid,
            init,
            gate: Mutex::new(gate),
            children: runtime.children.clone(),
            poststop: AtomicBool::new(false),
        };
        Ok((container, child))
    }

    /// Opens the gate, and returns when the program has been executed.
    pub fn start(&self) -> Result<(), Error> {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner).take();
        gate.ok_or(Error::Started)?.open()?;
        if let Err(error) = self.hooks().run(HookKind::Poststart, Status::Running, Some(self.pid)) {
            // It may have ended by itself.
            let _ = self.signal(Signal::KILL.as_raw());
            return Err(spawn::Error::Hook(error).into());
        }
        Ok(())
    }

    fn hooks(&self) -> Runner<'_> {
        let container = Identity { id: &self.id, bundle: &self.bundle, spec: &self.spec };
        Runner { container, children: &self.children }
    }

    /// Runs one more process in the container; returns when its program has been executed.
    pub fn exec(&self, process: &Process, stdio: Stdio, runtime: &Runtime) -> Result<Child, Error> {
        match self.exec_in(&self.cgroup, process, &stdio, runtime) {
            // A container with a systemd or docker of its own divides its cgroup, which then takes no process itself.
            Err(Error::Spawn(spawn::Error::Clone(Errno::BUSY))) => match self.cgroup.home_of(self.pid)? {
                Some(home) => self.exec_in(&home, process, &stdio, runtime),
                None => Err(Error::Spawn(spawn::Error::Clone(Errno::BUSY))),
            },
            result => result,
        }
    }

    fn exec_in(&self, cgroup: &Cgroup, process: &Process, stdio: &Stdio, runtime: &Runtime) -> Result<Child, Error> {
        let mut plan = InitPlan::compile_exec(&ExecInput {
            process,
            spec: &self.spec,
            id: &self.id,
            host: &runtime.host,
            terminal: stdio.is_terminal(),
            no_new_keyring: self.no_new_keyring,
            seccomp: self.seccomp.as_deref().cloned(),
            home: None,
        })?;
        let sources = spawn::open_sources(&plan, Some(self.init.as_fd()), &runtime.children)?;
        if let Some(root) = self.root_of_init() {
            passwd::set_home(&mut plan.program.env, root.as_fd(), process.user().uid());
        }
        let (child, _) =
            spawn::spawn(plan, sources, &cgroup.attachment()?, stdio.files(), &runtime.children, &|_| Ok(()))?;
        Ok(child)
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        match send_signal(self.init.as_fd(), signal) {
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
        self.cgroup.signal_all(Signal::KILL)?;
        self.cgroup.remove()?;
        record::remove(&self.bundle);
        if self.poststop.swap(true, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        Ok(self.hooks().run_all(HookKind::Poststop, Status::Stopped, None))
    }

    /// The root that the first process sees, as long as there is one.
    fn root_of_init(&self) -> Option<OwnedFd> {
        let path = format!("/proc/{}/root", self.pid.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok()
    }
}

impl Stdio {
    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal)
    }

    fn files(&self) -> Option<&[OwnedFd; 3]> {
        match self {
            Self::Files(files) => Some(files),
            Self::Terminal => None,
        }
    }
}

/// What [`Container::create`] has made on the host so far; taken away again unless it is kept.
struct Made<'a> {
    bundle: &'a Path,
    cgroup: Option<Cgroup>,
    kept: bool,
}

impl<'a> Made<'a> {
    fn record(container: Identity<'a>, cgroup: &CgroupPath) -> Result<Self, Error> {
        let made = Self { bundle: container.bundle, cgroup: None, kept: false };
        record::write(container, cgroup)?;
        Ok(made)
    }

    fn cgroup(&mut self, path: &CgroupPath, resources: Option<&LinuxResources>) -> Result<&Cgroup, Error> {
        Ok(self.cgroup.insert(Cgroup::create(path, resources)?))
    }

    fn keep(mut self) -> Result<Cgroup, Error> {
        self.kept = true;
        self.cgroup.take().ok_or(Error::Started)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(cgroup) = &self.cgroup {
            // The error that brought us here is the one to tell.
            let _ = cgroup.signal_all(Signal::KILL);
            let _ = cgroup.remove();
        }
        record::remove(self.bundle);
    }
}

/// Whether a bundle's container exists, or may: it does from shortly before it is made until it is deleted.
#[must_use]
pub fn is_recorded(bundle: &Path) -> bool {
    record::path(bundle).exists()
}

/// Cleans up after a process that had containers and died: from what is on disk alone. What is gone already is no error.
/// What comes back are the poststop hooks that failed.
pub fn destroy(bundle: &Path, children: &Children) -> Result<Vec<hooks::Error>, Error> {
    let Some(record) = record::read(bundle)? else { return Ok(Vec::new()) };
    if let Some(cgroup) = Cgroup::open(&record.cgroup)? {
        cgroup.signal_all(Signal::KILL)?;
        cgroup.remove()?;
    }
    record::remove(bundle);
    let Some(Poststop { id, spec }) = &record.poststop else { return Ok(Vec::new()) };
    let runner = Runner { container: Identity { id, bundle, spec }, children };
    Ok(runner.run_all(HookKind::Poststop, Status::Stopped, None))
}

/// A root file system that is in place already must be a directory itself: a symlink could be pointed elsewhere.
fn check_rootfs(request: &CreateRequest<'_>) -> Result<(), Error> {
    let Some(root) = request.spec.root().as_ref().filter(|_| request.rootfs.is_empty()) else { return Ok(()) };
    // Component by component, or a slash at the end would have the symlink followed.
    let path: PathBuf = request.bundle.join(root.path()).components().collect();
    match path.symlink_metadata() {
        Ok(file) if !file.is_dir() => Err(Error::Rootfs { path }),
        // If it is missing, opening it will tell.
        _ => Ok(()),
    }
}

fn rootfs_of(plan: &InitPlan) -> Option<SourceIndex> {
    plan.steps.iter().find_map(|step| if let Step::AttachRootfs { source, .. } = step { Some(*source) } else { None })
}

fn identity<'a>(request: &CreateRequest<'a>) -> Identity<'a> {
    Identity { id: request.id, bundle: request.bundle, spec: request.spec }
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
}

pub(crate) fn cgroups_path(spec: &Spec) -> Option<&str> {
    spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()).and_then(|path| path.to_str())
}

/// Where the cgroup is in each v1 hierarchy, for a mount of type `cgroup` without a cgroup namespace.
pub(crate) fn cgroup_directories(host: &Host, path: &CgroupPath) -> Result<Vec<CgroupDirectory>, cgroup::Error> {
    let CgroupLayout::V1(hierarchies) = &host.cgroup else { return Ok(Vec::new()) };
    let directory = |hierarchy: &Hierarchy| {
        let controllers: Vec<&str> = hierarchy.options.iter().map(String::as_str).collect();
        let path = Path::new("/sys/fs/cgroup").join(&hierarchy.name).join(path.within(&controllers)?);
        Ok(CgroupDirectory { hierarchy: hierarchy.name.clone(), path })
    };
    hierarchies.iter().map(directory).collect()
}

/// A network namespace joined by path may be the one that we are in.
pub(crate) fn joins_host_network(spec: &Spec) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces.into_iter().flatten().find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    let joined = network.and_then(|namespace| namespace.path().as_deref()).and_then(inode);
    joined.is_some() && joined == inode(Path::new("/proc/self/ns/net"))
}

fn compile_seccomp(spec: &Spec, runtime: &Runtime) -> Result<Option<Arc<Filter>>, Error> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    Ok(profile.map(|profile| runtime.seccomp.compile(profile)).transpose()?)
}

/// A profile of 400 names is most of a spec, and of no use once it is compiled.
fn without_seccomp(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None);
    }
    spec
}
