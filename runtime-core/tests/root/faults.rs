//! Creates that fail, one for every kind of step that can be made to: nothing is left, and the text names act and object.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::bundle::Bundle;
use super::leftovers::Leftovers;
use super::namespaces::with_user_namespace;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("failed_create_leaves_nothing_and_names_act_and_object", every_kind),
    ("failed_create_in_a_user_namespace_leaves_nothing", user_namespace),
    ("failed_create_on_a_terminal_leaves_nothing", terminal),
    ("child_killed_at_any_moment_leaves_nothing", killed),
    ("exec_killed_before_its_program_runs_is_told", killed_exec),
    ("failed_exec_leaves_nothing", exec),
    ("bundle_that_cannot_be_written_is_named", unwritable),
];

fn volume(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// What breaks a bundle, and what the error must say.
type Fault = (&'static str, fn(Bundle) -> Bundle, &'static [&'static str]);

const FAULTS: &[Fault] = &[
    ("cgroup", |b| b.set("/linux/resources/cpu", json!({"cpus": "777"})), &["777", "cpuset.cpus"]),
    (
        "rlimit",
        |b| b.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1_u64 << 40}])),
        &["set RLIMIT_NOFILE to 1:1099511627776: operation not permitted"],
    ),
    (
        "join",
        |b| b.namespace("user", Some(json!({"type": "user", "path": "/proc/self/ns/user"}))),
        &["join the user namespace /proc/self/ns/user", "invalid argument"],
    ),
    (
        "pid namespace",
        |b| {
            let b = b.namespace("pid", Some(json!({"type": "pid", "path": "/proc/self/ns/pid"})));
            b.set("/linux/resources/pids", json!({"limit": 1}))
        },
        &["enter the pid namespace: resource temporarily unavailable"],
    ),
    ("file system", |b| b.with_mount(volume("/x", "nosuchfs", "none", &[])), &["nosuchfs", "/x", "no such device"]),
    (
        "mount option",
        |b| b.with_mount(volume("/x", "tmpfs", "tmpfs", &["size=nonsense"])),
        &["tmpfs", "/x", "invalid argument"],
    ),
    (
        "mount source",
        |b| b.with_mount(volume("/x", "bind", "/no/such", &["bind"])),
        &["/no/such", "no such file or directory"],
    ),
    (
        "mount target",
        |b| b.with_mount(volume("/bin/busybox/x", "tmpfs", "tmpfs", &[])),
        &["/bin/busybox/x", "not a directory"],
    ),
    (
        "directory on a file",
        |b| b.with_mount(volume("/bin/busybox", "tmpfs", "tmpfs", &[])),
        &["mount tmpfs on /bin/busybox", "invalid argument"],
    ),
    (
        "device",
        |b| b.set("/linux/devices", json!([{"path": "/bin/busybox", "type": "c", "major": 1, "minor": 3}])),
        &["mknod /bin/busybox c 1:3", "file exists"],
    ),
    (
        "device below a file",
        |b| b.set("/linux/devices", json!([{"path": "/bin/busybox/x", "type": "c", "major": 1, "minor": 3}])),
        &["mknod /bin/busybox/x", "not a directory"],
    ),
    ("cwd", |b| b.set("/process/cwd", json!("/bin/busybox")), &["/bin/busybox", "not a directory"]),
    (
        "cwd below a file",
        |b| b.set("/process/cwd", json!("/bin/busybox/x")),
        &["cwd", "/bin/busybox/x", "not a directory"],
    ),
    ("hostname", |b| b.set("/hostname", json!("h".repeat(65))), &["sethostname hhhh", "invalid argument"]),
    ("domainname", |b| b.set("/domainname", json!("d".repeat(65))), &["setdomainname dddd", "invalid argument"]),
    (
        "sysctl",
        |b| b.set("/linux/sysctl", json!({"kernel.msgmax": "many"})),
        &["many", "/proc/sys/kernel/msgmax", "invalid argument"],
    ),
    (
        "missing sysctl",
        |b| b.set("/linux/sysctl", json!({"net.nothing": "1"})),
        &["/proc/sys/net/nothing", "no such file or directory"],
    ),
    (
        "mask",
        |b| {
            symlink("loop", b.image("/etc/loop")).unwrap();
            b.set("/linux/maskedPaths", json!(["/etc/loop"]))
        },
        &["mask /etc/loop", "symbolic links"],
    ),
    (
        "readonly",
        |b| {
            symlink("loop", b.image("/etc/loop")).unwrap();
            b.set("/linux/readonlyPaths", json!(["/etc/loop"]))
        },
        &["/etc/loop read-only", "symbolic links"],
    ),
    (
        "capabilities",
        |b| b.set("/process/capabilities", json!({"effective": ["CAP_KILL"]})),
        &["apply capabilities", "effective KILL", "operation not permitted"],
    ),
    ("program", |b| b.args(&["/etc/none"]), &["exec: \"/etc/none\": stat /etc/none: no such file or directory"]),
    ("root", |b| b.set("/root/path", json!("elsewhere")), &["elsewhere", "no such file or directory"]),
    (
        "id map",
        |b| {
            let map =
                json!([{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 5, "hostID": 5000, "size": 10}]);
            with_user_namespace(b).set("/linux/uidMappings", map)
        },
        &["uid_map", "Invalid argument"],
    ),
];

