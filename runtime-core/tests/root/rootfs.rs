//! The root file system, in every form that it is handed over in.

use std::fs;
use std::path::PathBuf;

use runtime_core::container::rootfs::Mount;
use serde_json::json;

use super::bundle::Bundle;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("overlay_is_mounted_and_written_to", overlay),
    ("overlay_of_many_long_layers", many_layers),
    ("overlay_with_a_very_long_directory", long_directory),
    ("overlay_of_read_only_layers_alone", view),
    ("bind_snapshot_is_the_root", bind),
    ("read_only_bind_snapshot_is_read_only_from_the_start", read_only_bind),
    ("nested_mounts_of_the_snapshotter_are_below", nested),
    ("no_pivot_root_shows_the_root_alone", no_pivot),
    ("no_pivot_root_leaves_no_procfs_of_the_host", no_pivot_no_proc),
    ("host_is_out_of_reach_after_the_pivot", out_of_reach),
    ("root_path_may_be_absolute_or_relative", root_path),
    ("root_path_that_is_no_directory_is_refused", bad_root_path),
    ("rootfs_with_an_unknown_option_is_refused", bad_options),
];

fn mount(fstype: &str, source: &str, target: &str, options: &[String]) -> Mount {
    Mount { fstype: fstype.into(), source: source.into(), target: target.into(), options: options.to_vec() }
}

fn directory(bundle: &Bundle, name: &str) -> String {
    let path = bundle.dir.join(name);
    fs::create_dir_all(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The image as the lowest layer of an overlay.
fn layered(mut bundle: Bundle, layers: &[String]) -> Bundle {
    let image = bundle.image("/").to_str().unwrap().trim_end_matches('/').to_owned();
    let lower = [layers, &[image]].concat().join(":");
    let (upper, work) = (directory(&bundle, "upper"), directory(&bundle, "work"));
    let options = [format!("workdir={work}"), format!("upperdir={upper}"), format!("lowerdir={lower}")];
    bundle.rootfs = vec![mount("overlay", "overlay", "", &options)];
    bundle
}

fn overlay() -> Result<(), Stop> {
    let bundle = layered(Bundle::new().sh("grep ' / ' /proc/self/mounts; echo new >/made; rm /bin/su"), &[]);
    assert!(bundle.says()?.starts_with("overlay / overlay rw,"));
    assert_eq!(fs::read_to_string(bundle.dir.join("upper/made"))?, "new\n");
    assert!(bundle.image("/bin/su").exists() || bundle.image("/bin/su").is_symlink());
    Ok(())
}

/// 60 layers, each with a path of some 200 bytes: 12 KB of options.
fn many_layers() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /layer; ls /layers | wc -l");
    let long = "l".repeat(150);
    let layers: Vec<String> = (0..60).map(|n| directory(&bundle, &format!("layers/{long}{n}"))).collect();
    for (n, layer) in layers.iter().enumerate() {
        let layer = PathBuf::from(layer);
        fs::write(layer.join("layer"), format!("{n}\n"))?;
        fs::create_dir(layer.join("layers"))?;
        fs::write(layer.join(format!("layers/{n}")), "")?;
    }
    // The topmost is the first.
    assert_eq!(layered(bundle, &layers).says()?, "0\n60");
    Ok(())
}

fn long_directory() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /layer");
    let layer = directory(&bundle, &format!("{0}/{0}", "d".repeat(200)));
    fs::write(format!("{layer}/layer"), "long\n")?;
    assert_eq!(layered(bundle, &[layer]).says()?, "long");
    Ok(())
}

fn view() -> Result<(), Stop> {
    let mut bundle = Bundle::new().sh("(: >/x) 2>&1; true");
    let image = bundle.image("/").to_str().unwrap().trim_end_matches('/').to_owned();
    let other = directory(&bundle, "other");
    fs::create_dir(bundle.image("/run"))?;
    bundle.rootfs = vec![mount("overlay", "overlay", "", &[format!("lowerdir={other}:{image}")])];
    assert_eq!(bundle.says()?, "sh: can't create /x: Read-only file system");
    Ok(())
}

fn bind() -> Result<(), Stop> {
    let mut bundle = Bundle::new().sh("touch /made");
    let source = bundle.image("/").to_str().unwrap().to_owned();
    bundle.rootfs = vec![mount("bind", &source, "", &["rbind".into(), "rw".into()])];
    // What is at root.path means nothing then.
    let bundle = bundle.set("/root/path", json!("elsewhere"));
    bundle.says()?;
    assert!(bundle.image("/made").exists());
    Ok(())
}

