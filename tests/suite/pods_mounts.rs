//! What of the host a pod's containers see, and what of each other's mounts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::command::poll;
use berth_tests::cri::kubelet::Kubelet;
use berth_tests::cri::v1::MountPropagation::{
    self, PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
};
use berth_tests::scene::Runtime;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Pods:
        the_mount_table_is_as_with_runc,
        host_paths_are_mounted,
        a_target_behind_a_link_stays_inside,
        private_mounts_see_nothing_new,
        the_hosts_new_mounts_reach_the_container,
        mounts_go_both_ways,
        containers_share_a_volume,
        nothing_is_left_in_the_hosts_mount_table,
    ]
}

/// The mount table without ids and without what overlay is made of: root, target, options, propagation, type, more.
/// Sorted: the order is that of the mounts' making, which is the runtime's own. A mask's file system is, too: runc's is
/// read-only, Berth's has room for nothing. And Berth's cgroup tmpfs is read-only where the spec asks for it.
const TABLE: &str = r#"awk '{ dash = 7; while ($dash != "-") dash++; shared = "";
    for (i = 7; i < dash; i++) { sub(/:[0-9]+/, "", $i); shared = shared " " $i }
    more = $(dash + 3); if ($(dash + 1) == "overlay" || $5 ~ /^.proc./) more = ""; sub(/inode64,?/, "", more);
    # Where the host's root is shared, a root that is mounted on the host receives from there; ours is not mounted there.
    if ($5 == "/" && shared == " master") shared = "";
    if ($5 == "/sys/fs/cgroup") sub(/^r[ow]/, "", $6);
    print $4, $5, $6, shared, $(dash + 1), more }' /proc/self/mountinfo | sort"#;

fn the_mount_table_is_as_with_runc(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    k.see("default", k.told(&sandbox, &pod, &k.script(&pod, "default", TABLE))?);
    let readonly = k.script(&pod, "readonly", TABLE).secured(|s| {
        s.readonly_rootfs = true;
        s.masked_paths = vec!["/proc/kcore".to_owned(), "/proc/acpi".to_owned()];
        s.readonly_paths = vec!["/proc/sys".to_owned()];
    });
    k.see("read-only", k.told(&sandbox, &pod, &readonly)?);
    Ok(())
}

fn host_paths_are_mounted(k: &Kubelet<'_>) -> Result<()> {
    let host = k.scene.scratch()?.join("host");
    fs::create_dir_all(host.join("below"))?;
    fs::write(host.join("file"), "of the host\n")?;
    fs::write(host.join("below/deep"), "deep\n")?;
    std::os::unix::fs::symlink("file", host.join("link"))?;
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = format!(
        "cat /data/file /data/below/deep /made/for/it/file /one-file /link /etc/passwd; echo a >/data/new && echo written; \
         echo b >/made/for/it/new || echo refused; echo c >>/one-file && echo appended; ls -A /missing; \
         stat -c '%F' /data /one-file /link /missing /outer/inner; {TABLE} | grep -E 'data|made|one-file|link|passwd|outer'"
    );
    let private = PropagationPrivate;
    let container = k
        .script(&pod, "reader", &script)
        .mount(&host, "/data", private, false)
        .mount(&host, "/made/for/it", private, true)
        .mount(&host.join("file"), "/one-file", private, false)
        .mount(&host.join("link"), "/link", private, true)
        .mount(&host.join("file"), "/etc/passwd", private, true)
        .mount(&host.join("missing"), "/missing", private, false)
        .mount(&host.join("below"), "/outer/inner", private, true)
        .mount(&host, "/outer", private, false);
    k.see("inside", k.told(&sandbox, &pod, &container)?);
    let read = |name: &str| fs::read_to_string(host.join(name)).with_context(|| format!("read {name}"));
    k.see("outside", format!("{} {} {}", read("new")?, read("file")?, host.join("missing").is_dir()));
    Ok(())
}

fn a_target_behind_a_link_stays_inside(k: &Kubelet<'_>) -> Result<()> {
    let host = k.scene.scratch()?.join("host");
    fs::create_dir_all(&host)?;
    fs::write(host.join("file"), "of the host\n")?;
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    // In the image, /srv/dangling is a link to /does/not/exist, which the host has not either.
    let container = k
        .script(
            &pod,
            "reader",
            &format!("cat /does/not/exist/file /srv/dangling/file; {TABLE} | grep -E 'exist|dangling'"),
        )
        .mount(&host, "/srv/dangling", PropagationPrivate, false);
    k.see("inside", k.told(&sandbox, &pod, &container)?);
    ensure!(!Path::new("/does").exists(), "the target was made on the host");
    Ok(())
}

/// A directory that is a mount point of its own on the host and shared, for as long as this lives.
struct SharedDirectory(std::path::PathBuf);

impl SharedDirectory {
    fn new(k: &Kubelet<'_>) -> Result<SharedDirectory> {
        let path = k.scene.scratch()?.join("shared");
        fs::create_dir_all(path.join("later"))?;
        rustix::mount::mount_bind(&path, &path).context("make a mount point")?;
        let directory = SharedDirectory(path);
        rustix::mount::mount_change(&directory.0, MountPropagationFlags::SHARED).context("share it")?;
        Ok(directory)
    }