fn every_kind() -> Result<(), Stop> {
    let mut wrong = Vec::new();
    for (name, fault, expected) in FAULTS {
        let before = Leftovers::look();
        let bundle = fault(Bundle::new());
        let error = match bundle.create() {
            Err(error) => error.to_string(),
            Ok(_) => "it was created".to_owned(),
        };
        drop(bundle);
        if !expected.iter().all(|part| error.contains(part)) {
            wrong.push(format!("{name}: {error}, not {expected:?}"));
        }
        if let Err(left) = before.compare() {
            wrong.push(format!("{name}: {left}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// There a second process goes on in the place of the first.
fn user_namespace() -> Result<(), Stop> {
    let text = with_user_namespace(Bundle::new()).set("/hostname", json!("h".repeat(65))).refused()?;
    assert!(text.starts_with("sethostname hhh"), "{text}");
    let text = with_user_namespace(Bundle::new()).with_mount(volume("/x", "nosuchfs", "none", &[])).refused()?;
    assert!(text.contains("/x"), "{text}");
    Ok(())
}

/// The master has arrived when a later step fails.
fn terminal() -> Result<(), Stop> {
    let bundle = Bundle::new().set("/hostname", json!("h".repeat(65)));
    let text = bundle.create_on_terminal().err().ok_or("created")?.to_string();
    assert!(text.starts_with("sethostname"), "{text}");
    let bundle = Bundle::new().without_mount("/dev/pts");
    let text = bundle.create_on_terminal().err().ok_or("created")?.to_string();
    assert!(text.starts_with("open a console for uid 0 on /dev/console"), "{text}");
    Ok(())
}

/// A thread kills every child of ours that it sees, a little later each time.
fn killed() -> Result<(), Stop> {
    let (mut failed, mut lived) = (0, 0);
    for delay in (0..60).map(|step| Duration::from_micros(step * 60)) {
        let before = Leftovers::look();
        let bundle = Bundle::new();
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| kill_newborn(delay, None, &stop));
            let outcome = bundle.create().map(drop).map_err(|error| error.to_string());
            stop.store(true, Ordering::Relaxed);
            outcome
        });
        match outcome {
            Err(text) => {
                assert!(text.contains("ended before it was ready, with status 137"), "{text}");
                failed += 1;
            }
            Ok(()) => lived += 1,
        }
        drop(bundle);
        before.compare()?;
    }
    if failed == 0 { Err(format!("none of {lived} was hit").into()) } else { Ok(()) }
}

/// Later than the first of its two processes, too.
fn killed_exec() -> Result<(), Stop> {
    let live = Bundle::new().sh("exec sleep 100").start()?;
    let mut told = 0;
    for delay in (0..60).map(|step| Duration::from_micros(step * 60)) {
        let before = Leftovers::look();
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| kill_newborn(delay, Some(live.init.pid()), &stop));
            let outcome = live.exec(&super::bundle::shell("true")).map(drop).map_err(|error| error.to_string());
            stop.store(true, Ordering::Relaxed);
            outcome
        });
        if let Err(text) = outcome {
            assert_eq!(text, "the container's process ended before it was ready, with status 137");
            told += 1;
        }
        before.compare()?;
    }
    if told == 0 { Err("none was hit".into()) } else { Ok(()) }
}

fn kill_newborn(delay: Duration, except: Option<i32>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            if let Some(pid) = pids.find(|pid| Some(*pid) != except) {
                std::thread::sleep(delay);
                if !stop.load(Ordering::Relaxed) {
                    let _ = rustix::process::kill_process(
                        rustix::process::Pid::from_raw(pid).unwrap(),
                        rustix::process::Signal::KILL,
                    );
                }
                return;
            }
        }
    }
}

fn exec() -> Result<(), Stop> {
    let live = Bundle::new().sh("exec sleep 100").start()?;
    let before = Leftovers::look();
    let shell = super::bundle::shell("true");
    let faults: [(&str, Value); 4] = [
        ("args", json!(["none"])),
        ("cwd", json!("/nowhere")),
        ("rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1_u64 << 40}])),
        ("capabilities", json!({"effective": ["CAP_KILL"]})),
    ];
    for (field, value) in faults {
        let mut process = shell.clone();
        process[field] = value;
        assert!(live.exec(&process).is_err(), "{field}");
        before.compare()?;
    }
    Ok(())
}

fn unwritable() -> Result<(), Stop> {
    let bundle = Bundle::new();
    fs::create_dir(bundle.dir.join("berth.json"))?;
    let text = bundle.refused()?;
    fs::remove_dir(bundle.dir.join("berth.json"))?;
    assert!(text.starts_with("write ") && text.contains("/berth.json: "), "{text}");
    let bundle = Bundle::new();
    fs::create_dir(bundle.dir.join("init.pid"))?;
    let text = bundle.refused()?;
    fs::remove_dir(bundle.dir.join("init.pid"))?;
    assert!(text.starts_with("write ") && text.contains("/init.pid: "), "{text}");
    Ok(())
}
