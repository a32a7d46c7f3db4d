//! What a container's making has to know beside its spec, and where in the spec it stands.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};

use super::{CreateRequest, Error};
use crate::cgroup::{self, CgroupPath};
use crate::host::{CgroupLayout, Hierarchy, Host};
use crate::plan::{CgroupDirectory, InitPlan};
use crate::step::{SourceIndex, Step};

/// A root file system that is in place already must be a directory itself: a symlink could be pointed elsewhere.
pub(super) fn check_rootfs(request: &CreateRequest<'_>) -> Result<(), Error> {
    let Some(root) = request.spec.root().as_ref().filter(|_| request.rootfs.is_empty()) else { return Ok(()) };
    // Component by component, or a slash at the end would have the symlink followed.
    let path: PathBuf = request.bundle.join(root.path()).components().collect();
    match path.symlink_metadata() {
        Ok(file) if !file.is_dir() => Err(Error::Rootfs { path }),
        // If it is missing, opening it will tell.
        _ => Ok(()),
    }
}

pub(super) fn rootfs_of(plan: &InitPlan) -> Option<SourceIndex> {
    plan.steps.iter().find_map(|step| if let Step::AttachRootfs { source, .. } = step { Some(*source) } else { None })
}

pub(super) fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
}

/// Where the cgroup is, as the driver that is asked for understands it.
pub(super) fn cgroup_path(request: &CreateRequest<'_>) -> Result<CgroupPath, cgroup::Error> {
    let path = cgroups_path(request.spec);
    if request.options.systemd_cgroup {
        CgroupPath::parse_unit(path, request.id)
    } else {
        CgroupPath::parse(path, request.id)
    }
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
