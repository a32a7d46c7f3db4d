//! Images that have something else in the place of a device.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use runtime_core::container::Stdio;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::attacks::{bait, untouched};
use super::bundle::{Bundle, files};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("faked_null_device_is_not_used", fake_null),
    ("masked_files_show_the_real_null_device", masked_with_fake_null),
    ("faked_console_is_not_followed", fake_console),
    ("faked_ptmx_is_refused", fake_ptmx),
];

/// Its name, and who puts it somewhere.
type Fake = (&'static str, Box<dyn Fn(&Path)>);

/// What an image may have in the place of a device.
fn fakes(bait: &Path) -> Vec<Fake> {
    let host = bait.join("made");
    vec![
        ("file", Box::new(|path| fs::write(path, "fake").unwrap())),
        ("fifo", Box::new(|path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap())),
        ("directory", Box::new(|path| fs::create_dir(path).unwrap())),
        ("link to the host", Box::new(move |path| symlink(&host, path).unwrap())),
        ("link to proc", Box::new(|path| symlink("/proc/sys/kernel/domainname", path).unwrap())),
        (
            "other device",
            Box::new(|path| {
                let device = rustix::fs::makedev(1, 7);
                mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).unwrap();
            }),
        ),
    ]
}

fn null() -> Stdio {
    let open = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into();
    Stdio::Files([open(), open(), open()])
}

/// CVE-2026-88265: in an image's own /dev, and in a /dev that is bound.
fn fake_null() -> Result<(), Stop> {
    for bound in [false, true] {
        for index in 0..6 {
            let mut bundle = Bundle::new().without_mount("/dev").args(&["sleep", "100"]);
            let bait = bait(&bundle);
            let (name, make) = fakes(&bait).swap_remove(index);
            let dev = if bound { bundle.dir.join("volume") } else { bundle.image("/dev") };
            fs::create_dir_all(&dev)?;
            make(&dev.join("null"));
            if bound {
                bundle.mount(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}));
            }
            let (_, output) = files("");
            match bundle.create_with(null(), output) {
                Err(error) => assert!(error.to_string().contains("/dev/null"), "{name}: {error}"),
                Ok(live) => {
                    let at = fs::metadata(format!("/proc/{}/fd/0", live.init.pid()))?;
                    let rdev = std::os::unix::fs::MetadataExt::rdev(&at);
                    assert_eq!(rdev, rustix::fs::makedev(1, 3), "{name}");
                }
            }
            assert!(untouched(&bait), "{name}");
        }
    }
    Ok(())
}

/// CVE-2025-31133, CVE-2025-62161
fn masked_with_fake_null() -> Result<(), Stop> {
    let pattern = fs::read("/proc/sys/kernel/core_pattern")?;
    let bundle =
        Bundle::new().without_mount("/dev").set("/linux/maskedPaths", json!(["/etc/secret", "/proc/timer_list"]));
    let mut bundle = bundle.sh("stat -c %t:%T /etc/secret /proc/timer_list; echo x >/etc/secret; cat /etc/secret");
    fs::write(bundle.image("/etc/secret"), "secret")?;
    let dev = bundle.dir.join("volume");
    fs::create_dir(&dev)?;
    symlink("/proc/sys/kernel/core_pattern", dev.join("null"))?;
    bundle.mount(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}));
    let output = bundle.run()?;
    assert_eq!(output.stdout, "1:3\n1:3\n", "{output:?}");
    assert_eq!(fs::read_to_string(bundle.image("/etc/secret"))?, "secret");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern")?, pattern);
    Ok(())
}

fn devpts() -> Value {
    json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]})
}

/// CVE-2025-52565, CVE-2026-88264
fn fake_console() -> Result<(), Stop> {
    for index in 0..6 {
        let bundle = Bundle::new().without_mount("/dev").with_mount(devpts()).args(&["sleep", "100"]);
        let bait = bait(&bundle);
        let (name, make) = fakes(&bait).swap_remove(index);
        make(&bundle.image("/dev/console"));
        match bundle.create_on_terminal() {
            Err(error) => assert!(error.to_string().starts_with("open a console"), "{name}: {error}"),
            Ok(live) => {
                live.container.start()?;
                assert_eq!(live.sh("stat -c %t:%T /dev/console")?.success()?, "88:0", "{name}");
            }
        }
        assert!(untouched(&bait), "{name}");
    }
    Ok(())
}

fn fake_ptmx() -> Result<(), Stop> {
    for index in 0..6 {
        let bundle = Bundle::new().without_mount("/dev").args(&["sleep", "100"]);
        let bait = bait(&bundle);
        let (name, make) = fakes(&bait).swap_remove(index);
        fs::create_dir(bundle.image("/dev/pts"))?;
        make(&bundle.image("/dev/pts/ptmx"));
        let error = bundle.create_on_terminal().err().ok_or("created")?.to_string();
        assert!(error.starts_with("open a console"), "{name}: {error}");
        assert!(untouched(&bait), "{name}");
    }
    // The host's own ptmx, by its number, is no pty of the container's.
    let bundle = Bundle::new().without_mount("/dev");
    fs::create_dir(bundle.image("/dev/pts"))?;
    let device = rustix::fs::makedev(5, 2);
    mknodat(CWD, bundle.image("/dev/pts/ptmx"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
    assert!(bundle.create_on_terminal().is_err());
    Ok(())
}
