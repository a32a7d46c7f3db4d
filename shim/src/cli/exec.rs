//! `exec`: one more process in a container.

use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process};
use runtime_core::cgroup::Cgroup;
use runtime_core::container::{Container, ExecRequest};
use runtime_core::spec;
use runtime_core::state::Status;
use runtime_core::step::BitSet;

use super::create::{check_terminal, hand_over, tell_pid};
use super::flags::{Flag, Given, Until, switch, text, value};
use super::foreground::Foreground;
use super::home::Berth;
use super::stdio::{self, Preserved};
use super::{Command, Error, console, rootless};

const FLAGS: &[Flag] = &[
    value("console-socket", None, "PATH", "a socket that gets the master of the terminal"),
    value("pidfd-socket", None, "PATH", "a socket that gets a pidfd of the process"),
    value("cwd", None, "DIR", "the working directory in the container"),
    value("env", Some('e'), "NAME=VALUE", "one more variable of the environment"),
    switch("tty", Some('t'), "give it a terminal"),
    value("user", Some('u'), "UID[:GID]", "who it is"),
    value("additional-gids", Some('g'), "GID", "one more group"),
    value("process", Some('p'), "FILE", "the process as JSON, in the place of all that"),
    switch("detach", Some('d'), "leave when the program runs"),
    value("pid-file", None, "FILE", "where its pid is written"),
    value("process-label", None, "LABEL", "its SELinux label"),
    value("apparmor", None, "PROFILE", "its AppArmor profile"),
    switch("no-new-privs", None, "set no_new_privs"),
    value("cap", Some('c'), "CAP_NAME", "one more capability"),
    value("preserve-fds", None, "N", "descriptors that the program gets, beside stdio"),
    value("cgroup", None, "[CONTROLLER:]PATH", "an existing cgroup below the container's"),
    switch("ignore-paused", None, "also in a paused container, where it begins when that is resumed"),
];

pub const EXEC: Command = Command {
    name: "exec",
    words: "<container-id> <command> [arguments] | -p process.json <container-id>",
    about: "run one more process in a container",
    flags: FLAGS,
    until: Until::Word,
    clones: true,
    run: |berth, given| exec(berth, given).map_err(Error::of("exec")),
};

fn exec(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let Some(id) = given.words.first() else {
        return Err(Error::Usage("berth: \"exec\" requires a minimum of 1 argument(s)".to_owned()));
    };
    let container = berth.container(text(id)?)?;
    match container.status()? {
        Status::Stopped => return Err(Error::State("cannot exec in a stopped container".to_owned())),
        Status::Paused if !given.is_on("ignore-paused") => {
            let refusal = "cannot exec in a paused container (use --ignore-paused to override)";
            return Err(Error::State(refusal.to_owned()));
        }
        _ => {}
    }
    let mut process = process(berth, given, &container)?;
    let detach = given.is_on("detach");
    let terminal = process.terminal().unwrap_or(false);
    check_terminal(given, terminal, detach)?;
    console::size(&mut process, detach);
    let preserved = Preserved::of(given, false)?;
    let foreground = if detach { None } else { Some(Foreground::enter()?) };
    let (stdio, ours) = stdio::open(terminal, detach)?;
    rootless::join_for(&container, &process)?;
    let runtime = berth.runtime()?;
    let cgroup = cgroup(given, &container)?;
    tell_affinity(berth, &process, &container);
    let request = ExecRequest { process: &process, stdio, preserve_fds: preserved.count, cgroup: cgroup.as_ref() };
    let child = container.exec_with(&request, &runtime)?;
    berth.log.warn_all(&child.warnings);
    // Nobody else holds it: what cannot be told of is ended.
    hand_over(given, &child).and_then(|()| tell_pid(given, &child)).inspect_err(|_| {
        let _ = child.signal(libc::SIGKILL);
    })?;
    match foreground {
        Some(foreground) => foreground.stay(&child, ours, &runtime.children),
        None => Ok(0),
    }
}

/// On which CPUs it runs until it is in the container's cgroup: nobody sees that afterwards.
fn tell_affinity(berth: &Berth, process: &Process, container: &Container) {
    let own = process.exec_cpu_affinity().as_ref();
    let affinity = own.or_else(|| container.spec().process().as_ref()?.exec_cpu_affinity().as_ref());
    let cpus = affinity.and_then(|affinity| affinity.initial().as_deref()).and_then(BitSet::parse);
    if let Some(cpus) = cpus {
        berth.log.debug(&format!("initial CPU affinity: {cpus:#x}"));
    }
}

/// `--cgroup`: `PATH`, or `CONTROLLER[,CONTROLLER]:PATH` where every hierarchy has its own.
fn cgroup(given: &Given, container: &Container) -> Result<Option<Cgroup>, Error> {
    let asked = given.texts("cgroup")?;
    let mut paths = Vec::new();
    for argument in &asked {
        match argument.split_once(':') {
            None if asked.len() > 1 => {
                let text = format!("invalid --cgroup argument: {argument} (missing <controller>: prefix)");
                return Err(Error::Usage(text));
            }
            None => paths.push((None, *argument)),
            Some((controllers, path)) => {
                for controller in controllers.split(',') {
                    if controller.is_empty() || paths.iter().any(|(known, _)| *known == Some(controller)) {
                        return Err(Error::Usage(format!("invalid --cgroup argument: {argument}")));
                    }
                    paths.push((Some(controller), path));
                }
            }
        }
    }
    if paths.is_empty() { Ok(None) } else { Ok(Some(container.cgroup().below(&paths)?)) }
}

