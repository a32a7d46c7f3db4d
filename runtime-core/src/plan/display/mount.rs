//! How mounts and what is mounted are printed.

use std::ffi::CString;
use std::fmt::{self, Display, Formatter};

use super::{Described, text};
use crate::plan::IdMaps;
use crate::step::{Attributes, Filesystem, Idmap, MountSource, MountStep, Propagation, Source};

impl Described<'_> {
    /// An error is told what was mounted where; the plan, how.
    pub(super) fn mount(&self, mount: &MountStep, f: &mut Formatter<'_>) -> fmt::Result {
        let (what, how) = match &mount.source {
            MountSource::Opened { source, slave_first } => {
                (self.source(*source, f.alternate()), slave_first.then_some(" as a slave"))
            }
            MountSource::InRoot { path, recursive, idmap } => {
                let (tree, by) = (if *recursive { " (tree)" } else { "" }, idmap.as_ref());
                let by = by.map(|(by, all)| format!(", idmapped{} by {by}", if *all { " recursively" } else { "" }));
                let more = if f.alternate() { tree.to_owned() + &by.unwrap_or_default() } else { String::new() };
                (format!("{path} of the container{more}"), Some(" as a slave"))
            }
            MountSource::Filesystem { filesystem, inherit_mode, copy_up } => {
                let how = match (inherit_mode, copy_up) {
                    (true, true) => Some(" with its mode and contents"),
                    (true, false) => Some(" with its mode"),
                    (false, true) => Some(" with its contents"),
                    (false, false) => None,
                };
                (filesystem.to_string(), how)
            }
        };
        if !f.alternate() {
            return write!(f, "mount {what} on {}", mount.target);
        }
        write!(f, "mount {what} on {}{}", mount.target, how.unwrap_or_default())?;
        write!(f, "{}{}", change("", mount.attributes), change(" recursively", mount.recursive_attributes))?;
        write!(f, "{}", change(" locked", mount.locked))?;
        for propagation in &mount.propagation {
            write!(f, ", {propagation}")?;
        }
        if let Some(slot) = mount.keep {
            write!(f, ", kept in slot {}", slot.0)?;
        }
        for (set, text) in [(mount.no_symlinks, ", no symlinks"), (mount.over_proc, ", procfs allowed")] {
            f.write_str(if set { text } else { "" })?;
        }
        Ok(())
    }
}

/// For an error it is the path alone; the alternate form, which the plan prints, has the kind too.
impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree { path, recursive: true } if f.alternate() => write!(f, "{} (tree)", text(path)),
            Self::Namespace { path, kind } if f.alternate() => write!(f, "{} ({})", text(path), kind.name()),
            Self::Tree { path, .. } | Self::Namespace { path, .. } => f.write_str(&text(path)),
            Self::Filesystem(filesystem) => filesystem.fmt(f),
            Self::Idmapped { of, by, recursive } if f.alternate() => {
                write!(f, "{of:#}, idmapped{} by {by}", if *recursive { " recursively" } else { "" })
            }
            Self::Idmapped { of, .. } => of.fmt(f),
            Self::Init => f.write_str("the container's init"),
            Self::InitRoot => f.write_str("the root of the container's init"),
            Self::Gate(path) if f.alternate() => write!(f, "{} (socket)", text(path)),
            Self::Gate(path) => f.write_str(&text(path)),
        }
    }
}

impl Display for Idmap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let words = |map: &CString| text(map).trim_end().replace(' ', ":").replace('\n', ",");
        match self {
            Self::Maps(IdMaps { uid, gid }) => write!(f, "uid {} gid {}", words(uid), words(gid)),
            Self::Namespace(path) => f.write_str(&text(path)),
        }
    }
}

impl Display for Filesystem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", text(&self.fstype))?;
        if self.source != self.fstype {
            write!(f, " {}", text(&self.source))?;
        }
        let attributes = attributes(self.attributes);
        let options = self.options.iter().map(|(key, value)| match value {
            Some(value) => format!("{}={}", text(key), text(value)),
            None => text(key),
        });
        let all: Vec<_> = attributes.into_iter().map(str::to_owned).chain(options).collect();
        if all.is_empty() { Ok(()) } else { write!(f, " ({})", all.join(",")) }
    }
}

impl Display for Propagation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            libc::MS_PRIVATE => "private",
            libc::MS_SHARED => "shared",
            libc::MS_SLAVE => "slave",
            libc::MS_UNBINDABLE => "unbindable",
            _ => "of unknown propagation",
        };
        write!(f, "{}{kind}", if self.recursive { "r" } else { "" })
    }
}

/// `MOUNT_ATTR_*` by the names of mount(8).
fn attributes(mask: u64) -> Vec<&'static str> {
    use rustix::mount::MountAttrFlags as Attr;
    let single = [
        (Attr::MOUNT_ATTR_RDONLY, "ro"),
        (Attr::MOUNT_ATTR_NOSUID, "nosuid"),
        (Attr::MOUNT_ATTR_NODEV, "nodev"),
        (Attr::MOUNT_ATTR_NOEXEC, "noexec"),
        (Attr::MOUNT_ATTR_NODIRATIME, "nodiratime"),
        (Attr::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
    ];
    let mut names: Vec<_> =
        single.iter().filter(|(flag, _)| mask & u64::from(flag.bits()) != 0).map(|(_, name)| *name).collect();
    let atime = mask & u64::from(Attr::MOUNT_ATTR__ATIME.bits());
    if atime == u64::from(Attr::MOUNT_ATTR__ATIME.bits()) {
        names.push("atime");
    } else if atime & u64::from(Attr::MOUNT_ATTR_NOATIME.bits()) != 0 {
        names.push("noatime");
    } else if atime & u64::from(Attr::MOUNT_ATTR_STRICTATIME.bits()) != 0 {
        names.push("strictatime");
    }
    names
}

fn change(how: &str, change: Attributes) -> String {
    if change == Attributes::default() {
        return String::new();
    }
    let set = attributes(change.set).into_iter().map(|name| format!(" +{name}"));
    let clear = attributes(change.clear).into_iter().map(|name| format!(" -{name}"));
    format!(",{how}{}", set.chain(clear).collect::<String>())
}
