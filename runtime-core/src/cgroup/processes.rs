//! The processes of a cgroup and of all below it: signalled, waited for, and gone before rmdir.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::Error;
use super::dir::{Dir, existing, gone, read_from_start};
use crate::sys;

/// How long killed processes may take to leave. `delete` of a container has five seconds in all.
const PATIENCE: Duration = Duration::from_secs(3);

/// The processes of `dir` and below.
pub(super) fn all(dir: &Dir) -> Result<Vec<Pid>, Error> {
    dir.all_procs().map_err(|source| Error::Read { file: "cgroup.procs".to_owned(), source })
}

/// Sends `signal` to every process once.
pub(super) fn signal_once(dir: &Dir, signal: i32) -> Result<(), Error> {
    send(dir, &all(dir)?, signal).map(drop)
}

/// Kills until nobody new turns up. `hold` is called when forks outrun that, to stop them.
pub(super) fn kill_all(dir: &Dir, hold: impl Fn()) -> Result<(), Error> {
    const OUTRUN: usize = 3;
    let mut killed = HashSet::new();
    for round in 0.. {
        let new: Vec<Pid> = all(dir)?.into_iter().filter(|pid| !killed.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        if round >= OUTRUN {
            hold();
        }
        killed.extend(send(dir, &new, libc::SIGKILL)?);
    }
    Ok(())
}

/// Signals those of `pids` that are in `dir` still, and says who they were. A pid may be another's by the time it is used: so
/// each is opened, then looked for once more, and what was opened gets the signal. If its pid is in that list, it is the
/// one listed, or it has ended.
fn send(dir: &Dir, pids: &[Pid], signal: i32) -> Result<Vec<Pid>, Error> {
    /// As many descriptors at a time.
    const AT_ONCE: usize = 64;
    let mut reached = Vec::new();
    for some in pids.chunks(AT_ONCE) {
        let opened = some.iter().map(|pid| Ok((*pid, open(*pid).map_err(refused(*pid, signal))?)));
        let opened = opened.collect::<Result<Vec<_>, Error>>()?;
        let inside: HashSet<Pid> = all(dir)?.into_iter().collect();
        for (pid, opened) in opened.into_iter().filter(|(pid, _)| inside.contains(pid)) {
            opened.send(pid, signal).map_err(refused(pid, signal))?;
            reached.push(pid);
        }
    }
    Ok(reached)
}

/// Whom a pid meant.
enum Opened {
    Process(OwnedFd),
    /// A threaded cgroup of v2 lists threads, which no pidfd can be had of: these are signalled by number.
    Thread,
    Gone,
}

fn open(pid: Pid) -> Result<Opened, Errno> {
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Opened::Process(pidfd)),
        Err(Errno::SRCH) => Ok(Opened::Gone),
        // EINVAL, or, from newer kernels, ENOENT: no leader of a process.
        Err(Errno::INVAL | Errno::NOENT) => Ok(Opened::Thread),
        Err(errno) => Err(errno),
    }
}

impl Opened {
    fn send(&self, pid: Pid, signal: i32) -> Result<(), Errno> {
        let sent = match self {
            Opened::Process(pidfd) => sys::send_signal(pidfd.as_fd(), signal),
            Opened::Thread => sys::kill(pid, signal),
            Opened::Gone => Ok(()),
        };
        match sent {
            Err(Errno::SRCH) => Ok(()),
            sent => sent,
        }
    }
}

fn refused(pid: Pid, signal: i32) -> impl FnOnce(Errno) -> Error {
    move |source| Error::Signal { signal, pid: pid.as_raw_nonzero().get(), source }
}

/// Removes the cgroup `name`, which is `dirs`, with all below it. Processes that were killed are
/// waited for; one that lives on is [`Error::Busy`]. One hierarchy's failure keeps no other.
pub(super) fn remove<'a>(dirs: impl IntoIterator<Item = &'a Dir>, name: &str) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let results = dirs.into_iter().map(|dir| remove_until(dir, name, deadline));
    results.fold(Ok(()), Result::and)
}

