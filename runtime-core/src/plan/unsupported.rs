//! What OCI has and Berth has not: refused by name, never ignored. An empty one asks for nothing.

use oci_spec::runtime::{Linux, Process, Spec};

use super::Error;

/// Fields of the whole spec.
pub(super) fn check_spec(spec: &Spec) -> Result<(), Error> {
    let present = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    first(&present)
}

/// Fields of `linux`.
pub(super) fn check_linux(linux: &Linux) -> Result<(), Error> {
    let listener = linux.seccomp().as_ref().and_then(|seccomp| seccomp.listener_path().as_ref());
    let present = [
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().is_some()),
        ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())),
        ("linux.seccomp.listenerPath", listener.is_some_and(|path| !path.as_os_str().is_empty())),
    ];
    first(&present)
}

/// Fields of a process.
pub(super) fn check_process(process: &Process) -> Result<(), Error> {
    let present = [
        ("process.scheduler", process.scheduler().is_some()),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
        ("process.commandLine", process.command_line().as_ref().is_some_and(|line| !line.is_empty())),
    ];
    first(&present)
}

fn first(present: &[(&str, bool)]) -> Result<(), Error> {
    match present.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Error::unsupported(*field)),
        None => Ok(()),
    }
}
