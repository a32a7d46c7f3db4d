//! Capability names as the kernel's bits.

use oci_spec::runtime::{Capabilities as Names, Capability, LinuxCapabilities};

use super::Host;
use super::draft::Draft;
use crate::step::Capabilities;

/// The five sets; all empty where the spec has none, as in runc. What the kernel does not know cannot be given.
pub(super) fn compile(sets: Option<&LinuxCapabilities>, host: &Host, draft: &mut Draft) -> Capabilities {
    let Some(sets) = sets else { return Capabilities::default() };
    let all = Capabilities {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        inheritable: mask(sets.inheritable()),
        permitted: mask(sets.permitted()),
        ambient: mask(sets.ambient()),
    };
    let known = u64::MAX >> (63 - host.last_capability.min(63));
    let unknown = (all.bounding | all.effective | all.inheritable | all.permitted | all.ambient) & !known;
    if unknown != 0 {
        draft.warn(unavailable(of(unknown).map(|name| format!("CAP_{name}"))));
    }
    let ambient = all.ambient & known;
    let raised = ambient & all.permitted & all.inheritable;
    for name in of(ambient & !raised) {
        draft.warn(format!("can't raise ambient capability CAP_{name}: operation not permitted"));
    }
    Capabilities {
        bounding: all.bounding & known,
        effective: all.effective & known,
        inheritable: all.inheritable & known,
        permitted: all.permitted & known,
        ambient: raised,
    }
}

/// In the words of runc.
pub(crate) fn unavailable(names: impl IntoIterator<Item = String>) -> String {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable();
    format!("ignoring unknown or unavailable capabilities: [{}]", names.join(" "))
}

fn mask(names: &Option<Names>) -> u64 {
    let has = |name: &Capability| names.as_ref().is_some_and(|names| names.contains(name));
    (0..).zip(&NAMES).filter(|(_, name)| has(name)).fold(0, |mask, (number, _)| mask | 1 << number)
}

/// In the order of linux/capability.h.
static NAMES: [Capability; 41] = [
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
    of(mask).map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn of(mask: u64) -> impl Iterator<Item = &'static Capability> {
    NAMES.iter().enumerate().filter(move |(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| name)
}
