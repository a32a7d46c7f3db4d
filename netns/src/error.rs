use std::path::PathBuf;

use rustix::io::Errno;

/// Why something could not be done to a network namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No thread to do it on.
    #[error("start a thread for a network namespace")]
    Thread(#[source] std::io::Error),
    /// unshare(2), or the descriptor of what it made.
    #[error("create a network namespace")]
    Create(#[source] Errno),
    /// setns(2)
    #[error("enter the network namespace")]
    Enter(#[source] Errno),
    /// The loopback interface of the namespace.
    #[error("bring lo up in the network namespace")]
    Loopback(#[source] Errno),
    /// A name that would lead elsewhere.
    #[error("{name:?} is no name for a network namespace")]
    Name {
        /// The name.
        name: String,
    },
    /// open(2)
    #[error("open {}", path.display())]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// It is there, and is something else.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// What is something else.
        path: PathBuf,
    },
    /// The directory of a pin, or the file under its mount. EEXIST: the name is taken.
    #[error("create {}", path.display())]
    CreateFile {
        /// What was to be made.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// The mount that is the pin.
    #[error("mount the network namespace on {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// umount2(2)
    #[error("unmount {}", path.display())]
    Unmount {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// unlink(2).
    #[error("remove {}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
}