/// What `--process` says, or the container's own process with what the flags say.
fn process(berth: &Berth, given: &Given, container: &Container) -> Result<Process, Error> {
    if let Some(path) = given.path("process") {
        return from_file(berth, path);
    }
    let mut process = container.spec().process().clone().ok_or(Error::Spec("process property must not be empty"))?;
    let args = given.words.iter().skip(1).map(|word| text(word).map(str::to_owned)).collect::<Result<Vec<_>, _>>()?;
    if args.is_empty() {
        return Err(Error::Spec("exec args cannot be empty"));
    }
    process.set_args(Some(args)).set_terminal(Some(given.is_on("tty")));
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(given.texts("env")?.into_iter().map(str::to_owned));
    process.set_env(Some(env));
    if let Some(cwd) = given.path("cwd") {
        process.set_cwd(cwd);
    }
    if let Some(profile) = given.text("apparmor")? {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = given.text("process-label")? {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if given.value("no-new-privs").is_some() {
        process.set_no_new_privileges(Some(given.is_on("no-new-privs")));
    }
    set_user(given, &mut process)?;
    add_capabilities(given, &mut process)?;
    check(process)
}

fn from_file(berth: &Berth, path: PathBuf) -> Result<Process, Error> {
    let json = std::fs::read(&path).map_err(Error::file("open", &path))?;
    let read = spec::read_process(&json);
    let (process, warnings) = read.map_err(|source| Error::Json { what: path.display().to_string(), source })?;
    berth.log.warn_all(&warnings);
    check(process)
}

fn check(process: Process) -> Result<Process, Error> {
    match process.cwd() {
        cwd if cwd.as_os_str().is_empty() => Err(Error::Spec("Cwd property must not be empty")),
        cwd if !cwd.is_absolute() => Err(Error::Spec("Cwd must be an absolute path")),
        _ if process.args().as_ref().is_none_or(Vec::is_empty) => Err(Error::Spec("args must not be empty")),
        _ => Ok(process),
    }
}

/// `uid[:gid]`, in decimal digits.
fn user(text: &str) -> Result<(u32, Option<u32>), Error> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    Ok((id("uid", uid)?, gid.map(|gid| id("gid", gid)).transpose()?))
}

fn id(flag: &'static str, value: &str) -> Result<u32, Error> {
    value.parse().map_err(|_| Error::Value { flag, value: value.to_owned(), wanted: "an id" })
}

fn set_user(given: &Given, process: &mut Process) -> Result<(), Error> {
    if let Some(text) = given.text("user")? {
        let (uid, gid) = user(text)?;
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
        process.user_mut().set_uid(uid);
    }
    let mut groups = process.user().additional_gids().clone().unwrap_or_default();
    for gid in given.texts("additional-gids")? {
        groups.push(id("additional-gids", gid)?);
    }
    process.user_mut().set_additional_gids(Some(groups));
    Ok(())
}

/// What is added is bounding, effective and permitted, and ambient where the container has inheritable ones, as with runc.
fn add_capabilities(given: &Given, process: &mut Process) -> Result<(), Error> {
    let names = given.texts("cap")?;
    if names.is_empty() {
        return Ok(());
    }
    let unknown = |name: &str| Error::Value { flag: "cap", value: name.to_owned(), wanted: "a capability" };
    // As config.json has them: not every name is understood by `FromStr`.
    let added = names.iter().map(|name| capability(name).ok_or_else(|| unknown(name)));
    let added = added.collect::<Result<Vec<Capability>, _>>()?;
    let mut sets = process.capabilities().clone().unwrap_or_else(none);
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    let ambient = if sets.inheritable().is_some() { with(sets.ambient()) } else { sets.ambient().clone() };
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted).set_ambient(ambient);
    process.set_capabilities(Some(sets));
    Ok(())
}

fn capability(name: &str) -> Option<Capability> {
    serde_json::from_value(name.into()).ok()
}

/// `LinuxCapabilities::default()` has some of its own choice.
fn none() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(None).set_effective(None).set_inheritable(None).set_permitted(None).set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2026-30892: somebody's "1" was 0.
    #[test]
    fn user_is_who_is_written() {
        let numbers = (0..=u32::BITS).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for number in numbers.chain(0..100).filter_map(|number| u32::try_from(number).ok()) {
            assert_eq!(user(&number.to_string()).unwrap(), (number, None));
            assert_eq!(user(&format!("{number}:7")).unwrap(), (number, Some(7)));
            assert_eq!(user(&format!("7:{number}")).unwrap(), (7, Some(number)));
        }
        for wrong in ["", ":", "1:", ":1", "-1", "1x", "x", " 1", "1 ", "0x1", "4294967296", "1:2:3", "root"] {
            assert!(user(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_capability_is_known_by_its_name() {
        for name in ["CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_AUDIT_READ", "CAP_MKNOD"]
        {
            assert!(capability(name).is_some(), "{name}");
        }
        assert!(capability("CAP_FLY").is_none());
    }
}
