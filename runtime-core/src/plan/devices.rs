//! Device nodes and the symlinks beside them.

use libc::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Spec};

use super::draft::{Draft, c_string, in_root, text};
use super::{Error, Host, options::Options};
use crate::step::{Device, InRoot, MountSource, MountStep, Source, Step};

/// What every container has, in runc's order.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
];

const SYMLINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "/dev/ptmx"),
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Populates /dev, unless the whole of it is a bind of somebody else's.
pub(super) fn compile(spec: &Spec, linux: &Linux, userns: bool, host: &Host, draft: &mut Draft) -> Result<(), Error> {
    if binds_dev(spec)? {
        return Ok(());
    }
    let bound = userns || host.user_namespace;
    let devices = linux.devices().as_deref().unwrap_or_default();
    for (path, major, minor) in DEFAULT {
        if !devices.iter().any(|device| text(device.path()) == path) {
            let path = in_root(path, path)?;
            make(bound, Device { path, mode: S_IFCHR | 0o666, major, minor, uid: 0, gid: 0 }, draft)?;
        }
    }
    for (index, device) in devices.iter().enumerate() {
        let field = format!("linux.devices[{index}]");
        // A device without a path exists for the sake of its cgroup rule.
        if !text(device.path()).is_empty() {
            make(bound, read(&field, device)?, draft)?;
        }
    }
    let core = host.kcore.then_some(("/proc/kcore", "/dev/core"));
    for (target, path) in SYMLINKS.into_iter().chain(core) {
        draft.step(Step::Symlink { target: c_string(path, target)?, path: in_root(path, path)? });
    }
    Ok(())
}

fn binds_dev(spec: &Spec) -> Result<bool, Error> {
    for mount in spec.mounts().iter().flatten() {
        let at_dev = InRoot::new(text(mount.destination())).is_some_and(|target| target.path.as_c_str() == c"dev");
        let bind =
            || Options::parse("mounts", mount.options().as_deref().unwrap_or_default()).map(|o| o.bind.is_some());
        if at_dev && (mount.typ().as_deref() == Some("bind") || bind()?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(field: &str, device: &LinuxDevice) -> Result<Device, Error> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => S_IFCHR,
        LinuxDeviceType::B => S_IFBLK,
        LinuxDeviceType::P => S_IFIFO,
        LinuxDeviceType::A => return Err(Error::invalid(format!("{field}.type"), "a", "invalid device type")),
    };
    let path = in_root(&format!("{field}.path"), text(device.path()))?;
    if path.is_root() {
        return Err(Error::invalid(format!("{field}.path"), text(device.path()), "must name a file"));
    }
    let number = |name: &str, number: i64| {
        let number = if kind == S_IFIFO { 0 } else { number };
        let invalid = |_| Error::invalid(format!("{field}.{name}"), number.to_string(), "must be a device number");
        u32::try_from(number).map_err(invalid)
    };
    Ok(Device {
        path,
        mode: kind | (device.file_mode().unwrap_or(0o666) & !S_IFMT),
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// mknod(2) of a device is refused inside a user namespace: there the host's node of the same path is bound.
fn make(bound: bool, device: Device, draft: &mut Draft) -> Result<(), Error> {
    if !bound || device.mode & S_IFMT == S_IFIFO {
        draft.step(Step::Device(device));
        return Ok(());
    }
    let path = c_string("linux.devices", &device.path.display())?;
    let source = draft.source(Source::Tree { path, recursive: false });
    draft.step(Step::Mount(Box::new(MountStep {
        source: MountSource::Opened { source, slave_first: true },
        target: device.path,
        attributes: Default::default(),
        locked: Default::default(),
        recursive_attributes: Default::default(),
        propagation: Vec::new(),
        no_symlinks: false,
        over_proc: false,
        keep: None,
    })));
    Ok(())
}
