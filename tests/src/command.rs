//! A child process that cannot hang: every run has a deadline, and missing it is a failure that shows what was said.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
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
    stdout: Stream,
    stderr: Stream,
}

/// What a stream brought so far, and the thread that reads it.
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn read(stream: Option<impl Read + Send + 'static>) -> Stream {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let reader = std::thread::spawn(move || {
            let Some(mut stream) = stream else { return };
            let mut buffer = [0; 16384];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        Stream { text, reader }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Starts a command with its output captured; stdin is empty unless the command says otherwise before.
pub fn start(command: &mut Command) -> Result<Running> {
    let what = format!("{command:?}");
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("start {what}"))?;
    let (stdout, stderr) = (Stream::read(child.stdout.take()), Stream::read(child.stderr.take()));
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

    /// Waits until a line of its stdout holds these texts; an error if none comes, or it ends without one.
    pub fn expect(&self, texts: &[&str]) -> Result<()> {
        let holds = || self.stdout.so_far().lines().any(|line| texts.iter().all(|text| line.contains(text)));
        let found = poll(DEADLINE, || {
            let finished = self.stdout.reader.is_finished();
            (holds() || finished).then(holds)
        });
        if found != Some(true) {
            bail!(
                "{} never printed {texts:?}, but {:?} and {:?}",
                self.what,
                self.stdout.so_far(),
                self.stderr.so_far()
            );
        }
        Ok(())
    }

    /// Waits for its end; one that does not come in time is killed and is an error.
    pub fn wait(mut self, deadline: Duration) -> Result<Outcome> {
        let Some(status) = wait_for(&mut self.child, deadline)? else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!("{} still ran after {deadline:?}", self.what);
        };
        let text = |stream: &Stream, name: &str| -> Result<String> {
            // A process that inherited the pipe could hold it open for ever.
            let end = Instant::now() + Duration::from_secs(10);
            while !stream.reader.is_finished() {
                if Instant::now() > end {
                    bail!("{} ended, but something holds its {name} open", self.what);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(stream.so_far())
        };
        let (stdout, stderr) = (text(&self.stdout, "stdout")?, text(&self.stderr, "stderr")?);
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
