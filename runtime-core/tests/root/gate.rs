//! A container's process that dies at its gate, or between its gate and its program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use super::bundle::{Bundle, Live, readable};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("start_tells_of_a_process_that_was_killed_at_its_gate", at_its_gate),
    ("start_tells_of_a_process_that_was_killed_behind_its_gate", behind_its_gate),
    ("start_tells_of_a_process_that_its_own_filter_killed", by_its_filter),
    ("start_tells_of_a_program_that_cannot_run_where_a_filter_denies_messages", silenced),
];

/// What start says, of a process that lies there as a zombie.
fn told(live: &mut Live, status: u32) -> Result<(), Stop> {
    let error = live.container.start().err().ok_or("it was started")?.to_string();
    let expected = "unable to start container process: exec sh: the process ended before that, with status ";
    assert_eq!(error, format!("{expected}{status}"));
    assert_eq!(live.init.wait().status, status);
    assert_eq!(live.container.start().unwrap_err().to_string(), "the container was started before");
    Ok(())
}

fn at_its_gate() -> Result<(), Stop> {
    let mut live = Bundle::new().sh("true").create()?;
    live.container.signal(libc::SIGKILL)?;
    assert!(readable(&live.init.child.pidfd, Duration::from_secs(5)));
    told(&mut live, 128 + 9)
}

/// A hook kills who runs it. The first process of a pid namespace could not be killed from inside.
fn behind_its_gate() -> Result<(), Stop> {
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"], "env": ["PATH=/bin"]});
    let bundle = Bundle::new().sh("true").namespace("pid", None).set("/hooks", json!({ "startContainer": [hook] }));
    told(&mut bundle.create()?, 128 + 9)
}

fn filter(name: &str, action: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [name], "action": action, "errnoRet": 1}]})
}

fn by_its_filter() -> Result<(), Stop> {
    let mut profile = filter("execve", "SCMP_ACT_KILL_PROCESS");
    profile["syscalls"][0]["errnoRet"] = json!(null);
    told(&mut Bundle::new().sh("true").set("/linux/seccomp", profile).create()?, 128 + 31)
}

fn silenced() -> Result<(), Stop> {
    let bundle = Bundle::new().set("/linux/seccomp", filter("sendmsg", "SCMP_ACT_ERRNO")).args(&["/bin/broken"]);
    fs::write(bundle.image("/bin/broken"), "no program\n")?;
    fs::set_permissions(bundle.image("/bin/broken"), fs::Permissions::from_mode(0o755))?;
    let error = bundle.create()?.container.start().err().ok_or("it was started")?.to_string();
    assert_eq!(error, "unable to start container process: exec /bin/broken: exec format error");
    Ok(())
}
