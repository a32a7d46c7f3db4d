//! System calls that a seccomp profile leaves to an agent.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::bundle::{Bundle, shell};
use super::{Stop, Test, sys};

pub const TESTS: &[Test] = &[
    ("agent_answers_for_init_and_execs", agent),
    ("agent_that_is_not_there_fails_the_create", no_agent),
    ("profile_that_leaves_write_to_an_agent_is_refused", refused),
];

/// Says "no medium found" to whatever is left to it, for so many processes.
fn start(socket: PathBuf, processes: usize) -> Receiver<Value> {
    let listener = UnixListener::bind(&socket).unwrap();
    let (states, received) = channel();
    std::thread::spawn(move || {
        for _ in 0..processes {
            let (stream, _) = listener.accept().unwrap();
            let (state, notifications) = receive(stream.as_fd());
            states.send(state).unwrap();
            std::thread::spawn(move || answer(&notifications));
        }
        let _ = fs::remove_file(socket);
    });
    received
}

fn receive(stream: std::os::fd::BorrowedFd<'_>) -> (Value, OwnedFd) {
    let mut bytes = [0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (serde_json::from_slice(&bytes[..got.bytes]).unwrap(), fd.unwrap())
}

fn answer(notifications: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(notifications, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        if !fds[0].revents().contains(PollFlags::IN) {
            return;
        }
        sys::refuse_notified_call(notifications.as_fd(), libc::ENOMEDIUM);
    }
}

fn profile(bundle: &Bundle, names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": bundle.dir.join("agent"), "listenerMetadata": "meta",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    })
}

fn agent() -> Result<(), Stop> {
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new().sh("mkdir /tmp/x; ls /tmp; ls /proc/self/fd | wc -l; echo up; exec sleep 100");
        let seccomp = profile(&bundle, &["mkdir", "mkdirat"]);
        let bundle = bundle
            .set("/linux/seccomp", seccomp)
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/annotations", json!({"a": "1"}));
        let states = start(bundle.dir.join("agent"), 2);
        let mut live = bundle.create()?;
        let state = states.recv()?;
        live.container.start()?;
        assert_eq!(live.init.up(), "4");
        let pid = json!(live.init.pid());
        let expected = json!({
            "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "meta",
            "state": {
                "ociVersion": "1.3.0", "id": bundle.id, "status": "creating", "pid": pid,
                "bundle": bundle.dir.to_str(), "annotations": {"a": "1"},
            },
        });
        assert_eq!(state, expected);
        let mut exec = live.exec(&shell("mkdir /tmp/y 2>&1"))?;
        let state = states.recv()?;
        assert_eq!((&state["state"]["status"], &state["pid"]), (&json!("running"), &json!(exec.pid())));
        let said = exec.wait();
        assert_eq!((said.status, said.stdout.contains("No medium found")), (1, true), "{said:?}");
    }
    Ok(())
}

fn no_agent() -> Result<(), Stop> {
    let bundle = Bundle::new();
    let seccomp = profile(&bundle, &["mkdir"]);
    let path = bundle.dir.join("agent").display().to_string();
    let said = bundle.set("/linux/seccomp", seccomp).refused()?;
    assert_eq!(said, format!("failed to connect with seccomp agent {path}: no such file or directory"));
    Ok(())
}

fn refused() -> Result<(), Stop> {
    let bundle = Bundle::new();
    let seccomp = profile(&bundle, &["write"]);
    let said = bundle.set("/linux/seccomp", seccomp).refused()?;
    assert_eq!(said, "seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall");
    Ok(())
}
