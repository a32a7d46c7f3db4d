//! `kill`, `delete`, `pause` and `resume`.

use runtime_core::cgroup;
use runtime_core::container::{self, Container};
use runtime_core::state::Status;

use super::create::tell;
use super::flags::{Given, Until, switch, text};
use super::home::Berth;
use super::{Command, Error, rootless};

pub const KILL: Command = Command {
    name: "kill",
    words: "<container-id> [signal]",
    about: "send a signal (SIGTERM) to the first process of a container",
    flags: &[switch("all", Some('a'), "to every process of the container")],
    until: Until::End,
    clones: false,
    run: kill,
};

pub const DELETE: Command = Command {
    name: "delete",
    words: "<container-id>",
    about: "delete a container that has ended or was never started",
    flags: &[switch("force", Some('f'), "end it first, whatever its state; one that does not exist is no error")],
    until: Until::End,
    clones: false,
    run: delete,
};

pub const PAUSE: Command = Command {
    name: "pause",
    words: "<container-id>",
    about: "stop every process of a container",
    flags: &[],
    until: Until::End,
    clones: false,
    run: pause,
};

pub const RESUME: Command = Command {
    name: "resume",
    words: "<container-id>",
    about: "let the processes of a paused container run again",
    flags: &[],
    until: Until::End,
    clones: false,
    run: resume,
};

fn kill(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let (id, signal) = match given.words.as_slice() {
        [id] => (id, "SIGTERM"),
        [id, signal] => (id, text(signal)?),
        [] => return Err(Error::Usage("berth: \"kill\" requires a minimum of 1 argument(s)".to_owned())),
        _ => return Err(Error::Usage("berth: \"kill\" requires a maximum of 2 argument(s)".to_owned())),
    };
    let container = berth.container(text(id)?)?;
    let signal = number(signal)?;
    rootless::join(&container)?;
    let killed = signal == libc::SIGKILL;
    // Where a container has no pid namespace, the end of its first process is not that of the others.
    let result = if given.is_on("all") || (killed && container.shares_pid_namespace()) {
        container.cgroup().signal_all(signal).map_err(Error::from)
    } else {
        container.signal(signal).map_err(Error::from)
    };
    // cgroup v1: what is frozen does not even die.
    if killed && container.cgroup().is_frozen()? {
        container.cgroup().thaw()?;
    }
    match result {
        Err(Error::NotRunning) if given.is_on("all") => Ok(0),
        result => result.map(|()| 0),
    }
}

fn delete(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("delete")?;
    let force = given.is_on("force");
    let (_lock, container) = match berth.locked(id) {
        Err(Error::NoContainer) => return forget(berth, id, force),
        locked => locked?,
    };
    match container.status()? {
        _ if force => {}
        Status::Created | Status::Stopped => {}
        status => return Err(Error::State(format!("cannot delete container {id} that is not stopped: {status}"))),
    }
    rootless::join(&container)?;
    destroy(berth, &container)?;
    Ok(0)
}

fn destroy(berth: &Berth, container: &Container) -> Result<(), Error> {
    match container.delete() {
        Err(container::Error::Cgroup(cgroup::Error::Busy { .. })) => {
            Err(Error::State("container init still running".to_owned()))
        }
        deleted => {
            tell(berth, deleted?);
            Ok(())
        }
    }
}

/// A directory without a state: its create was aborted before anything else was made.
fn forget(berth: &Berth, id: &str, force: bool) -> Result<u8, Error> {
    let directory = berth.directory(id)?;
    let is_ours = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_none());
    if is_ours {
        std::fs::remove_dir(&directory).map_err(Error::file("remove", &directory))?;
    }
    if force { Ok(0) } else { Err(Error::NoContainer) }
}

fn pause(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("pause")?;
    let (_lock, container) = berth.locked(id)?;
    match container.status()? {
        Status::Running | Status::Created => container.cgroup().freeze()?,
        _ => return Err(Error::NotRunning),
    }
    Ok(0)
}

fn resume(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("resume")?;
    let (_lock, container) = berth.locked(id)?;
    match container.status()? {
        Status::Paused => container.cgroup().thaw()?,
        _ => return Err(Error::NotPaused),
    }
    Ok(0)
}

/// `9`, `KILL`, `sigkill`, `RTMIN+3`.
fn number(signal: &str) -> Result<i32, Error> {
    let unknown = || Error::State(format!("unknown signal {signal:?}"));
    if let Ok(number) = signal.parse::<i32>() {
        return if (0..=libc::SIGRTMAX()).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = signal.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let real_time = [("RTMIN", libc::SIGRTMIN()), ("RTMAX", libc::SIGRTMAX())].into_iter().find_map(|(base, from)| {
        let offset = name.strip_prefix(base)?;
        let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? };
        Some(from + offset).filter(|number| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(number))
    });
    real_time.ok_or_else(unknown)
}

const NAMES: [(&str, i32); 35] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGIOT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGPOLL),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("EXIT", 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for name in ["9", "KILL", "SIGKILL", "sigkill", "kill"] {
            assert_eq!(number(name).unwrap(), libc::SIGKILL, "{name}");
        }
        assert_eq!(number("RTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert_eq!(number("SIGRTMAX-1").unwrap(), libc::SIGRTMAX() - 1);
        assert_eq!(number("0").unwrap(), 0);
        for name in ["", "SIG", "NONSENSE", "-1", "65", "RTMAX+1"] {
            assert!(number(name).is_err(), "{name}");
        }
    }
}
