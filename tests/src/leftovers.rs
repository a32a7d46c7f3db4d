//! What is left on the machine that bears a name: processes, mounts, cgroups, sockets, files.
//!
//! Every id, namespace and directory of a trial holds a name that nothing else on the machine has, so what a trial
//! leaves can be told from what others do at the same time.

use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Things that bear a name. Empty is what a trial must end with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Process id and what it looks like. Zombies are included.
    pub processes: Vec<(i32, String)>,
    /// Mount points, with the file system's type.
    pub mounts: Vec<(PathBuf, String)>,
    /// Directories below a cgroup hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// Files, directories, fifos and sockets.
    pub files: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks for everything whose name holds one of the needles, and for these sockets. `own` is the directory of
    /// the daemon: in it only tasks' bundles count, and the daemon itself is no leftover.
    pub fn find(needles: &[&str], sockets: &[PathBuf], own: &Path) -> Leftovers {
        let bears = |text: &str| needles.iter().any(|needle| text.contains(needle));
        let mut files: Vec<PathBuf> = sockets.iter().filter(|path| path.symlink_metadata().is_ok()).cloned().collect();
        walk(Path::new("/run"), 5, &mut |path| {
            let bears = bears(&path.to_string_lossy());
            if bears {
                files.push(path.to_path_buf());
            }
            !bears
        });
        for bundles in ["state/io.containerd.runtime.v2.task", "root/io.containerd.runtime.v2.task"] {
            walk(&own.join(bundles), 2, &mut |path| {
                let inside = path.strip_prefix(own).unwrap_or(path).to_string_lossy().into_owned();
                // The directory of the namespace stays as long as the daemon.
                if bears(&inside) && path.parent().and_then(Path::parent) == Some(&own.join(bundles)) {
                    files.push(path.to_path_buf());
                }
                true
            });
        }
        Leftovers { processes: processes(&bears), mounts: mounts(&bears), cgroups: cgroups(&bears), files }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Leftovers::default()
    }

    /// Searches until nothing is found or the time is over; returns what was found last.
    pub fn wait_until_empty(deadline: Duration, mut find: impl FnMut() -> Leftovers) -> Leftovers {
        let mut last = Leftovers::default();
        crate::command::poll(deadline, || {
            last = find();
            last.is_empty().then_some(())
        });
        last
    }

    /// Removes it all, as far as that goes, so that one failed trial does not spoil the next.
    pub fn remove(&self) {
        for (pid, _) in &self.processes {
            if let Some(pid) = Pid::from_raw(*pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !self.processes.is_empty() {
            std::thread::sleep(Duration::from_millis(200));
        }
        for (target, _) in self.mounts.iter().rev() {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
        for cgroup in &self.cgroups {
            remove_cgroup(cgroup);
        }
        for file in &self.files {
            let _ = fs::remove_dir_all(file).or_else(|_| fs::remove_file(file));
        }
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pid, what) in &self.processes {
            writeln!(f, "process {pid} {what}")?;
        }
        for (target, fstype) in &self.mounts {
            writeln!(f, "mount {fstype} on {}", target.display())?;
        }
        for cgroup in &self.cgroups {
            writeln!(f, "cgroup {}", cgroup.display())?;
        }
        for file in &self.files {
            writeln!(f, "file {}", file.display())?;
        }
        Ok(())
    }
}

/// Visits what is below a directory, to a depth; `visit` says whether to go into it.
fn walk(directory: &Path, depth: u32, visit: &mut dyn FnMut(&Path) -> bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let descend = visit(&path);
        if descend && depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, depth - 1, visit);
        }
    }
}

/// The daemons and `ctr` bear the names too, but are the tests' own.
fn is_of_the_tests(arguments: &str) -> bool {
    let program = arguments.split(' ').next().unwrap_or_default();
    ["containerd", "ctr", "setsid"].iter().any(|own| program.rsplit('/').next() == Some(own))
}

/// Processes whose arguments, working directory, root, environment or cgroup bears the name.
fn processes(bears: &dyn Fn(&str) -> bool) -> Vec<(i32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |name: &str| {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let arguments = read("cmdline");
        if pid as u32 == std::process::id() || is_of_the_tests(&arguments) {
            continue;
        }
        let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let cgroup = read("cgroup");
        if bears(&arguments) || bears(&cgroup) || bears(&cwd.to_string_lossy()) || bears(&read("environ")) {
            let status = read("status");
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                line.trim_start_matches(':').trim().to_owned()
            };
            found.push((pid, format!("{} [{}] parent {}: {arguments}", field("Name"), field("State"), field("PPid"))));
        }
    }
    found
}

/// Mounts in our own mount namespace.
fn mounts(bears: &dyn Fn(&str) -> bool) -> Vec<(PathBuf, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let target = |line: &str| -> Option<(PathBuf, String)> {
        let (left, right) = line.split_once(" - ")?;
        let target = left.split(' ').nth(4)?.replace("\\040", " ");
        Some((target.into(), right.split(' ').next()?.to_owned()))
    };
    table.lines().filter_map(target).filter(|(path, _)| bears(&path.to_string_lossy())).collect()
}

/// Directories of every hierarchy; a parent comes after its children. The directory that containerd names after its
/// namespace is no leftover: runc leaves it, and the next container needs it again.
fn cgroups(bears: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in hierarchies() {
        walk(&root, 6, &mut |path| {
            let below = path.strip_prefix(&root).unwrap_or(path);
            if bears(&below.to_string_lossy()) && below.components().count() > 1 && path.is_dir() {
                found.push(path.to_path_buf());
            }
            true
        });
    }
    found.reverse();
    found
}

/// Where cgroup hierarchies are mounted, v1 and v2.
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    });
    mounted.collect()
}

/// Removes the cgroup directories that bear a namespace's name, once they are empty.
pub fn remove_namespace(namespace: &str) {
    for root in hierarchies() {
        let _ = fs::remove_dir(root.join(namespace));
    }
}

/// Removes a cgroup directory, killing what is in it.
fn remove_cgroup(cgroup: &Path) {
    for pid in fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for _ in 0..50 {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}
