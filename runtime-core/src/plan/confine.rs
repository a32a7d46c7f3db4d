//! What a container must not see, write or be: names, sysctls, masks, labels.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;

use oci_spec::runtime::{Linux, Spec};

use super::draft::{Draft, c_string, in_root};
use super::namespaces::Namespaces;
use super::{Error, Host};
use crate::step::{Namespace, Source, Step};

/// `hostname` and `domainname`.
pub(super) fn names(spec: &Spec, draft: &mut Draft) -> Result<(), Error> {
    if let Some(name) = spec.hostname().as_deref().filter(|name| !name.is_empty()) {
        draft.step(Step::Hostname(c_string("hostname", name)?));
    }
    if let Some(name) = spec.domainname().as_deref().filter(|name| !name.is_empty()) {
        draft.step(Step::Domainname(c_string("domainname", name)?));
    }
    Ok(())
}

/// `linux.maskedPaths` and `linux.readonlyPaths`, after every mount, so that nothing uncovers them.
pub(super) fn paths(linux: &Linux, draft: &mut Draft) -> Result<(), Error> {
    for path in once(linux.readonly_paths()) {
        draft.step(Step::ReadonlyPath(in_root("linux.readonlyPaths", path)?));
    }
    let masked = once(linux.masked_paths());
    if masked.is_empty() {
        return Ok(());
    }
    let null = draft.source(Source::Tree { path: c"/dev/null".into(), recursive: false });
    for path in masked {
        draft.step(Step::Mask { path: in_root("linux.maskedPaths", path)?, null });
    }
    Ok(())
}

/// A path that is named twice is covered once.
fn once(paths: &Option<Vec<String>>) -> Vec<&String> {
    let mut seen = HashSet::new();
    paths.iter().flatten().filter(|path| seen.insert(*path)).collect()
}

/// `linux.sysctl`, sorted: a map has no order, and a plan has to.
pub(super) fn sysctls(linux: &Linux, namespaces: &Namespaces, host_network: bool) -> Result<Vec<Step>, Error> {
    let sorted: BTreeMap<_, _> = linux.sysctl().iter().flatten().collect();
    let steps = sorted.into_iter().map(|(key, value)| {
        let path = sysctl_path(key)?;
        check_sysctl(key, &path, namespaces, host_network)?;
        Ok(Step::Sysctl { path: c_string("linux.sysctl", &format!("sys/{path}"))?, value: c_string(key, value)? })
    });
    steps.collect()
}

/// `net.ipv4.conf.eno2/100.rp_filter` and `net/ipv4/conf/eno2.100/rp_filter` are the same path: the first separator
/// decides which one separates. sysctl(8)
fn sysctl_path(key: &str) -> Result<String, Error> {
    let dotted = key.find(['.', '/']).is_none_or(|at| key[at..].starts_with('.'));
    let path: String = match dotted {
        false => key.to_owned(),
        true => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    };
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(Error::invalid("linux.sysctl", key, "is not the name of a sysctl"));
    }
    Ok(path)
}

/// Only what belongs to a namespace of the container; runc's allow-list.
fn check_sysctl(key: &str, path: &str, namespaces: &Namespaces, host_network: bool) -> Result<(), Error> {
    const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let ipc = path.strip_prefix("kernel/").is_some_and(|name| IPC.contains(&name)) || path.starts_with("fs/mqueue/");
    let uts = namespaces.own(Namespace::Uts);
    let refused = if ipc {
        (!namespaces.own(Namespace::Ipc)).then_some("is not allowed in the hosts ipc namespace")
    } else if path.starts_with("net/") {
        (!namespaces.own(Namespace::Network) || host_network).then_some("not allowed in host network namespace")
    } else if uts && path == "kernel/domainname" {
        None
    } else if uts && path == "kernel/hostname" {
        Some("is not allowed as it conflicts with the OCI \"hostname\" field")
    } else if path.starts_with("user/") {
        (!namespaces.own(Namespace::User)).then_some("is not allowed without a user namespace")
    } else {
        Some("is not in a separate kernel namespace")
    };
    refused.map_or(Ok(()), |reason| Err(Error::invalid("linux.sysctl", key, reason)))
}

/// The labels of a process, checked against what the kernel has.
#[derive(Debug, Default)]
pub(super) struct Labels {
    pub apparmor: Option<CString>,
    pub selinux: Option<CString>,
}

impl Labels {
    pub fn parse(apparmor: Option<&str>, selinux: Option<&str>, host: &Host) -> Result<Self, Error> {
        let profile = label("process.apparmorProfile", apparmor, host.apparmor, "AppArmor")?;
        // The attribute takes commands: this one is for the next execve. apparmor(7)
        let command = profile.map(|profile| CString::new([b"exec ", profile.as_bytes()].concat()));
        Ok(Self {
            apparmor: command.and_then(Result::ok),
            selinux: label("process.selinuxLabel", selinux, host.selinux, "SELinux")?,
        })
    }

    pub fn any(&self) -> bool {
        self.apparmor.is_some() || self.selinux.is_some()
    }
}

fn label(field: &str, label: Option<&str>, enabled: bool, lsm: &'static str) -> Result<Option<CString>, Error> {
    match label {
        None | Some("") => Ok(None),
        Some(value) if enabled => c_string(field, value).map(Some),
        Some(value) => Err(Error::NoSecurityModule { field: field.to_owned(), value: value.to_owned(), lsm }),
    }
}

/// `linux.mountLabel`, likewise.
pub(super) fn mount_label<'a>(linux: &'a Linux, host: &Host) -> Result<Option<&'a str>, Error> {
    let value = linux.mount_label().as_deref();
    label("linux.mountLabel", value, host.selinux, "SELinux")?;
    Ok(value.filter(|value| !value.is_empty()))
}
