//! What a plan has to know of the host: read once, in few and cheap files, and passed by value.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::cgroup;

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Which cgroups there are.
    pub cgroup: CgroupLayout,
    /// The highest capability that the kernel knows.
    pub last_capability: u32,
    /// AppArmor can be asked to confine a program.
    pub apparmor: bool,
    /// SELinux is there.
    pub selinux: bool,
    /// /proc/kcore is there, so /dev/core may point to it.
    pub kcore: bool,
    /// We are in a user namespace ourselves: devices can be bound, not made.
    pub user_namespace: bool,
    /// We are in a user namespace whose maker had no right over groups: nobody there may change them.
    pub setgroups_denied: bool,
    /// procfs takes `pidns=`, so that it can be mounted before the pid namespace is entered. Linux 6.17
    pub proc_of_namespace: bool,
}

/// The shape of /sys/fs/cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupLayout {
    /// One hierarchy.
    V2,
    /// Several; a v2 hierarchy beside them (hybrid) is left out.
    V1(Vec<Hierarchy>),
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its directory below /sys/fs/cgroup: `cpu,cpuacct`, `systemd`.
    pub name: String,
    /// What it is mounted with: `cpu` and `cpuacct`, `name=systemd`.
    pub options: Vec<String>,
}

impl Host {
    /// Looks at the host we run on.
    pub fn probe() -> io::Result<Self> {
        Ok(Self {
            cgroup: cgroup::layout()?,
            last_capability: number("/proc/sys/kernel/cap_last_cap")?,
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            kcore: Path::new("/proc/kcore").exists(),
            user_namespace: in_user_namespace()?,
            setgroups_denied: read("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny"),
            proc_of_namespace: release() >= (6, 17),
        })
    }
}

/// Whether we are in another user namespace than the initial one.
pub fn in_user_namespace() -> io::Result<bool> {
    Ok(!maps_everything(&read("/proc/self/uid_map")?))
}

/// The signals that this process ignores, bit 0 for signal 1: all that there may be where that cannot be told. proc(5)
#[must_use]
pub fn ignored_signals() -> u64 {
    read("/proc/self/status").ok().and_then(|status| ignored(&status)).unwrap_or(u64::MAX)
}

fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// A file of the kernel's of a page at most, which comes at once: looking for its size and its end would be most of the work.
pub(crate) fn read(path: &str) -> io::Result<String> {
    let mut page = [0; 4096];
    let length = File::open(path)?.read(&mut page)?;
    Ok(String::from_utf8_lossy(page.get(..length).unwrap_or_default()).into_owned())
}

/// The initial user namespace maps every id to itself.
fn maps_everything(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn number(path: &str) -> io::Result<u32> {
    read(path)?.trim().parse().map_err(io::Error::other)
}

/// Major and minor number of the kernel's release.
fn release() -> (u32, u32) {
    let uname = rustix::system::uname();
    let text = uname.release().to_string_lossy();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_as_the_kernel_tells_them() {
        assert_eq!(ignored("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"), Some(1 << 12 | 1));
        assert_eq!(ignored("Name:\tx\n"), None);
        // Rust ignores SIGPIPE.
        assert_ne!(ignored_signals() & 1 << (libc::SIGPIPE - 1), 0);
    }

    #[test]
    fn only_the_initial_user_namespace_maps_everything() {
        assert!(maps_everything("         0          0 4294967295\n"));
        assert!(!maps_everything("         0     100000      65536\n"));
    }
}
