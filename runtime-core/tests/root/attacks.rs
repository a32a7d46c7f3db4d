//! Images and specs that want something of the host. Comments name what each of them did to some runtime.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use super::bundle::{Bundle, shell};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("proc_and_sys_behind_links_are_refused", proc_links),
    ("dev_behind_a_link_makes_nothing_on_the_host", dev_link),
    ("destinations_behind_links_stay_inside", destination_links),
    ("links_into_procfs_are_no_destinations", decoys),
    ("passwd_that_is_no_plain_file_is_not_read", passwd),
    ("cwd_through_a_descriptor_is_refused", cwd),
    ("cwd_through_a_process_of_the_host_is_refused", cwd_of_host),
    ("program_through_a_descriptor_is_refused", program),
    ("program_has_three_descriptors", descriptors),
    ("readonly_root_is_readonly_whatever_proc_is", fake_proc),
];

/// A directory of the host that an image points to; it must stay empty.
pub fn bait(bundle: &Bundle) -> PathBuf {
    let bait = bundle.dir.join("bait");
    fs::create_dir(&bait).unwrap();
    bait
}

pub fn untouched(bait: &PathBuf) -> bool {
    fs::read_dir(bait).unwrap().next().is_none()
}

fn replace_by_link(bundle: &Bundle, path: &str, to: impl AsRef<Path>) {
    let path = bundle.image(path);
    if path.is_dir() {
        fs::remove_dir(&path).unwrap()
    } else {
        let _ = fs::remove_file(&path);
    }
    symlink(to, path).unwrap();
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2025-54867; the host's, bound there, is masked by the same names.
fn proc_links() -> Result<(), Stop> {
    for (name, bound) in [("/proc", false), ("/sys", false), ("/proc", true), ("/sys", true)] {
        let bundle = || match bound {
            false => Bundle::new(),
            true => Bundle::new()
                .without_mount(name)
                .with_mount(json!({"destination": name, "type": "bind", "source": name, "options": ["rbind", "ro"]})),
        };
        bundle().says()?;
        for to in ["bait", "tmp", "/tmp", "loop"] {
            let bundle = bundle();
            let bait = bait(&bundle);
            let to = match to {
                "bait" => bait.clone(),
                "loop" => name.into(),
                to => to.into(),
            };
            replace_by_link(&bundle, name, &to);
            let text = bundle.refused()?;
            assert!(
                text.contains(&format!(" on {name}")) && text.contains("must be mounted on ordinary directory: "),
                "{text}"
            );
            assert!(untouched(&bait));
        }
    }
    Ok(())
}

/// CVE-2026-41579
fn dev_link() -> Result<(), Stop> {
    for mounted in [true, false] {
        let bundle = Bundle::new();
        let bait = bait(&bundle);
        replace_by_link(&bundle, "/dev", &bait);
        let bundle = if mounted { bundle } else { bundle.without_mount("/dev") };
        let _ = bundle.create();
        let _ = bundle.create_on_terminal();
        assert!(untouched(&bait), "{:?}", fs::read_dir(&bait)?.collect::<Vec<_>>());
    }
    Ok(())
}

/// CVE-2019-18837, CVE-2024-45310
fn destination_links() -> Result<(), Stop> {
    let kinds = [("tmpfs", "/link"), ("tmpfs", "/link/x/y"), ("bind", "/link/file"), ("bind", "/link/x/../../link/z")];
    for (kind, destination) in kinds {
        for up in ["", "../../../../../.."] {
            let bundle = Bundle::new();
            let bait = bait(&bundle);
            symlink(format!("{up}{}", bait.display()), bundle.image("/link"))?;
            let source = bundle.dir.join("file");
            fs::write(&source, "")?;
            let mount = json!({"destination": destination, "type": kind, "source": source,
                "options": if kind == "bind" { &["bind"][..] } else { &[] }});
            let bundle = bundle.with_mount(mount).set("/process/cwd", json!("/link/cwd/made"));
            bundle.says()?;
            assert!(untouched(&bait), "{kind} {destination}");
        }
    }
    Ok(())
}

/// CVE-2019-16884, CVE-2025-52881: nothing stands in for a file of procfs, and a sysctl reaches the real one.
fn decoys() -> Result<(), Stop> {
    let decoy = |bundle: &Bundle, destination: &str| {
        let source = bundle.dir.join("decoy");
        fs::write(&source, "decoy").unwrap();
        json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]})
    };
    for (link, destination) in
        [("/proc/sys/net/ipv4", "/link/ip_forward"), ("/proc/self/attr", "/link/exec"), ("/proc", "/link/cpuinfo")]
    {
        let bundle = Bundle::new().set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        symlink(link, bundle.image("/link"))?;
        let mount = decoy(&bundle, destination);
        let bundle = bundle.with_mount(mount);
        let text = bundle.refused()?;
        assert!(text.contains(destination), "{text}");
        assert_eq!(fs::read_to_string(bundle.dir.join("decoy"))?, "decoy");
    }
    for destination in ["/proc/sys/net/ipv4/ip_forward", "/proc/self/attr/exec", "/proc/self/attr", "/proc/sys"] {
        let bundle = Bundle::new();
        let mount = decoy(&bundle, destination);
        let text = bundle.with_mount(mount).refused()?;
        assert!(text.ends_with("cannot be mounted because it is inside /proc"), "{text}");
    }
    // An image with files where procfs will be.
    let bundle = Bundle::new().set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    fs::create_dir_all(bundle.image("/proc/sys/net/ipv4"))?;
    fs::write(bundle.image("/proc/sys/net/ipv4/ip_forward"), "decoy")?;
    assert_eq!(bundle.without_mount("/proc").sh("cat /proc/sys/net/ipv4/ip_forward").says()?, "decoy");
    Ok(())
}

