//! Mount options: the words of fstab(5) and of OCI, as the kernel's flags.

use std::ffi::CString;

use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};
use rustix::mount::MountAttrFlags as Attr;

use super::Error;
use super::draft::c_string;
use crate::step::{Attributes, Propagation};

pub(super) const RDONLY: u64 = Attr::MOUNT_ATTR_RDONLY.bits() as u64;
const NOSUID: u64 = Attr::MOUNT_ATTR_NOSUID.bits() as u64;
const NODEV: u64 = Attr::MOUNT_ATTR_NODEV.bits() as u64;
const NOEXEC: u64 = Attr::MOUNT_ATTR_NOEXEC.bits() as u64;
const RELATIME: u64 = Attr::MOUNT_ATTR_RELATIME.bits() as u64;
const NOATIME: u64 = Attr::MOUNT_ATTR_NOATIME.bits() as u64;
const STRICTATIME: u64 = Attr::MOUNT_ATTR_STRICTATIME.bits() as u64;
const ATIME: u64 = Attr::MOUNT_ATTR__ATIME.bits() as u64;
const NODIRATIME: u64 = Attr::MOUNT_ATTR_NODIRATIME.bits() as u64;
const NOSYMFOLLOW: u64 = Attr::MOUNT_ATTR_NOSYMFOLLOW.bits() as u64;

/// What a mount cannot lose in another user namespace than that it comes from. mount_namespaces(7)
const LOCKABLE: u64 = RDONLY | NOSUID | NODEV | NOEXEC;

/// `nosuid,nodev,noexec`: what runc gives the pieces of a cgroup v1 tree.
pub(super) const RESTRICTED: u64 = NOSUID | NODEV | NOEXEC;

/// The options of one mount, sorted by what they act on.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// `bind` (false) or `rbind` (true).
    pub bind: Option<bool>,
    /// `remount`.
    pub remount: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub idmap: Option<bool>,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// Attributes of the mount.
    pub set: u64,
    pub cleared: u64,
    /// Whether any attribute was named, to be set or to be cleared.
    named: bool,
    /// `relatime`, which is the absence of every other mode.
    relatime: bool,
    /// Attributes of the tree.
    pub recursive: Attributes,
    /// In the order given.
    pub propagation: Vec<Propagation>,
    /// `sync`, `dirsync`, `mand`, `lazytime`: flags of the file system, known to every one of them.
    pub superblock: Vec<&'static str>,
    /// Everything else, for the file system itself.
    pub data: Vec<String>,
}

impl Options {
    /// Sorts the words. `field` is for errors: `mounts[3].options`.
    pub fn parse(field: &str, words: &[String]) -> Result<Self, Error> {
        let mut options = Self::default();
        for word in words {
            if !(options.mode(word) || options.attribute(word) || options.recursive(word) || options.propagate(word)) {
                if word == "copy-symlink"
                    || matches!(word.as_str(), "src-nofollow" | "dest-nofollow")
                    || word.starts_with("idmap=")
                    || word.starts_with("ridmap=")
                {
                    return Err(Error::unsupported(format!("{field} {word:?}")));
                }
                if !word.is_empty() {
                    options.data.push(word.clone());
                }
            }
        }
        Ok(options)
    }

    /// What the mount is, and what its superblock gets.
    fn mode(&mut self, word: &str) -> bool {
        match word {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            // fsconfig(2) has no word for iversion, whose file systems have words of their own.
            "defaults" | "silent" | "loud" | "iversion" | "noiversion" => {}
            "sync" => self.superblock.push("sync"),
            "dirsync" => self.superblock.push("dirsync"),
            "mand" => self.superblock.push("mand"),
            "lazytime" => self.superblock.push("lazytime"),
            "async" => self.superblock.retain(|flag| *flag != "sync"),
            "nomand" => self.superblock.retain(|flag| *flag != "mand"),
            "nolazytime" => self.superblock.retain(|flag| *flag != "lazytime"),
            _ => return false,
        }
        true
    }

    fn attribute(&mut self, word: &str) -> bool {
        let Some((set, flag)) = attribute(word) else { return false };
        if set {
            self.set |= flag;
            self.cleared &= !flag;
        } else {
            self.set &= !flag;
            self.cleared |= flag;
        }
        self.named = true;
        match word {
            "relatime" => self.relatime = true,
            "norelatime" => self.relatime = false,
            _ => {}
        }
        true
    }

    fn recursive(&mut self, word: &str) -> bool {
        let Some((set, flag)) = word.strip_prefix('r').and_then(attribute) else { return false };
        // `rw` and `ro` are no recursive words; `rrw` and `rro` are.
        if matches!(word, "rw" | "ro") {
            return false;
        }
        if set {
            self.recursive.set |= flag;
            self.recursive.clear &= !flag;
        } else {
            self.recursive.set &= !flag;
            self.recursive.clear |= flag;
        }
        // An access-time mode can only be set together with clearing the whole field. mount_setattr(2)
        if flag & ATIME == flag {
            self.recursive.clear |= ATIME;
        }
        true
    }

