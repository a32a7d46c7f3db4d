//! From create to delete.

use std::fs;
use std::time::Duration;

use runtime_core::container::{ErrorKind, destroy};
use serde_json::json;

use super::bundle::{Bundle, files, runtime, shell};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("container_at_its_gate_ends_when_it_is_asked_to", asked_to_end),
    ("exit_code_is_the_programs", exit_codes),
    ("stdio_is_what_was_given", stdio),
    ("created_container_has_executed_nothing", gate),
    ("dropped_container_is_cleaned_up_by_destroy", dropped),
    ("container_starts_once", started_once),
    ("program_that_is_missing_is_named_at_create", missing_program),
    ("program_that_cannot_run_is_named", no_program),
    ("exec_has_its_own_exit_and_texts", exec),
    ("signal_reaches_the_first_process", signal),
    ("delete_ends_what_runs_and_can_be_repeated", delete),
    ("second_container_in_an_inhabited_cgroup_is_refused_and_the_first_stays", same_cgroup),
    ("create_works_while_other_threads_allocate", busy_heap),
];

fn exit_codes() -> Result<(), Stop> {
    for code in [0, 1, 42, 255] {
        assert_eq!(Bundle::new().sh(&format!("exit {code}")).run()?.status, code);
    }
    assert_eq!(Bundle::new().sh("kill -9 $$; sleep 5").namespace("pid", None).run()?.status, 128 + 9);
    Ok(())
}

fn stdio() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat; echo err >&2; ls /proc/self/fd | wc -l");
    let (stdio, output) = files("in\n");
    let mut live = bundle.create_with(stdio, output)?;
    live.container.start()?;
    let output = live.init.wait();
    // 0, 1, 2 and the directory that ls reads.
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("in\n4\n", "err\n"));
    Ok(())
}

fn gate() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("touch /ran");
    let mut live = bundle.create()?;
    std::thread::sleep(Duration::from_millis(100));
    assert!(!bundle.image("/ran").exists());
    assert!(!live.init.ended_within(Duration::ZERO));
    live.container.start()?;
    assert_eq!(live.init.wait().status, 0);
    assert!(bundle.image("/ran").exists());
    Ok(())
}

/// Nobody calls delete: the gate closes, the process ends by itself, and the rest is on disk.
fn dropped() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("touch /ran");
    let mut live = bundle.create()?;
    let record = fs::read(bundle.dir.join("berth.json"))?;
    let pid = fs::read_to_string(bundle.dir.join("init.pid"))?;
    assert_eq!(pid, live.init.pid().to_string());
    live.container.delete()?;
    assert!(live.init.ended_within(Duration::from_secs(5)));
    assert!(!bundle.image("/ran").exists());
    drop(live);
    fs::write(bundle.dir.join("berth.json"), record)?;
    destroy(&bundle.dir, &runtime().children)?;
    destroy(&bundle.dir, &runtime().children)?;
    Ok(())
}

fn started_once() -> Result<(), Stop> {
    let live = Bundle::new().sh("sleep 100").start()?;
    let error = live.container.start().unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::FailedPrecondition, "the container was started before")
    );
    Ok(())
}

fn missing_program() -> Result<(), Stop> {
    let text = Bundle::new().args(&["nothing"]).refused()?;
    assert_eq!(text, "unable to start container process: exec: \"nothing\": executable file not found in $PATH");
    let text = Bundle::new().args(&["/no/thing"]).refused()?;
    assert_eq!(
        text,
        "unable to start container process: exec: \"/no/thing\": stat /no/thing: no such file or directory"
    );
    Ok(())
}

