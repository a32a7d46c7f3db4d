//! A bundle in a directory of its own, and the container made from it.

use std::fs::{self, File};

use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime_core::children::{Child, Exit};
use runtime_core::container::{Container, CreateRequest, Error, Options, Runtime, Stdio, rootfs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use serde_json::{Value, json};

/// What every name of ours on the host begins with.
pub fn prefix() -> String {
    format!("berth-root-{}-", std::process::id())
}

/// Where bundles are: a tmpfs that ends with us.
pub fn scratch() -> PathBuf {
    Path::new("/tmp").join(prefix() + "scratch")
}

/// Moves into a mount namespace of our own, as a host whose mounts are all shared; and becomes what a shim is.
pub fn enter_scratch() {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).unwrap();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).unwrap();
    super::sys::unshare_mounts();
    for propagation in [MountPropagationFlags::PRIVATE, MountPropagationFlags::SHARED] {
        mount_change("/", propagation | MountPropagationFlags::REC).unwrap();
    }
    // An empty directory is all that a killed run leaves.
    fs::create_dir(scratch()).unwrap();
    mount("tmpfs", scratch(), "tmpfs", MountFlags::empty(), None).unwrap();
}

/// Unmounts the tmpfs, which nobody else sees, and removes its directory.
pub fn leave_scratch() {
    let _ = rustix::mount::unmount(scratch(), rustix::mount::UnmountFlags::DETACH);
    let _ = fs::remove_dir(scratch());
}

/// One for all trials, as in a shim.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new(None).unwrap())
}

/// config.json and the image, to be changed before `create`.
pub struct Bundle {
    pub id: String,
    pub dir: Rc<Directory>,
    pub spec: Value,
    pub rootfs: Vec<rootfs::Mount>,
    pub options: Options,
}

impl Bundle {
    /// busybox, and what containerd asks for by default.
    pub fn new() -> Bundle {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}{}", prefix(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = scratch().join(&id);
        let bin = dir.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in APPLETS.split_whitespace() {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        for name in ["proc", "sys", "dev", "etc", "tmp", "root", "mnt"] {
            fs::create_dir(dir.join("rootfs").join(name)).unwrap();
        }
        let mut spec: Value = serde_json::from_str(SPEC).unwrap();
        spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        Bundle { id, dir: Rc::new(Directory(dir)), spec, rootfs: Vec::new(), options: Options::default() }
    }

    /// A path of the image, on the host.
    pub fn image(&self, path: &str) -> PathBuf {
        self.dir.join("rootfs").join(path.trim_start_matches('/'))
    }

    /// The program.
    pub fn args(mut self, args: &[&str]) -> Bundle {
        self.spec["process"]["args"] = json!(args);
        self
    }

    /// A script as the program.
    pub fn sh(self, script: &str) -> Bundle {
        self.args(&["sh", "-c", script])
    }

    /// This test's own binary as the program, in a role.
    pub fn probe(mut self, role: &[&str]) -> Bundle {
        self.add_probe();
        self.args(&[&["/probe", "--role"], role].concat())
    }

    /// Binds this test's own binary.
    pub fn add_probe(&mut self) {
        let source = std::env::current_exe().unwrap();
        self.mount(json!({"destination": "/probe", "source": source, "type": "bind", "options": ["bind", "ro"]}));
    }

    /// Sets a value at a JSON pointer, whose last name may be missing.
    pub fn set(mut self, pointer: &str, value: Value) -> Bundle {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}"))[name] = value;
        self
    }

    /// One more mount, after the others.
    pub fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// One more mount, after the others.
    pub fn with_mount(mut self, mount: Value) -> Bundle {
        self.mount(mount);
        self
    }

    /// No mount at this destination, nor below it.
    pub fn without_mount(mut self, destination: &str) -> Bundle {
        let below = format!("{destination}/");
        let mounts = self.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != destination && !m["destination"].as_str().unwrap().starts_with(&below));
        self
    }

    /// Without that namespace, or with a path to one.
    pub fn namespace(mut self, kind: &str, entry: Option<Value>) -> Bundle {
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != kind);
        namespaces.extend(entry);
        self
    }

    pub fn create(&self) -> Result<Live, Error> {
        let (stdio, output) = files("");
        self.create_with(stdio, output)
    }

    pub fn create_on_terminal(&self) -> Result<Live, Error> {
        let (_, output) = files("");
        self.create_with(Stdio::Terminal, output)
    }

    pub fn create_with(&self, stdio: Stdio, output: [File; 2]) -> Result<Live, Error> {
        let spec = runtime_core::spec::parse(self.spec.to_string().as_bytes()).unwrap();
        let request = CreateRequest {
            id: &self.id,
            bundle: &self.dir,
            spec: &spec,
            rootfs: &self.rootfs,
            stdio,
            options: &self.options,
        };
        let (container, child) = Container::create(request, runtime())?;
        Ok(Live { container, init: Running { child, output, ended: None }, dir: Rc::clone(&self.dir) })
    }

    /// What `spec::load` reads, for another process.
    pub fn write_config(&self) {
        fs::write(self.dir.join("config.json"), self.spec.to_string()).unwrap();
    }

    /// From create to the end of the program.
    pub fn run(&self) -> Result<Output, Error> {
        let mut live = self.create()?;
        live.container.start()?;
        Ok(live.init.wait())
    }

    /// What a program that succeeds printed.
    pub fn says(&self) -> Result<String, String> {
        self.run().map_err(|error| error.to_string())?.success()
    }

    /// Started.
    pub fn start(&self) -> Result<Live, Error> {
        let live = self.create()?;
        live.container.start()?;
        Ok(live)
    }

    /// The text of the error that `create` ends with; there must be one.
    pub fn refused(&self) -> Result<String, String> {
        match self.create() {
            Ok(_) => Err("it was created".to_owned()),
            Err(error) => Ok(error.to_string()),
        }
    }
}

