//! Which device a configuration means.

use std::fs;
use std::path::{Path, PathBuf};

use super::wire;
use crate::cni::fault::{Code, Fault};
use crate::cni::json::Fields;
use crate::netlink::{Link, Netlink};

/// How it is found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Name(String),
    Mac(Vec<u8>),
    /// The name of the first entry of a directory of sysfs, which has none while the device is elsewhere.
    Directory(PathBuf),
    /// A device of the bus, in sysfs.
    Pci(PathBuf),
    /// Its driver belongs to user space, so that the kernel has no interface for it.
    Userspace,
}

/// Drivers that hand a device to a process.
const USERSPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

impl Wanted {
    /// The first that says something of `device`, `hwaddr`, `kernelpath` and the bus address. `sys` is sysfs.
    pub(super) fn parse(fields: Fields<'_>, sys: &Path) -> Result<Self, Fault> {
        let runtime = fields.object("runtimeConfig")?;
        let id = runtime.map(|runtime| runtime.string("deviceID")).transpose()?.flatten();
        let on_bus = |bus: &str, id: &str| sys.join("bus").join(bus).join("devices").join(id);
        let (pci, auxiliary) = match id {
            Some(id) if plain(&id)? && on_bus("pci", &id).exists() => (Some(id), None),
            Some(id) if on_bus("auxiliary", &id).exists() => (None, Some(id)),
            Some(id) => return Err(config(format!("runtime config DeviceID {id} not found or unsupported"))),
            None => (fields.string("pciBusID")?.map(|id| plain(&id).map(|_| id)).transpose()?, None),
        };
        let pci = pci.map(|id| on_bus("pci", &id));
        if let Some(device) = &pci
            && has_userspace_driver(device)?
        {
            return Ok(Self::Userspace);
        }
        if let Some(name) = fields.string("device")? {
            return Ok(Self::Name(name));
        }
        if let Some(mac) = fields.string("hwaddr")? {
            return Ok(Self::Mac(wire::mac(&mac)?));
        }
        if let Some(path) = fields.string("kernelpath")? {
            return kernel_path(&path);
        }
        let missing = || config("specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"");
        match (pci, auxiliary) {
            (Some(device), _) => Ok(Self::Pci(device)),
            (None, Some(id)) => Ok(Self::Directory(on_bus("auxiliary", &id).join("net"))),
            (None, None) => Err(missing()),
        }
    }

    /// None: it is no interface.
    pub(super) fn find(&self, host: &mut Netlink) -> Result<Option<Link>, Fault> {
        let mut by_name = |name: String| Ok::<_, Fault>((host.link(&name)?, name));
        let (found, named) = match self {
            Self::Userspace => return Ok(None),
            Self::Name(name) => by_name(name.clone())?,
            Self::Directory(directory) => by_name(first_entry(directory)?)?,
            Self::Pci(device) => by_name(first_entry(&interfaces_of(device)?)?)?,
            Self::Mac(mac) => {
                let text: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                (host.links()?.into_iter().find(|link| link.mac == *mac), text.join(":"))
            }
        };
        let missing = || config(format!("failed to find host device {named:?}: Link not found"));
        found.ok_or_else(missing).map(Some)
    }
}

/// A device's address is one name in a directory.
fn plain(id: &str) -> Result<bool, Fault> {
    let plain = id != "." && id != ".." && !id.contains(['/', '\0']);
    if plain { Ok(true) } else { Err(config(format!("{id:?} is no address of a device"))) }
}

fn kernel_path(path: &str) -> Result<Wanted, Fault> {
    let up = Path::new(path).components().any(|part| part == std::path::Component::ParentDir);
    if up || !path.starts_with("/sys/devices/") {
        let message = format!("kernel device path {path:?} must be absolute and begin with /sys/devices/");
        return Err(config(message));
    }
    Ok(Wanted::Directory(Path::new(path).join("net")))
}

fn has_userspace_driver(device: &Path) -> Result<bool, Fault> {
    let driver = fs::read_link(device.join("driver"));
    let driver = driver.map_err(|error| config(format!("no driver of the device {}: {error}", device.display())))?;
    Ok(driver.file_name().is_some_and(|name| USERSPACE.iter().any(|known| name == *known)))
}

/// A virtio device has its interfaces one level below.
fn interfaces_of(device: &Path) -> Result<PathBuf, Fault> {
    let own = device.join("net");
    if own.exists() {
        return Ok(own);
    }
    let entries = fs::read_dir(device).into_iter().flatten().flatten();
    let virtio = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("virtio"));
    let found = virtio.map(|entry| entry.path().join("net")).filter(|path| path.exists()).min();
    let missing = || config(format!("no net directory under pci device {}", device.display()));
    found.ok_or_else(missing)
}

