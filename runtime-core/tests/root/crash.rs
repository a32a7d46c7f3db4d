//! What is left when the process that has the containers is killed.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runtime_core::container::{Container, CreateRequest, Options, Runtime, Stdio as ContainerStdio, destroy};

use super::bundle::{Bundle, runtime};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("killed_parent_leaves_nothing_that_destroy_does_not_find", killed),
    ("parent_killed_at_any_moment_of_create_leaves_nothing_after_destroy", killed_while_creating),
    ("destroy_of_nothing_is_no_error_and_of_garbage_is", garbage),
];

/// In a process of its own: one container created, one running, one paused; then sleeps for ever.
pub fn parent(bundles: &[&str]) -> i32 {
    let runtime = Runtime::new(None).unwrap();
    let mut kept = Vec::new();
    for (number, bundle) in bundles.iter().enumerate() {
        let bundle = Path::new(bundle);
        let (spec, _) = runtime_core::spec::load(bundle).unwrap();
        let null = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into();
        let request = CreateRequest {
            id: bundle.file_name().unwrap().to_str().unwrap(),
            bundle,
            spec: &spec,
            rootfs: &[],
            stdio: ContainerStdio::Files([null(), null(), null()]),
            options: &Options::default(),
        };
        let (container, child) = Container::create(request, &runtime).unwrap();
        if number > 0 {
            container.start().unwrap();
        }
        if number > 1 {
            container.cgroup().freeze().unwrap();
        }
        kept.push((container, child));
    }
    println!("up");
    std::thread::sleep(Duration::from_secs(1000));
    0
}

fn spawn(bundles: &[Bundle]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--role", "parent"]).stdin(Stdio::null()).stdout(Stdio::piped());
    for bundle in bundles {
        bundle.write_config();
        command.arg(&**bundle.dir);
    }
    command.spawn().unwrap()
}

fn end(parent: &mut Child) {
    let _ = parent.kill();
    parent.wait().unwrap();
}

/// `R`, `S`, `Z`; `None` when it is gone.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn killed() -> Result<(), Stop> {
    let bundles = [(); 3].map(|()| Bundle::new().args(&["sleep", "1000"]));
    let mut parent = spawn(&bundles);
    let mut up = [0; 3];
    let heard = parent.stdout.take().unwrap().read_exact(&mut up);
    end(&mut parent);
    heard?;
    let pids: Vec<String> = bundles.iter().map(|b| fs::read_to_string(b.dir.join("init.pid")).unwrap()).collect();
    // The gate of the first will never open: it ends by itself.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !matches!(state(&pids[0]), None | Some('Z')) {
        assert!(Instant::now() < deadline, "a container waits at the gate of a dead parent");
        std::thread::sleep(Duration::from_millis(5));
    }
    for pid in &pids[1..] {
        assert!(!matches!(state(pid), None | Some('Z')), "a running container ended with its parent");
    }
    for bundle in &bundles {
        destroy(&bundle.dir, &runtime().children)?;
        destroy(&bundle.dir, &runtime().children)?;
    }
    Ok(())
}

fn killed_while_creating() -> Result<(), Stop> {
    for delay in (0..40).map(|step| Duration::from_micros(step * 500)) {
        let bundles = [Bundle::new().args(&["sleep", "1000"])];
        let mut parent = spawn(&bundles);
        std::thread::sleep(delay);
        end(&mut parent);
        destroy(&bundles[0].dir, &runtime().children)?;
    }
    Ok(())
}

fn garbage() -> Result<(), Stop> {
    let bundle = Bundle::new();
    destroy(&bundle.dir, &runtime().children)?;
    destroy(Path::new("/no/such/bundle"), &runtime().children)?;
    fs::write(bundle.dir.join("berth.json"), "{}")?;
    let text = destroy(&bundle.dir, &runtime().children).err().ok_or("destroyed")?.to_string();
    assert!(text.contains("berth.json is not a state file of berth"), "{text}");
    // Killed while it wrote: there is no container yet.
    for begun in ["", "{\"cgroup\":{\"pa"] {
        fs::write(bundle.dir.join("berth.json"), begun)?;
        destroy(&bundle.dir, &runtime().children)?;
        assert!(!bundle.dir.join("berth.json").exists());
    }
    Ok(())
}