fn no_program() -> Result<(), Stop> {
    let bundle = Bundle::new().args(&["/etc/plain"]);
    fs::write(bundle.image("/etc/plain"), "")?;
    assert_eq!(bundle.refused()?, "unable to start container process: exec: \"/etc/plain\": permission denied");
    let text = Bundle::new().args(&["/etc"]).refused()?;
    assert_eq!(text, "unable to start container process: exec: \"/etc\": is a directory");
    // What only execve can tell comes with the start.
    let bundle = Bundle::new().args(&["/bin/noise"]);
    fs::write(bundle.image("/bin/noise"), [7; 100])?;
    fs::set_permissions(bundle.image("/bin/noise"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut live = bundle.create()?;
    let text = live.container.start().unwrap_err().to_string();
    assert_eq!(text, "unable to start container process: exec /bin/noise: exec format error");
    assert!(live.init.ended_within(Duration::from_secs(5)));
    Ok(())
}

fn exec() -> Result<(), Stop> {
    let live = Bundle::new().sh("sleep 100").start()?;
    let output = live.sh("echo out; echo err >&2; exit 7")?;
    assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
    let mut process = shell("");
    process["args"] = json!(["nothing"]);
    let text = live.exec(&process).err().ok_or("it ran")?.to_string();
    assert_eq!(text, "unable to start container process: exec: \"nothing\": executable file not found in $PATH");
    process["args"] = json!(["true"]);
    process["cwd"] = json!("/nowhere");
    let text = live.exec(&process).err().ok_or("it ran")?.to_string();
    assert_eq!(text, "chdir to cwd (\"/nowhere\") set in config.json failed: no such file or directory");
    // In the same namespaces, root and cgroup.
    let names = "cgroup ipc mnt net pid uts".split(' ');
    for name in names {
        let init = fs::read_link(format!("/proc/{}/ns/{name}", live.init.pid()))?;
        assert_eq!(live.sh(&format!("readlink /proc/self/ns/{name}"))?.success()?, init.to_string_lossy());
    }
    let of_init = fs::read_to_string(format!("/proc/{}/cgroup", live.init.pid()))?;
    assert_eq!(live.sh("cat /proc/self/cgroup")?.success()?, of_init.trim_end());
    Ok(())
}

fn signal() -> Result<(), Stop> {
    let mut live = Bundle::new().sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done").start()?;
    live.init.up();
    live.container.signal(15)?;
    assert_eq!(live.init.wait().status, 5);
    let error = live.container.signal(15).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NotFound, "process already finished"));
    Ok(())
}

fn delete() -> Result<(), Stop> {
    let mut live = Bundle::new().sh("sleep 100 & sleep 100 & echo up; wait").start()?;
    live.init.up();
    live.container.cgroup().freeze()?;
    live.container.delete()?;
    assert_eq!(live.init.wait().status, 137);
    live.container.delete()?;
    Ok(())
}

fn same_cgroup() -> Result<(), Stop> {
    let first = Bundle::new().sh("sleep 100");
    let mut live = first.start()?;
    let second = Bundle::new().set("/linux/cgroupsPath", first.spec["linux"]["cgroupsPath"].clone());
    let error = second.create().err().ok_or("it was created")?;
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(!live.init.ended_within(Duration::from_millis(100)));
    Ok(())
}

/// A lock of the heap that somebody holds at the clone is held in the child for ever.
fn busy_heap() -> Result<(), Stop> {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let noise = || {
            while !stop.load(order) {
                drop(std::hint::black_box(vec![0_u8; 3000]));
            }
        };
        scope.spawn(noise);
        scope.spawn(noise);
        let outcomes: Vec<_> = (0..20).map(|_| Bundle::new().run().map(|output| output.status)).collect();
        stop.store(true, order);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(0))), "{outcomes:?}");
    });
    Ok(())
}

fn asked_to_end() -> Result<(), Stop> {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        let mut live = Bundle::new().sh("touch /ran").create()?;
        live.container.signal(libc::SIGUSR1)?;
        live.container.signal(signal)?;
        assert_eq!(live.init.wait().status, 128 + signal as u32);
        assert!(live.container.start().is_err());
    }
    Ok(())
}
