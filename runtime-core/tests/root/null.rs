//! Whatever of the host's devices a container gets to hold: it changes neither owner nor mode of them.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use runtime_core::container::Stdio;
use runtime_core::sources;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::{Value, json};

use super::bundle::{Bundle, files, scratch, shell};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("masked_file_does_not_give_the_hosts_null_away", masked),
    ("stdio_of_nobody_does_not_give_the_hosts_null_away", unwanted_stdio),
    ("stdio_on_the_hosts_null_stays_the_hosts", stdio_of_a_user),
    ("stdio_of_nobody_is_the_containers_own_null", own_null),
    ("exec_runs_where_the_program_has_spoilt_its_null", spoilt),
    ("device_bound_from_the_host_stays_the_hosts", bound_node),
    ("dev_bound_from_the_host_stays_the_hosts", bound_dev),
];

/// Runs a trial on a host whose /dev/null is a node of the trial's own, and looks at that afterwards.
fn on_a_host_with_a_null_of_its_own(trial: impl FnOnce(&Path) -> Result<(), Stop>) -> Result<(), Stop> {
    let dev = scratch().join("dev");
    fs::create_dir(&dev)?;
    let null = dev.join("null");
    mknodat(CWD, &null, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3))?;
    fs::set_permissions(&null, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let before = owner(&null);
    mount_bind(&null, "/dev/null")?;
    let outcome = trial(&dev);
    unmount("/dev/null", UnmountFlags::DETACH)?;
    let after = owner(&null);
    fs::remove_dir_all(&dev)?;
    outcome?;
    assert_eq!(after, before, "owner, group and mode of the host's /dev/null");
    Ok(())
}

fn owner(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode())
}

/// What a container's root tries, and that the device still is one.
fn theft(path: &str) -> String {
    format!("chown 1000:1000 {path}; chmod 0 {path}; echo x >{path} && echo written")
}

fn masked() -> Result<(), Stop> {
    on_a_host_with_a_null_of_its_own(|_| {
        let bundle = Bundle::new().set("/linux/maskedPaths", json!(["/etc/one", "/etc/other"]));
        for name in ["/etc/one", "/etc/other"] {
            fs::write(bundle.image(name), "secret")?;
        }
        let script = format!("{}; {}; cat /etc/one /etc/other", theft("/etc/one"), theft("/etc/other"));
        let output = bundle.sh(&script).run()?;
        assert_eq!(output.stdout, "written\nwritten\n", "{output:?}");
        assert_eq!(output.stderr.matches("Read-only file system").count(), 4, "{output:?}");
        Ok(())
    })
}

/// As the shim gives it.
fn nobodys() -> Result<Stdio, Stop> {
    Ok(Stdio::Files([sources::null()?, sources::null()?, sources::null()?]))
}

/// To an init whose /dev has none in whose place it could come, and to an exec.
fn unwanted_stdio() -> Result<(), Stop> {
    on_a_host_with_a_null_of_its_own(|_| {
        let script = format!("({}) >/tmp/said 2>&1", theft("/proc/self/fd/0"));
        let bundle = Bundle::new().without_mount("/dev").sh(&format!("{script}; exec sleep 100"));
        let empty = bundle.dir.join("volume");
        fs::create_dir(&empty)?;
        let bind = json!({"destination": "/dev", "type": "bind", "source": empty, "options": ["bind"]});
        let bundle = bundle.with_mount(bind);
        let said = || -> Result<String, Stop> {
            let said = fs::read_to_string(bundle.image("/tmp/said"))?;
            fs::remove_file(bundle.image("/tmp/said"))?;
            Ok(said)
        };
        let refused = |said: &str| said.matches("Read-only file system").count() == 2 && said.ends_with("\nwritten\n");
        let live = bundle.create_with(nobodys()?, files("").1)?;
        live.container.start()?;
        let first = until_written(&bundle.image("/tmp/said"), "written\n").and_then(|()| said())?;
        assert!(refused(&first), "{first}");
        live.exec_with(&shell(&script), nobodys()?, files("").1)?.wait();
        let exec = said()?;
        assert!(refused(&exec), "{exec}");
        Ok(())
    })
}