    fn propagate(&mut self, word: &str) -> bool {
        let found = propagation(word);
        self.propagation.extend(found);
        found.is_some()
    }

    /// Access time: of several modes the strictest wins, as in mount(2).
    fn access_time(&self) -> u64 {
        let mode = if self.set & STRICTATIME != 0 { STRICTATIME } else { self.set & NOATIME };
        mode | (self.set & NODIRATIME)
    }

    /// The attributes of a new mount.
    pub fn attributes(&self) -> u64 {
        (self.set & !(ATIME | NODIRATIME)) | self.access_time()
    }

    /// The change of a bind's attributes. As in runc a bind with any option, even if that only clears a flag, gets exactly
    /// its options, and keeps its source's otherwise or with `remount`; access times are kept unless one is to be set.
    pub fn bind_attributes(&self) -> Attributes {
        const FLAGS: u64 = LOCKABLE | NOSYMFOLLOW;
        if !self.named {
            return Attributes::default();
        }
        let set = self.set & FLAGS;
        let change = Attributes { set, clear: if self.remount { self.cleared & FLAGS } else { FLAGS & !set } };
        let times = self.access_times();
        Attributes { set: change.set | times.set, clear: change.clear | times.clear }
    }

    /// The same, of what a user namespace sees. The first is the change; the second says what the source must be like
    /// already, since nobody there could make it so: mounts that come from outside have their flags locked.
    /// mount_namespaces(7)
    pub fn locked_bind_attributes(&self) -> (Attributes, Attributes) {
        let change = self.bind_attributes();
        let free = Attributes { set: change.set & !(ATIME | NODIRATIME), clear: change.clear & NOSYMFOLLOW };
        let times = self.access_times();
        (free, Attributes { set: times.set, clear: times.clear | self.cleared & LOCKABLE })
    }

    /// The access times that are to be set, as one whole: relatime is what is left when nothing else is said.
    fn access_times(&self) -> Attributes {
        let set = self.access_time();
        if set == 0 && !self.relatime {
            return Attributes::default();
        }
        Attributes { set, clear: ATIME | (NODIRATIME & !set) }
    }

    /// The options for the file system itself, as fsconfig(2) takes them.
    pub fn configuration(&self, field: &str, fstype: &str) -> Result<Vec<(CString, Option<CString>)>, Error> {
        let flags = self.superblock.iter().map(|flag| Ok((c_string(field, flag)?, None)));
        // Commas inside overlay's directories are its own business.
        let words =
            self.data.iter().flat_map(|word| if fstype == "overlay" { vec![word.as_str()] } else { split(word) });
        flags.chain(words.map(|word| option(field, word))).collect()
    }
}

/// `key=value` or a flag. Quotes around a security context are for mount(8); the kernel's new API wants it bare.
fn option(field: &str, word: &str) -> Result<(CString, Option<CString>), Error> {
    let Some((key, value)) = word.split_once('=') else { return Ok((c_string(field, word)?, None)) };
    let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).filter(|_| key.ends_with("context"));
    Ok((c_string(field, key)?, Some(c_string(field, bare.unwrap_or(value))?)))
}

/// Splits `size=1m,mode=755` at the commas outside of double quotes.
fn split(word: &str) -> Vec<&str> {
    let mut quoted = false;
    word.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter(|part| !part.is_empty())
    .collect()
}

/// Whether the word sets or clears, and what.
fn attribute(word: &str) -> Option<(bool, u64)> {
    Some(match word {
        "ro" => (true, RDONLY),
        "rw" => (false, RDONLY),
        "nosuid" => (true, NOSUID),
        "suid" => (false, NOSUID),
        "nodev" => (true, NODEV),
        "dev" => (false, NODEV),
        "noexec" => (true, NOEXEC),
        "exec" => (false, NOEXEC),
        "nosymfollow" => (true, NOSYMFOLLOW),
        "symfollow" => (false, NOSYMFOLLOW),
        "noatime" => (true, NOATIME),
        "atime" => (false, NOATIME),
        "nodiratime" => (true, NODIRATIME),
        "diratime" => (false, NODIRATIME),
        "relatime" => (true, RELATIME),
        "norelatime" => (false, RELATIME),
        "strictatime" => (true, STRICTATIME),
        "nostrictatime" => (false, STRICTATIME),
        _ => return None,
    })
}

/// `private`, `rprivate` …, also the words of `linux.rootfsPropagation`.
pub(super) fn propagation(word: &str) -> Option<Propagation> {
    let (kind, recursive) = match word {
        "private" => (MS_PRIVATE, false),
        "rprivate" => (MS_PRIVATE, true),
        "shared" => (MS_SHARED, false),
        "rshared" => (MS_SHARED, true),
        "slave" => (MS_SLAVE, false),
        "rslave" => (MS_SLAVE, true),
        "unbindable" => (MS_UNBINDABLE, false),
        "runbindable" => (MS_UNBINDABLE, true),
        _ => return None,
    };
    Some(Propagation { kind, recursive })
}
