use netns::cni::fault::Fault;
use std::path::PathBuf;

/// Why a container gets no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An annotation whose value is none.
    #[error("annotation {key}: {value:?} is not {wanted}")]
    Annotation {
        /// Its name.
        key: String,
        /// Its value.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// One that looks like ours.
    #[error("annotation {0} is unknown")]
    UnknownAnnotation(String),
    /// Two wishes.
    #[error("annotations ask for a network, and the spec for the host's network namespace")]
    HostNetwork,
    /// It could do little with it.
    #[error("a network for a container with a user namespace is not supported")]
    UserNamespace,
    /// Whose?
    #[error("the network is to be the pod's, and no annotation names a pod")]
    NoGroup,
    /// It is not there, or has none that we made.
    #[error("pod {pod} has no network to share")]
    NoPod {
        /// The container that is the pod.
        pod: String,
    },
    /// There is nothing to decide.
    #[error("annotations ask for a network of the container's own, and it shares that of pod {pod}")]
    NotThePod {
        /// The container that is the pod.
        pod: String,
    },
    /// They would be left out silently.
    #[error("port mappings are asked for, and no plugin of network {networks} has the capability portMappings")]
    NoPortMappings {
        /// The networks' names.
        networks: String,
    },
    /// The plugins took no notice.
    #[error("network {network} did not give {wanted}, which was asked for")]
    NotGiven {
        /// Its name.
        network: String,
        /// The address.
        wanted: String,
    },
    /// CNI, in the plugin's own words.
    #[error(transparent)]
    Cni(#[from] Fault),
    /// A file of the bundle.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the request is to blame, and not the host.
    pub fn is_invalid_argument(&self) -> bool {
        !matches!(self, Error::Cni(_) | Error::NotGiven { .. } | Error::Write { .. })
    }
}
