//! Somebody exchanges a directory of a volume with a link to the host, over and over, while containers are made:
//! CVE-2021-30465, CVE-2024-45310, CVE-2025-52565.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::bundle::Bundle;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("exchanged_mount_target_never_leads_to_the_host", target),
    ("exchanged_volume_never_leads_to_the_host", volume),
    ("exchanged_dev_never_leads_to_the_host", dev),
    ("exchanged_proc_never_leads_to_the_host", proc),
    ("exchanged_cwd_never_leads_to_the_host", cwd),
    ("exchanged_file_never_gets_the_rights_of_another", rights),
];

const LASTS: Duration = Duration::from_secs(2);

/// Exchanges `path` with a link to a directory of the host for some seconds, while `create` is done.
fn race(bundle: &Bundle, path: &Path, create: impl Fn(&Bundle)) -> Result<(), Stop> {
    let bait = bundle.dir.join("bait");
    fs::create_dir(&bait)?;
    let link = PathBuf::from(format!("{}.link", path.display()));
    symlink(&bait, &link)?;
    exchanging(path, &link, || create(bundle));
    let found: Vec<_> = fs::read_dir(&bait)?.flatten().map(|entry| entry.path()).collect();
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

/// Exchanges two paths for some seconds, while `create` is done.
fn exchanging(path: &Path, other: &Path, create: impl Fn()) {
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE);
            }
        });
        let _stop = Stopped(&stop);
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed() < LASTS {
            create();
            rounds += 1;
        }
        rounds
    });
    assert!(rounds > 5, "only {rounds} rounds");
}

/// Says stop when it is dropped, though a trial may fail.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Started, so that the program's own writes would show as well.
fn start(bundle: &Bundle) {
    if let Ok(mut live) = bundle.create()
        && live.container.start().is_ok()
    {
        live.init.wait();
    }
}

fn target() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("touch /target/deep/er/x /target/file");
    fs::create_dir(bundle.image("/target"))?;
    let source = bundle.dir.join("file");
    fs::write(&source, "")?;
    let bundle = bundle.with_mount(json!({"destination": "/target/deep/er", "type": "tmpfs", "source": "tmpfs"}));
    let bind = json!({"destination": "/target/file", "type": "bind", "source": source, "options": ["bind"]});
    let bundle = bundle.with_mount(bind).set("/linux/readonlyPaths", json!(["/target"]));
    race(&bundle, &bundle.image("/target"), start)
}

fn volume() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("touch /volume/a/b/x");
    let source = bundle.dir.join("volume");
    fs::create_dir_all(source.join("a"))?;
    let bind = json!({"destination": "/volume", "type": "bind", "source": source, "options": ["rbind"]});
    let bundle = bundle.with_mount(bind);
    let bundle = bundle.with_mount(json!({"destination": "/volume/a/b", "type": "tmpfs", "source": "tmpfs"}));
    let device = json!([{"path": "/volume/a/device", "type": "c", "major": 1, "minor": 3}]);
    race(&bundle.set("/linux/devices", device), &source.join("a"), start)
}

fn dev() -> Result<(), Stop> {
    let bundle = Bundle::new().without_mount("/dev").sh("true");
    let devpts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]});
    let bundle = bundle.with_mount(devpts);
    race(&bundle, &bundle.image("/dev"), |bundle| {
        let _ = bundle.create_on_terminal();
        let _ = bundle.create();
    })
}

fn proc() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("true");
    race(&bundle, &bundle.image("/proc"), start)
}

fn cwd() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("touch x").set("/process/cwd", json!("/srv/deep/er"));
    fs::create_dir(bundle.image("/srv"))?;
    race(&bundle, &bundle.image("/srv"), start)
}

/// A user who may write to a directory where root has a set-user-ID program exchanges it with a file of his own, while a
/// tmpfs begins as a copy of the directory.
fn rights() -> Result<(), Stop> {
    let tmpfs = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let script = "cd /data; for file in *; do [ -u $file ] && ! grep -q root $file && echo $file; done; echo done";
    let bundle = Bundle::new().with_mount(tmpfs).sh(script);
    let directory = bundle.image("/data");
    fs::create_dir(&directory)?;
    let [program, own] = ["program", "own"].map(|name| directory.join(name));
    fs::write(&program, "of root")?;
    fs::set_permissions(&program, PermissionsExt::from_mode(0o4755))?;
    fs::write(&own, "of the user")?;
    exchanging(&program, &own, || assert_eq!(bundle.says().as_deref(), Ok("done")));
    Ok(())
}