fn passwd() -> Result<(), Stop> {
    let bundle = || Bundle::new().sh("echo $HOME").set("/process/env", json!(["PATH=/bin"]));
    let fifo = bundle();
    mknodat(CWD, fifo.image("/etc/passwd"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
    assert_eq!(fifo.says()?, "/");
    let link = bundle();
    fs::write(link.dir.join("passwd"), "root:x:0:0::/of/the/host:\n")?;
    symlink(link.dir.join("passwd"), link.image("/etc/passwd"))?;
    assert_eq!(link.says()?, "/");
    let inside = bundle();
    fs::write(inside.image("/etc/real"), "root:x:0:0::/inside:\n")?;
    symlink("/etc/real", inside.image("/etc/passwd"))?;
    assert_eq!(inside.says()?, "/inside");
    // A file of procfs says that it is a plain one.
    let line = "root:x:0:0::/of/proc:";
    let running = Bundle::new().args(&["sh", "-c", "sleep 100 & wait", line]);
    let (live, etc) = (running.start()?, running.image("/etc"));
    fs::write(etc.join("real"), format!("\n{line}\n"))?;
    let home = |link: &str| -> Result<String, Stop> {
        let _ = fs::remove_file(etc.join("passwd"));
        symlink(link, etc.join("passwd"))?;
        let mut process = shell("echo $HOME");
        process["env"] = json!(["PATH=/bin"]);
        Ok(live.exec(&process)?.wait().success()?)
    };
    assert_eq!([home("/etc/real")?, home("/proc/1/cmdline")?], ["/of/proc", "/"]);
    // One line of 64 GB is neither read nor kept.
    let huge = bundle();
    File::create(huge.image("/etc/passwd"))?.set_len(64 << 30)?;
    let begun = std::time::Instant::now();
    assert_eq!(huge.says()?, "/");
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    Ok(())
}

/// CVE-2024-21626. One descriptor of an exec is the container's own root: that one leads nowhere else.
fn cwd() -> Result<(), Stop> {
    let live = Bundle::new().sh("exec sleep 100").start()?;
    let root = live.sh("ls /")?.success()?;
    let mut inside = 0;
    for number in 3..40 {
        for path in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../../..")] {
            let mut process = shell("pwd; ls");
            process["cwd"] = json!(path);
            if let Ok(mut running) = live.exec(&process) {
                assert_eq!(running.wait().success()?, format!("/\n{root}"), "{path}");
                inside += 1;
            }
        }
        for cwd in [format!("/proc/self/fd/{number}"), "/link".to_owned()] {
            let bundle = Bundle::new().set("/process/cwd", json!(cwd));
            symlink(format!("/proc/self/fd/{number}"), bundle.image("/link"))?;
            assert!(bundle.create().is_err(), "{cwd} {number}");
        }
    }
    assert!(inside <= 2, "{inside} descriptors are directories");
    Ok(())
}

/// With the host's pid namespace its processes lead out; whoever enters may follow them until it is a user.
fn cwd_of_host() -> Result<(), Stop> {
    let live = Bundle::new().namespace("pid", None).sh("exec sleep 100").start()?;
    let own = std::process::id();
    for path in ["root", "cwd", "root/tmp"].map(|name| format!("/proc/{own}/{name}")) {
        let mut process = shell("ls");
        process["cwd"] = json!(path);
        let text = live.exec(&process).err().ok_or("it ran")?.to_string();
        assert!(text.contains("is inside the container"), "{path}: {text}");
        assert!(Bundle::new().namespace("pid", None).set("/process/cwd", json!(path)).create().is_err(), "{path}");
    }
    Ok(())
}

fn program() -> Result<(), Stop> {
    let mut bundle = Bundle::new().sh("exec sleep 100");
    bundle.add_probe();
    let live = bundle.start()?;
    for number in 3..40 {
        let path = format!("/proc/self/fd/{number}/../../../probe");
        let mut process = shell("");
        process["args"] = json!([path, "--role", "fds"]);
        if let Ok(mut running) = live.exec(&process) {
            assert_eq!(running.wait().success()?.lines().count(), 3, "{path}");
        }
        for path in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../../../bin/busybox")] {
            assert!(Bundle::new().args(&[&path, "true"]).run().is_err(), "{path}");
        }
        process["args"] = json!([format!("/proc/self/fd/{number}"), "true"]);
        assert!(live.exec(&process).is_err(), "{number}");
        let host = std::env::current_exe()?;
        process["args"] = json!([format!("/proc/self/fd/{number}{}", host.display()), "--role", "fds"]);
        assert!(live.exec(&process).is_err(), "{number}");
    }
    Ok(())
}

