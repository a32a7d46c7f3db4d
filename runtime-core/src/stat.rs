//! What `/proc/<pid>/stat` tells of a process, and of a zombie too. proc_pid_stat(5)

use std::io::{self, ErrorKind};
use std::str::FromStr;

use rustix::process::Pid;

use crate::host;

/// Forked, and no program executed since: what ps(1) shows as flag 1.
const FORKED_ONLY: u32 = 0x40;

/// When it began, in clock ticks since boot.
pub(crate) fn start_time(pid: Pid) -> io::Result<u64> {
    field(&read(pid)?, 22)
}

/// The status with which it ends, or is about to, if it has executed nothing since it was cloned. It is 0 for who may not
/// know.
pub(crate) fn ended_as_cloned(pid: Pid) -> io::Result<Option<u32>> {
    parse(&read(pid)?)
}

fn parse(text: &str) -> io::Result<Option<u32>> {
    if field::<u32>(text, 9)? & FORKED_ONLY == 0 {
        return Ok(None);
    }
    let code: u32 = field(text, 52)?;
    let signal = code & 0x7f;
    Ok(Some(if signal == 0 { code >> 8 & 0xff } else { 128 + signal }))
}

fn read(pid: Pid) -> io::Result<String> {
    host::read(&format!("/proc/{}/stat", pid.as_raw_nonzero()))
}

/// Behind the last parenthesis: a program's name, the second field, may hold some, and spaces.
fn field<T: FromStr>(text: &str, number: usize) -> io::Result<T> {
    let fields = text.rsplit_once(')').map(|(_, fields)| fields);
    let found = fields.and_then(|fields| fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok());
    found.ok_or_else(|| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(flags: u32, code: u32) -> String {
        let middle: Vec<String> = (10..52).map(|number| number.to_string()).collect();
        format!("7 (a) b) c) Z 1 7 7 0 -1 {flags} {} {code}\n", middle.join(" "))
    }

    #[test]
    fn fields_stand_behind_the_name() {
        assert_eq!(field::<u64>(&stat(0, 0), 22).unwrap(), 22);
        assert!(field::<u64>("7 (a", 22).is_err() && field::<u64>("7 (a) Z", 22).is_err());
    }

    #[test]
    fn who_has_executed_something_ended_as_that() {
        assert_eq!(parse(&stat(0x40_0100, 9)).unwrap(), None);
        assert_eq!(parse(&stat(0x40_0140, 9)).unwrap(), Some(137));
        assert_eq!(parse(&stat(0x40, 1 << 8)).unwrap(), Some(1));
        assert_eq!(ended_as_cloned(rustix::process::getpid()).unwrap(), None);
    }
}
