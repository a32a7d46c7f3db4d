//! Capability names as the kernel's bits.

use oci_spec::runtime::{Capabilities as Names, Capability, LinuxCapabilities};

use super::Host;
use super::draft::Draft;
use crate::step::Capabilities;

/// The five sets; all empty where the spec has none, as in runc. What the kernel does not know cannot be given.
pub(super) fn compile(sets: Option<&LinuxCapabilities>, host: &Host, draft: &mut Draft) -> Capabilities {
    let Some(sets) = sets else { return Capabilities::default() };
    let mut set = |names: &Option<Names>| mask(names, host.last_capability, draft);
    Capabilities {
        bounding: set(sets.bounding()),
        effective: set(sets.effective()),
        inheritable: set(sets.inheritable()),
        permitted: set(sets.permitted()),
        ambient: set(sets.ambient()),
    }
}

fn mask(names: &Option<Names>, last: u32, draft: &mut Draft) -> u64 {
    let Some(names) = names else { return 0 };
    let mut mask = 0;
    for (number, name) in (0..).zip(NAMES).filter(|(_, name)| names.contains(name)) {
        if number <= last {
            mask |= 1 << number;
        } else {
            let text = format!("process.capabilities: CAP_{name} is ignored, this kernel does not know it");
            if !draft.warnings.contains(&text) {
                draft.warn(text);
            }
        }
    }
    mask
}

/// In the order of linux/capability.h.
const NAMES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The names of a mask, for people.
pub(super) fn names(mask: u64) -> String {
    let names = NAMES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| name.to_string());
    names.collect::<Vec<_>>().join(" ")
}
