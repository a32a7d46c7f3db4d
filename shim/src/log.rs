//! Our log: lines in containerd's own form, on the bundle's `log` fifo. Nobody reads that fifo while containerd is
//! down, so it is opened non-blocking and a line that does not fit is dropped.

use std::fmt::{self, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

struct Lines {
    level: Level,
}

/// Sends this process's log to its standard error, which `start` made the bundle's fifo.
pub fn init(debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    // Fails only if it is called twice; the first one stays.
    let _ = tracing::subscriber::set_global_default(Lines { level });
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.is_event()
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut line = Line::new(level);
        event.record(&mut line);
        line.write(rustix::stdio::stderr());
    }
}

/// One line of our own, where no subscriber is worth its while.
pub fn write(log: impl AsFd, level: &str, message: &str) {
    let mut line = Line::new(level);
    let _ = write!(line.0, " msg={message:?}");
    line.write(log);
}

struct Line(String);

impl Line {
    fn new(level: &str) -> Line {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Line(format!("time=\"{}\" level={level}", Rfc3339(since)))
    }

    /// One write, so that lines of several processes do not mix; full or unread, it is lost.
    fn write(mut self, log: impl AsFd) {
        self.0.push('\n');
        let _ = rustix::io::write(log, self.0.as_bytes());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        let text = format!("{value:?}");
        let _ = match text.starts_with('"') {
            true => write!(self.0, " {name}={text}"),
            false => write!(self.0, " {name}={text:?}"),
        };
    }
}

/// A time since the epoch, as UTC with nanoseconds.
struct Rfc3339(Duration);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", self.0.subsec_nanos())
    }
}

/// Year, month and day of a day since the epoch, in the Gregorian calendar: years are counted from March, so that the
/// leap day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_date_prints_them() {
        let text = |seconds| Rfc3339(Duration::from_secs(seconds)).to_string();
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_399), "2000-02-28T23:59:59.000000000Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(text(1_795_226_658), "2026-11-21T02:04:18.000000000Z");
    }
}
