//! $NOTIFY_SOCKET: who manages us is told that the program is ready.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use berth_tests::command::{self, DEADLINE};

use super::Fact;
use super::stage::Stage;

pub fn facts() -> Vec<Fact> {
    crate::facts![
        start_returns_when_the_program_is_ready,
        run_tells_that_it_is_to_be_watched_itself,
        program_that_ends_unready_holds_nobody,
        containers_without_it_have_no_such_socket,
    ]
}

/// The one applet of busybox that sends to a socket of this kind sends to /dev/log, with words of its own in front.
const READY: &str = "ln -s $NOTIFY_SOCKET /dev/log; logger \"$(printf 'x\\nREADY=1')\"";

/// Listens as the manager does.
fn manager(stage: &Stage) -> Result<(UnixDatagram, String)> {
    let path = stage.path("manager");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    Ok((socket, path))
}

/// The descriptor of a barrier is closed by not being taken.
fn next(manager: &UnixDatagram) -> Result<String> {
    let mut buffer = [0; 256];
    let read = manager.recv(&mut buffer).context("nothing more was told")?;
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

fn is_told(manager: &UnixDatagram, main: &str) -> Result<()> {
    let told = [next(manager)?, next(manager)?, next(manager)?];
    ensure!(told == ["READY=1\n", &format!("MAINPID={main}\n"), "BARRIER=1"], "{told:?}");
    Ok(())
}

fn start_returns_when_the_program_is_ready(stage: &Stage) -> Result<()> {
    let (manager, path) = manager(stage)?;
    let id = &stage.id("c");
    stage.script(&format!("{READY}; touch /said; sleep 1000"))?;
    // Not piped: the container would keep the pipes.
    let run = |arguments: &[&str]| -> Result<i32> {
        let mut command = stage.command(arguments);
        let command = command.env("NOTIFY_SOCKET", &path);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(command::code(command::wait_for(&mut child, DEADLINE)?.context("it did not end")?))
    };
    ensure!(run(&["create", id])? == 0);
    let pid = stage.state(id)?["pid"].to_string();
    let told = std::thread::spawn(move || is_told(&manager, &pid));
    ensure!(run(&["start", id])? == 0);
    told.join().expect("no panic")?;
    stage.until("it has said so", || stage.directory.join("bundle/rootfs/said").exists())
}

fn run_tells_that_it_is_to_be_watched_itself(stage: &Stage) -> Result<()> {
    let (manager, path) = manager(stage)?;
    stage.script(&format!("{READY}; sleep 1; exit 5"))?;
    let mut command = stage.command(&["run", &stage.id("c")]);
    let started = command::start(command.env("NOTIFY_SOCKET", path).stdin(Stdio::null()))?;
    let pid = started.pid().to_string();
    is_told(&manager, &pid)?;
    let outcome = started.wait(DEADLINE)?;
    ensure!(outcome.code == 5, "{outcome}");
    Ok(())
}

fn program_that_ends_unready_holds_nobody(stage: &Stage) -> Result<()> {
    let (manager, path) = manager(stage)?;
    manager.set_nonblocking(true)?;
    stage.script("exit 0")?;
    let mut command = stage.command(&["run", "-d", &stage.id("c")]);
    let mut child = command.env("NOTIFY_SOCKET", path).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let status = command::wait_for(&mut child, DEADLINE)?.context("it did not end")?;
    ensure!(status.success() && next(&manager).is_err());
    Ok(())
}

fn containers_without_it_have_no_such_socket(stage: &Stage) -> Result<()> {
    stage.script("ls -d /run/notify; echo \"<$NOTIFY_SOCKET>\"")?;
    let outcome = stage.run(&["run", &stage.id("c")])?.success()?;
    ensure!(outcome.stdout == "<>\n", "{outcome}");
    Ok(())
}
