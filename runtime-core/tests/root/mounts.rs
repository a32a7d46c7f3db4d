//! Mounts of every kind, as they are seen inside.

use std::fs;
use std::path::PathBuf;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::{Value, json};

use super::bundle::{Bundle, scratch};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("every_kind_of_mount_is_there_with_its_options", kinds),
    ("only_what_the_spec_asks_for_is_mounted", nothing_else),
    ("tmpfs_takes_the_mode_of_what_it_covers", tmpfs_mode),
    ("tmpfs_begins_with_what_it_covers", copy_up),
    ("tmpfs_has_the_extended_attributes_of_what_it_covers", copy_up_attributes),
    ("any_number_of_tmpfs_can_be_read_only", many_readonly),
    ("fifo_is_made_inside_a_user_namespace", fifo),
    ("readonly_tmpfs_takes_mounts_below_it", readonly_tmpfs),
    ("bind_has_exactly_its_options", bind_options),
    ("bind_with_any_option_keeps_no_flag_of_its_source", bind_clears),
    ("bind_in_a_user_namespace_gets_no_more_than_its_source_has", bind_locked),
    ("bind_of_what_an_earlier_mount_made_has_it", bind_earlier),
    ("bind_from_the_root_never_leaves_it", bind_inside),
    ("bind_of_a_file_makes_its_target", bind_file),
    ("bind_takes_one_mount_and_rbind_the_tree", recursive),
    ("rro_makes_the_tree_readonly_and_ro_the_mount", recursive_readonly),
    ("later_mount_covers_an_earlier_one", order),
    ("destinations_are_made_and_cleaned", destinations),
    ("mount_over_the_root_or_proc_is_refused", refused),
    ("overlay_of_the_spec_is_mounted", overlay),
    ("files_of_proc_may_be_covered_by_a_few", over_proc),
    ("devices_are_made_with_mode_and_owner", devices),
    ("device_that_stands_there_must_be_the_same", wrong_device),
    ("devices_out_of_the_list_are_denied", denied_device),
    ("bound_dev_is_left_alone", bound_dev),
];

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// A directory of the host that is bound.
fn volume(bundle: &Bundle, destination: &str, options: &[&str]) -> Value {
    let source = bundle.dir.join("volume");
    fs::create_dir_all(&source).unwrap();
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// `options fstype` of the mount at a destination, as /proc/self/mounts has it.
fn mount_of(mounts: &str, destination: &str) -> String {
    let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(destination));
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    // Kernels that are built so say this of every tmpfs.
    if words.len() < 4 { String::new() } else { format!("{} {}", words[2], words[3].replace(",inode64", "")) }
}

fn kinds() -> Result<(), Stop> {
    let mounts = Bundle::new().sh("cat /proc/self/mounts").says()?;
    let found = |destination| mount_of(&mounts, destination);
    assert_eq!(found("/proc"), "proc rw,nosuid,nodev,noexec,relatime");
    assert_eq!(found("/dev"), "tmpfs rw,nosuid,size=65536k,mode=755");
    assert_eq!(found("/dev/pts"), "devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666");
    assert_eq!(found("/dev/shm"), "tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k");
    assert_eq!(found("/dev/mqueue"), "mqueue rw,nosuid,nodev,noexec,relatime");
    assert_eq!(found("/sys"), "sysfs ro,nosuid,nodev,noexec,relatime");
    assert!(found("/").starts_with("tmpfs rw"), "{mounts}");
    Ok(())
}

fn nothing_else() -> Result<(), Stop> {
    let bundle = Bundle::new().set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    let said = bundle.sh("cut -d' ' -f5 /proc/self/mountinfo").says()?;
    assert_eq!(said, "/\n/proc\n/dev\n/dev/pts\n/dev/shm\n/dev/mqueue\n/sys\n/run");
    Ok(())
}

