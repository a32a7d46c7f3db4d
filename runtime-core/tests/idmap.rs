//! Root file systems and volumes whose files show other owners, in containers with a user namespace.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use runtime_core::container::{Container, CreateRequest, ErrorKind, Options, Runtime, Stdio, rootfs::Mount};
use runtime_core::sys::guard::Guard;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Guard = Guard;

const MAPS: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];

type Test = fn(&Scene) -> Result<(), Failed>;

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let trials: [(&str, Test); 6] = [
        ("idmapped_overlay_shows_the_owners_of_its_layers", overlay),
        ("idmapped_overlay_may_have_many_layers", many_layers),
        ("idmapped_bind_is_a_rootfs_too", bind_rootfs),
        ("volume_has_maps_of_its_own_or_the_containers", volumes),
        ("file_system_without_idmaps_is_named", no_idmaps),
        ("layer_that_is_missing_is_named", no_layer),
    ];
    libtest_mimic::run(&arguments, trials.map(|(name, test)| trial(name, test)).into()).exit();
}

fn trial(name: &str, test: Test) -> Trial {
    Trial::ignorable_test(name, move || {
        if !rustix::process::getuid().is_root() {
            return Ok(Completion::ignored_with("needs root"));
        }
        let scene = Scene::new();
        let before = ours();
        test(&scene)?;
        let left: Vec<_> = ours().difference(&before).cloned().collect();
        if left.is_empty() { Ok(Completion::Completed) } else { Err(format!("left behind: {left:#?}").into()) }
    })
}

fn overlay(scene: &Scene) -> Result<(), Failed> {
    let rootfs = scene.overlay(&[scene.layer("one"), scene.image()]);
    let script =
        "stat -c '%u %g' / /one /bin/busybox; touch /mine; rm /one; id -u; grep -c /proc/0 /proc/self/mountinfo";
    assert_eq!(scene.run(&[rootfs], json!([]), script)?, "0 0\n0 0\n0 0\n0\n1\n");
    assert_eq!(owner(&scene.dir.join("upper/mine")), (100_000, 200_000));
    assert_eq!(owner(&scene.dir.join("one/one")), (0, 0));
    Ok(())
}

/// Longer than fsconfig(2) takes, and than a page.
fn many_layers(scene: &Scene) -> Result<(), Failed> {
    let mut layers: Vec<_> = (0..60).map(|index| scene.layer(&format!("{index}-{}", "x".repeat(80)))).collect();
    layers.push(scene.image());
    let rootfs = scene.overlay(&layers);
    assert_eq!(scene.run(&[rootfs], json!([]), "stat -c %u%g /*x* | sort | uniq -c | tr -s ' '")?, " 60 00\n");
    Ok(())
}

fn bind_rootfs(scene: &Scene) -> Result<(), Failed> {
    let options = ["rbind", "rw"].iter().chain(&MAPS).map(ToString::to_string).collect();
    let source = scene.image().to_string_lossy().into_owned();
    let rootfs = Mount { fstype: "bind".into(), source, target: String::new(), options };
    assert_eq!(scene.run(&[rootfs], json!([]), "stat -c '%u %g' /bin; touch /mine")?, "0 0\n");
    assert_eq!(owner(&scene.dir.join("image/mine")), (0, 0));
    Ok(())
}

fn volumes(scene: &Scene) -> Result<(), Failed> {
    let rootfs = scene.overlay(&[scene.image()]);
    let volume = scene.layer("volume");
    let bind = |to: &str, options: &[&str]| json!({ "destination": to, "source": volume, "options": options });
    let mut own = bind("/own", &["bind"]);
    own["uidMappings"] = json!([{ "containerID": 0, "hostID": 100_007, "size": 1 }]);
    own["gidMappings"] = json!([{ "containerID": 0, "hostID": 200_008, "size": 1 }]);
    let mounts = json!([bind("/plain", &["bind"]), bind("/mapped", &["rbind", "ridmap"]), own]);
    let script = "stat -c '%u %g' /plain/volume /mapped/volume /own/volume; touch /mapped/mine";
    assert_eq!(scene.run(&[rootfs], mounts, script)?, "65534 65534\n0 0\n7 8\n");
    assert_eq!(owner(&volume.join("mine")), (0, 0));
    Ok(())
}

fn no_idmaps(scene: &Scene) -> Result<(), Failed> {
    let rootfs = scene.overlay(&["/proc/sys".into(), scene.image()]);
    let error = scene.run(&[rootfs], json!([]), "true").unwrap_err();
    assert!(
        error.ends_with(": idmap /proc/sys: invalid argument (its file system may not support idmapped mounts)"),
        "{error}"
    );
    Ok(())
}

