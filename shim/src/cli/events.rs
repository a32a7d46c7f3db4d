//! `events`: what a container uses, and when it ran out of memory.

mod usage;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runtime_core::container::Container;
use runtime_core::state::Status;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use serde_json::Value;

use super::flags::{Given, Until, switch, value};
use super::home::Berth;
use super::{Command, Error};

pub const EVENTS: Command = Command {
    name: "events",
    words: "<container-id>",
    about: "print what a container uses, and when it runs out of memory, as JSON",
    flags: &[value("interval", None, "TIME", "how often: 5s, 500ms, 1m"), switch("stats", None, "once, and leave")],
    until: Until::End,
    clones: false,
    run: events,
};

fn events(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("events")?;
    let container = berth.container(id)?;
    let interval = match given.text("interval")? {
        None => Duration::from_secs(5),
        Some(text) => {
            duration(text).ok_or_else(|| Error::Value { flag: "interval", value: text.to_owned(), wanted: "a time" })?
        }
    };
    if interval.is_zero() {
        return Err(Error::Usage("duration interval must be greater than 0".to_owned()));
    }
    if container.status()? == Status::Stopped {
        return Err(Error::State(format!("container with id {id} is not running")));
    }
    if given.is_on("stats") { tell(id, "stats", Some(stats(&container)?)) } else { follow(&container, interval) }
}

fn follow(container: &Container, interval: Duration) -> Result<u8, Error> {
    let id = container.id();
    let mut oom = container.cgroup().watch_oom()?;
    let mut next = Instant::now() + interval;
    while container.status()? != Status::Stopped {
        // An end is noticed within a second.
        let left = next.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
        wait(oom.as_ref().map(AsFd::as_fd), left)?;
        if oom.as_mut().is_some_and(|oom| oom.triggered()) {
            tell(id, "oom", None)?;
        }
        if next <= Instant::now() {
            tell(id, "stats", Some(stats(container)?))?;
            next += interval;
        }
    }
    Ok(0)
}

fn wait(oom: Option<std::os::fd::BorrowedFd<'_>>, left: Duration) -> Result<(), Error> {
    let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    // Both versions of cgroups say POLLPRI or POLLIN; nothing else is watched.
    let flags = PollFlags::IN | PollFlags::PRI;
    let mut fds: Vec<PollFd<'_>> = oom.into_iter().map(|oom| PollFd::from_borrowed_fd(oom, flags)).collect();
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::system("wait for events")(errno)),
    }
}

/// A line, whose keys stand as runc's do: there are scripts that look for the beginning.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn tell(id: &str, kind: &str, data: Option<Value>) -> Result<u8, Error> {
    let event = serde_json::to_string(&Event { kind, id, data });
    let event = event.map_err(|source| Error::Json { what: "our own event".to_owned(), source })?;
    let told = writeln!(io::stdout(), "{event}");
    told.map_err(|source| Error::System { act: "write to standard output", source })?;
    Ok(0)
}

fn stats(container: &Container) -> Result<Value, Error> {
    let cgroup = container.cgroup();
    Ok(usage::of(&cgroup.stats()?, &cgroup.details()?))
}

/// As Go writes a duration, of one unit.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, unit) = text.split_at_checked(unit)?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_go_writes_them() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Some(Duration::from_secs(90)));
        for bad in ["", "5", "s", "-1s", "5d"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
