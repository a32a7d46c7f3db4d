//! Hooks: when they run, where, as whom, and what becomes of a container when one fails.

use std::fs;
use std::time::{Duration, Instant};

use runtime_core::container::destroy;
use serde_json::{Value, json};

use super::bundle::{Bundle, runtime};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("hooks_run_in_their_order_with_the_state", order),
    ("create_container_hook_prepares_the_root_from_the_container's_namespaces", create_container),
    ("hooks_of_a_container_with_ids_of_its_own_run_inside_it", user_namespace),
    ("root_attached_for_hooks_is_left_without_pivot_too", no_pivot),
    ("hook_that_fails_at_create_leaves_nothing", failed_create),
    ("hook_that_fails_at_start_stops_the_container", failed_start),
    ("hook_that_fails_after_start_stops_the_container", failed_poststart),
    ("hook_that_fails_after_delete_is_told_and_stops_nothing", failed_poststop),
    ("hooks_take_no_longer_than_they_may", timeouts),
    ("hook_in_the_container_has_the_program's_rights_and_no_descriptor", rights),
    ("poststop_hooks_run_after_a_crash", crash),
];

/// `sh -c` as a hook.
fn sh(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin:/sbin"]})
}

/// Appends a line with the state to a file of the bundle, or of the container.
fn log(bundle: &Bundle, name: &str) -> Value {
    sh(&format!("{{ echo -n '{name} '; cat; echo; }} >> {}/log", bundle.dir.display()))
}

fn states(text: &str) -> Vec<(String, Value)> {
    let line = |line: &str| {
        let (name, state) = line.split_once(' ').unwrap();
        (name.to_owned(), serde_json::from_str(state).unwrap_or_else(|error| panic!("{line}: {error}")))
    };
    text.lines().map(line).collect()
}

fn order() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("echo program; sleep 100").set("/annotations", json!({"a": "1"}));
    let hooks = json!({
        "poststop": [log(&bundle, "stop")],
        "poststart": [log(&bundle, "poststart")],
        "startContainer": [sh("{ echo -n 'start '; cat; echo; } >> /log")],
        "createContainer": [log(&bundle, "container1"), log(&bundle, "container2")],
        "createRuntime": [log(&bundle, "runtime1"), log(&bundle, "runtime2")],
        "prestart": [log(&bundle, "prestart")],
    });
    let bundle = bundle.set("/hooks", hooks);
    let said = || fs::read_to_string(bundle.dir.join("log")).unwrap_or_default();
    let live = bundle.create()?;
    let names = |text: &str| states(text).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&said()), ["prestart", "runtime1", "runtime2", "container1", "container2"]);
    assert!(!bundle.image("/log").exists());
    live.container.start()?;
    assert_eq!(names(&said())[5..], ["poststart"]);
    let pid = live.init.pid();
    drop(live);
    let all = states(&said());
    assert_eq!(all[6..].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["stop"]);
    for (name, state) in all.iter().chain(&states(&fs::read_to_string(bundle.image("/log"))?)) {
        let (status, expected) = match name.as_str() {
            "poststart" => ("running", json!(pid)),
            "stop" => ("stopped", Value::Null),
            // As the container counts.
            "start" | "container1" | "container2" => ("created", json!(1)),
            _ => ("created", json!(pid)),
        };
        assert_eq!((&state["status"], &state["pid"]), (&json!(status), &expected), "{name}");
        assert_eq!(state["id"], json!(bundle.id), "{name}");
        assert_eq!(state["bundle"], json!(bundle.dir.to_str()), "{name}");
        assert_eq!(state["annotations"], json!({"a": "1"}), "{name}");
    }
    Ok(())
}

/// A path of the host, the container's mounts at the root's path, and a mount of its own that stays.
fn create_container() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /mnt/note; ls /proc/self/fd | wc -l; cut -c1-3 /proc/self/mountinfo | wc -l");
    let rootfs = bundle.image("/");
    let script = format!(
        "set -e; test $(pwd) -ef {0}; test -e {0}/proc/self/ns; test -d {1}; mount -t tmpfs none {0}/mnt; \
         readlink /proc/self/ns/uts > {0}/mnt/note",
        rootfs.display().to_string().trim_end_matches('/'),
        bundle.dir.display(),
    );
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin:/sbin:/usr/sbin"]});
    let bundle = bundle.set("/hooks", json!({ "createContainer": [hook] }));
    let said = bundle.says()?;
    let ours = fs::read_link("/proc/self/ns/uts")?;
    let note = said.lines().next().unwrap_or_default();
    assert!(note.starts_with("uts:[") && note != ours.to_string_lossy(), "{said}");
    assert_eq!(said.lines().nth(1), Some("4"));
    assert_eq!(fs::read_dir(bundle.image("/mnt"))?.count(), 0, "the mount is the container's alone");
    // Nothing of the host's is mounted inside but what any container has.
    let mounts = said.lines().nth(2).unwrap_or_default().parse::<usize>()?;
    let without = Bundle::new().sh("cut -c1-3 /proc/self/mountinfo | wc -l").says()?.parse::<usize>()?;
    assert_eq!(mounts, without + 1);
    Ok(())
}

fn user_namespace() -> Result<(), Stop> {
    let script = "id -u > mnt/note; cat /proc/self/uid_map >> mnt/note";
    let bundle = super::namespaces::with_user_namespace(Bundle::new().sh("cat /mnt/note"));
    let hooks = json!({ "createContainer": [sh(script)], "startContainer": [sh("test $(id -u) = 0")] });
    let bundle = bundle.set("/hooks", hooks);
    let said = bundle.says()?;
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "0", "100000", "65536"]);
    Ok(())
}