fn read_only_bind() -> Result<(), Stop> {
    let mut bundle = Bundle::new().sh("(: >/x) 2>&1; touch /run/x");
    let source = bundle.image("/").to_str().unwrap().to_owned();
    bundle.rootfs = vec![mount("bind", &source, "", &["rbind".into(), "ro".into()])];
    // A mount point that is missing cannot be made.
    let text = bundle.refused()?;
    assert!(text.contains("/run") && text.ends_with("read-only file system"), "{text}");
    fs::create_dir(bundle.image("/run"))?;
    assert_eq!(bundle.says()?, "sh: can't create /x: Read-only file system");
    Ok(())
}

fn nested() -> Result<(), Stop> {
    let bundle = layered(
        Bundle::new().sh("cat /data/deep/file; grep -q ' /data/deep ' /proc/mounts; echo $?; touch /data/deep/x"),
        &[],
    );
    let mut bundle = bundle;
    let data = directory(&bundle, "data");
    fs::write(format!("{data}/file"), "nested\n")?;
    bundle.rootfs.push(mount("bind", &data, "/data/deep", &["rbind".into(), "ro".into()]));
    let output = bundle.run()?;
    assert_eq!(output.stdout, "nested\n0\n");
    assert!(output.stderr.contains("Read-only"), "{output:?}");
    Ok(())
}

fn no_pivot() -> Result<(), Stop> {
    let script = "ls -d /tmp/berth-root* /work 2>/dev/null; ls / | tr '\\n' ' '; cat /proc/self/mountinfo | wc -l; echo up; exec sleep 100";
    let mut bundle = Bundle::new().sh(script);
    bundle.options.no_pivot_root = true;
    let mut live = bundle.start()?;
    let said = live.init.up();
    assert!(said.starts_with("bin dev etc mnt proc root run sys tmp "), "{said}");
    assert_eq!(live.sh("ls / | head -1; pwd")?.success()?, "bin\n/");
    let text = { bundle.set("/linux/rootfsPropagation", json!("private")) }.refused()?;
    assert!(text.contains("not safe without pivot_root"), "{text}");
    Ok(())
}

/// The host's procfs would let one be mounted that masks nothing.
fn no_pivot_no_proc() -> Result<(), Stop> {
    let caps = json!(["CAP_SETFCAP", "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID"]);
    for no_pivot in [true, false] {
        let script = "busybox unshare -mrpf sh -c 'mount -t proc none /proc && echo mounted; mount -t sysfs none /sys && echo \
             mounted; echo inside'";
        let mut bundle = Bundle::new().sh(script);
        bundle.options.no_pivot_root = no_pivot;
        let bundle = bundle.set("/linux/maskedPaths", json!(["/proc/acpi", "/proc/keys", "/sys/firmware"]));
        let sets = json!({"bounding": caps, "permitted": caps, "effective": caps});
        let output = bundle.set("/process/capabilities", sets).run()?;
        assert_eq!(output.stdout.trim(), "inside", "{no_pivot}: {output:?}");
    }
    Ok(())
}

/// Neither by `..`, nor in the mount table, nor by a working directory or a root of somebody inside.
fn out_of_reach() -> Result<(), Stop> {
    let script = "ls /.. /../.. | sort -u | tr '\\n' ' '; readlink /proc/1/root; readlink /proc/1/cwd; \
         awk '{print $5}' /proc/1/mountinfo | grep -c '^/$'; grep -c ' /home\\| /boot\\| /sys/fs/cgroup' /proc/1/mountinfo";
    let said = Bundle::new().sh(&format!("{script}; true")).says()?;
    assert_eq!(
        said,
        "/..: /../..: bin dev etc mnt proc root run sys tmp / /\n1\n0"
            .replace("/..: /../..: ", " /../..: /..: ")
            .replace("tmp / /", "tmp /\n/")
    );
    Ok(())
}

fn root_path() -> Result<(), Stop> {
    let bundle = Bundle::new();
    let absolute = bundle.image("/").to_str().unwrap().to_owned();
    for path in ["rootfs/", "./rootfs", absolute.as_str()] {
        Bundle::new().set("/root/path", json!(path)).says()?;
    }
    Ok(())
}

fn bad_root_path() -> Result<(), Stop> {
    let bundle = Bundle::new();
    fs::write(bundle.dir.join("file"), "")?;
    std::os::unix::fs::symlink("rootfs", bundle.dir.join("link"))?;
    let mut bundle = bundle;
    for (path, text) in
        [("file", "not a directory"), ("link", "symlink"), ("link/", "symlink"), ("missing", "no such file")]
    {
        bundle = bundle.set("/root/path", json!(path));
        let refused = bundle.refused()?;
        assert!(refused.contains(text) && refused.contains(path.trim_end_matches('/')), "{path}: {refused}");
    }
    Ok(())
}

fn bad_options() -> Result<(), Stop> {
    let mut bundle = layered(Bundle::new(), &[]);
    bundle.rootfs[0].options.push("nonsense=1".into());
    let text = bundle.refused()?;
    assert!(text.contains("overlay") && text.ends_with("invalid argument"), "{text}");
    Ok(())
}
