//! `--mount`, the mounts of the default spec, and the root file system.

use crate::Scenario;
use anyhow::{Result, ensure};
use berth_tests::scene::{Runtime, Scene};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

pub fn scenarios() -> Vec<Scenario> {
    let mut all = crate::scenarios![Both:
        the_default_mounts_are_there,
        a_read_only_root_cannot_be_written,
        private_mounts_are_private,
        rprivate_mounts_are_private,
        shared_mounts_go_both_ways,
        rshared_mounts_go_both_ways,
        slave_mounts_come_in_only,
        rslave_mounts_come_in_only,
        unbindable_mounts_are_private,
        runbindable_mounts_are_private,
        bind_options_are_applied,
        a_nested_mount_comes_with_rbind_only,
        a_file_can_be_bound,
        a_destination_is_made_when_missing,
        a_destination_never_leaves_the_root,
        tmpfs_options_are_applied,
        masked_and_read_only_paths_hold,
        the_root_has_the_propagation_asked_for,
        an_overlay_of_the_users_own,
        ids_of_the_image_are_kept,
        a_root_of_the_native_snapshotter_is_bound,
    ];
    all.extend(crate::scenarios![Berth: no_mount_shows_on_the_host]);
    all
}

/// The mount table from inside, with what differs from run to run taken out: ids, and whose peer group it is.
const TABLE: &str = r#"awk '{ o = ""; for (i = 7; $i != "-"; i++) { split($i, f, ":"); o = o f[1] " " };
    source = $(i+2); options = $(i+3); if ($(i+1) == "overlay") { source = "SOURCE"; options = "OPTIONS" }
    # A mount made read-only by its own flag or by its superblock is read-only; the mask of a directory is an empty tmpfs.
    if ($(i+1) == "sysfs" || ($(i+1) == "tmpfs" && $6 ~ /^ro/)) { source = "SOURCE"; options = "OPTIONS" }
    # A root that is mounted on a host whose own root is shared receives from there; ours is not mounted on the host.
    if ($5 == "/" && o == "master ") { o = "" }
    # Which null device hides a file means nothing.
    if ($4 == "/null") { $6 = o = $(i+1) = source = options = "" }
    gsub(/size=[0-9]*k/, "size=N", options); gsub(/nr_inodes=[0-9]*/, "nr_inodes=N", options);
    print $4, $5, $6, o, $(i+1), source, options }' /proc/self/mountinfo | sort"#;

fn the_default_mounts_are_there(scene: &Scene<'_>) -> Result<()> {
    scene.see("mountinfo", scene.sh(&[], "a", TABLE)?.success()?);
    scene.see("privileges", scene.sh(&["--net-host"], "b", TABLE)?.success()?);
    Ok(())
}

fn a_read_only_root_cannot_be_written(scene: &Scene<'_>) -> Result<()> {
    let script =
        "touch /new; touch /etc/passwd; mount -o remount,rw /; touch /dev/shm/new && touch /run/new && echo written";
    scene.see("read-only", scene.sh(&["--read-only"], "a", &format!("{script}; {TABLE}"))?);
    scene.see(
        "with CAP_SYS_ADMIN",
        scene.sh(
            &["--read-only", "--cap-add", "CAP_SYS_ADMIN"],
            "b",
            "mount -t tmpfs x /tmp && touch /tmp/new && echo written",
        )?,
    );
    Ok(())
}

/// A directory on a shared tmpfs of the host, so that propagation has something to go through. Unmounted on drop.
struct Shared(PathBuf);

impl Shared {
    fn new(scene: &Scene<'_>) -> Result<Shared> {
        let directory = scene.scratch()?.join("shared");
        fs::create_dir_all(&directory)?;
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), None)?;
        let shared = Shared(directory);
        mount_change(&shared.0, MountPropagationFlags::SHARED)?;
        for sub in ["before", "host", "inside"] {
            fs::create_dir(shared.0.join(sub))?;
        }
        mount("tmpfs", shared.0.join("before"), "tmpfs", MountFlags::empty(), None)?;
        fs::write(shared.0.join("before/file"), "before")?;
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for sub in ["inside", "host", "before", ""] {
            let _ = unmount(self.0.join(sub), UnmountFlags::DETACH);
        }
    }
}

