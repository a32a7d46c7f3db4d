//! `mounts` of config.json: what is bound, what is made new, and what has to wait.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::Mount;

use super::draft::{Draft, c_string, host_path, in_root, text};
use super::hooks::Checked;
use super::namespaces::{EntersPid, Namespaces};
use super::options::{Options, RDONLY};
use super::{Error, Input, cgroupfs, idmap};
use crate::step::{Filesystem, InRoot, MountSource, MountStep, Namespace, RootPlace, Slot, Source, Step};

/// The files of procfs that lxcfs and others may cover; runc's `checkProcMount`.
const OVER_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// What is the same for every mount of a container.
pub(super) struct Context<'a> {
    pub input: &'a Input<'a>,
    pub namespaces: &'a Namespaces,
    /// Binds receive mounts from the host, as below a root made rslave.
    pub slave_first: bool,
    /// `linux.mountLabel`.
    pub label: Option<&'a str>,
    /// Where the root is attached.
    pub place: RootPlace,
}

impl Context<'_> {
    /// Whether who mounts is in another user namespace than the host's mounts are of.
    fn is_confined(&self) -> bool {
        self.namespaces.own(Namespace::User) || self.input.host.user_namespace
    }

    /// A path as it is inside, if it is at or below `root.path` on the host.
    fn below_root(&self, path: &str) -> Option<String> {
        let clean = |path: &str| InRoot::new(path).map(|path| path.display());
        let root = clean(root_path(self.input).ok()?.to_str().ok()?).filter(|root| root != "/")?;
        match clean(path)?.strip_prefix(&root)? {
            "" => Some("/".to_owned()),
            below => below.starts_with('/').then(|| below.to_owned()),
        }
    }
}

/// One entry of `mounts`, read but not yet decided on.
pub(super) struct Entry<'a> {
    /// `mounts[3]`.
    pub field: String,
    pub mount: &'a Mount,
    pub fstype: &'a str,
    pub target: InRoot,
    pub options: Options,
}

/// Every mount of the spec, in its order. The slots are to be made read-only once nothing more is written below them.
pub(super) fn compile(context: &Context<'_>, draft: &mut Draft) -> Result<Vec<Slot>, Error> {
    let mut readonly = Vec::new();
    for (index, mount) in context.input.spec.mounts().iter().flatten().enumerate() {
        let entry = read(context, index, mount, draft)?;
        if entry.options.bind.is_some() {
            let step = bind(context, &entry, draft)?;
            draft.step(Step::Mount(Box::new(step)));
        } else if entry.fstype == "cgroup" {
            cgroupfs::compile(context, &entry, draft)?;
        } else {
            let step = filesystem(context, &entry, draft)?;
            readonly.extend(step.keep);
            draft.step(Step::Mount(Box::new(step)));
        }
    }
    Ok(readonly)
}

fn read<'a>(context: &Context<'_>, index: usize, mount: &'a Mount, draft: &mut Draft) -> Result<Entry<'a>, Error> {
    let destination = text(mount.destination());
    // A new line in it would make two of the error.
    let field = format!("mounts[{index}] ({})", destination.escape_debug());
    if destination.is_empty() {
        return Err(Error::missing(field + ".destination"));
    }
    if !destination.starts_with('/') {
        draft.warn(format!("{field}: a relative destination is deprecated, it is taken as relative to /"));
    }
    let below = context.below_root(destination);
    let target = in_root(&field, below.as_deref().unwrap_or(destination))?;
    if target.is_root() {
        return Err(Error::invalid(field, destination, "mountpoint is on the top of rootfs"));
    }
    let mut options = Options::parse(&format!("{field}.options"), mount.options().as_deref().unwrap_or_default())?;
    let fstype = mount.typ().as_deref().unwrap_or_default();
    if fstype == "bind" {
        options.bind.get_or_insert(false);
    }
    let entry = Entry { field, mount, fstype, target, options };
    entry.check_proc()?;
    idmap::check_bind(&entry)?;
    Ok(entry)
}

