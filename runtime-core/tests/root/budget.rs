//! How many system calls a container costs, its program's own left out: parent and child together, from create to delete.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use runtime_core::container::{Container, CreateRequest, Options, Runtime, Stdio as ContainerStdio};

use super::bundle::Bundle;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[("container_costs_two_hundred_system_calls", budget)];

/// Parent and child together, until the program runs.
const HELLO: usize = 200;
/// With everything that containerd asks for by default.
const DEFAULT: usize = 360;
/// What the cgroup may take of that, and what those of v1 may take beside it.
const V2: usize = 25;
const V1: usize = 120;
/// Names that are looked for, so that they stand in the trace.
const BEGIN: &str = "/berth-budget-begin";
const STARTED: &str = "/berth-budget-started";
const END: &str = "/berth-budget-end";

/// In a process of its own: one container from create to delete.
pub fn play(bundle: &str) -> i32 {
    let runtime = Runtime::new(None).unwrap();
    let bundle = Path::new(bundle);
    let (spec, _) = runtime_core::spec::load(bundle).unwrap();
    let null = || fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into();
    let stdio = ContainerStdio::Files([null(), null(), null()]);
    let id = bundle.file_name().unwrap().to_str().unwrap();
    let request = CreateRequest { id, bundle, spec: &spec, rootfs: &[], stdio, options: &Options::default() };
    let mark = |name| assert!(!Path::new(name).exists());
    mark(BEGIN);
    let (container, child) = Container::create(request, &runtime).unwrap();
    container.start().unwrap();
    mark(STARTED);
    let exit = loop {
        rustix::event::poll(&mut [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)], None)
            .unwrap();
        if let Some(exit) = child.reap(&runtime.children).unwrap() {
            break exit;
        }
    };
    container.delete().unwrap();
    mark(END);
    exit.status.cast_signed()
}

fn budget() -> Result<(), Stop> {
    // What a program needs to say hello.
    let mut hello = Bundle::new();
    for field in ["maskedPaths", "readonlyPaths", "resources"] {
        hello.spec["linux"][field] = json!(null);
    }
    hello.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] == "/proc");
    let hello = measure(hello)?;
    let default = measure(Bundle::new())?;
    eprintln!("hello: {hello}; containerd's default: {default}");
    for (cost, most) in [(hello, HELLO), (default, DEFAULT)] {
        // The hierarchies of v1 are as many as the host has, and each takes a dozen.
        let v1 = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 0 } else { V1 };
        assert!(cost.rest + V2 <= most && cost.cgroups <= V2 + v1, "{cost}: {}", cost.common);
    }
    Ok(())
}

/// What one container took until its program ran.
struct Cost {
    cgroups: usize,
    rest: usize,
    common: String,
}

impl Cost {
    fn total(&self) -> usize {
        self.cgroups + self.rest
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} system calls, {} of them for cgroups", self.total(), self.cgroups)
    }
}

fn measure(bundle: Bundle) -> Result<Cost, Stop> {
    let bundle = bundle.args(&["true"]);
    bundle.write_config();
    let trace = bundle.dir.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-e", "signal=none", "-o"]).arg(&trace).arg("--").arg(std::env::current_exe()?);
    strace.args(["--role", "budget"]).arg(&**bundle.dir).stdin(Stdio::null()).stdout(Stdio::null());
    let Ok(ended) = strace.status() else { return Err(Stop::CannotRun("strace is not there")) };
    let trace = fs::read_to_string(&trace)?;
    assert!(ended.success(), "{trace}");
    let all = calls(&trace, BEGIN, END);
    // A write there waits for a grace period; a process that moves itself by `tasks`, or is born inside, does not.
    let writes = |call: &&&str| call.contains("cgroup.procs") && call.contains("O_WRONLY");
    assert_eq!(all.iter().find(writes), None);
    assert_eq!(all.iter().find(|call| call.contains("mountinfo") || call.contains("/mounts")), None);
    let made = calls(&trace, BEGIN, STARTED);
    let cgroups = made.iter().filter(|call| call.contains("/sys/fs/cgroup")).count();
    assert!(made.len() > 50, "{trace}");
    Ok(Cost { cgroups, rest: made.len() - cgroups, common: summary(&made) })
}

/// The calls between two marks, without those of the container's program.
fn calls<'a>(trace: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    let mut programs = Vec::new();
    let mut found = Vec::new();
    let lines = trace.lines().skip_while(|line| !line.contains(begin)).skip(1);
    for line in lines.take_while(|line| !line.contains(end)) {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        // In debug builds the standard library looks at every descriptor before it closes it.
        let looks = cfg!(debug_assertions) && call.starts_with("fcntl") && call.contains("F_GETFD");
        if looks || programs.contains(&pid) || call.starts_with("<...") || call.starts_with("+++") {
            continue;
        }
        found.push(call);
        if call.starts_with("execve") {
            programs.push(pid);
        }
    }
    found
}

fn summary(calls: &[&str]) -> String {
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.split('(').next().unwrap_or_default()).or_insert(0_usize) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.iter().map(|(name, count)| format!("{name} {count}, ")).collect()
}