/// Runs a container over such a directory, mounts on both sides while it runs, and writes down what each side sees.
fn see_propagation(scene: &Scene<'_>, options: &str) -> Result<()> {
    // As CRI does: what is to come out needs a shared root.
    let root = if options.contains("shared") { "rshared" } else { "" };
    let shared = Shared::new(scene)?;
    let flag = format!("type=bind,src={},dst=/mnt,options={options}", shared.0.display());
    scene.sleeper(&["--mount", &flag, "--cap-add", "CAP_SYS_ADMIN", "--rootfs-propagation", root], "a")?;
    mount("tmpfs", shared.0.join("host"), "tmpfs", MountFlags::empty(), None)?;
    fs::write(shared.0.join("host/file"), "host")?;
    let script = format!("ls /mnt/*; mount -t tmpfs x /mnt/inside && touch /mnt/inside/file; {TABLE} | grep /mnt");
    let id = scene.id("a");
    scene.see("inside", scene.ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", &script])?);
    scene.see("on the host", shared.0.join("inside/file").exists());
    scene.discard("a")
}

fn private_mounts_are_private(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "bind:private:rw")
}

fn rprivate_mounts_are_private(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "rbind:rprivate:rw")
}

fn shared_mounts_go_both_ways(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "bind:shared:rw")
}

fn rshared_mounts_go_both_ways(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "rbind:rshared:rw")
}

fn slave_mounts_come_in_only(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "bind:slave:rw")
}

fn rslave_mounts_come_in_only(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "rbind:rslave:rw")
}

fn unbindable_mounts_are_private(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "bind:unbindable")
}

fn runbindable_mounts_are_private(scene: &Scene<'_>) -> Result<()> {
    see_propagation(scene, "rbind:runbindable")
}

fn bind_options_are_applied(scene: &Scene<'_>) -> Result<()> {
    let directory = scene.scratch()?.join("bound");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("file"), "content\n")?;
    for (name, options) in [
        ("a", "rbind:ro"),
        ("b", "bind:ro:nosuid:nodev:noexec"),
        ("c", "bind:rw:noatime"),
        ("d", "rbind:ro:rw"),
        ("e", "bind:ro:relatime:nodiratime"),
    ] {
        let flag = format!("type=bind,src={},dst=/mnt,options={options}", directory.display());
        let script = format!("cat /mnt/file; touch /mnt/new && echo written; rm -f /mnt/new; {TABLE} | grep /mnt");
        scene.see(options, scene.sh(&["--mount", &flag], name, &script)?);
    }
    Ok(())
}

fn a_nested_mount_comes_with_rbind_only(scene: &Scene<'_>) -> Result<()> {
    let shared = Shared::new(scene)?;
    for (name, options) in [("a", "bind:ro"), ("b", "rbind:ro"), ("c", "rbind:rro")] {
        let flag = format!("type=bind,src={},dst=/mnt,options={options}", shared.0.display());
        let script = format!(
            "ls /mnt/before; touch /mnt/before/new && echo written below; touch /mnt/new && echo written; rm -f /mnt/before/new; {TABLE} | grep /mnt"
        );
        scene.see(options, scene.sh(&["--mount", &flag], name, &script)?);
    }
    Ok(())
}

fn a_file_can_be_bound(scene: &Scene<'_>) -> Result<()> {
    let file = scene.scratch()?.join("file");
    fs::write(&file, "from the host\n")?;
    let over = format!("type=bind,src={},dst=/etc/passwd,options=bind:ro", file.display());
    let missing = format!("type=bind,src={},dst=/etc/deep/er/new,options=bind:ro", file.display());
    scene.see(
        "files",
        scene.sh(
            &["--mount", &over, "--mount", &missing],
            "a",
            "cat /etc/passwd /etc/deep/er/new; ls -ld /etc/deep /etc/deep/er | cut -c1-10",
        )?,
    );
    Ok(())
}

fn a_destination_is_made_when_missing(scene: &Scene<'_>) -> Result<()> {
    scene.see(
        "made",
        scene.sh(
            &["--mount", "type=tmpfs,src=tmpfs,dst=/made/for/this,options=rw"],
            "a",
            "ls -ld /made /made/for /made/for/this | cut -c1-10; touch /made/for/this/x",
        )?,
    );
    Ok(())
}

fn a_destination_never_leaves_the_root(scene: &Scene<'_>) -> Result<()> {
    let secret = scene.scratch()?.join("outside");
    fs::create_dir_all(&secret)?;
    let escape = |spec: &mut Value| {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.push(json!({ "destination": "/srv/escape/sub", "type": "tmpfs", "source": "tmpfs" }));
            mounts.push(
                json!({ "destination": "/srv/up/../../../../../../srv/dots", "type": "tmpfs", "source": "tmpfs" }),
            );
        }
    };
    // A link in the image that points at a directory of the host, by its absolute path and by climbing.
    let rootfs = scene.rootfs()?;
    std::os::unix::fs::symlink(&secret, rootfs.join("srv/escape"))?;
    let outcome = scene.run_spec(&["--rm"], "a", &["sh", "-c", TABLE], escape)?;
    scene.see("run", outcome);
    ensure!(!secret.join("sub").exists(), "a directory was made on the host");
    Ok(())
}