fn until_written(path: &Path, end: &str) -> Result<(), Stop> {
    for _ in 0..1000 {
        if fs::read_to_string(path).is_ok_and(|text| text.ends_with(end)) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Err(format!("{end:?} was not written to {}", path.display()).into())
}

/// Where the container has one; what was given is a file of the host's, which has no path inside.
fn own_null() -> Result<(), Stop> {
    let script = "for fd in 0 1 2; do readlink /proc/self/fd/$fd; stat -L -c %d:%i /proc/self/fd/$fd; done >/tmp/said; \
        stat -c %d:%i /dev/null >/tmp/own; echo up >/tmp/up; exec sleep 100";
    let bundle = Bundle::new().sh(script);
    let live = bundle.create_with(nobodys()?, files("").1)?;
    live.container.start()?;
    until_written(&bundle.image("/tmp/up"), "up\n")?;
    let own = fs::read_to_string(bundle.image("/tmp/own"))?;
    let said = || fs::read_to_string(bundle.image("/tmp/said"));
    // 1 is the file that the shell writes to.
    let expected = format!("/dev/null\n{own}");
    assert!(said()?.starts_with(&expected) && said()?.ends_with(&expected), "{}", said()?);
    fs::remove_file(bundle.image("/tmp/said"))?;
    let exec = script.replace("exec sleep 100", "true");
    assert_eq!(live.exec_with(&shell(&exec), nobodys()?, files("").1)?.wait().status, 0);
    assert!(said()?.starts_with(&expected) && said()?.ends_with(&expected), "{}", said()?);
    Ok(())
}

fn spoilt() -> Result<(), Stop> {
    let live = Bundle::new().sh("exec sleep 100").start()?;
    for spoil in ["rm /dev/null", "echo x >/dev/null", "ln -sf zero /dev/null", "rm /dev/null; mkfifo /dev/null"] {
        live.sh(spoil)?.success()?;
        let mut exec =
            live.exec_with(&shell("test $(stat -L -c %t:%T /proc/self/fd/0) = 1:3"), nobodys()?, files("").1)?;
        assert_eq!(exec.wait().status, 0, "{spoil}");
    }
    Ok(())
}

/// As `berth run -d </dev/null` gives it.
fn stdio_of_a_user() -> Result<(), Stop> {
    on_a_host_with_a_null_of_its_own(|_| {
        let open = || -> Result<OwnedFd, Stop> { Ok(File::options().read(true).write(true).open("/dev/null")?.into()) };
        let given = || -> Result<Stdio, Stop> { Ok(Stdio::Files([open()?, open()?, open()?])) };
        let bundle = Bundle::new().set("/process/user", json!({"uid": 1000, "gid": 1000})).args(&["sleep", "100"]);
        let live = bundle.create_with(given()?, files("").1)?;
        live.container.start()?;
        let mut process = shell("true");
        process["user"] = json!({"uid": 1000, "gid": 1000});
        assert_eq!(live.exec_with(&process, given()?, files("").1)?.wait().status, 0);
        // An init gets the container's own in its place, and may do with that what it likes.
        let mut live = Bundle::new().sh(&theft("/proc/self/fd/0")).create_with(given()?, files("").1)?;
        live.container.start()?;
        live.init.wait();
        Ok(())
    })
}

fn device(path: &str) -> Value {
    json!({"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 1000, "gid": 1000})
}

fn bound_node() -> Result<(), Stop> {
    on_a_host_with_a_null_of_its_own(|dev| {
        let bind =
            |to: &str| json!({"destination": to, "type": "bind", "source": dev.join("null"), "options": ["bind"]});
        let bundle = Bundle::new().with_mount(bind("/dev/null")).with_mount(bind("/mnt/null"));
        let bundle = bundle.set("/linux/devices", json!([device("/dev/null"), device("/mnt/null")]));
        let said = bundle.sh("stat -c '%a %u:%g' /dev/null /mnt/null").says()?;
        assert_eq!(said, "666 0:0\n666 0:0");
        Ok(())
    })
}

fn bound_dev() -> Result<(), Stop> {
    on_a_host_with_a_null_of_its_own(|dev| {
        for user in [0, 1000] {
            let bind = json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]});
            let bundle = Bundle::new().without_mount("/dev").with_mount(bind);
            let bundle = bundle.set("/linux/devices", json!([device("/dev/null")]));
            let bundle = bundle.set("/process/user", json!({"uid": user, "gid": user}));
            let said = bundle.sh("stat -c '%a %u:%g' /dev/null; echo x >/dev/null && echo written").says()?;
            assert_eq!(said, "666 0:0\nwritten");
            assert_eq!(fs::read_dir(dev)?.count(), 1, "something was made in the host's /dev");
        }
        Ok(())
    })
}
