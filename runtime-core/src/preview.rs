//! The plan of a bundle, as it would be carried out here, without carrying it out. Needs no root.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;

use crate::cgroup::{self, CgroupPath};
use crate::container::{cgroup_directories, cgroups_path, joins_host_network};
use crate::host::Host;
use crate::plan::seccomp::{self, Cache};
use crate::plan::{self, InitPlan, Input};
use crate::spec;

/// Why there is no plan to be seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle is not there.
    #[error("find the bundle {}", path.display())]
    Bundle {
        /// As it was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its config.json.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// This host could not be looked at.
    #[error("look at the host")]
    Host(#[source] io::Error),
    /// Its seccomp profile does not make a filter.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// Its cgroup cannot be.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// It does not make a plan.
    #[error(transparent)]
    Plan(#[from] plan::Error),
}

/// The plan of the container in `bundle`. What only a request can say is taken as it mostly is: the root file system is
/// the spec's, stdio is a terminal where the spec wants one, and the id is the directory's name, as containerd has it.
pub fn preview(bundle: &Path) -> Result<InitPlan, Error> {
    let bundle = bundle.canonicalize().map_err(|source| Error::Bundle { path: bundle.to_owned(), source })?;
    let (spec, warnings) = spec::load(&bundle)?;
    let host = Host::probe().map_err(Error::Host)?;
    let id = bundle.file_name().unwrap_or_default().to_string_lossy();
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let seccomp = profile.map(|profile| Cache::new(None).compile(profile)).transpose()?;
    let cgroup = CgroupPath::parse(cgroups_path(&spec), &id)?;
    let mut plan = InitPlan::compile(&Input {
        spec: &spec,
        id: &id,
        bundle: &bundle,
        rootfs: &[],
        host: &host,
        home: None,
        terminal: spec.process().as_ref().and_then(Process::terminal).unwrap_or(false),
        no_pivot_root: false,
        no_new_keyring: false,
        cgroup: &cgroup_directories(&host, &cgroup)?,
        host_network: joins_host_network(&spec),
        seccomp,
        gate: None,
        preserve_fds: 0,
    })?;
    plan.warnings.splice(..0, warnings);
    Ok(plan)
}
