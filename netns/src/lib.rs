//! Pod networks: namespaces made, pinned to a name, entered and removed; and CNI, by an engine that does what libcni
//! does and has plugins of its own.
//!
//! A thread's network namespace is its own, and threads made by it inherit it. So whatever changes namespaces here
//! runs on a thread made for it, which ends afterwards; the caller's threads never leave theirs.

mod afterwards;
mod change;
pub mod cni;
mod conntrack;
mod error;
mod iptables;
mod loopback;
mod namespace;
mod netfilter;
mod netlink;
mod nft;
mod pin;
pub mod plugin;
pub mod pod;
mod sys;
mod whole;

pub use afterwards::Afterwards;
pub use error::Error;
pub use namespace::Namespace;
pub use pin::{DIRECTORY, remove};