fn tmpfs_options_are_applied(scene: &Scene<'_>) -> Result<()> {
    let flag = "type=tmpfs,src=tmpfs,dst=/mnt,options=nosuid:noexec:nodev:size=65536:mode=0711:uid=7:gid=8";
    scene.see("inside", scene.sh(&["--mount", flag], "a", &format!("ls -lnd /mnt | cut -c1-20; dd if=/dev/zero of=/mnt/f bs=1k count=100 2>&1 | head -n 1; {TABLE} | grep /mnt"))?);
    Ok(())
}

fn masked_and_read_only_paths_hold(scene: &Scene<'_>) -> Result<()> {
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/acpi /proc/scsi /sys/firmware; do echo $f; cat $f 2>&1 | head -c 100; ls -A $f; done; \
        for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/x /proc/bus/x /proc/fs/x /sys/x; do echo x 2>&1 > $f; done";
    scene.see("default", scene.sh(&[], "a", script)?);
    let paths = |spec: &mut Value| {
        spec["linux"]["maskedPaths"] = json!(["/etc/passwd", "/home", "/not/there"]);
        spec["linux"]["readonlyPaths"] = json!(["/tmp", "/etc/group", "/not/there"]);
    };
    let script =
        format!("cat /etc/passwd; ls /home; touch /tmp/x; echo >> /etc/group; {TABLE} | grep -E '/etc|/home|/tmp'");
    scene.see("of the spec", scene.run_spec(&["--rm"], "b", &["sh", "-c", &script], paths)?);
    Ok(())
}

fn the_root_has_the_propagation_asked_for(scene: &Scene<'_>) -> Result<()> {
    let kinds = ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "nonsense"];
    for (index, propagation) in kinds.into_iter().enumerate() {
        let script = format!("{TABLE} | grep '^/ / '");
        let outcome = scene.sh(&["--rootfs-propagation", propagation], &format!("p{index}"), &script)?;
        scene.see(propagation, outcome.code);
        // runc leaves its root private where shared is asked for: the mount it pivots to has a private parent.
        let kept = propagation.trim_start_matches('r');
        if scene.runtime == Runtime::Berth && ["shared", "unbindable"].contains(&kept) {
            ensure!(outcome.stdout.contains(kept), "{propagation}: {outcome}");
        }
    }
    Ok(())
}

fn an_overlay_of_the_users_own(scene: &Scene<'_>) -> Result<()> {
    let base = scene.scratch()?;
    for sub in ["lower", "upper", "work"] {
        fs::create_dir_all(base.join(sub))?;
    }
    fs::write(base.join("lower/file"), "lower\n")?;
    let base_text = base.display().to_string();
    let overlay = |spec: &mut Value| {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            let options = [
                format!("lowerdir={base_text}/lower"),
                format!("upperdir={base_text}/upper"),
                format!("workdir={base_text}/work"),
            ];
            mounts.push(json!({ "destination": "/mnt", "type": "overlay", "source": "overlay", "options": options }));
        }
    };
    scene.see("run", scene.run_spec(&["--rm"], "a", &["sh", "-c", "cat /mnt/file; echo new > /mnt/file"], overlay)?);
    scene.see("upper", fs::read_to_string(base.join("upper/file")).unwrap_or_default());
    Ok(())
}

fn ids_of_the_image_are_kept(scene: &Scene<'_>) -> Result<()> {
    scene.see("modes", scene.sh(&[], "a", "ls -ln / /etc | awk '{ print $1, $3, $4, $9 }'; ls -ld / | cut -c1-10")?);
    Ok(())
}

fn a_root_of_the_native_snapshotter_is_bound(scene: &Scene<'_>) -> Result<()> {
    let flags = ["--snapshotter", "native"];
    scene.see("run", scene.sh(&flags, "a", "ls /; echo written > /srv/new; cat /srv/new")?);
    scene.see("read-only", scene.sh(&["--snapshotter", "native", "--read-only"], "b", "touch /srv/new")?);
    Ok(())
}

fn no_mount_shows_on_the_host(scene: &Scene<'_>) -> Result<()> {
    let directory = scene.scratch()?;
    let flag = format!("type=bind,src={},dst=/mnt,options=rbind:rshared", directory.display());
    let id = scene.sleeper(&["--mount", &flag], "a")?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let shown: Vec<&str> = table.lines().filter(|line| line.contains(scene.tag())).collect();
    ensure!(shown.is_empty(), "the host sees:\n{}", shown.join("\n"));
    // And no program beside the shim is between containerd and the container.
    let parent = fs::read_to_string(format!("/proc/{}/status", scene.pid("a")?))?;
    let parent = parent.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default().trim().to_owned();
    ensure!(parent == scene.containerd.shim_pid(&id)?.to_string(), "init's parent is {parent}");
    scene.discard("a")
}
