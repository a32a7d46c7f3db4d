//! Seccomp profiles, compiled into BPF before the container's process exists.
//!
//! libseccomp turns a profile into a program (10 ms and more for containerd's default), [`Cache`] keeps what
//! was compiled, and the child does nothing but `seccomp(2)`.
//!
//! The verdicts are runc's: names that libseccomp does not know are skipped, rules that repeat the default action are
//! skipped, and a system call newer than anything the profile names answers `ENOSYS` (`enosys.rs`), so that a C library
//! that probes for it falls back instead of failing. Where runc ignores what the specification forbids (an `errnoRet`
//! on an action that has none), the specification wins.

mod cache;
mod enosys;
mod exact;
mod rules;
#[cfg(test)]
mod testing;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use std::path::Path;

use libseccomp::error::SeccompError;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};
use rustix::io::Errno;

use crate::step::SockFilter;

pub use self::cache::Cache;
pub use crate::step::Seccomp as Filter;

/// The kernel's `BPF_MAXINSNS`: `seccomp(2)` answers EINVAL to a longer program.
const MAX_INSTRUCTIONS: usize = 4096;

const _: () = assert!(size_of::<SockFilter>() == size_of::<libc::sock_filter>());
const _: () = assert!(align_of::<SockFilter>() == align_of::<libc::sock_filter>());

/// Why a profile has no filter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something is left to nobody.
    #[error("seccomp action SCMP_ACT_NOTIFY for {subject} needs listenerPath")]
    NoListener {
        /// A system call's name.
        subject: String,
    },
    /// Something is left to a listener that is needed to reach the listener.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be used {place}")]
    Notify {
        /// "for the write syscall", or "as default action".
        place: &'static str,
    },
    /// A rule names the empty string.
    #[error("seccomp rule has an empty system call name")]
    EmptyName,
    /// An error number on an action that returns none (config-linux.md: the runtime must fail).
    #[error("seccomp action {action} for {subject} takes no errnoRet")]
    UnexpectedErrno {
        /// A system call's name, or "defaultAction".
        subject: String,
        /// The action.
        action: LinuxSeccompAction,
    },
    /// An error number that the kernel would cut off.
    #[error("seccomp errnoRet {errno} for {subject} is too large for {action}")]
    ErrnoRange {
        /// A system call's name, or "defaultAction".
        subject: String,
        /// The action.
        action: LinuxSeccompAction,
        /// The number.
        errno: u32,
    },
    /// A condition on an argument that no system call has.
    #[error("seccomp rule for {name} tests argument {index}, system calls have 0 to 5")]
    ArgumentIndex {
        /// The system call.
        name: String,
        /// The index.
        index: usize,
    },
    /// libseccomp made no empty filter.
    #[error("make a seccomp filter with default action {action}")]
    Init {
        /// The default action.
        action: LinuxSeccompAction,
        /// What libseccomp says.
        #[source]
        source: SeccompError,
    },
    /// libseccomp refused an architecture.
    #[error("add architecture {arch} to the seccomp filter")]
    Architecture {
        /// The architecture.
        arch: Arch,
        /// What libseccomp says.
        #[source]
        source: SeccompError,
    },
    /// libseccomp refused a rule.
    #[error("add seccomp rule {action} for {name}")]
    Rule {
        /// The system call.
        name: String,
        /// The rule's action.
        action: LinuxSeccompAction,
        /// What libseccomp says.
        #[source]
        source: SeccompError,
    },
    /// libseccomp wrote no program.
    #[error("generate the seccomp program")]
    Generate(#[source] SeccompError),
    /// The program could not be read back.
    #[error("read the generated seccomp program")]
    Read(#[source] Errno),
    /// The program is not a whole number of instructions, or none.
    #[error("generated seccomp program has {bytes} bytes")]
    Truncated {
        /// Its length.
        bytes: usize,
    },
    /// The kernel would refuse the program.
    #[error("seccomp program has {instructions} instructions, the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong {
        /// Its length.
        instructions: usize,
    },
}

/// The filter of a profile, from the directory `cache` where it holds one.
///
/// For one profile at a time; who compiles often keeps a [`Cache`].
pub fn compile(profile: &LinuxSeccomp, cache: Option<&Path>) -> Result<Filter, Error> {
    cache::compile(profile, cache)
}

/// The filter of a profile: libseccomp's program behind what answers for system calls that are newer than the profile,
/// and for those that it compares more than once.
fn build(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    let mut program = enosys::stub(profile);
    let rest = rules::program(profile)?;
    program.extend(exact::stub(profile));
    program.extend(rest);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong { instructions: program.len() });
    }
    Ok(Filter { program, flags: rules::flags(profile) })
}
