//! Mounts of every kind, as they are seen inside.

use std::fs;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde_json::{Value, json};

use super::bundle::Bundle;
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
pub fn volume(bundle: &Bundle, destination: &str, options: &[&str]) -> Value {
    let source = bundle.dir.join("volume");
    fs::create_dir_all(&source).unwrap();
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

/// `options fstype` of the mount at a destination, as /proc/self/mounts has it.
pub fn mount_of(mounts: &str, destination: &str) -> String {
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
