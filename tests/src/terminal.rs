//! A pty whose other end is a command's stdin, stdout and stderr.

use crate::command::{code, poll, wait_for};
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A command on a terminal.
pub struct Terminal {
    child: Child,
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    /// Starts a command on a new terminal of 24 rows and 80 columns.
    pub fn start(command: &mut Command) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("open a pty")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&master, size(24, 80))?;
        let child = command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        // The command keeps the slave's descriptors until it is dropped; they would hold the pty open.
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut source, sink) = (master.try_clone()?, shown.clone());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is the end: nobody has the slave open any more.
            while let Ok(count) = source.read(&mut buffer) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        Ok(Terminal { child, master, shown, reader })
    }

    /// What was shown so far, without carriage returns.
    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).replace('\r', "")
    }

    /// Types something.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.master.write_all(text.as_bytes()).context("write to the pty")
    }

    /// Waits until a text is shown.
    pub fn expect(&self, text: &str) -> Result<()> {
        if poll(Duration::from_secs(20), || self.shown().contains(text).then_some(())).is_none() {
            bail!("the terminal never showed {text:?}, but:\n{}", self.shown());
        }
        Ok(())
    }

    /// Changes the size, and tells the command, which has no controlling terminal to be told by.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        tcsetwinsize(&self.master, size(rows, columns))?;
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            kill_process(pid, Signal::WINCH)?;
        }
        Ok(())
    }

    /// Waits for the command's end and returns its exit code and what was shown.
    pub fn wait(mut self, deadline: Duration) -> Result<(i32, String)> {
        let Some(status) = wait_for(&mut self.child, deadline)? else {
            bail!("the command on the terminal still ran after {deadline:?}; it had shown:\n{}", self.shown());
        };
        if poll(Duration::from_secs(10), || self.reader.is_finished().then_some(())).is_none() {
            bail!("the command ended, but something holds its terminal open; it had shown:\n{}", self.shown());
        }
        Ok((code(status), self.shown()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