/// Where a bundle is; removed when nobody needs it any more.
pub struct Directory(PathBuf);

impl std::ops::Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left here was left by the library: the check of what is left has to see it.
        if !self.join("berth.json").exists() && !self.join("init.pid").exists() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A container, deleted at the end.
pub struct Live {
    pub container: Container,
    pub init: Running,
    dir: Rc<Directory>,
}

impl Live {
    /// Where its config.json is.
    pub fn bundle(&self) -> &Path {
        &self.dir
    }

    pub fn exec(&self, process: &Value) -> Result<Running, Error> {
        let (stdio, output) = files("");
        self.exec_with(process, stdio, output)
    }

    pub fn exec_with(&self, process: &Value, stdio: Stdio, output: [File; 2]) -> Result<Running, Error> {
        let process = runtime_core::spec::parse_process(process.to_string().as_bytes()).unwrap();
        let child = self.container.exec(&process, stdio, runtime())?;
        Ok(Running { child, output, ended: None })
    }

    /// Runs a script to its end, with the rights of a shell of the default container.
    pub fn sh(&self, script: &str) -> Result<Output, Error> {
        Ok(self.exec(&shell(script))?.wait())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Err(error) = self.container.delete() {
            eprintln!("delete: {error}");
        }
    }
}

/// The process of an exec that runs a script.
pub fn shell(script: &str) -> Value {
    json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "env": ["PATH=/bin"]})
}

/// A process that was made; killed and reaped at the end.
pub struct Running {
    pub child: Child,
    output: [File; 2],
    ended: Option<Exit>,
}

/// How it ended, and what it wrote.
#[derive(Debug)]
pub struct Output {
    pub status: u32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(self) -> Result<String, String> {
        if self.status == 0 { Ok(self.stdout.trim_end().to_owned()) } else { Err(format!("{self:?}")) }
    }
}

impl Running {
    pub fn wait(&mut self) -> Output {
        let ended = self.ended_within(Duration::from_secs(20));
        assert!(ended, "it runs for ever");
        Output { status: self.ended.unwrap().status, stdout: self.stdout(), stderr: text(&mut self.output[1]) }
    }

    pub fn ended_within(&mut self, patience: Duration) -> bool {
        if self.ended.is_none() && readable(&self.child.pidfd, patience) {
            self.ended = self.child.reap(&runtime().children).unwrap();
        }
        self.ended.is_some()
    }

    /// What it has written so far.
    pub fn stdout(&mut self) -> String {
        text(&mut self.output[0])
    }

    /// Waits until it has written a line `up`, and returns what came before.
    pub fn up(&mut self) -> String {
        for _ in 0..2000 {
            if let Some(said) = self.stdout().strip_suffix("up\n") {
                return said.trim_end().to_owned();
            }
            assert!(!self.ended_within(Duration::from_millis(5)), "it ended: {:?}", self.wait());
        }
        panic!("it is not up: {:?}", self.stdout());
    }

    pub fn pid(&self) -> i32 {
        self.child.pid.as_raw_nonzero().get()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = rustix::process::pidfd_send_signal(&self.child.pidfd, rustix::process::Signal::KILL);
            self.ended_within(Duration::from_secs(10));
        }
    }
}

/// True once `fd` can be read.
pub fn readable(fd: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// Standard input with a text in it, and files for output and error.
pub fn files(input: &str) -> (Stdio, [File; 2]) {
    let file = || File::from(rustix::fs::memfd_create("stdio", MemfdFlags::CLOEXEC).unwrap());
    let stdin = file();
    rustix::io::pwrite(&stdin, input.as_bytes(), 0).unwrap();
    let output = [file(), file()];
    let copy = |file: &File| OwnedFd::from(file.try_clone().unwrap());
    (Stdio::Files([stdin.into(), copy(&output[0]), copy(&output[1])]), output)
}

fn text(file: &mut File) -> String {
    // The offset is shared with who writes: it is not moved.
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

const APPLETS: &str = "sh cat ls echo id mount umount grep sed head tail sleep true false touch mkdir rm ln cp mv chmod \
     chown stat readlink hostname mknod dd wc sort ps kill tty stty env pwd printf test seq ip ulimit nproc \
     find setsid unshare nsenter chroot df dmesg od xargs tr cut awk sync mkfifo timeout ping losetup su";

const SPEC: &str = include_str!("config.json");
