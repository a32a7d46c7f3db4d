//! Pod network namespaces: made, pinned to a name, entered and removed.
//!
//! A thread's network namespace is its own, and threads made by it inherit it. So whatever changes namespaces here
//! runs on a thread made for it, which ends afterwards; the caller's threads never leave theirs.

mod error;
mod loopback;
mod namespace;
mod pin;
mod sys;

pub use error::Error;
pub use namespace::Namespace;
pub use pin::{DIRECTORY, remove};