impl Entry<'_> {
    /// The target as the container sees it, without `..` and the like.
    fn clean(&self) -> String {
        self.target.display()
    }

    fn source(&self) -> &str {
        self.mount.source().as_deref().map(text).unwrap_or_default()
    }

    /// Over /proc only a procfs, below it only a few files: everything else could deceive whoever writes there.
    fn check_proc(&self) -> Result<(), Error> {
        let target = self.clean();
        if target == "/proc" {
            let procfs = match self.options.bind {
                Some(_) => self.source() == "/proc",
                None => self.fstype == "proc",
            };
            if !procfs {
                return Err(Error::invalid(&self.field, target, "cannot be mounted because it is not of type proc"));
            }
        } else if target.starts_with("/proc/") && !OVER_PROC.contains(&target.as_str()) {
            return Err(Error::invalid(&self.field, target, "cannot be mounted because it is inside /proc"));
        }
        Ok(())
    }

    /// What is to be procfs or sysfs has its masked and read-only paths below its own name, not where a link of the image
    /// leads; a bind of the host's likewise (CVE-2019-19921).
    fn no_symlinks(&self) -> bool {
        let mounted = self.options.bind.is_none() && matches!(self.fstype, "proc" | "sysfs");
        mounted || matches!(self.clean().as_str(), "/proc" | "/sys")
    }

    fn over_proc(&self) -> bool {
        self.clean() == "/proc" || OVER_PROC.contains(&self.clean().as_str())
    }

    /// A step without source and attributes.
    pub fn step(&self, source: MountSource) -> MountStep {
        MountStep {
            source,
            target: self.target.clone(),
            attributes: Default::default(),
            locked: Default::default(),
            recursive_attributes: self.options.recursive,
            propagation: self.options.propagation.clone(),
            no_symlinks: self.no_symlinks(),
            over_proc: self.over_proc(),
            keep: None,
        }
    }
}

/// A tree of the host, cloned by the parent. The type means nothing for a bind.
pub(super) fn bind(context: &Context<'_>, entry: &Entry<'_>, draft: &mut Draft) -> Result<MountStep, Error> {
    if let Some(word) = entry.options.data.first() {
        let field = format!("{}.options", entry.field);
        return Err(Error::invalid(field, word, "bind mounts cannot have any filesystem-specific options applied"));
    }
    if entry.source().is_empty() {
        return Err(Error::missing(format!("{}.source", entry.field)));
    }
    let mut step = entry.step(bound(context, entry, draft)?);
    if context.is_confined() {
        (step.attributes, step.locked) = entry.options.locked_bind_attributes();
    } else {
        step.attributes = entry.options.bind_attributes();
    }
    Ok(step)
}

/// What is below the container's root is the container's: the image may have links there that lead out of it on the host,
/// and what earlier mounts have put there is to be seen in the container alone.
fn bound(context: &Context<'_>, entry: &Entry<'_>, draft: &mut Draft) -> Result<MountSource, Error> {
    let path = host_path(&entry.field, entry.source(), context.input.bundle)?;
    let (recursive, idmap) = (entry.options.bind == Some(true), idmap::of_bind(context, entry)?);
    if let Some(below) = path.to_str().ok().and_then(|path| context.below_root(path)) {
        return Ok(MountSource::InRoot { path: in_root(&entry.field, &below)?, recursive, idmap });
    }
    let tree = Source::Tree { path, recursive };
    let source = draft.source(match idmap {
        Some((by, recursive)) => Source::Idmapped { of: Box::new(tree), by, recursive },
        None => tree,
    });
    Ok(MountSource::Opened { source, slave_first: context.slave_first })
}

/// A new file system, made by the child: it has to belong to the child's namespaces.
fn filesystem(context: &Context<'_>, entry: &Entry<'_>, draft: &mut Draft) -> Result<MountStep, Error> {
    let Entry { field, fstype, options, .. } = entry;
    if fstype.is_empty() {
        return Err(Error::missing(format!("{field}.type")));
    }
    if options.remount {
        return Err(Error::unsupported(format!("{field}.options \"remount\" without bind")));
    }
    let mut made = Filesystem {
        fstype: c_string(field, fstype)?,
        source: c_string(field, if entry.source().is_empty() { fstype } else { entry.source() })?,
        options: options.configuration(field, fstype)?,
        attributes: options.attributes(),
    };
    if *fstype == "proc" && context.namespaces.enters_pid(context.input.host) == Some(EntersPid::AfterPivot) {
        made.options.push((c"pidns".into(), Some(c"/proc/self/ns/pid_for_children".into())));
    }
    if let Some(label) = context.label.filter(|_| !matches!(*fstype, "proc" | "sysfs" | "mqueue" | "cgroup2")) {
        made.options.push((c"context".into(), Some(c_string("linux.mountLabel", label)?)));
    }
    let tmpfs = *fstype == "tmpfs";
    let deferred = (tmpfs || entry.clean() == "/dev") && made.attributes & RDONLY != 0;
    if deferred {
        made.attributes &= !RDONLY;
    }
    let inherit_mode = tmpfs && !made.options.iter().any(|(key, _)| key.as_c_str() == c"mode");
    if options.copy_up && !tmpfs {
        draft.warn(format!("{field}.options \"tmpcopyup\": ignored, it is for a tmpfs"));
    }
    let copy_up = tmpfs && options.copy_up;
    let mut step = entry.step(MountSource::Filesystem { filesystem: made, inherit_mode, copy_up });
    if deferred {
        step.keep = Some(draft.slot());
    }
    Ok(step)
}

