//! A program on a terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use runtime_core::container::Stdio;
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};

use super::bundle::{Bundle, Live, files, readable, shell};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("terminal_is_stdio_console_and_controlling", terminal),
    ("terminal_has_the_size_of_the_spec_and_follows_its_master", size),
    ("terminal_belongs_to_the_user", owner),
    ("exec_has_a_terminal_of_its_own_and_leaves_the_console", exec),
    ("without_a_terminal_there_is_no_console", none),
    ("terminal_works_in_a_user_namespace", userns),
    ("end_of_the_master_hangs_up", hangup),
];

/// Everything that comes until the last writer is gone.
fn transcript(master: &OwnedFd) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while Instant::now() < deadline && readable(master, Duration::from_secs(5)) {
        match rustix::io::read(master, &mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(n) => all.extend_from_slice(&bytes[..n]),
        }
    }
    String::from_utf8_lossy(&all).replace("\r\n", "\n").trim_end().to_owned()
}

fn master(live: &mut Live) -> OwnedFd {
    live.init.child.console.take().unwrap()
}

fn said(bundle: &Bundle) -> Result<String, Stop> {
    let mut live = bundle.create_on_terminal()?;
    live.container.start()?;
    let said = transcript(&master(&mut live));
    assert_eq!(live.init.wait().status, 0, "{said}");
    Ok(said)
}

fn terminal() -> Result<(), Stop> {
    let script = "tty; stat -c %t:%T /dev/console /dev/pts/0; echo to-console >/dev/console; echo to-tty >/dev/tty; \
         awk '{print $7, $8 == $1}' /proc/$$/stat; ls /proc/self/fd | wc -l";
    let said = said(&Bundle::new().sh(script))?;
    // 136:0, and the foreground process group is the shell's own.
    let expected = "/dev/pts/0\n88:0\n88:0\nto-console\nto-tty\n34816 0\n4";
    assert_eq!(said.replace("34816 1", "34816 0"), expected);
    Ok(())
}

fn size() -> Result<(), Stop> {
    let bundle = Bundle::new().set("/process/consoleSize", json!({"height": 33, "width": 120}));
    let bundle = bundle.sh("stty size; read line; stty size");
    let mut live = bundle.create_on_terminal()?;
    live.container.start()?;
    let master = master(&mut live);
    assert!(readable(&master, Duration::from_secs(5)));
    tcsetwinsize(&master, Winsize { ws_row: 10, ws_col: 20, ws_xpixel: 0, ws_ypixel: 0 })?;
    rustix::io::write(&master, b"\n")?;
    let said = transcript(&master);
    assert!(said.starts_with("33 120") && said.ends_with("10 20"), "{said}");
    Ok(())
}

fn owner() -> Result<(), Stop> {
    let user = json!({"uid": 1000, "gid": 1000});
    let bundle = Bundle::new().sh("stat -c '%u %g %a' /dev/pts/0; tty; : >/dev/tty").set("/process/user", user);
    assert_eq!(said(&bundle)?, "1000 5 620\n/dev/pts/0");
    Ok(())
}

fn on_terminal(live: &Live, process: &Value) -> Result<String, Stop> {
    let (_, output) = files("");
    let mut running = live.exec_with(process, Stdio::Terminal, output)?;
    let master = running.child.console.take().unwrap();
    let said = transcript(&master);
    assert_eq!(running.wait().status, 0, "{said}");
    Ok(said)
}

fn exec() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("sleep 100");
    let mut live = bundle.create_on_terminal()?;
    live.container.start()?;
    let _master = master(&mut live);
    let mut process = shell("tty; stat -c %t:%T /dev/console; stty size; echo tty >/dev/tty");
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({"height": 5, "width": 6});
    assert_eq!(on_terminal(&live, &process)?, "/dev/pts/1\n88:0\n5 6\ntty");
    let plain = Bundle::new().sh("sleep 100").start()?;
    assert_eq!(on_terminal(&plain, &shell("tty; test -e /dev/console; echo $?"))?, "/dev/pts/0\n1");
    Ok(())
}

fn none() -> Result<(), Stop> {
    let said = Bundle::new().sh("test -e /dev/console; echo $?; (: >/dev/tty) 2>/dev/null; echo $?").says()?;
    assert_eq!(said, "1\n1");
    Ok(())
}

fn userns() -> Result<(), Stop> {
    let bundle = super::namespaces::with_user_namespace(Bundle::new().sh("tty; id -u; stat -c %u /dev/pts/0"));
    assert_eq!(said(&bundle)?, "/dev/pts/0\n0\n0");
    Ok(())
}

fn hangup() -> Result<(), Stop> {
    let script = "trap 'exit 9' HUP; echo trapped; while :; do sleep 0.05; done";
    let mut live = Bundle::new().sh(script).create_on_terminal()?;
    live.container.start()?;
    let master = master(&mut live);
    // Before it has its trap, a signal is nothing to the first process of a pid namespace.
    assert!(readable(&master, Duration::from_secs(10)));
    assert!(rustix::termios::isatty(master.as_fd()));
    drop(master);
    assert_eq!(live.init.wait().status, 9);
    Ok(())
}
