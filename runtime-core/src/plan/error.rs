//! Why a spec cannot become a plan. Every text names the field first.

/// What is wrong with a spec, or with what it asks of this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field that must be there is not, or is empty.
    #[error("{field} must not be empty")]
    Missing {
        /// As in config.json: `process.cwd`.
        field: String,
    },
    /// A value that can never be right.
    #[error("{field} {value:?}: {reason}")]
    Invalid {
        /// As in config.json.
        field: String,
        /// The value.
        value: String,
        /// What it should have been.
        reason: &'static str,
    },
    /// The field contradicts another one.
    #[error("{field}: {reason}")]
    Conflict {
        /// As in config.json.
        field: String,
        /// What it contradicts.
        reason: &'static str,
    },
    /// A memory policy that names nodes and must not.
    #[error("linux.memoryPolicy.nodes: memory policy mode requires 0 nodes but got {count}")]
    MemoryPolicyNodes {
        /// How many.
        count: u32,
    },
    /// OCI has it, Berth does not.
    #[error("{field} is not supported")]
    Unsupported {
        /// As in config.json.
        field: String,
    },
    /// The spec asks for a security module that this kernel does not have.
    #[error("{field} {value:?}: {lsm} is disabled or not supported by this kernel")]
    NoSecurityModule {
        /// As in config.json.
        field: String,
        /// The label or profile.
        value: String,
        /// `AppArmor` or `SELinux`.
        lsm: &'static str,
    },
    /// A string for the kernel holds a NUL.
    #[error("{field} {value:?} contains a null byte")]
    Nul {
        /// As in config.json.
        field: String,
        /// The string.
        value: String,
    },
}

impl Error {
    pub(super) fn missing(field: impl Into<String>) -> Self {
        Self::Missing { field: field.into() }
    }

    pub(super) fn invalid(field: impl Into<String>, value: impl Into<String>, reason: &'static str) -> Self {
        Self::Invalid { field: field.into(), value: value.into(), reason }
    }

    pub(super) fn conflict(field: impl Into<String>, reason: &'static str) -> Self {
        Self::Conflict { field: field.into(), reason }
    }

    pub(super) fn unsupported(field: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into() }
    }
}
