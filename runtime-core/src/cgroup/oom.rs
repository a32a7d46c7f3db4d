//! Word of the OOM killer: a descriptor that becomes readable when it struck in a cgroup.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::{OFlags, inotify};

use super::Error;
use super::dir::{Dir, read_from_start};

/// Watches a cgroup for OOM kills.
#[derive(Debug)]
pub struct OomWatch {
    /// An eventfd (v1) or an inotify (v2); neither blocks.
    notifier: OwnedFd,
    /// The file with the count of kills.
    counter: OwnedFd,
    reported: u64,
    /// v1 speaks before it kills, v2 after it has counted.
    early: bool,
}

impl OomWatch {
    /// On the v1 memory cgroup `dir`: an eventfd registered for `memory.oom_control`, kernel
    /// Documentation/admin-guide/cgroup-v1/memory.rst, section 10.
    pub(super) fn v1(dir: &Dir) -> Result<OomWatch, Error> {
        let error = |source| Error::Wait { act: "watch memory.oom_control", source };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let notifier = rustix::event::eventfd(0, flags).map_err(error)?;
        let counter = dir.open("memory.oom_control", OFlags::RDONLY).map_err(error)?;
        let line = format!("{} {}", notifier.as_raw_fd(), counter.as_raw_fd());
        dir.write("cgroup.event_control", &line).map_err(error)?;
        Ok(OomWatch::new(notifier, counter, true))
    }

    /// On the v2 cgroup `dir`: inotify on `memory.events`. cgroups(7)
    pub(super) fn v2(dir: &Dir) -> Result<OomWatch, Error> {
        let error = |source| Error::Wait { act: "watch memory.events", source };
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let notifier = inotify::init(flags).map_err(error)?;
        let counter = dir.open("memory.events", OFlags::RDONLY).map_err(error)?;
        // inotify takes only paths; this one leads to the very file that is open.
        let file = format!("/proc/self/fd/{}", counter.as_raw_fd());
        inotify::add_watch(&notifier, file, inotify::WatchFlags::MODIFY).map_err(error)?;
        Ok(OomWatch::new(notifier, counter, false))
    }

    fn new(notifier: OwnedFd, counter: OwnedFd, early: bool) -> OomWatch {
        let mut watch = OomWatch { notifier, counter, reported: 0, early };
        // Kills of the cgroup's former life are nobody's business.
        watch.reported = watch.kills().unwrap_or(0);
        watch
    }

    /// To be asked when [`OomWatch`] was readable, and once more when the container has ended, before
    /// its exit is told: true if there were kills that were not reported yet. False once the cgroup is gone.
    pub fn triggered(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        let notified = rustix::io::read(&self.notifier, &mut buffer).is_ok_and(|read| read > 0);
        // The end of a v1 cgroup is also an event. Then there is no count any more.
        let Some(kills) = self.kills() else { return false };
        if kills > self.reported {
            self.reported = kills;
            return true;
        }
        if notified && self.early {
            // Reported now, so the kill that follows is not reported again.
            self.reported = kills + 1;
            return true;
        }
        false
    }

    /// `None` once the cgroup is gone. Before Linux 4.13 v1 has no count: always zero.
    fn kills(&self) -> Option<u64> {
        let text = read_from_start(self.counter.as_fd()).ok()?;
        Some(parse_kills(&text))
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }
}

fn parse_kills(text: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_not_mistaken_for_their_neighbours() {
        assert_eq!(parse_kills("oom_kill_disable 1\nunder_oom 0\noom_kill 7\n"), 7);
        assert_eq!(parse_kills("oom 9\noom_kill 2\noom_group_kill 5\n"), 2);
        assert_eq!(parse_kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }
}
