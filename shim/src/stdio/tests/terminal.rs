//! Terminals.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetwinsize;

use super::*;

pub async fn open_terminal(config: Config) -> (Io, OwnedFd, File) {
    let config = Config { terminal: true, ..config };
    let (io, stdio) = Io::open(&config).await.unwrap();
    assert!(matches!(stdio, Stdio::Terminal));
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
    let slave = File::options().read(true).write(true).custom_flags(flags).open(name.to_str().unwrap()).unwrap();
    (io, master, slave)
}

#[tokio::test]
async fn a_terminal_is_copied_both_ways_and_resized() {
    let dir = Dir::new();
    let (input, out) = (dir.fifo("in"), dir.fifo("out"));
    let client = reader(&out);
    let (io, master, mut slave) = open_terminal(config(&input, &out, NONE())).await;
    io.resize(101, 37).unwrap();
    io.attach_console(master).unwrap();
    io.connect_stdin().unwrap();
    let size = tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (101, 37));
    io.resize(80, 25).unwrap();
    assert_eq!(tcgetwinsize(&slave).unwrap().ws_col, 80);
    File::options().write(true).open(&input).unwrap().write_all(b"typed\n").unwrap();
    let container = thread::spawn(move || {
        let mut line = [0; 6];
        slave.read_exact(&mut line).unwrap();
        slave.write_all(b"answer").unwrap();
        line
    });
    assert_eq!(&join(container).await, b"typed\n");
    soon(io.drained()).await;
    assert_eq!(join(client).await, b"typed\r\nanswer");
    io.resize(1, 1).unwrap();
}

#[tokio::test]
async fn a_busy_terminal_loses_nothing_to_a_slow_client() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&out).unwrap();
    let (io, master, mut slave) = open_terminal(config(NONE(), &out, NONE())).await;
    io.attach_console(master).unwrap();
    io.connect_stdin().unwrap();
    let container = thread::spawn(move || slave.write_all(&vec![b'z'; 300_000]).unwrap());
    pause().await;
    assert!(!container.is_finished());
    let second = attach(&out);
    drop(client);
    assert_eq!(join(second).await.len(), 300_000);
    join(container).await;
    soon(io.drained()).await;
}

#[tokio::test]
async fn the_end_of_a_terminals_stdin_hangs_it_up() {
    let dir = Dir::new();
    let (input, out) = (dir.fifo("in"), dir.fifo("out"));
    let client = reader(&out);
    let (io, master, mut slave) = open_terminal(config(&input, &out, NONE())).await;
    io.attach_console(master).unwrap();
    io.connect_stdin().unwrap();
    slave.write_all(b"said before").unwrap();
    io.close_stdin();
    assert_eq!(soon(join(client)).await, b"said before");
    soon(io.drained()).await;
    assert!(slave.write_all(b"x").is_err());
}

#[tokio::test]
async fn a_terminal_that_was_never_made_can_be_closed() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = reader(&out);
    let (io, _master, _slave) = open_terminal(config(NONE(), &out, NONE())).await;
    soon(io.close()).await;
    assert_eq!(join(client).await, b"");
}
