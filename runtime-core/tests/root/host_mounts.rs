//! Containers without a mount namespace: what they mount is the host's, and has to go with them.

use std::fs;

use runtime_core::container::destroy;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use serde_json::json;

use super::bundle::{Bundle, runtime};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("container_without_a_mount_namespace_lives_in_the_host's", lives),
    ("create_that_fails_leaves_no_mount_on_the_host", fails),
    ("mounts_on_the_host_go_after_a_crash", crash),
    ("mount_of_somebody_else_on_the_same_place_stays", neighbour),
    ("hooks_see_the_root_that_is_mounted_on_the_host", hook),
];

fn bundle() -> Bundle {
    let none = json!([]);
    Bundle::new().namespace("mount", None).set("/linux/maskedPaths", none.clone()).set("/linux/readonlyPaths", none)
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// How many mounts of the host are at or below the root of a bundle.
fn mounted(bundle: &Bundle) -> usize {
    let root = bundle.dir.join("rootfs").display().to_string();
    mountinfo().lines().filter(|line| line.split(' ').nth(4).is_some_and(|place| place.starts_with(&root))).count()
}

fn lives() -> Result<(), Stop> {
    let before = mountinfo();
    let bundle = bundle().sh("readlink /proc/self/ns/mnt; pwd; ls /; touch /made; echo up; exec sleep 100");
    {
        let mut live = bundle.start()?;
        let said = live.init.up();
        let own = fs::read_link("/proc/self/ns/mnt")?;
        let expected = format!("{}\n/\n", own.display());
        assert!(said.starts_with(&expected) && said.lines().any(|name| name == "bin"), "{said}");
        assert!(!said.contains("lost+found") && !said.contains("boot"), "{said}");
        // /, /proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys, /run
        assert_eq!(mounted(&bundle), 8);
        assert!(mountinfo().lines().take(before.lines().count()).eq(before.lines()), "the host's own stay as they are");
        let script = format!(
            "pwd; ls -d /made /bin/busybox; test -e {} || echo apart; readlink /proc/self/ns/mnt",
            bundle.dir.display()
        );
        let said = live.sh(&script)?;
        assert_eq!(said.success()?, format!("/\n/bin/busybox\n/made\napart\n{}", own.display()));
    }
    assert_eq!(mountinfo(), before);
    Ok(())
}

fn fails() -> Result<(), Stop> {
    let before = mountinfo();
    let bundle = bundle().with_mount(json!({"destination": "/x", "type": "nonsense", "source": "none"}));
    assert_eq!(bundle.refused()?, "mount nonsense none on /x: no such device");
    assert_eq!(mountinfo(), before);
    Ok(())
}

fn crash() -> Result<(), Stop> {
    let before = mountinfo();
    let bundle = bundle().sh("sleep 100");
    let mut live = bundle.start()?;
    assert_eq!(mounted(&bundle), 8);
    assert!(destroy(&bundle.dir, &runtime().children)?.is_empty());
    assert_eq!(mountinfo(), before);
    live.init.wait();
    Ok(())
}

/// As an engine has a root file system mounted where config.json looks for it.
fn neighbour() -> Result<(), Stop> {
    let bundle = bundle().sh("true");
    let root = bundle.dir.join("rootfs");
    mount_bind(&root, &root)?;
    mount_change(&root, MountPropagationFlags::PRIVATE)?;
    let before = mountinfo();
    for failing in [false, true] {
        let source = if failing { "nonsense" } else { "tmpfs" };
        let mount = json!({"destination": "/x", "type": source, "source": "none"});
        let result = Bundle { id: bundle.id.clone(), dir: bundle.dir.clone(), ..self::bundle().sh("true") }
            .with_mount(mount)
            .run();
        assert_eq!(result.is_err(), failing);
        assert_eq!(mountinfo(), before);
    }
    unmount(&root, UnmountFlags::DETACH)?;
    Ok(())
}

fn hook() -> Result<(), Stop> {
    let seen = |bundle: &Bundle| {
        json!([{
            "path": "/bin/sh", "args": ["sh", "-c", format!("test -e {}/proc/1/ns", bundle.dir.join("rootfs").display())]
        }])
    };
    let bundle = bundle().sh("true");
    let hooks = json!({"createRuntime": seen(&bundle), "createContainer": seen(&bundle)});
    bundle.set("/hooks", hooks).says()?;
    Ok(())
}
