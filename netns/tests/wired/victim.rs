//! Processes that are killed at some moment of what they do.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::host::{Host, soon};

/// Runs it, killed after that time; true where it came to its end before.
pub fn survives(command: &mut Command, after: Duration, kill: impl FnOnce(&mut Child)) -> bool {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while begin.elapsed() < after {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return true;
        }
        std::hint::spin_loop();
    }
    kill(&mut child);
    child.wait().unwrap().success()
}

/// Moments so far apart, until the victim is twice done before it is killed.
pub fn each_moment(apart: Duration, mut act: impl FnMut(u32, Duration) -> bool) {
    let mut done = 0;
    for moment in 0..400 {
        done += u32::from(act(moment, Duration::from_micros(500) + apart * moment));
        if done == 2 {
            return;
        }
    }
    panic!("it never ends");
}

/// Looks for whatever a pod can leave on a host.
pub fn nothing_left(host: &Host, moment: u32) {
    assert!(host.leases("net").is_empty(), "{moment}: {:?}", host.leases("net"));
    assert!(host.engine.attachments().is_empty(), "{moment}");
    let own = ["lo", "br0", "nic", "far"];
    let is_own = |link: &String| own.contains(&link.as_str());
    assert!(soon(|| host.links().iter().all(is_own)), "{moment}: {:?}", host.links());
    for chain in ["masq_checks", "hostports", "masquerading"] {
        assert_eq!(host.rules(chain), 0, "{moment} {chain}");
    }
}
