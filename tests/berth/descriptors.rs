//! --console-socket, --pidfd-socket, --preserve-fds, $LISTEN_FDS.

use anyhow::{Context, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use super::Fact;
use super::stage::{Stage, refused};
use berth_tests::command::{self, DEADLINE};

pub fn facts() -> Vec<Fact> {
    crate::facts![
        a_console_goes_to_its_socket,
        a_pidfd_goes_to_its_socket,
        descriptors_are_preserved_and_no_others,
        a_container_without_its_console_socket_is_not_made,
    ]
}

/// What comes over a socket, with its message.
fn receive(listener: &UnixListener) -> Result<(OwnedFd, String)> {
    let (stream, _) = listener.accept()?;
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let text = String::from_utf8_lossy(bytes.get(..received.bytes).unwrap_or_default()).into_owned();
    Ok((fd.context("no descriptor came")?, text))
}

fn a_console_goes_to_its_socket(stage: &Stage) -> Result<()> {
    let (id, path) = (&stage.id("c"), &stage.path("console"));
    let listener = UnixListener::bind(path)?;
    stage.spec(|spec| spec["process"]["terminal"] = true.into())?;
    stage.script("read line; echo \"<$line>\"; sleep 1000")?;
    stage.detached(&["run", "-d", "--console-socket", path, id])?.success()?;
    let (master, name) = receive(&listener)?;
    ensure!(name == "/dev/ptmx", "{name}");
    let mut master = File::from(master);
    master.write_all(b"word\n")?;
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("<word>") {
        let mut buffer = [0; 256];
        let read = master.read(&mut buffer)?;
        shown.extend_from_slice(&buffer[..read]);
    }
    stage.detached(&["exec", "-d", "-t", "--console-socket", path, id, "sh"])?.success()?;
    receive(&listener).map(drop)
}

fn a_pidfd_goes_to_its_socket(stage: &Stage) -> Result<()> {
    let (id, path) = (&stage.id("c"), &stage.path("pidfd"));
    let listener = UnixListener::bind(path)?;
    stage.detached(&["create", "--pidfd-socket", path, id])?.success()?;
    let (pidfd, _) = receive(&listener)?;
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
    stage.expect(id, "stopped")
}

fn descriptors_are_preserved_and_no_others(stage: &Stage) -> Result<()> {
    stage.script("cat <&3; cat <&4; ls /proc/self/fd | wc -w; echo $LISTEN_FDS $LISTEN_PID")?;
    let (one, two) = (stage.path("one"), stage.path("two"));
    std::fs::write(&one, "1\n")?;
    std::fs::write(&two, "2\n")?;
    // `ls` has one of its own, and a shell opens what it names.
    let run = |listen: &str, preserve: &str| {
        let arguments = ["run", "--preserve-fds", preserve, &stage.id("c")];
        let berth = stage.command(&arguments);
        let words: Vec<String> = std::iter::once(berth.get_program())
            .chain(berth.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let script = format!("{listen} exec \"$@\" 3<{one} 4<{two} 5<{two}");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, "sh"]).args(words).current_dir(stage.directory.join("bundle"));
        command::start(shell.stdin(Stdio::null()))?.wait(DEADLINE)
    };
    let outcome = run("", "2")?.success()?;
    ensure!(outcome.stdout == "1\n2\n6\n\n", "{outcome}");
    let outcome = run("export LISTEN_PID=$$ LISTEN_FDS=1;", "1")?.success()?;
    ensure!(outcome.stdout == "1\n2\n6\n1 1\n", "{outcome}");
    refused(run("", "4")?, 1, "unable to stat preserved-fd 3 (of 4)")
}

fn a_container_without_its_console_socket_is_not_made(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    refused(stage.run(&["create", "--console-socket", "/nonsense", id])?, 1, "cannot use console socket")?;
    stage.spec(|spec| spec["process"]["terminal"] = true.into())?;
    refused(stage.run(&["create", id])?, 1, "cannot allocate tty if runc will detach without setting console socket")?;
    refused(stage.run(&["create", "--console-socket", "/nonsense", id])?, 1, "/nonsense")?;
    refused(stage.run(&["state", id])?, 1, "container does not exist")
}