fn remove_until(dir: &Dir, name: &str, deadline: Instant) -> Result<(), Error> {
    let error = |source| Error::Directory { act: "remove", path: name.to_owned(), source };
    // From the directory itself: whatever the parent is called by now, it is the right one.
    let own_name = format!("../{name}");
    let mut pause = Duration::from_millis(1);
    loop {
        match dir.rmdir(&own_name) {
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) if !gone(errno) => return Err(error(errno)),
            _ => return Ok(()),
        }
        if Instant::now() >= deadline {
            return Err(Error::Busy { path: name.to_owned() });
        }
        // A deep tree may outlast the deadline by itself: what is left of it is looked at once more.
        dir.walk(|_| Ok(()), remove_once).map_err(error)?;
        if !wait_empty(dir, deadline)? {
            // Nobody is in it and the kernel has yet to notice: it keeps references of exited
            // tasks for a moment, and tells nobody when it drops them. A short, bounded pause.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Removes a child that is empty, and leaves one that is not yet.
fn remove_once(parent: &Dir, name: &str) -> Result<(), Errno> {
    match parent.rmdir(name) {
        Err(errno) if !gone(errno) && !matches!(errno, Errno::BUSY | Errno::NOTEMPTY) => Err(errno),
        _ => Ok(()),
    }
}

/// Waits until no process is left in the tree; false if there was none to wait for.
fn wait_empty(dir: &Dir, deadline: Instant) -> Result<bool, Error> {
    let error = |source| Error::Wait { act: "wait for a cgroup to become empty", source };
    if dir.has("cgroup.events") {
        return wait_event(dir, "populated 0", deadline).map_err(error).map(|was| !was.at_once);
    }
    // v1 has no such file, but an exited process has left its cgroups before its pidfd is readable.
    let pids = all(dir)?;
    for pid in &pids {
        match rustix::process::pidfd_open(*pid, PidfdFlags::empty()) {
            Ok(pidfd) => drop(poll(pidfd.as_fd(), PollFlags::IN, deadline).map_err(error)?),
            Err(Errno::SRCH) => {}
            Err(errno) => return Err(error(errno)),
        }
    }
    Ok(!pids.is_empty())
}

/// How waiting for a line of `cgroup.events` ended.
pub(super) struct Waited {
    /// The line is there.
    pub(super) reached: bool,
    /// It was there before any wait.
    pub(super) at_once: bool,
}

/// Waits until `cgroup.events` of a v2 cgroup has the line `line`, or the cgroup is gone. The file
/// is polled, in the word's good sense: the kernel wakes us when it changes. cgroups(7)
pub(super) fn wait_event(dir: &Dir, line: &str, deadline: Instant) -> Result<Waited, Errno> {
    let Some(events) = existing(dir.open("cgroup.events", OFlags::RDONLY))? else {
        return Ok(Waited { reached: true, at_once: true });
    };
    let mut at_once = true;
    loop {
        match existing(read_from_start(events.as_fd()))? {
            Some(text) if !text.lines().any(|has| has == line) => {}
            _ => return Ok(Waited { reached: true, at_once }),
        }
        at_once = false;
        if !poll(events.as_fd(), PollFlags::PRI, deadline)? {
            return Ok(Waited { reached: false, at_once });
        }
    }
}

/// Polls one descriptor; false if the deadline passed first.
fn poll(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_in_the_cgroup_any_more_gets_no_signal() {
        let sleeper = || std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let (mut member, mut stranger) = (sleeper(), sleeper());
        let path = std::env::temp_dir().join(format!("berth-processes-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        // What lists processes is a cgroup to those who read it.
        std::fs::write(path.join("cgroup.procs"), format!("{}\n", member.id())).unwrap();
        let dir = Dir::new(std::fs::File::open(&path).unwrap().into());
        let [inside, outside] = [&member, &stranger].map(Pid::from_child);
        let reached = send(&dir, &[outside, inside], libc::SIGKILL);
        std::fs::remove_dir_all(&path).unwrap();
        let spared = stranger.try_wait().unwrap().is_none();
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(reached.unwrap(), [inside]);
        assert!(spared && !member.wait().unwrap().success());
    }
}
