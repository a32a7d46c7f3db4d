//! A cgroup under test, wherever this host has its controllers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::LinuxResources;
use runtime_core::cgroup::{Cgroup, CgroupPath, Error};

/// A cgroup that is gone when the test is over, with what lives in it.
pub struct Scratch {
    pub path: CgroupPath,
    pub parent: String,
    pub name: String,
}

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = format!("berth-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = "c1".to_owned();
        let path = CgroupPath::parse(Some(&format!("/{parent}/{name}")), "unused").unwrap();
        Scratch { path, parent, name }
    }

    pub fn create(&self, resources: &str) -> Result<Cgroup, Error> {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        Cgroup::create(&self.path, Some(&resources))
    }

    /// Its directory in the hierarchy of `controller`; on v2 there is only one.
    pub fn dir(&self, controller: &str) -> PathBuf {
        self.parent(controller).join(&self.name)
    }

    pub fn parent(&self, controller: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchy = if is_v2() { root.to_owned() } else { root.join(controller) };
        hierarchy.join(&self.parent)
    }

    pub fn read(&self, controller: &str, file: &str) -> String {
        let path = self.dir(controller).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")).trim().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = Cgroup::open(&self.path) {
            let _ = cgroup.signal_all(libc::SIGKILL);
            let _ = cgroup.remove();
        }
        for controller in hierarchies() {
            let _ = std::fs::remove_dir(self.parent(&controller));
        }
    }
}

/// The hierarchies of v1, by directory, and the one of v2 beside them; on v2 that one.
pub fn hierarchies() -> Vec<String> {
    if is_v2() {
        return vec![String::new()];
    }
    let entries = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Somebody may have left a directory there that nothing is mounted on.
    names.filter(|name| is_hierarchy(&Path::new("/sys/fs/cgroup").join(name))).collect()
}

fn is_hierarchy(path: &Path) -> bool {
    const MAGIC: [u32; 2] = [0x0027_e0eb, 0x6367_7270];
    rustix::fs::statfs(path).is_ok_and(|filesystem| MAGIC.contains(&(filesystem.f_type as u32)))
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
