//! Somebody inside lies in wait for the processes that enter: CVE-2016-9962, CVE-2019-5736, and what came after.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bundle::{Bundle, Live, scratch};
use super::namespaces::with_user_namespace;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("root_inside_sees_nothing_of_a_process_that_enters", default_rights),
    ("ptracer_of_a_user_namespace_sees_nothing_of_a_process_that_enters", user_namespace),
    ("ptracer_of_the_hosts_user_namespace_finds_no_descriptor_of_the_host", host_user_namespace),
    ("ptracer_of_a_joined_pid_namespace_never_sees_the_hosts_root", joined_pid),
    ("ptracer_of_joined_user_and_pid_namespaces_sees_nothing", joined_user_and_pid),
];

/// For three seconds looks at every process that is not its own, and prints what it gets hold of.
pub fn hunter(host: &str) -> i32 {
    println!("up");
    // Whoever may ptrace may open the memory, and a tracer would hold the end of its tracee back.
    let until = Instant::now() + Duration::from_secs(3);
    let mut got = std::collections::BTreeSet::new();
    while Instant::now() < until {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let path = process.path();
            let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
            let Some(pid) = pid.filter(|pid| *pid as u32 != std::process::id()) else { continue };
            if path.join("root").join(host.trim_start_matches('/')).exists() {
                got.insert("the host's root".to_owned());
            }
            let Ok(exe) = fs::read_link(path.join("exe")) else { continue };
            if exe != Path::new("/bin/busybox") && exe != Path::new("/probe") && pid != 1 {
                got.insert(format!("exe {}", exe.display()));
                let fds = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
                got.extend(fds.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|to| format!("fd {}", to.display())));
                if fs::File::open(path.join("mem")).is_ok() {
                    got.insert("memory".to_owned());
                }
            }
        }
    }
    for line in got {
        println!("got {line}");
    }
    0
}

fn lurking(bundle: Bundle) -> Result<Live, Stop> {
    let mut live = bundle.probe(&["hunter", scratch().to_str().unwrap()]).start()?;
    for _ in 0..1000 {
        if live.init.stdout().starts_with("up\n") {
            return Ok(live);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err("the hunter is not up".into())
}

/// What the hunter got while `act` was done again and again.
fn caught(mut live: Live, act: impl Fn(&Live) -> Result<(), Stop>) -> Result<Vec<String>, Stop> {
    let mut acts = 0;
    while !live.init.ended_within(Duration::ZERO) {
        match act(&live) {
            Ok(()) => acts += 1,
            // It has ended meanwhile, and nobody can enter any more.
            Err(_) if live.init.ended_within(Duration::from_secs(2)) => {}
            Err(error) => return Err(error),
        }
    }
    assert!(acts > 10, "only {acts} processes entered");
    let output = live.init.wait().success()?;
    Ok(output.lines().filter_map(|line| line.strip_prefix("got ")).map(str::to_owned).collect())
}

fn exec_true(live: &Live) -> Result<(), Stop> {
    live.sh("true")?.success()?;
    Ok(())
}

fn ptracer(bundle: Bundle) -> Bundle {
    let all = || json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_KILL"]);
    bundle.set("/process/capabilities", json!({"bounding": all(), "permitted": all(), "effective": all()}))
}

fn default_rights() -> Result<(), Stop> {
    let live = lurking(Bundle::new())?;
    assert_eq!(caught(live, exec_true)?, Vec::<String>::new());
    Ok(())
}

fn user_namespace() -> Result<(), Stop> {
    let live = lurking(ptracer(with_user_namespace(Bundle::new())))?;
    assert_eq!(caught(live, exec_true)?, Vec::<String>::new());
    Ok(())
}

/// Nobody can be kept from it who has CAP_SYS_PTRACE over the host's user namespace; but there is nothing to be found.
fn host_user_namespace() -> Result<(), Stop> {
    let got = caught(lurking(ptracer(Bundle::new()))?, exec_true)?;
    let ours =
        |line: &&String| ["the host's root", "fd /sys/fs/cgroup", "fd /tmp"].iter().any(|part| line.contains(part));
    assert_eq!(got.iter().filter(ours).collect::<Vec<_>>(), Vec::<&String>::new(), "{got:#?}");
    Ok(())
}

fn joined(bundle: Bundle, kind: &str, holder: &Live) -> Bundle {
    let path: Value = json!(format!("/proc/{}/ns/{kind}", holder.init.pid()));
    bundle.namespace(kind, Some(json!({"type": kind, "path": path})))
}

/// With CAP_SYS_PTRACE over the host's user namespace whoever enters can be looked at; by then it has no way back.
fn joined_pid() -> Result<(), Stop> {
    let live = lurking(ptracer(Bundle::new()))?;
    let got = caught(live, |live| {
        joined(Bundle::new(), "pid", live).says()?;
        Ok(())
    })?;
    let host = scratch();
    let of_host =
        |line: &&String| line.contains("the host's root") || line.starts_with(&format!("fd {}", host.display()));
    assert_eq!(got.iter().filter(of_host).collect::<Vec<_>>(), Vec::<&String>::new());
    Ok(())
}

/// Here it enters before the pivot, and is protected by belonging to the host.
fn joined_user_and_pid() -> Result<(), Stop> {
    let live = lurking(ptracer(with_user_namespace(Bundle::new())))?;
    let got = caught(live, |live| {
        let bundle = with_user_namespace(Bundle::new())
            .set("/linux/uidMappings", json!([]))
            .set("/linux/gidMappings", json!([]));
        joined(joined(bundle, "user", live), "pid", live).says()?;
        Ok(())
    })?;
    assert_eq!(got, Vec::<String>::new());
    Ok(())
}
