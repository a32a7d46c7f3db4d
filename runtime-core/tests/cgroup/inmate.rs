//! A process that lives in a cgroup under test.

use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runtime_core::cgroup::Cgroup;

/// A process in the cgroup, killed and reaped at the end.
pub struct Inmate(pub Child);

impl Inmate {
    /// Runs `script`, which by its first commands goes where a container's init goes: `0` into each
    /// `tasks`, through descriptors that were opened before.
    pub fn run(cgroup: &Cgroup, script: &str) -> Inmate {
        let attachment = cgroup.attachment().unwrap();
        // A shell cannot see close-on-exec descriptors: it finds them through ours.
        let us = std::process::id();
        let tasks = attachment.tasks.iter().map(|fd| format!("echo 0 > /proc/{us}/fd/{} || exit 9\n", fd.as_raw_fd()));
        let procs = attachment.directory.iter();
        let procs = procs.map(|dir| format!("echo 0 > /proc/{us}/fd/{}/cgroup.procs || exit 9\n", dir.as_raw_fd()));
        let enter: String = tasks.chain(procs).collect();
        Inmate::spawn(enter, script)
    }

    /// Runs `script` with two megabytes of its own.
    pub fn grown(cgroup: &Cgroup, script: &str) -> Inmate {
        const GROW: &str = "x=$(head -c 2000000 /dev/zero | tr '\\0' x); echo up\n";
        let mut inmate = Inmate::run(cgroup, &format!("{GROW}{script}"));
        inmate.hear("up\n");
        inmate
    }

    fn hear(&mut self, expected: &str) {
        let mut line = vec![0; expected.len()];
        std::io::Read::read_exact(self.0.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(line, expected.as_bytes());
    }

    /// Runs `script` after writing itself to `procs`.
    pub fn run_at(procs: &std::path::Path, script: &str) -> Inmate {
        Inmate::spawn(format!("echo 0 > {} || exit 9\n", procs.display()), script)
    }

    fn spawn(enter: String, script: &str) -> Inmate {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(enter + "echo in\n" + script).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut inmate = Inmate(command.spawn().unwrap());
        inmate.hear("in\n");
        inmate
    }

    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// The time it ran in user space, as the kernel counts it.
    pub fn ticks(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.split_whitespace().nth(13).unwrap().to_owned()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if self.0.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for Inmate {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
