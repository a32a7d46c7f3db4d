//! `create`, `start` and `run`.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use runtime_core::children::Child;
use runtime_core::container::{self, Container, CreateRequest, Options, Runtime};
use runtime_core::state::Status;
use runtime_core::{hooks, spawn};

use super::bundle::Bundle;
use super::flags::{Flag, Given, Until, switch, value};
use super::foreground::Foreground;
use super::home::Berth;
use super::notify::{self, Manager, Relay};
use super::stdio::{self, Ours, Preserved};
use super::{Command, Error, console, rootless};

const CREATE_FLAGS: &[Flag] = &[
    value("bundle", Some('b'), "DIR", "the bundle (the current directory)"),
    value("config", Some('f'), "FILE", "another config.json than the bundle's"),
    value("console-socket", None, "PATH", "a socket that gets the master of the terminal"),
    value("pidfd-socket", None, "PATH", "a socket that gets a pidfd of the first process"),
    value("pid-file", None, "FILE", "where the pid of the first process is written"),
    switch("no-pivot", None, "move the root and chroot, in the place of pivot_root"),
    switch("no-new-keyring", None, "stay in the session keyring of the caller"),
    value("preserve-fds", None, "N", "descriptors that the program gets, beside stdio and $LISTEN_FDS"),
];

const RUN_FLAGS: &[Flag] = &[
    value("bundle", Some('b'), "DIR", "the bundle (the current directory)"),
    value("config", Some('f'), "FILE", "another config.json than the bundle's"),
    switch("detach", Some('d'), "leave when the program runs"),
    switch("keep", None, "do not delete the container when it has ended"),
    value("console-socket", None, "PATH", "a socket that gets the master of the terminal"),
    value("pidfd-socket", None, "PATH", "a socket that gets a pidfd of the first process"),
    value("pid-file", None, "FILE", "where the pid of the first process is written"),
    switch("no-subreaper", None, "do not take in the orphans of the container"),
    switch("no-pivot", None, "move the root and chroot, in the place of pivot_root"),
    switch("no-new-keyring", None, "stay in the session keyring of the caller"),
    value("preserve-fds", None, "N", "descriptors that the program gets, beside stdio and $LISTEN_FDS"),
];

pub const CREATE: Command = Command {
    name: "create",
    words: "<container-id>",
    about: "create a container",
    flags: CREATE_FLAGS,
    until: Until::End,
    clones: true,
    run: |berth, given| create(berth, given).map_err(Error::of("berth create")),
};

pub const START: Command = Command {
    name: "start",
    words: "<container-id>",
    about: "start the program of a created container",
    flags: &[],
    until: Until::End,
    clones: false,
    run: start,
};

pub const RUN: Command = Command {
    name: "run",
    words: "<container-id>",
    about: "create and start a container",
    flags: RUN_FLAGS,
    until: Until::End,
    clones: true,
    run: |berth, given| run(berth, given).map_err(Error::of("berth run")),
};

fn create(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("create")?;
    let Made { container, child, .. } = make(berth, given, id, Stay { detach: true, starts: false })?;
    let told = hand_over(given, &child).and_then(|()| tell_pid(given, &child));
    undone_on_error(berth, &container, told)?;
    Ok(0)
}

fn start(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("start")?;
    let (_lock, container) = berth.locked(id)?;
    match container.status()? {
        Status::Created => {}
        Status::Stopped => return Err(Error::State("cannot start a container that has stopped".to_owned())),
        Status::Running => return Err(Error::State("cannot start an already running container".to_owned())),
        status => return Err(Error::State(format!("cannot start a container in the {status} state"))),
    }
    let relay = relay(berth, id)?;
    match container.start() {
        // A hook that fails stops it, and its life goes on at its deletion: runtime-spec 1.3, lifecycle, 7 to 9.
        Err(error @ container::Error::Spawn(spawn::Error::Hook(_))) => {
            // Where that cannot be joined, there was nothing to join it for.
            let _ = rootless::join(&container);
            undone_on_error(berth, &container, Err(error.into()))?;
        }
        started => started?,
    }
    if let (Some(relay), Some(init), Some(pid)) = (relay, container.init(), container.pid()) {
        relay.wait(init, pid)?;
    }
    Ok(0)
}

/// For a program that says when it is ready.
fn relay(berth: &Berth, id: &str) -> Result<Option<Relay>, Error> {
    Manager::of_environment().map(|manager| manager.listen(&berth.directory(id)?)).transpose().map(Option::flatten)
}

fn run(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("run")?;
    let detach = given.is_on("detach");
    let foreground = if detach { None } else { Some(Foreground::enter()?) };
    if !detach && !given.is_on("no-subreaper") {
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).map_err(Error::system("become a subreaper"))?;
    }
    let Made { container, child, ours, runtime } = make(berth, given, id, Stay { detach, starts: true })?;
    if let Some(master) = child.console.as_ref().filter(|_| !detach) {
        console::keep_newlines(master.as_fd());
    }
    let started = relay(berth, id).and_then(|relay| {
        hand_over(given, &child)?;
        container.start()?;
        tell_pid(given, &child)?;
        Ok(relay)
    });
    let relay = undone_on_error(berth, &container, started)?;
    let Some(foreground) = foreground else {
        return relay.map_or(Ok(()), |relay| relay.wait(child.pidfd.as_fd(), child.pid)).map(|()| 0);
    };
    if let Some(relay) = relay {
        let program = rustix::io::fcntl_dupfd_cloexec(&child.pidfd, 3).map_err(Error::system("duplicate a pidfd"))?;
        // We stay as long as the program does, and hand on its end: it is us who are watched. Nobody is left to be told of
        // a manager that is gone.
        std::thread::spawn(move || relay.wait(program.as_fd(), rustix::process::getpid()));
    }
    let status = foreground.stay(&child, ours, &runtime.children);
    if !given.is_on("keep") {
        tell(berth, container.delete()?);
    }
    status
}

