//! One output, from the container's first byte to the client's last.
//!
//! containerd's client closes its end of the fifos when it has heard of the exit and calls Delete, whatever stands in
//! them unread (`Cancel` in containerd's cio/io_unix.go; 1.6: `Close` in task.go). So an exit is told when the client
//! has taken what the process had written by then, or when there is no client, or when it takes nothing any more.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::copy::Copy;

/// How long a client that has its fifo open may take nothing before it is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often is looked whether it has: nothing wakes who waits for a pipe to be read.
const LOOK: Duration = Duration::from_millis(1);
/// What a terminal's process wrote last may be on its way through the kernel's queues, where nobody can count it.
const TERMINAL: Duration = Duration::from_millis(100);

/// How far the process is. It only goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It runs, or will.
    Runs,
    /// It has ended; others may still write.
    Ended,
    /// Its client deletes it: nobody else will come for what it said.
    Deleted,
    /// No more is handed on than is taken without waiting.
    Closed,
}

/// Resolves when the process is as far as that.
pub async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // Without its sender the stdio is dropped, and so closed.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

/// How many of a process's outputs somebody has to wait for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Those that have not ended.
    pub open: usize,
    /// Those whose client has not taken what was written by the process's end.
    pub untaken: usize,
}

/// An output that has not ended.
pub struct Output {
    counts: watch::Sender<Counts>,
    untaken: bool,
}

impl Output {
    pub fn new(counts: &watch::Sender<Counts>) -> Self {
        counts.send_modify(|counts| {
            counts.open += 1;
            counts.untaken += 1;
        });
        Self { counts: counts.clone(), untaken: true }
    }

    fn taken(&mut self) {
        if std::mem::take(&mut self.untaken) {
            self.counts.send_modify(|counts| counts.untaken -= 1);
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.taken();
        self.counts.send_modify(|counts| counts.open -= 1);
    }
}

/// Copies until the source ends or the process's stdio is closed.
pub async fn run(mut copy: Copy, mut phase: watch::Receiver<Phase>, mut output: Output) {
    tokio::select! {
        () = copy.drain() => {}
        () = reached(&mut phase, Phase::Ended) => {}
    }
    tokio::select! {
        () = hand_over(&mut copy) => {}
        () = reached(&mut phase, Phase::Closed) => {}
    }
    output.taken();
    tokio::select! {
        () = copy.drain() => {}
        () = reached(&mut phase, Phase::Deleted) => {}
    }
    if copy.has_reader() {
        tokio::select! {
            () = copy.drain() => {}
            () = reached(&mut phase, Phase::Closed) => {}
        }
    }
    copy.flush();
    tokio::select! {
        biased;
        () = reached(&mut phase, Phase::Deleted) => {}
        () = copy.kept() => {}
    }
    drop(copy);
    // The fifo is closed by now: who saw that no output is open may rely on it.
    drop(output);
}

/// Waits until the client has taken what was written by now, as long as it goes on taking.
async fn hand_over(copy: &mut Copy) {
    if copy.is_from_console() {
        let _ = tokio::time::timeout(TERMINAL, copy.drain()).await;
    }
    let written = copy.written();
    let (mut taken, mut since) = (copy.taken(), Instant::now());
    if taken >= written || !copy.has_reader() {
        return;
    }
    while taken < written && since.elapsed() < PATIENCE {
        tokio::select! {
            () = copy.drain(), if !copy.has_ended() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let before = std::mem::replace(&mut taken, copy.taken());
        if taken > before {
            since = Instant::now();
        }
    }
}
