//! An OCI runtime for Linux as a library: a container is a list of steps.

mod bystander;
pub mod cgroup;
mod channel;
pub mod children;
pub mod container;
mod errno;
mod gate;
pub mod hooks;
pub mod host;
mod init;
pub mod listener;
pub mod mounted;
pub mod netdev;
mod netlink;
pub mod plan;
pub mod preview;
pub mod program;
pub mod sources;
pub mod spawn;
pub mod spec;
mod stat;
pub mod state;
pub mod step;
pub mod sys;
pub mod userns;
