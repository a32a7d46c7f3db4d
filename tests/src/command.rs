//! A child process that cannot hang: every run has a deadline, and missing it is a failure that shows what was said.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a command may take where nobody says otherwise. Generous: the machine may be busy with other trials.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// What it wrote to stdout, with invalid UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to stderr, likewise.
    pub stderr: String,
}

impl Outcome {
    /// Fails, showing all of it, unless the command succeeded.
    pub fn success(self) -> Result<Outcome> {
        if self.code != 0 {
            bail!("expected success, got {self}");
        }
        Ok(self)
    }

    /// Fails, showing all of it, if the command succeeded.
    pub fn failure(self) -> Result<Outcome> {
        if self.code == 0 {
            bail!("expected failure, got {self}");
        }
        Ok(self)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exit code {}\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

/// A command that has been started.
pub struct Running {
    child: Child,
    what: String,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
}

fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut all);
        }
        all
    })
}

/// Starts a command with its output captured; stdin is empty unless the command says otherwise before.
pub fn start(command: &mut Command) -> Result<Running> {
    let what = format!("{command:?}");
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("start {what}"))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    Ok(Running { child, what, stdout, stderr })
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Takes its stdin, if it was started with a pipe.
    pub fn stdin(&mut self) -> Option<impl Write + use<>> {
        self.child.stdin.take()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; one that does not come in time is killed and is an error.
    pub fn wait(mut self, deadline: Duration) -> Result<Outcome> {
        let Some(status) = wait_for(&mut self.child, deadline)? else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!("{} still ran after {deadline:?}", self.what);
        };
        let text = |reader: JoinHandle<Vec<u8>>, name: &str| -> Result<String> {
            // A process that inherited the pipe could hold it open for ever.
            let end = Instant::now() + Duration::from_secs(10);
            while !reader.is_finished() {
                if Instant::now() > end {
                    bail!("{} ended, but something holds its {name} open", self.what);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned())
        };
        let (stdout, stderr) = (text(self.stdout, "stdout")?, text(self.stderr, "stderr")?);
        Ok(Outcome { code: code(status), stdout, stderr })
    }

    /// Kills it and waits for its end.
    pub fn kill(mut self) -> Result<Outcome> {
        let _ = self.child.kill();
        self.wait(Duration::from_secs(10))
    }
}

/// Runs a command to its end, which must come before the deadline.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Outcome> {
    start(command.stdin(Stdio::null()))?.wait(deadline)
}

/// Waits for a child, `None` if it still runs at the deadline.
pub fn wait_for(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// The exit code as a shell would say it.
pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Calls `check` until it answers something, `None` if it has not by the deadline.
pub fn poll<T>(deadline: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = check() {
            return Some(answer);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