fn no_pivot() -> Result<(), Stop> {
    let mut bundle = Bundle::new().sh("ls -d /bin/busybox /log").set("/hooks", json!({ "prestart": [sh("true")] }));
    fs::write(bundle.image("/log"), "")?;
    bundle.options.no_pivot_root = true;
    assert_eq!(bundle.says()?, "/bin/busybox\n/log");
    Ok(())
}

fn failed_create() -> Result<(), Stop> {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = Bundle::new().sh("touch /ran");
        let stop = log(&bundle, "stop");
        let hooks =
            json!({ kind: [sh("true"), sh("echo so it is; exit 7"), log(&bundle, "never")], "poststop": [stop] });
        let bundle = bundle.set("/hooks", hooks);
        let said = bundle.refused()?;
        let expected = format!("error running {kind} hook #1: /bin/sh: exit status 7, output: so it is");
        assert_eq!(said, expected);
        let log = states(&fs::read_to_string(bundle.dir.join("log"))?);
        assert_eq!(log.len(), 1, "{log:?}");
        assert_eq!(log[0].1["status"], "stopped");
        let missing = json!({ kind: [{"path": "/nonexistent"}] });
        let said = bundle.set("/hooks", missing).refused()?;
        assert_eq!(said, format!("error running {kind} hook #0: /nonexistent: no such file or directory"));
    }
    Ok(())
}

fn failed_start() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("touch /ran");
    let hooks = json!({ "startContainer": [sh("exit 3")], "poststart": [log(&bundle, "never")] });
    let bundle = bundle.set("/hooks", hooks);
    let mut live = bundle.create()?;
    let error = live.container.start().unwrap_err().to_string();
    assert_eq!(error, "error running startContainer hook #0: /bin/sh: exit status 3");
    assert!(live.init.ended_within(Duration::from_secs(5)));
    assert!(!bundle.image("/ran").exists() && !bundle.dir.join("log").exists());
    Ok(())
}

/// Not only its first process, where the others have no pid namespace that dies with it.
fn failed_poststart() -> Result<(), Stop> {
    let program = "setsid sleep 100 & touch /up; exec sleep 100";
    let failing = [sh("while ! test -e rootfs/up; do sleep 0.01; done"), sh("kill -9 $$")];
    let bundle = Bundle::new().sh(program).namespace("pid", None).set("/hooks", json!({ "poststart": failing }));
    let mut live = bundle.create()?;
    let error = live.container.start().unwrap_err().to_string();
    assert_eq!(error, "error running poststart hook #1: /bin/sh: exit status 137 (killed)");
    assert!(live.init.ended_within(Duration::from_secs(5)));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !live.container.cgroup().pids()?.is_empty() {
        assert!(Instant::now() < deadline, "{:?} live on", live.container.cgroup().pids()?);
        runtime().children.reap_orphans();
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn failed_poststop() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("true");
    let hooks = json!({ "poststop": [sh("exit 1"), log(&bundle, "stop")] });
    let bundle = bundle.set("/hooks", hooks);
    let mut live = bundle.start()?;
    live.init.wait();
    let failed = live.container.delete()?;
    assert_eq!(
        failed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["error running poststop hook #0: /bin/sh: exit status 1"]
    );
    assert!(live.container.delete()?.is_empty());
    assert_eq!(fs::read_to_string(bundle.dir.join("log"))?.lines().count(), 1);
    Ok(())
}

/// Nor are they held by a process that they left behind with their output.
fn timeouts() -> Result<(), Stop> {
    let slow = json!({"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1});
    for kind in ["createRuntime", "createContainer"] {
        let began = Instant::now();
        let said = Bundle::new().set("/hooks", json!({ kind: [slow] })).refused()?;
        assert_eq!(said, format!("error running {kind} hook #0: /bin/sleep: timed out"));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    let held = json!({"path": "/bin/sh", "args": ["sh", "-c", "sleep 3 & exit 0"], "timeout": 2});
    let began = Instant::now();
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        Bundle::new().sh("true").set("/hooks", json!({ kind: [held] })).says()?;
    }
    // Each that was held would take three seconds.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    Ok(())
}

/// The image may have made the program of a startContainer hook.
fn rights() -> Result<(), Stop> {
    let script = "{ id -u; echo $FOO $HOME; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ls /proc/self/fd; } > /tmp/note";
    let bundle = Bundle::new().sh("cat /tmp/note");
    fs::set_permissions(bundle.image("/tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let bundle = bundle
        .set("/process/user", json!({"uid": 7, "gid": 7}))
        .set("/process/capabilities", json!({"bounding": ["CAP_KILL"]}))
        .set("/process/noNewPrivileges", json!(true))
        .set("/process/env", json!(["PATH=/bin", "FOO=bar"]))
        .set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}))
        .set("/hooks", json!({ "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}] }));
    let said = bundle.says()?;
    let said: Vec<_> = said.split_whitespace().collect();
    let expected = ["7", "bar", "/", "CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"];
    assert_eq!(said[..9], expected);
    // The three, and the directory that ls reads.
    assert_eq!(said[9..], ["0", "1", "2", "3"]);
    Ok(())
}

fn crash() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("sleep 100").set("/annotations", json!({"a": "1"}));
    let hooks = json!({ "poststop": [log(&bundle, "stop"), sh("exit 1")] });
    let bundle = bundle.set("/hooks", hooks);
    let mut live = bundle.start()?;
    assert_eq!(destroy(&bundle.dir, &runtime().children)?.len(), 1);
    assert!(live.init.ended_within(Duration::from_secs(5)));
    let log = states(&fs::read_to_string(bundle.dir.join("log"))?);
    assert_eq!((log.len(), &log[0].1["annotations"]["a"]), (1, &json!("1")));
    Ok(())
}
