//! What is mounted later, on either side. Every mount of these trials is shared.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;

use super::binds::Tree;
use super::bundle::{Bundle, Live};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("bind_without_a_word_receives_nothing_it_should_not_send", default_bind),
    ("private_bind_neither_sends_nor_receives", private),
    ("slave_bind_receives", slave),
    ("shared_bind_sends_and_receives", shared),
    ("rootfs_propagation_is_the_specs", rootfs),
    ("root_hears_of_the_hosts_mounts_only_as_a_slave", root_hears),
    ("mounts_of_a_privileged_container_stay_inside", inside),
    ("rootfs_on_a_shared_mount_sends_nothing", rootfs_sends_nothing),
];

/// A mount on the host, below a tree; gone at the end.
struct Later<'a>(&'a Path);

impl<'a> Later<'a> {
    fn mount(path: &'a Path) -> Later<'a> {
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).unwrap();
        Later(path)
    }
}

impl Drop for Later<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

fn privileged(bundle: Bundle) -> Bundle {
    let all = || json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE", "CAP_MKNOD"]);
    bundle.set("/process/capabilities", json!({"bounding": all(), "permitted": all(), "effective": all()}))
}

/// Whether a mount of the host arrives inside, and one from inside on the host.
fn both_ways(tree: &Tree, live: &Live) -> Result<(bool, bool), Stop> {
    for name in ["in", "out"] {
        fs::create_dir_all(tree.0.join(name))?;
    }
    let (inward, outward) = (tree.0.join("in"), tree.0.join("out"));
    let _later = Later::mount(&inward);
    let received = live.sh("grep -q ' /volume/in ' /proc/mounts; echo $?")?.success()? == "0";
    live.sh("mount -t tmpfs tmpfs /volume/out && grep -q ' /volume/out ' /proc/mounts")?.success()?;
    let sent = fs::read_to_string("/proc/self/mountinfo")?.contains(outward.to_str().unwrap());
    live.sh("umount /volume/out")?.success()?;
    Ok((received, sent))
}

fn bound(name: &str, options: &[&str], rootfs: Option<&str>) -> Result<(bool, bool), Stop> {
    let tree = Tree::new(name);
    let bundle = privileged(Bundle::new().sh("exec sleep 100")).with_mount(tree.bind("/volume", options));
    let bundle = bundle.set("/linux/rootfsPropagation", json!(rootfs.unwrap_or("")));
    both_ways(&tree, &bundle.start()?)
}

fn default_bind() -> Result<(), Stop> {
    assert!(!bound("default", &["rbind"], None)?.1);
    Ok(())
}

fn private() -> Result<(), Stop> {
    assert_eq!(bound("private", &["rbind", "rprivate"], None)?, (false, false));
    Ok(())
}

fn slave() -> Result<(), Stop> {
    assert_eq!(bound("slave", &["rbind", "rslave"], None)?, (true, false));
    assert_eq!(bound("slaves", &["rbind", "rslave"], Some("rslave"))?, (true, false));
    Ok(())
}

fn shared() -> Result<(), Stop> {
    assert_eq!(bound("shared", &["rbind", "rshared"], Some("rshared"))?, (true, true));
    assert_eq!(bound("half", &["rbind", "rslave"], Some("rshared"))?, (true, false));
    Ok(())
}

fn rootfs() -> Result<(), Stop> {
    let of = |word: &str| -> Result<String, Stop> {
        let bundle = Bundle::new().sh("grep ' / / \\| / rw' /proc/self/mountinfo | head -1 | cut -d' ' -f7-");
        Ok(bundle.set("/linux/rootfsPropagation", json!(word)).says()?)
    };
    assert!(of("private")?.starts_with("- "));
    for word in ["shared", "rshared"] {
        let shared = of(word)?;
        assert!(shared.contains("shared:") && !shared.contains("master:"), "{word}: {shared}");
    }
    assert!(of("unbindable")?.starts_with("unbindable "));
    let slave = of("slave")?;
    assert!(!slave.contains("shared:"), "{slave}");
    let text = Bundle::new().set("/linux/rootfsPropagation", json!("odd")).refused()?;
    assert_eq!(text, "linux.rootfsPropagation \"odd\": is not supported");
    Ok(())
}

/// Whether what the host mounts below the root afterwards is seen inside: "shared" is not "shared with the host". config-linux.md
fn root_hears() -> Result<(), Stop> {
    let hears = |word: &str| -> Result<bool, Stop> {
        let bundle = Bundle::new().sh("exec sleep 100").set("/linux/rootfsPropagation", json!(word));
        let live = bundle.start()?;
        let inside = bundle.image("/mnt");
        let _later = Later::mount(&inside);
        Ok(live.sh("grep -q ' /mnt ' /proc/mounts; echo $?")?.success()? == "0")
    };
    for word in ["", "slave", "rslave"] {
        assert!(hears(word)?, "{word:?}");
    }
    for word in ["shared", "rshared", "private", "rprivate", "unbindable"] {
        assert!(!hears(word)?, "{word:?}");
    }
    Ok(())
}

/// The check of what is left compares the whole mount table; here while the container lives.
fn inside() -> Result<(), Stop> {
    let before = fs::read_to_string("/proc/self/mountinfo")?;
    let live = privileged(Bundle::new().sh("exec sleep 100")).start()?;
    live.sh("mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /mnt && mount --bind /tmp /etc && umount /run")?
        .success()?;
    let ours = |table: &str| table.lines().filter(|line| line.contains("berth-root")).count();
    assert_eq!(ours(&before), ours(&fs::read_to_string("/proc/self/mountinfo")?));
    Ok(())
}

fn rootfs_sends_nothing() -> Result<(), Stop> {
    for word in ["", "rshared", "shared", "rslave", "private"] {
        let before = fs::read_to_string("/proc/self/mountinfo")?;
        let bundle = privileged(Bundle::new().sh("exec sleep 100")).set("/linux/rootfsPropagation", json!(word));
        let live = bundle.start()?;
        live.sh("mount -t tmpfs tmpfs /tmp")?.success()?;
        let ours = |table: &str| table.lines().filter(|line| line.contains("berth-root")).count();
        assert_eq!(ours(&before), ours(&fs::read_to_string("/proc/self/mountinfo")?), "{word}");
    }
    Ok(())
}
