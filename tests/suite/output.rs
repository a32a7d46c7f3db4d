//! Output, at whatever pace its reader takes it.
//!
//! The client that `ctr` is made of closes its end of the fifos when it has heard of the exit and calls Delete
//! (containerd 1.7 and later: `Cancel` in cio/io_unix.go; 1.6: `Close` in task.go), whatever stands in them unread.

use crate::Scenario;
use anyhow::{Result, ensure};
use berth_tests::command;
use berth_tests::scene::Scene;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    // With runc's shim the tail is lost, of a long output now and then and at a slow reader always.
    crate::scenarios![Berth: all_of_a_long_output_arrives, all_of_it_arrives_at_a_slow_reader]
}

fn all_of_a_long_output_arrives(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.sh(&[], "a", "seq 1 200000; seq 1 50000 >&2")?.success()?;
    check(&outcome.stdout, 200_000)?;
    check(&outcome.stderr, 50_000)
}

fn all_of_it_arrives_at_a_slow_reader(scene: &Scene<'_>) -> Result<()> {
    // From files, so that the writers are faster than any reader and their last words fill every pipe.
    let script = "seq 1 200000 >/tmp/a; seq 1 50000 >/tmp/b; cat /tmp/b >&2 & cat /tmp/a; wait";
    let arguments = scene.run_arguments(&["--rm"], "a", &["sh", "-c", script]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut ctr = scene.containerd.ctr_command(&arguments);
    let mut ctr = ctr.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (slowly(ctr.stdout.take()), slowly(ctr.stderr.take()));
    let read = |stream: std::thread::JoinHandle<String>| stream.join().unwrap_or_default();
    let (stdout, stderr) = (read(stdout), read(stderr));
    end(&mut ctr)?;
    check(&stdout, 200_000)?;
    check(&stderr, 50_000)
}

/// Reads to the end, but no more than 4 KiB in 5 ms.
fn slowly(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let Some(mut stream) = stream else { return String::new() };
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
            std::thread::sleep(Duration::from_millis(5));
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Its streams have ended, and so must it.
fn end(ctr: &mut Child) -> Result<()> {
    let status = command::wait_for(ctr, Duration::from_secs(20))?;
    let _ = ctr.kill();
    ensure!(status.is_some_and(|status| status.success()), "ctr ended with {status:?}");
    Ok(())
}

/// All the lines are there, whole and in order.
fn check(text: &str, lines: usize) -> Result<()> {
    let wrong = text.lines().zip(1..).find(|(line, number)| line.parse() != Ok(*number));
    ensure!(wrong.is_none(), "a line is not what was written: {wrong:?}");
    ensure!(text.lines().count() == lines, "{} of {lines} lines", text.lines().count());
    ensure!(text.ends_with('\n'), "the last line is not whole");
    Ok(())
}