/// Even descriptors that we forgot to mark are not handed down.
fn descriptors() -> Result<(), Stop> {
    let open = || rustix::fs::open("/", rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    let _forgotten: Vec<_> = (0..20).map(|_| open()).collect();
    let numbers =
        |said: &str| said.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let sorted = |said: String| {
        let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    };
    let said = sorted(Bundle::new().probe(&["fds"]).says()?);
    assert_eq!(numbers(&said), "0 1 2", "{said}");
    let mut bundle = Bundle::new().sh("exec sleep 100");
    bundle.add_probe();
    let live = bundle.start()?;
    let mut process = shell("");
    process["args"] = json!(["/probe", "--role", "fds"]);
    let said = sorted(live.exec(&process)?.wait().success()?);
    assert_eq!(numbers(&said), "0 1 2", "{said}");
    // At the gate too there is nothing but these and the socket to its parent.
    let gated = Bundle::new().create()?;
    let open = fs::read_dir(format!("/proc/{}/fd", gated.init.pid()))?.flatten();
    let links: Vec<_> =
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|to| to.display().to_string()).collect();
    assert_eq!(links.len(), 4, "{links:?}");
    assert_eq!(links.iter().filter(|link| link.starts_with("socket:")).count(), 1, "{links:?}");
    Ok(())
}

/// CVE-2026-115521
fn fake_proc() -> Result<(), Stop> {
    let bundle = Bundle::new().without_mount("/proc").set("/root/readonly", json!(true));
    fs::create_dir_all(bundle.image("/proc/self/fd"))?;
    for number in 0..40 {
        symlink("/tmp", bundle.image(&format!("/proc/self/fd/{number}")))?;
    }
    let bundle = bundle.set("/linux/readonlyPaths", json!([])).set("/linux/maskedPaths", json!([]));
    let output = bundle.sh("touch /x /tmp/x").run()?;
    assert!(output.status != 0 && output.stderr.matches("Read-only").count() == 2, "{output:?}");
    Ok(())
}
