//! An OCI runtime for Linux as a library: a container is a list of steps.

pub mod plan;
pub mod program;
pub mod step;
