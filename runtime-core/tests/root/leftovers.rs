//! What a trial must not leave behind, nor change of us.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use super::bundle::{prefix, runtime};

/// Everything of ours and of the host that a container could have touched.
pub struct Leftovers(BTreeSet<String>);

impl Leftovers {
    pub fn look() -> Leftovers {
        let mut found = BTreeSet::new();
        found.extend(lines("/proc/self/mountinfo"));
        found.extend(cgroups());
        found.extend(children());
        found.extend(descriptors());
        found.extend(ourselves());
        found.extend(fs::read_dir(super::bundle::scratch()).unwrap().flatten().map(|e| format!("{:?}", e.path())));
        Leftovers(found)
    }

    /// Orphans may take a moment to end; everything else must be gone already, but is given the same time.
    pub fn compare(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            runtime().children.reap_orphans();
            let now = Leftovers::look();
            let left: Vec<_> = now.0.difference(&self.0).collect();
            // Others take mounts of theirs away, which go here too when their directories go.
            let gone = self.0.difference(&now.0).filter(|line| !line.contains(" - ") || line.contains(&prefix()));
            let gone: Vec<_> = gone.collect();
            if left.is_empty() && gone.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("left behind: {left:#?}, gone: {gone:#?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn lines(file: &str) -> Vec<String> {
    fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

fn cgroups() -> Vec<String> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
        for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix()) {
                found.push(format!("cgroup {:?}", entry.path()));
            }
        }
    }
    found
}

/// Zombies too.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<String> =
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter().map(|pid| format!("child {pid}")).collect()
}

fn descriptors() -> Vec<String> {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    // The one that reads this directory is closed by now.
    let open = fds.filter_map(|fd| Some((fd.file_name(), fs::read_link(fd.path()).ok()?)));
    let own = format!("/proc/{}/fd", std::process::id());
    open.filter(|(_, to)| to.to_str() != Some(&own)).map(|(fd, to)| format!("fd {fd:?} {to:?}")).collect()
}

/// The process itself changes nothing of itself.
fn ourselves() -> Vec<String> {
    let mut found = vec![
        format!("cwd {:?}", std::env::current_dir()),
        format!("hostname {:?}", fs::read_to_string("/proc/sys/kernel/hostname")),
        format!("oom {:?}", fs::read_to_string("/proc/self/oom_score_adj")),
        format!("limits {:?}", fs::read_to_string("/proc/self/limits")),
        format!("cgroup {:?}", fs::read_to_string("/proc/self/cgroup")),
    ];
    let status = lines("/proc/self/status");
    let kept = ["Umask", "Uid", "Gid", "Cap", "NoNewPrivs", "Seccomp:", "SigBlk"];
    found.extend(status.into_iter().filter(|line| kept.iter().any(|name| line.starts_with(name))));
    for namespace in fs::read_dir("/proc/self/ns").unwrap().flatten() {
        found.push(format!("{:?} {:?}", namespace.file_name(), fs::read_link(namespace.path())));
    }
    found
}