/// Hooks look for the container at the path that config.json names, in the mount namespace of its process, and expect the
/// host around it. In a mount namespace of somebody else there is no such place, and in the host's there is no other.
pub(super) fn root_place(namespaces: &Namespaces, hooks: Option<&Checked<'_>>) -> RootPlace {
    match namespaces.own(Namespace::Mount) {
        false => RootPlace::Host,
        true if hooks.is_some_and(Checked::before_pivot) && namespaces.is_new(Namespace::Mount) => RootPlace::Path,
        true => RootPlace::Slash,
    }
}

/// `root.path` on the host.
pub(super) fn root_path(input: &Input<'_>) -> Result<CString, Error> {
    let root = input.spec.root().as_ref().ok_or_else(|| Error::missing("root"))?;
    match text(root.path()) {
        "" => Err(Error::missing("root.path")),
        path => host_path("root.path", path, input.bundle),
    }
}

/// The root file system and what the snapshotter nests below it.
pub(super) fn rootfs(context: &Context<'_>, draft: &mut Draft) -> Result<(), Error> {
    let at = context.place;
    if context.input.rootfs.is_empty() {
        let source = draft.source(Source::Tree { path: root_path(context.input)?, recursive: true });
        draft.step(Step::AttachRootfs { source, at });
        return Ok(());
    }
    context.input.spec.root().as_ref().ok_or_else(|| Error::missing("root"))?;
    for (index, mount) in context.input.rootfs.iter().enumerate() {
        let field = format!("rootfs[{index}]");
        let mut options = Options::parse(&format!("{field}.options"), &mount.options)?;
        let source = snapshot(&field, mount, &mut options, context.input.bundle)?;
        if index == 0 {
            attach(&field, mount, &options, source, at, draft)?;
        } else {
            nest(&field, mount, options, source, context, draft)?;
        }
    }
    Ok(())
}

fn attach(
    field: &str,
    mount: &super::rootfs::Mount,
    options: &Options,
    source: Source,
    at: RootPlace,
    draft: &mut Draft,
) -> Result<(), Error> {
    if !matches!(mount.target.as_str(), "" | "/") {
        return Err(Error::invalid(format!("{field}.target"), &mount.target, "the first mount must be the root"));
    }
    let bound = source.is_tree();
    let source = draft.source(source);
    draft.step(Step::AttachRootfs { source, at });
    if bound && options.set & !RDONLY != 0 {
        return Err(Error::unsupported(format!("{field}.options of a bind but ro, rw, bind, rbind")));
    }
    // Nothing may be written to a read-only snapshot, mount points neither.
    if bound && options.set & RDONLY != 0 {
        draft.step(Step::ReadonlyRoot);
    }
    Ok(())
}

fn nest(
    field: &str,
    mount: &super::rootfs::Mount,
    options: Options,
    source: Source,
    context: &Context<'_>,
    draft: &mut Draft,
) -> Result<(), Error> {
    let target = in_root(field, &mount.target)?;
    if target.is_root() {
        return Err(Error::unsupported(format!("{field}: a second mount on the root")));
    }
    let bound = source.is_tree();
    let source = draft.source(source);
    draft.step(Step::Mount(Box::new(MountStep {
        source: MountSource::Opened { source, slave_first: bound && context.slave_first },
        target,
        attributes: if bound { options.bind_attributes() } else { Default::default() },
        locked: Default::default(),
        recursive_attributes: options.recursive,
        propagation: options.propagation,
        no_symlinks: false,
        over_proc: false,
        keep: None,
    })));
    Ok(())
}

/// A mount of the snapshotter, made by the parent as containerd would have made it.
fn snapshot(field: &str, mount: &super::rootfs::Mount, options: &mut Options, bundle: &Path) -> Result<Source, Error> {
    let idmap = idmap::take(field, options)?;
    let source = unmapped(field, mount, options, bundle)?;
    match idmap {
        Some(by) => idmap::of_snapshot(field, source, by),
        None => Ok(source),
    }
}

fn unmapped(field: &str, mount: &super::rootfs::Mount, options: &Options, bundle: &Path) -> Result<Source, Error> {
    if mount.fstype == "bind" || options.bind.is_some() {
        let path = host_path(field, &mount.source, bundle)?;
        return Ok(Source::Tree { path, recursive: options.bind == Some(true) });
    }
    if mount.fstype.is_empty() {
        return Err(Error::missing(format!("{field}.type")));
    }
    let mut configuration: Vec<(CString, Option<CString>)> = options.configuration(field, &mount.fstype)?;
    // The superblock too: a block device may be read-only itself.
    if options.set & RDONLY != 0 {
        configuration.push((c"ro".into(), None));
    }
    Ok(Source::Filesystem(Filesystem {
        fstype: c_string(field, &mount.fstype)?,
        source: c_string(field, &mount.source)?,
        options: configuration,
        attributes: options.attributes(),
    }))
}