fn no_layer(scene: &Scene) -> Result<(), Failed> {
    let rootfs = scene.overlay(&[scene.image(), "/no/such/layer".into()]);
    let error = scene.run(&[rootfs], json!([]), "true").unwrap_err();
    assert!(error.ends_with(": open the layer /no/such/layer: no such file or directory"), "{error}");
    Ok(())
}

fn owner(path: &Path) -> (u32, u32) {
    let file = path.metadata().unwrap();
    (file.uid(), file.gid())
}

/// What this process has: descriptors, children, mounts.
fn ours() -> BTreeSet<String> {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let fds = fds.filter_map(|fd| Some(format!("{:?} {:?}", fd.file_name(), fs::read_link(fd.path()).ok()?)));
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<_> =
        children.flat_map(|pids| pids.split(' ').map(|pid| format!("child {pid}")).collect::<Vec<_>>()).collect();
    fds.chain(children).chain(mounts()).collect()
}

/// What stands on /proc, where layers are while an overlay is made, and what is of a directory of ours. There may be others
/// on this host who mount.
fn mounts() -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = all.lines().filter(|line| line.contains(" /proc") || line.contains("berth-idmap-"));
    ours.map(str::to_owned).collect()
}

/// A directory with a bundle and layers, on a file system that is written to.
struct Scene {
    name: String,
    dir: PathBuf,
    runtime: Runtime,
}

impl Scene {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-idmap-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        for path in ["image/bin", "image/proc", "upper", "work"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        fs::copy("/bin/busybox", dir.join("image/bin/busybox")).unwrap();
        for applet in ["sh", "stat", "touch", "rm", "id", "grep", "sort", "uniq", "tr", "true"] {
            symlink("busybox", dir.join("image/bin").join(applet)).unwrap();
        }
        // As containerd's snapshotter has it: what is written belongs to the container's ids.
        chown(dir.join("upper"), Some(100_000), Some(200_000)).unwrap();
        Self { name, dir, runtime: Runtime::new(None).unwrap() }
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// A layer with one file of its name.
    fn layer(&self, name: &str) -> PathBuf {
        let layer = self.dir.join(name);
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join(name), "").unwrap();
        layer
    }

    fn overlay(&self, layers: &[PathBuf]) -> Mount {
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let lower: Vec<_> = layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
        let options = MAPS.map(str::to_owned).into_iter().chain([
            format!("workdir={}", path("work")),
            format!("upperdir={}", path("upper")),
            format!("lowerdir={}", lower.join(":")),
        ]);
        Mount { fstype: "overlay".into(), source: "overlay".into(), target: String::new(), options: options.collect() }
    }

    /// What a script in a container with a user namespace says; or why there is no container.
    fn run(&self, rootfs: &[Mount], mounts: Value, script: &str) -> Result<String, String> {
        let spec = self.spec(mounts, script);
        let spec = runtime_core::spec::parse(spec.to_string().as_bytes()).unwrap();
        let output = File::from(rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC).unwrap());
        let stdio = [(); 3].map(|()| OwnedFd::from(output.try_clone().unwrap()));
        let seen_by_host = self::mounts();
        let request = CreateRequest {
            id: &self.name,
            bundle: &self.dir,
            spec: &spec,
            rootfs,
            stdio: Stdio::Files(stdio),
            options: &Options::default(),
        };
        let (container, child) = Container::create(request, &self.runtime).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::Other);
            error.to_string()
        })?;
        let all_hidden = self::mounts().iter().all(|mount| seen_by_host.contains(mount));
        let started = container.start().map_err(|error| error.to_string());
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&patience)).unwrap();
        container.delete().unwrap();
        child.reap(&self.runtime.children).unwrap().unwrap();
        assert!(all_hidden, "a mount on the host");
        started?;
        let mut text = vec![0; output.metadata().unwrap().len() as usize];
        output.read_exact_at(&mut text, 0).unwrap();
        Ok(String::from_utf8(text).unwrap())
    }

    fn spec(&self, mounts: Value, script: &str) -> Value {
        let namespaces = ["mount", "pid", "ipc", "uts", "network", "user"].map(|kind| json!({ "type": kind }));
        let mut all = vec![json!({ "destination": "/proc", "type": "proc", "source": "proc" })];
        all.extend(mounts.as_array().into_iter().flatten().cloned());
        json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"]
            },
            "mounts": all,
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": format!("/{}", self.name),
                "uidMappings": [{ "containerID": 0, "hostID": 100_000, "size": 65_536 }],
                "gidMappings": [{ "containerID": 0, "hostID": 200_000, "size": 65_536 }],
            },
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