/// A container with its first process at the gate.
struct Made {
    container: Container,
    child: Child,
    ours: Ours,
    runtime: Runtime,
}

/// What a command does when the container is made.
#[derive(Clone, Copy)]
struct Stay {
    /// Leaves the container to itself.
    detach: bool,
    /// Starts it.
    starts: bool,
}

fn make(berth: &Berth, given: &Given, id: &str, Stay { detach, starts }: Stay) -> Result<Made, Error> {
    let state = berth.directory(id)?;
    if state.exists() {
        return Err(Error::Exists);
    }
    let mut bundle = Bundle::load(given)?;
    berth.log.warn_all(&bundle.warnings);
    let terminal = bundle.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
    check_terminal(given, terminal, detach)?;
    let preserved = Preserved::of(given, true)?;
    activate(&mut bundle.spec, preserved);
    if let Some(process) = bundle.spec.process_mut() {
        console::size(process, detach);
    }
    let notify = Manager::of_environment().map(|_| notify::DIRECTORY);
    if notify.is_some() {
        Manager::announce(&mut bundle.spec, &state)?;
    }
    let (stdio, ours) = stdio::open(terminal, detach)?;
    rootless::enter(&mut bundle.spec)?;
    let runtime = berth.runtime()?;
    let options = Options {
        no_pivot_root: given.is_on("no-pivot"),
        no_new_keyring: given.is_on("no-new-keyring"),
        systemd_cgroup: berth.systemd_cgroup,
        preserve_fds: preserved.count,
        state: Some(state),
        state_directory: notify,
        holds_gate: starts,
        cgroup_optional: berth.rootless.unwrap_or_else(|| runtime.in_user_namespace()),
    };
    let request = CreateRequest { id, bundle: &bundle.path, spec: &bundle.spec, rootfs: &[], stdio, options: &options };
    let (container, child) = Container::create(request, &runtime)?;
    berth.log.warn_all(&child.warnings);
    Ok(Made { container, child, ours, runtime })
}

/// A terminal's master goes to a socket, or to who stays.
pub fn check_terminal(given: &Given, terminal: bool, detach: bool) -> Result<(), Error> {
    let socket = given.path("console-socket").is_some();
    match (terminal, detach) {
        (true, true) if !socket => {
            Err(Error::State("cannot allocate tty if runc will detach without setting console socket".to_owned()))
        }
        (true, true) => Ok(()),
        _ if socket => {
            Err(Error::State("cannot use console socket if runc will not detach or allocate tty".to_owned()))
        }
        _ => Ok(()),
    }
}

/// sd_listen_fds(3): the program is told what it was given.
fn activate(spec: &mut Spec, preserved: Preserved) {
    let Some(process) = spec.process_mut().as_mut().filter(|_| preserved.listen > 0) else { return };
    let mut env = process.env().clone().unwrap_or_default();
    env.push(format!("LISTEN_FDS={}", preserved.listen));
    env.push("LISTEN_PID=1".to_owned());
    process.set_env(Some(env));
}

/// Hands the terminal and the pidfd to who wants them.
pub fn hand_over(given: &Given, child: &Child) -> Result<(), Error> {
    if let (Some(path), Some(master)) = (given.path("console-socket"), &child.console) {
        console::send(master.as_fd(), b"/dev/ptmx", &path)?;
    }
    if let Some(path) = given.path("pidfd-socket") {
        console::send(child.pidfd.as_fd(), b"pidfd", &path)?;
    }
    Ok(())
}

/// Writes `--pid-file`, which is there with its contents or not at all.
pub fn tell_pid(given: &Given, child: &Child) -> Result<(), Error> {
    let Some(path) = given.path("pid-file") else { return Ok(()) };
    let new = hidden(&path);
    let write = |new: &Path| {
        let mut file = std::fs::File::create(new)?;
        file.write_all(child.pid.as_raw_nonzero().to_string().as_bytes())?;
        std::fs::rename(new, &path)
    };
    write(&new).map_err(Error::file("write", &path))
}

fn hidden(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// What failed at its end leaves no container.
fn undone_on_error<T>(berth: &Berth, container: &Container, result: Result<T, Error>) -> Result<T, Error> {
    result.inspect_err(|_| {
        // The error that brought us here is the one to tell.
        if let Ok(failed) = container.delete() {
            tell(berth, failed);
        }
    })
}

/// Poststop hooks that failed do not undo a delete.
pub fn tell(berth: &Berth, failed: Vec<hooks::Error>) {
    for error in failed {
        berth.log.warn(&error.to_string());
    }
}
