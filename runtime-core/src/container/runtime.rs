//! What outlives a container.

use std::path::PathBuf;
use std::sync::Arc;

use super::Error;
use crate::children::Children;
use crate::host::Host;
use crate::plan::seccomp::Cache;

/// What all containers of this process share.
#[derive(Debug)]
pub struct Runtime {
    /// The processes it has made; shared with who makes more, such as loggers.
    pub children: Arc<Children>,
    pub(super) host: Host,
    pub(super) seccomp: Cache,
}

impl Runtime {
    /// Looks at the host. Compiled seccomp profiles are kept below `seccomp_cache`, for other processes too.
    pub fn new(seccomp_cache: Option<PathBuf>) -> Result<Self, Error> {
        let host = Host::probe().map_err(Error::Host)?;
        Ok(Self { children: Arc::default(), host, seccomp: Cache::new(seccomp_cache) })
    }

    /// Whether this process is in another user namespace than the initial one, where cgroups are likely to be somebody else's.
    #[must_use]
    pub fn in_user_namespace(&self) -> bool {
        self.host.user_namespace
    }
}
