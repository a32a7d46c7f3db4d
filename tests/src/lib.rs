//! The harness: real containerds, driven by `ctr` and by the client API, with what they leave behind compared.
//!
//! - [`version`]: which containerds there are, and where `tests/setup` has put them
//! - [`containerd`]: a private daemon in a directory of its own
//! - [`cri`]: a kubelet's view of a daemon with the CRI plugin
//! - [`ctr`]: its command line, with a deadline for every command
//! - [`scene`]: one scenario with one runtime on one daemon; what it observes is compared between runtimes
//! - [`leftovers`]: processes, mounts, cgroups, sockets and files that bear a name
//! - [`image`]: the image that the containers run, made from busybox
//! - [`shim`]: a shim without its containerd, for what containerd would never ask
//! - [`task`]: the requests that such a shim is asked
//! - [`terminal`]: a pty to drive `-t` with
//! - [`command`]: a child process that cannot hang

pub mod command;
pub mod containerd;
pub mod cri;
pub mod ctr;
pub mod image;
pub mod leftovers;
pub mod scene;
pub mod shim;
pub mod task;
pub mod terminal;
pub mod version;
