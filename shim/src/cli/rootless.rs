//! Containers of an ordinary user. Who may not make a mount namespace makes a user namespace first, the one that the spec
//! asks for, and goes on as its root: what follows is the same for everybody. Later commands go in by the container's
//! first process.
//!
//! A command has one thread and a short life, so it may change what it is; the library never does.

use std::io::Read;
use std::process::{Child, Command as Program, Stdio};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Process, Spec};
use runtime_core::container::Container;
use rustix::process::{Gid, Uid};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::flags::{Given, Until};
use super::home::Berth;
use super::{Command, Error, sys};

/// The hidden verb by which a command has others' ids mapped: only who is still outside may.
pub const MAP_IDS: Command = Command {
    name: MAP,
    words: "PID UIDS GIDS",
    about: "",
    flags: &[],
    until: Until::End,
    clones: false,
    run: map_ids,
};

const MAP: &str = "map-ids";

/// Whether containers are made in a user namespace of the caller's.
pub fn applies() -> bool {
    !rustix::process::geteuid().is_root()
}

/// Makes the spec's user namespace and a mount namespace, and becomes root there; the spec is then about what is left.
pub fn enter(spec: &mut Spec) -> Result<(), Error> {
    if !applies() {
        return Ok(());
    }
    let Some(linux) = spec.linux_mut() else {
        return Err(Error::Spec("rootless container requires user namespaces"));
    };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let new = |typ: LinuxNamespaceType, path: Option<&std::path::PathBuf>| {
        typ == LinuxNamespaceType::User && path.is_none_or(|path| path.as_os_str().is_empty())
    };
    if !namespaces.iter().any(|namespace| new(namespace.typ(), namespace.path().as_ref())) {
        return Err(Error::Spec("rootless container requires user namespaces"));
    }
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::User);
    let maps = [linux.uid_mappings(), linux.gid_mappings()].map(|maps| maps.clone().unwrap_or_default());
    linux.set_namespaces(Some(namespaces)).set_uid_mappings(None).set_gid_mappings(None);
    let [uids, gids] = maps;
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::Spec("rootless containers requires at least one UID and one GID mapping"));
    }
    unshare(&uids, &gids)?;
    check_groups(spec.process().as_ref())?;
    become_root()
}

/// Groups that could not be had are refused here, where somebody asks for them who knows what a user may do.
fn check_groups(process: Option<&Process>) -> Result<(), Error> {
    let groups = process.and_then(|process| process.user().additional_gids().as_ref());
    let denied = || std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
    if groups.is_some_and(|groups| !groups.is_empty()) && denied() {
        return Err(Error::Spec(
            "process.user.additionalGids: cannot set any additional groups in a rootless container",
        ));
    }
    Ok(())
}

fn unshare(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), Error> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let outside = (!is_own(uids, uid) || !is_own(gids, gid)).then(|| outside(uids, gids)).transpose()?;
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(Error::system("make a user namespace"))?;
    if let Some(outside) = outside {
        return mapped(outside);
    }
    let write = |file: &str, text: String| std::fs::write(file, text).map_err(Error::file("write", file));
    // Who drops a group may be let in where the group is kept out: so who may map only itself may not. user_namespaces(7)
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{} {uid} 1\n", first(uids)))?;
    write("/proc/self/gid_map", format!("{} {gid} 1\n", first(gids)))
}

/// Nobody but the caller: that takes no privilege.
fn is_own(maps: &[LinuxIdMapping], id: u32) -> bool {
    matches!(maps, [map] if map.host_id() == id && map.size() == 1)
}

fn first(maps: &[LinuxIdMapping]) -> u32 {
    maps.first().map_or(0, LinuxIdMapping::container_id)
}

/// A process that stays outside, and waits until its input ends.
fn outside(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<Child, Error> {
    let pid = std::process::id().to_string();
    let mut program = Program::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut program, "berth");
    let child = program.args([MAP, &pid, &list(uids), &list(gids)]).stdin(Stdio::piped()).spawn();
    child.map_err(|source| Error::Program { program: MAP.to_owned(), source })
}

fn mapped(mut outside: Child) -> Result<(), Error> {
    let status = outside.wait().map_err(|source| Error::Program { program: MAP.to_owned(), source })?;
    if status.success() { Ok(()) } else { Err(Error::State("map the ids of the user namespace".to_owned())) }
}

/// As newuidmap(1) takes them.
fn list(maps: &[LinuxIdMapping]) -> String {
    let map = |map: &LinuxIdMapping| format!("{} {} {}", map.container_id(), map.host_id(), map.size());
    maps.iter().map(map).collect::<Vec<_>>().join(" ")
}

fn map_ids(_: &Berth, given: &Given) -> Result<u8, Error> {
    let [pid, uids, gids] = given.words(MAP)?;
    // Its end is that of the waiting: the namespace is there.
    let _ = std::io::stdin().read(&mut [0]);
    for (program, maps) in [("newuidmap", uids), ("newgidmap", gids)] {
        let status = Program::new(program).arg(pid).args(maps.split(' ')).status();
        let status = status.map_err(|source| Error::Program { program: program.to_owned(), source })?;
        if !status.success() {
            return Err(Error::State(format!("{program}: {status}")));
        }
    }
    Ok(0)
}

/// Goes where the container is, with every right over it, for a process that is to be made there.
pub fn join_for(container: &Container, process: &Process) -> Result<(), Error> {
    let applies = applies();
    join(container)?;
    if applies { check_groups(Some(process)) } else { Ok(()) }
}

/// Goes where the container is, with every right over it.
pub fn join(container: &Container) -> Result<(), Error> {
    let Some(init) = container.init().filter(|_| applies()) else { return Ok(()) };
    move_into_thread_name_spaces(init, ThreadNameSpaceType::USER)
        .map_err(Error::system("join the container's user namespace"))?;
    become_root()
}

/// The owner of a namespace has every right in it, and shall not have those of another id.
fn become_root() -> Result<(), Error> {
    let failed = |errno| Error::system("become root of the user namespace")(errno);
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(failed)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn map(container: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default().container_id(container).host_id(host).size(size).build().unwrap()
    }

    #[test]
    fn own_id_alone_needs_nobody_outside() {
        assert!(is_own(&[map(0, 1000, 1)], 1000));
        assert!(!is_own(&[map(0, 1000, 2)], 1000) && !is_own(&[map(0, 1001, 1)], 1000));
        assert!(!is_own(&[map(0, 1000, 1), map(1, 100_000, 65_536)], 1000));
    }

    #[test]
    fn maps_are_as_newuidmap_takes_them() {
        assert_eq!(list(&[map(0, 1000, 1), map(1, 100_000, 65_536)]), "0 1000 1 1 100000 65536");
    }
}