    /// Mounts a tmpfs with a file on its directory `later`.
    fn mount_later(&self) -> Result<()> {
        rustix::mount::mount("none", self.0.join("later"), "tmpfs", MountFlags::empty(), None)?;
        Ok(fs::write(self.0.join("later/file"), "new mount\n")?)
    }
}

impl Drop for SharedDirectory {
    fn drop(&mut self) {
        for path in [self.0.join("later"), self.0.join("inside"), self.0.clone()] {
            let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH);
        }
    }
}

/// Whether a container that has the directory with this propagation sees what is mounted there afterwards.
fn sees_later(k: &Kubelet<'_>, propagation: MountPropagation) -> Result<()> {
    let shared = SharedDirectory::new(k)?;
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let container = k.sleeper(&pod, "one").mount(&shared.0, "/data", propagation, false);
    let one = k.start(&sandbox, &pod, &container)?;
    shared.mount_later()?;
    k.see("later", format!("{:?}", k.cri.sh(&one, "cat /data/later/file 2>/dev/null || echo nothing")?.stdout));
    k.see("table", k.cri.sh(&one, &format!("{TABLE} | grep data"))?.stdout);
    k.see("status", format!("{:?}", k.cri.status(&one)?.mounts.first().map(|mount| mount.propagation())));
    k.cri.stop(&one, 5)?;
    Ok(())
}

fn private_mounts_see_nothing_new(k: &Kubelet<'_>) -> Result<()> {
    sees_later(k, PropagationPrivate)
}

fn the_hosts_new_mounts_reach_the_container(k: &Kubelet<'_>) -> Result<()> {
    sees_later(k, PropagationHostToContainer)
}

fn mounts_go_both_ways(k: &Kubelet<'_>) -> Result<()> {
    let shared = SharedDirectory::new(k)?;
    let pod = k.pod("pod")?.secured(|s| s.privileged = true);
    let sandbox = k.run(&pod)?;
    let script = "mkdir /data/inside; mount -t tmpfs none /data/inside; echo theirs >/data/inside/file; echo ready; \
                  trap 'umount /data/inside; exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let container = k
        .script(&pod, "mounter", script)
        .mount(&shared.0, "/data", PropagationBidirectional, false)
        .secured(|s| s.privileged = true);
    let mounter = k.start(&sandbox, &pod, &container)?;
    k.wait_for_line("mounter", "ready")?;
    let inside = shared.0.join("inside/file");
    k.see("on the host", fs::read_to_string(&inside).unwrap_or_default());
    shared.mount_later()?;
    k.see("from the host", k.cri.sh(&mounter, "cat /data/later/file")?.stdout);
    k.see("table", k.cri.sh(&mounter, &format!("{TABLE} | grep data"))?.stdout);
    k.cri.stop(&mounter, 10)?;
    k.see("unmounted again", poll(Duration::from_secs(5), || (!inside.exists()).then_some(())).is_some());
    Ok(())
}

fn containers_share_a_volume(k: &Kubelet<'_>) -> Result<()> {
    let volume = k.scene.scratch()?.join("volume");
    fs::create_dir_all(&volume)?;
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "while [ ! -e /in/message ]; do sleep 0.05; done; cat /in/message; echo answer >/in/answer";
    let reader = k.script(&pod, "reader", script).mount(&volume, "/in", PropagationPrivate, false);
    let reader = k.start(&sandbox, &pod, &reader)?;
    let script = "echo from the other >/out/part; mv /out/part /out/message; while [ ! -e /out/answer ]; do sleep 0.05; \
                  done; cat /out/answer; ls -A /dev/shm; cat /dev/shm/*";
    k.cri.sh(&reader, "echo in memory >/dev/shm/file")?;
    let writer = k.script(&pod, "writer", script).mount(&volume, "/out", PropagationPrivate, false);
    k.see("writer", k.told(&sandbox, &pod, &writer)?);
    k.wait_for_line("reader", "from the other")
}

fn nothing_is_left_in_the_hosts_mount_table(k: &Kubelet<'_>) -> Result<()> {
    let mounts = || -> Result<Vec<String>> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(table.lines().map(str::to_owned).collect())
    };
    let (sandbox, one) = k.one_sleeper()?;
    // A pod has mounts of CRI's on the host (shm), and with runc each container its root.
    let own: Vec<String> =
        mounts()?.into_iter().filter(|line| line.contains(&one) || line.contains(&sandbox)).collect();
    if k.scene.runtime == Runtime::Berth && Runtime::Berth.name() == "io.containerd.berth.v2" {
        let roots: Vec<&String> = own.iter().filter(|line| line.contains("rootfs")).collect();
        ensure!(roots.is_empty(), "a root is mounted on the host: {roots:?}");
    }
    k.cri.stop_pod(&sandbox)?;
    k.cri.remove_pod(&sandbox)?;
    let left: Vec<String> =
        mounts()?.into_iter().filter(|line| line.contains(&one) || line.contains(&sandbox)).collect();
    ensure!(left.is_empty(), "left in the mount table: {left:?}");
    Ok(())
}