/// With modes, owners and times, and without following a symlink out of the image.
fn copy_up() -> Result<(), Stop> {
    let plain: fn(Bundle) -> Bundle = |bundle| bundle;
    for (change, id) in [(plain, 0), (super::namespaces::with_user_namespace, 100_000)] {
        let bundle = Bundle::new().with_mount(tmpfs("/data", &["tmpcopyup", "ro"]));
        let data = bundle.image("/data");
        fs::create_dir_all(data.join("deep/er"))?;
        fs::write(data.join("deep/er/file"), vec![b'x'; 3 << 20])?;
        fs::write(data.join("set"), "")?;
        fs::set_permissions(data.join("deep"), std::os::unix::fs::PermissionsExt::from_mode(0o2750))?;
        std::os::unix::fs::symlink("/etc/shadow", data.join("link"))?;
        rustix::fs::mknodat(rustix::fs::CWD, data.join("fifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0)?;
        let bundle = change(bundle);
        std::os::unix::fs::lchown(data.join("set"), Some(id + 7), Some(id + 8))?;
        fs::set_permissions(data.join("set"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))?;
        let epoch = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::open(data.join("set"))?.set_modified(epoch)?;
        let script = "cd /data; stat -c '%n %a %u:%g %s' deep deep/er/file; stat -c '%a %u:%g %Y' set; readlink link; \
                      stat -c '%F %a' fifo; touch x 2>&1; grep -c ' /data tmpfs' /proc/self/mounts";
        let bundle = bundle.sh(script);
        let said = bundle.says()?;
        let lines: Vec<_> = said.lines().collect();
        assert!(
            lines[0].starts_with("deep 2750 0:0") && lines[1] == format!("deep/er/file 644 0:0 {}", 3 << 20),
            "{said}"
        );
        assert_eq!(lines[2..5], ["4755 7:8 1000000", "/etc/shadow", "fifo 640"], "{said}");
        assert!(lines[5].contains("Read-only file system") && lines[6] == "1", "{said}");
        assert!(data.join("deep/er/file").exists(), "what is covered stays as it was");
    }
    Ok(())
}

fn copy_up_attributes() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("sleep 100").with_mount(tmpfs("/data", &["tmpcopyup"]));
    let data = bundle.image("/data");
    fs::create_dir_all(data.join("directory"))?;
    fs::write(data.join("directory/file"), "")?;
    let long = vec![b'x'; 5000];
    // `struct vfs_ns_cap_data` of revision 2: cap_net_raw, effective. capabilities(7)
    let capability = [&0x0200_0001_u32.to_le_bytes()[..], &(1_u32 << 13).to_le_bytes(), &[0; 12]].concat();
    let named = [
        ("directory", "security.berth", &long),
        ("directory/file", "trusted.berth", &b"trusted".to_vec()),
        ("directory/file", "security.capability", &capability),
    ];
    for (file, name, value) in named {
        setxattr(data.join(file), name, value, XattrFlags::empty())?;
    }
    let live = bundle.start()?;
    for (file, name, value) in named {
        let inside = format!("/proc/{}/root/data/{file}", live.init.pid());
        let mut found = vec![0; 8192];
        let length = getxattr(&inside, name, &mut found[..]).map_err(|errno| format!("{file} {name}: {errno}"))?;
        assert_eq!(&found[..length], value, "{file} {name}");
    }
    Ok(())
}

fn many_readonly() -> Result<(), Stop> {
    let bundle = (0..40).fold(Bundle::new(), |bundle, n| bundle.with_mount(tmpfs(&format!("/many/{n}"), &["ro"])));
    assert_eq!(bundle.sh("grep -c ' /many/[0-9]* tmpfs ro' /proc/self/mounts").says()?, "40");
    Ok(())
}

fn fifo() -> Result<(), Stop> {
    let bundle = super::namespaces::with_user_namespace(Bundle::new());
    let fifo = json!({"path": "/dev/pipe", "type": "p", "major": 1, "minor": 3, "fileMode": 0o620, "uid": 5, "gid": 6});
    let bundle = bundle.set("/linux/devices", json!([fifo])).sh("stat -c '%F %a %u:%g' /dev/pipe");
    assert_eq!(bundle.says()?, "fifo 620 5:6");
    Ok(())
}

fn tmpfs_mode() -> Result<(), Stop> {
    let bundle = Bundle::new().with_mount(tmpfs("/covered", &[])).with_mount(tmpfs("/made", &[]));
    let bundle = bundle.with_mount(tmpfs("/given", &["mode=700", "size=64k"]));
    fs::create_dir(bundle.image("/covered"))?;
    fs::set_permissions(bundle.image("/covered"), std::os::unix::fs::PermissionsExt::from_mode(0o2751))?;
    assert_eq!(
        bundle.sh("stat -c %a /covered /made /given; df -k /given | awk 'END{print $2}'").says()?,
        "2751\n1777\n700\n64"
    );
    Ok(())
}

fn readonly_tmpfs() -> Result<(), Stop> {
    let bundle = Bundle::new().with_mount(tmpfs("/outer", &["ro"])).with_mount(tmpfs("/outer/inner", &[]));
    let script = "(: >/outer/x) 2>&1; : >/outer/inner/x && echo written";
    assert_eq!(bundle.sh(script).says()?, "sh: can't create /outer/x: Read-only file system\nwritten");
    Ok(())
}

fn bind_options() -> Result<(), Stop> {
    let script = "cat /proc/self/mounts; (: >/ro/x) 2>&1; : >/plain/file; /strict/true; echo $?";
    let mut bundle = Bundle::new().sh(script);
    let all = ["rbind", "ro", "nosuid", "nodev", "noexec", "noatime"];
    for (path, options) in [("/plain", &["bind"][..]), ("/ro", &["bind", "ro"]), ("/strict", &all)] {
        let mount = volume(&bundle, path, options);
        bundle.mount(mount);
    }
    fs::copy("/bin/busybox", bundle.dir.join("volume/true"))?;
    let said = bundle.says()?;
    assert!(mount_of(&said, "/plain").starts_with("tmpfs rw,relatime"), "{said}");
    assert!(mount_of(&said, "/ro").starts_with("tmpfs ro,relatime"), "{said}");
    assert!(mount_of(&said, "/strict").starts_with("tmpfs ro,nosuid,nodev,noexec,noatime"), "{said}");
    assert!(said.ends_with("sh: can't create /ro/x: Read-only file system\n126"), "{said}");
    assert!(bundle.dir.join("volume/file").exists());
    Ok(())
}

/// A volume that is a mount of its own with these flags.
fn flagged(bundle: &Bundle, flags: MountFlags) -> PathBuf {
    let source = bundle.dir.join("flagged");
    if !source.exists() {
        fs::create_dir(&source).unwrap();
        mount("tmpfs", &source, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::set_permissions(&source, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    mount_remount(&source, MountFlags::BIND | flags, "").unwrap();
    source
}

/// What a bind of a source with these flags looks like inside, by these options.
fn bound(bundle: Bundle, flags: MountFlags, options: &[&str]) -> Result<String, String> {
    let source = flagged(&bundle, flags);
    let options = [&["bind"], options].concat();
    let bind = json!({"destination": "/bound", "type": "bind", "source": source, "options": options});
    let bundle = bundle.with_mount(bind).sh("cat /proc/self/mounts");
    let said = bundle.says();
    unmount(&source, UnmountFlags::DETACH).unwrap();
    said.map(|mounts| mount_of(&mounts, "/bound"))
}

const HARD: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);

fn bind_clears() -> Result<(), Stop> {
    let seen = |flags, options: &[&str]| bound(Bundle::new(), flags, options);
    let hard = HARD | MountFlags::NOATIME;
    assert_eq!(seen(hard, &[])?, "tmpfs ro,nosuid,nodev,noexec,noatime");
    assert_eq!(seen(hard, &["rprivate"])?, "tmpfs ro,nosuid,nodev,noexec,noatime");
    for clearing in ["rw", "dev", "suid", "exec", "symfollow", "atime", "norelatime"] {
        assert_eq!(seen(hard, &[clearing])?, "tmpfs rw,noatime", "{clearing}");
    }
    assert_eq!(seen(hard, &["ro"])?, "tmpfs ro,noatime");
    assert_eq!(seen(hard, &["remount", "exec"])?, "tmpfs ro,nosuid,nodev,noatime");
    assert_eq!(seen(hard, &["relatime"])?, "tmpfs rw,relatime");
    assert_eq!(seen(hard, &["strictatime"])?, "tmpfs rw");
    assert_eq!(seen(hard, &["nodiratime", "norelatime"])?, "tmpfs rw,nodiratime,relatime");
    Ok(())
}

fn bind_locked() -> Result<(), Stop> {
    let seen = |flags, options: &[&str]| bound(super::namespaces::with_user_namespace(Bundle::new()), flags, options);
    let hard = HARD | MountFlags::NOATIME;
    let kept = "tmpfs ro,nosuid,nodev,noexec,noatime";
    for harmless in ["rprivate", "nodev", "symfollow", "ro", "noatime", "atime", "norelatime"] {
        assert_eq!(seen(hard, &[harmless])?, kept, "{harmless}");
    }
    assert_eq!(seen(MountFlags::NOSUID, &["ro", "exec"])?, "tmpfs ro,nosuid,relatime");
    for more in ["rw", "suid", "dev", "exec", "relatime", "strictatime", "nodiratime"] {
        let refusal = seen(hard, &[more]).unwrap_err();
        assert!(refusal.contains("/bound") && refusal.ends_with("operation not permitted"), "{more}: {refusal}");
    }
    Ok(())
}

/// A tree of mounts inside, of which parts are bound again, by paths of the host as by those of the container.
fn bind_earlier() -> Result<(), Stop> {
    let plain: fn(Bundle) -> Bundle = |bundle| bundle;
    for change in [plain, super::namespaces::with_user_namespace] {
        for mapped in [false, true] {
            let mut bundle = change(Bundle::new()).sh("cat /final/x/y/z/z/x/y/z/x/file");
            let source = bundle.dir.join("source");
            for (part, below) in [("a", "x"), ("b", "y"), ("c", "z")] {
                fs::create_dir_all(source.join(part).join(below))?;
                fs::write(source.join(part).join(below).join("file"), format!("{part}/{below}"))?;
            }
            let image = bundle.image("/").display().to_string();
            let image = image.trim_end_matches('/');
            let mut bind = |from: String, to: &str, options: &[&str]| {
                let mut mount = json!({"source": from, "destination": to, "type": "bind", "options": options});
                if options.contains(&"idmap") {
                    for maps in ["uidMappings", "gidMappings"] {
                        mount[maps] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
                    }
                }
                bundle.mount(mount);
            };
            for (part, to) in [("a", "/mnt"), ("b", "/mnt/x"), ("c", "/mnt/x/y"), ("a", "/mnt/x/y/z")] {
                bind(source.join(part).display().to_string(), to, &["bind", "rprivate"]);
            }
            let again = if mapped { &["rbind", "rprivate", "idmap"][..] } else { &["rbind", "rprivate"] };
            bind(format!("{image}/mnt/x"), &format!("{image}/mnt/x/y/z/x"), again);
            bind(format!("{image}/mnt/x/y"), "/mnt/x/y/z", again);
            bind(format!("{image}/mnt"), "/final", again);
            assert_eq!(bundle.says().map_err(|error| format!("mapped {mapped}: {error}"))?, "a/x");
        }
    }
    Ok(())
}

/// A link of the image is the container's, wherever it seems to point.
fn bind_inside() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /bound/name");
    fs::create_dir_all(bundle.image("/tmp/secret"))?;
    fs::write(bundle.image("/tmp/secret/name"), "inside")?;
    let outside = bundle.dir.join("secret");
    fs::create_dir(&outside)?;
    fs::write(outside.join("name"), "outside")?;
    std::os::unix::fs::symlink("../../../../../../../tmp/secret", bundle.image("/link"))?;
    std::os::unix::fs::symlink(&outside, bundle.image("/away"))?;
    let bind = |from: &str| json!({"source": bundle.image(from), "destination": "/bound", "options": ["bind"]});
    let (link, away) = (bind("/link"), bind("/away"));
    let said = |mount| {
        Bundle { id: bundle.id.clone(), dir: bundle.dir.clone(), ..Bundle::new().sh("cat /bound/name") }
            .with_mount(mount)
            .says()
    };
    assert_eq!(said(link)?, "inside");
    let refusal = said(away).unwrap_err();
    assert!(refusal.starts_with("mount /away of the container on /bound: no such file"), "{refusal}");
    Ok(())
}

fn bind_file() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /made/by/the/way /etc/covered; echo back >/made/by/the/way");
    let source = bundle.dir.join("file");
    fs::write(&source, "content\n")?;
    fs::write(bundle.image("/etc/covered"), "below\n")?;
    let bind = |to: &str| json!({"destination": to, "type": "bind", "source": source, "options": ["bind"]});
    let bundle = bundle.with_mount(bind("/made/by/the/way")).with_mount(bind("/etc/covered"));
    assert_eq!(bundle.says()?, "content\ncontent");
    assert_eq!(fs::read_to_string(&source)?, "back\n");
    assert_eq!(fs::read_to_string(bundle.image("/etc/covered"))?, "below\n");
    Ok(())
}

/// A tree of two mounts on the host, gone at the end.
pub struct Tree(pub std::path::PathBuf);

impl Tree {
    pub fn new(name: &str) -> Tree {
        use rustix::mount::{MountFlags, mount};
        let path = scratch().join(name);
        fs::create_dir(&path).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        mount("tmpfs", path.join("sub"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(path.join("outer"), "").unwrap();
        fs::write(path.join("sub/inner"), "").unwrap();
        Tree(path)
    }

    pub fn bind(&self, destination: &str, options: &[&str]) -> Value {
        json!({"destination": destination, "type": "bind", "source": self.0, "options": options})
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        use rustix::mount::{UnmountFlags, unmount};
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
        fs::remove_dir(&self.0).unwrap();
    }
}

fn recursive() -> Result<(), Stop> {
    let tree = Tree::new("recursive");
    let bundle = Bundle::new().with_mount(tree.bind("/one", &["bind"])).with_mount(tree.bind("/all", &["rbind"]));
    assert_eq!(bundle.sh("ls /one/sub; echo; ls /all/sub").says()?, "\ninner");
    Ok(())
}

fn recursive_readonly() -> Result<(), Stop> {
    let tree = Tree::new("readonly");
    let bundle = Bundle::new().with_mount(tree.bind("/ro", &["rbind", "ro"]));
    let bundle = bundle.with_mount(tree.bind("/rro", &["rbind", "rro", "rnosuid"]));
    let bundle = bundle.with_mount(tree.bind("/back", &["rbind", "rro", "rw", "rrw"]));
    let script = "for file in /ro/x /ro/sub/x /rro/x /rro/sub/x /back/x /back/sub/x; do \
         (: >$file) 2>/dev/null && echo $file; done; cat /proc/self/mounts";
    let said = bundle.sh(script).says()?;
    assert!(said.starts_with("/ro/sub/x\n/back/x\n/back/sub/x\n"), "{said}");
    assert!(mount_of(&said, "/rro/sub").starts_with("tmpfs ro,nosuid,"), "{said}");
    Ok(())
}

fn order() -> Result<(), Stop> {
    let bundle = Bundle::new().with_mount(tmpfs("/a/b", &[])).with_mount(tmpfs("/a", &[]));
    assert_eq!(bundle.sh("ls /a; echo end").says()?, "end");
    Ok(())
}

fn destinations() -> Result<(), Stop> {
    let bundle = Bundle::new().with_mount(tmpfs("/new/x/../deep", &[])).with_mount(tmpfs("relative", &[]));
    let bundle = bundle.with_mount(tmpfs("/../../above", &[])).with_mount(tmpfs("/mnt/./", &[]));
    let said = bundle.sh("grep -c ' /new/deep \\| /relative \\| /above \\| /mnt ' /proc/mounts").says()?;
    assert_eq!(said, "4");
    Ok(())
}

fn refused() -> Result<(), Stop> {
    for destination in ["/", "/..", "/proc", "/proc/self/attr", "/proc/1/fd", "/tmp/../proc/sys"] {
        let text = Bundle::new().with_mount(tmpfs(destination, &[])).refused()?;
        assert!(text.starts_with("mounts[7]"), "{destination}: {text}");
    }
    Ok(())
}

fn overlay() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /merged/file; echo new >/merged/made");
    let part = |name: &str| {
        let path = bundle.dir.join(name);
        fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (lower, upper, work) = (part("lower"), part("upper"), part("work"));
    fs::write(bundle.dir.join("lower/file"), "lower\n")?;
    let options = [format!("lowerdir={lower}"), format!("upperdir={upper}"), format!("workdir={work}")];
    let mount = json!({"destination": "/merged", "type": "overlay", "source": "overlay", "options": options});
    let bundle = bundle.with_mount(mount);
    assert_eq!(bundle.says()?, "lower");
    assert_eq!(fs::read_to_string(bundle.dir.join("upper/made"))?, "new\n");
    Ok(())
}

fn over_proc() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /proc/uptime");
    let source = bundle.dir.join("uptime");
    fs::write(&source, "1 2\n")?;
    let bind = |to: &str| json!({"destination": to, "type": "bind", "source": source, "options": ["bind"]});
    assert_eq!(bundle.with_mount(bind("/proc/uptime")).says()?, "1 2");
    Ok(())
}

fn devices() -> Result<(), Stop> {
    let devices = json!([
        {"path": "/dev/made", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/below/fifo", "type": "p", "fileMode": 0o600},
        {"path": "/dev/block", "type": "b", "major": 7, "minor": 0},
        {"path": "/elsewhere", "type": "u", "major": 1, "minor": 5},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o622}]);
    let script = "stat -c '%n %F %a %u:%g %t:%T' /dev/made /dev/below/fifo /dev/block /elsewhere /dev/null /dev/full; \
         for link in ptmx fd stdin; do readlink /dev/$link; done; echo x >/dev/made";
    let said = Bundle::new().set("/linux/devices", devices).sh(script).says()?;
    let expected = "/dev/made character special file 640 7:8 1:3\n/dev/below/fifo fifo 600 0:0 0:0\n\
         /dev/block block special file 666 0:0 7:0\n/elsewhere character special file 666 0:0 1:5\n\
         /dev/null character special file 622 0:0 1:3\n/dev/full character special file 666 0:0 1:7\n\
         pts/ptmx\n/proc/self/fd\n/proc/self/fd/0";
    assert_eq!(said, expected);
    Ok(())
}

fn wrong_device() -> Result<(), Stop> {
    let bundle = Bundle::new().without_mount("/dev").sh("cat /dev/zero");
    fs::write(bundle.image("/dev/zero"), "an image's own\n")?;
    let text = bundle.refused()?;
    assert_eq!(text, "mknod /dev/zero c 1:5 mode 0666 owner 0:0: file exists");
    Ok(())
}

fn denied_device() -> Result<(), Stop> {
    let devices = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    let bundle = Bundle::new().set("/linux/devices", devices).sh("head -c 1 /dev/kmsg 2>&1; echo x >/dev/null");
    let output = bundle.run()?;
    assert!(output.stdout.contains("Operation not permitted"), "{output:?}");
    Ok(())
}

fn bound_dev() -> Result<(), Stop> {
    let bundle = Bundle::new().without_mount("/dev").sh("ls -A /dev");
    let mount = volume(&bundle, "/dev", &["rbind"]);
    fs::write(bundle.dir.join("volume/own"), "")?;
    assert_eq!(bundle.with_mount(mount).says()?, "own");
    Ok(())
}
