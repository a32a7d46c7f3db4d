//! Which programs are executed for one container, by strace on the daemon and everything below it.

use anyhow::{Context, Result, bail};
use berth_tests::command::{DEADLINE, poll};
use berth_tests::containerd::Containerd;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::contender::{Contender, timed};
use crate::report::Report;

/// How many containers each count is averaged over.
const RUNS: usize = 5;

/// Counts for every contender. Without strace there is nothing to say.
pub fn measure(containerd: &Containerd, contenders: &[Contender], report: &mut Report) -> Result<()> {
    let trace = containerd.directory().join("trace");
    let Ok(strace) = Strace::attach(containerd, &trace) else {
        report.note("strace is not there, or cannot attach: programs executed were not counted.".to_owned());
        return Ok(());
    };
    let mut totals = Vec::new();
    for contender in contenders {
        eprintln!("{}: programs executed", contender.name);
        let seen = fs::read_to_string(&trace)?.len();
        for run in 0..RUNS {
            timed(&mut contender.run(containerd, &format!("c{run}-{}", contender.name), &["true"]))?;
        }
        // The last shim's end is not waited for by ctr.
        std::thread::sleep(Duration::from_secs(2));
        let programs = executed(&fs::read_to_string(&trace)?[seen..]);
        totals.push(programs.values().sum::<usize>() as f64 / RUNS as f64);
        let list: Vec<String> =
            programs.iter().map(|(program, count)| format!("{program} × {}", *count as f64 / RUNS as f64)).collect();
        report.note(format!("Programs executed per container, {}: {}.", contender.name, list.join(", ")));
    }
    drop(strace);
    report.amounts("programs executed per `ctr run --rm`, the container's own included".to_owned(), &totals);
    Ok(())
}

/// Programs that were executed with success, by the name they were called by.
pub fn executed(trace: &str) -> BTreeMap<String, usize> {
    let mut begun: BTreeMap<&str, String> = BTreeMap::new();
    let mut programs = BTreeMap::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("execve") {
            // argv[0]: the path may be a descriptor of a sealed copy.
            let name = call.split_once('[').and_then(|(_, argv)| argv.split('"').nth(1)).unwrap_or("?");
            begun.insert(pid, name.rsplit('/').next().unwrap_or(name).to_owned());
        } else if !call.starts_with("<... execve") {
            continue;
        }
        if call.ends_with("= 0") {
            *programs.entry(begun.remove(pid).unwrap_or_default()).or_default() += 1;
        }
    }
    programs
}

/// strace on a daemon; detached when dropped.
struct Strace(Child);

impl Strace {
    fn attach(containerd: &Containerd, trace: &Path) -> Result<Strace> {
        let daemon = containerd.pid().context("find the daemon")?;
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "200", "-e", "trace=execve,execveat", "-e", "signal=none", "-o"]);
        command.arg(trace).args(["-p", &daemon.to_string()]);
        let strace = Strace(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        if poll(DEADLINE, || is_traced(daemon).then_some(())).is_none() {
            bail!("strace did not attach to {daemon}");
        }
        Ok(strace)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Whether each of a process's threads has a tracer.
fn is_traced(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_counted_by_their_names_where_they_succeeded() {
        let trace = r#"10 execve("/a/shim", ["/a/shim", "-x"], 0x1 /* 3 vars */) = 0
11 execve("/no/runc", ["runc"], 0x1) = -1 ENOENT (No such file or directory)
11  execve("/b/runc", ["runc", "init"], 0x1 <unfinished ...>
12 execveat(5, "", ["shim"], 0x1, AT_EMPTY_PATH) = 0
11  <... execve resumed>)                  = 0
12 +++ exited with 0 +++
"#;
        let expected = [("runc".to_owned(), 1), ("shim".to_owned(), 2)];
        assert_eq!(executed(trace), BTreeMap::from(expected));
    }
}