fn first_entry(directory: &Path) -> Result<String, Fault> {
    let failed = |why: &str| config(format!("failed to find a network device in {}: {why}", directory.display()));
    let entries = fs::read_dir(directory).map_err(|error| failed(&error.to_string()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.min().ok_or_else(|| failed("there is none"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::{Value, json};

    use super::*;

    struct Sys(PathBuf);

    impl Drop for Sys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A sysfs with a network card, a virtio one, one of a process, and an auxiliary device.
    fn sys(name: &str) -> Sys {
        let sys = std::env::temp_dir().join(format!("berth-sys-{name}-{}", std::process::id()));
        let pci = sys.join("bus/pci/devices");
        for directory in [
            "bus/pci/devices/0000:00:01.0/net/eno1",
            "bus/pci/devices/0000:00:02.0/virtio3/net/ens2",
            "bus/pci/devices/0000:00:03.0",
            "bus/pci/devices/0000:00:04.0",
            "bus/auxiliary/devices/mlx5_core.sf.2/net/sf2",
        ] {
            fs::create_dir_all(sys.join(directory)).unwrap();
        }
        for (device, driver) in [("01", "e1000"), ("02", "virtio-pci"), ("03", "vfio-pci"), ("04", "e1000")] {
            symlink(format!("../drivers/{driver}"), pci.join(format!("0000:00:{device}.0/driver"))).unwrap();
        }
        Sys(sys)
    }

    fn parse(value: &Value, sys: &Sys) -> Result<Wanted, Fault> {
        Wanted::parse(Fields(value.as_object().unwrap()), &sys.0)
    }

    #[test]
    fn the_first_that_says_something_is_meant() {
        let sys = sys("first");
        let both = json!({"device":"eth5","hwaddr":"02:00:00:00:00:01","pciBusID":"0000:00:01.0"});
        assert_eq!(parse(&both, &sys), Ok(Wanted::Name("eth5".to_owned())));
        let both = json!({"hwaddr":"02:00:00:00:00:01","kernelpath":"/sys/devices/x"});
        assert_eq!(parse(&both, &sys), Ok(Wanted::Mac(vec![2, 0, 0, 0, 0, 1])));
        let path = json!({"kernelpath":"/sys/devices/pci0000:00/0000:00:01.0"});
        assert_eq!(parse(&path, &sys), Ok(Wanted::Directory("/sys/devices/pci0000:00/0000:00:01.0/net".into())));
    }

    #[test]
    fn a_device_on_a_bus_is_the_interface_below_it() {
        let sys = sys("bus");
        let name = |value: &Value| match parse(value, &sys).unwrap() {
            Wanted::Directory(directory) => first_entry(&directory).unwrap(),
            Wanted::Pci(device) => first_entry(&interfaces_of(&device).unwrap()).unwrap(),
            other => format!("{other:?}"),
        };
        assert_eq!(name(&json!({"pciBusID":"0000:00:01.0"})), "eno1");
        assert_eq!(name(&json!({"pciBusID":"0000:00:02.0"})), "ens2");
        assert_eq!(name(&json!({"pciBusID":"x","runtimeConfig":{"deviceID":"0000:00:01.0"}})), "eno1");
        assert_eq!(name(&json!({"runtimeConfig":{"deviceID":"mlx5_core.sf.2"}})), "sf2");
        assert_eq!(name(&json!({"device":"eth5","pciBusID":"0000:00:03.0"})), "Userspace");
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let sys = sys("refused");
        for (value, words) in [
            (json!({}), "specify either"),
            (json!({"hwaddr":"x"}), "invalid MAC address"),
            (json!({"kernelpath":"/sys/class/net"}), "must be absolute and begin with /sys/devices/"),
            (json!({"kernelpath":"/sys/devices/../class/net"}), "must be absolute"),
            (json!({"pciBusID":"0000:00:09.0"}), "no driver of the device"),
            (json!({"pciBusID":"../../../etc"}), "is no address of a device"),
            (json!({"runtimeConfig":{"deviceID":"0000:00:09.0"}}), "not found or unsupported"),
            (json!({"runtimeConfig":{"deviceID":".."}}), "is no address of a device"),
        ] {
            let error = parse(&value, &sys).unwrap_err();
            assert!(error.message.contains(words), "{value}: {error}");
        }
        let device = sys.0.join("bus/pci/devices/0000:00:04.0");
        assert!(interfaces_of(&device).unwrap_err().message.contains("no net directory under pci device"));
        assert!(first_entry(&device.join("net")).is_err());
    }
}
