//! The Container Network Interface: what a network's configuration says, and the engine that makes it so. It does what
//! libcni does (CNI specification 1.1.0, all versions since 0.1.0), except that a plugin that we have ourselves runs in
//! this process.

pub mod cache;
/// Addresses with the length of their prefix.
pub mod cidr;
pub mod conflist;
pub mod engine;
pub mod exec;
pub mod fault;
pub mod json;
pub mod result;
pub mod skel;
/// CNI versions.
pub mod version;
