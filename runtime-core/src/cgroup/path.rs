//! Where a container's cgroup is: `linux.cgroupsPath`, understood.

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::Error;
use super::systemd::Unit;

/// Where a container's cgroup is, in every hierarchy. Never the root of one.
///
/// As [`CgroupPath::parse`] makes it, a relative path means *below whoever asks*. What
/// [`super::Cgroup::path`] gives says where that was, and is what belongs into a state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPath {
    /// Components joined by `/`, without a leading one; none is empty, `.` or `..`.
    path: String,
    base: Base,
    /// What systemd calls it, if it is systemd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Base {
    /// The root of each hierarchy.
    Root,
    /// Our own cgroup, whichever it is.
    Own,
    /// What was our own cgroup: the text of /proc/self/cgroup of that time.
    Was(String),
}

impl CgroupPath {
    /// Understands `linux.cgroupsPath` as the cgroupfs driver does: absolute from each hierarchy's
    /// root, relative below our own cgroup, none `/<id>`; and `slice:prefix:name` as the systemd driver does.
    pub fn parse(cgroups_path: Option<&str>, id: &str) -> Result<CgroupPath, Error> {
        let text = match cgroups_path {
            None | Some("") => return CgroupPath::clean(id, Base::Root),
            Some(text) => text,
        };
        if text.starts_with('/') {
            return CgroupPath::clean(text, Base::Root);
        }
        if text.split(':').count() == 3 {
            return CgroupPath::parse_unit(cgroups_path, id);
        }
        CgroupPath::clean(text, Base::Own)
    }

    /// Our own cgroup.
    pub(crate) fn own() -> Result<CgroupPath, Error> {
        CgroupPath { path: String::new(), base: Base::Own, unit: None }.pinned()
    }

    /// Understands `linux.cgroupsPath` as the systemd driver does: `slice:prefix:name` and nothing else; none is
    /// `berth-<id>.scope` in `system.slice`.
    pub fn parse_unit(cgroups_path: Option<&str>, id: &str) -> Result<CgroupPath, Error> {
        let unit = Unit::parse(cgroups_path, id)?;
        Ok(CgroupPath { path: unit.path(), base: Base::Root, unit: Some(unit) })
    }

    fn clean(text: &str, base: Base) -> Result<CgroupPath, Error> {
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        // The root of a hierarchy holds the host itself: it must never be limited, frozen or killed.
        if parts.is_empty() || text.contains('\0') {
            return Err(Error::BadPath { path: text.to_owned() });
        }
        Ok(CgroupPath { path: parts.join("/"), base, unit: None })
    }

    /// The same place, said so that it does not depend on who asks. Reads /proc/self/cgroup if needed.
    pub(crate) fn pinned(&self) -> Result<CgroupPath, Error> {
        let base = match &self.base {
            Base::Own => {
                let own = std::fs::read_to_string("/proc/self/cgroup").map_err(Error::ProcessCgroup)?;
                Base::Was(own)
            }
            base => base.clone(),
        };
        Ok(CgroupPath { base, ..self.clone() })
    }

    /// The unit of systemd's that it is.
    pub(super) fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// The path from the root of the hierarchy that `controllers` (its name in /proc/self/cgroup, any
    /// of them; empty for v2) belongs to.
    pub(crate) fn within(&self, controllers: &[&str]) -> Result<String, Error> {
        let Base::Was(own) = &self.base else {
            return Ok(self.path.clone());
        };
        let own =
            own_path(own, controllers).ok_or_else(|| Error::OwnCgroupHidden { controller: controllers.join(",") })?;
        let parts = [own.as_str(), &self.path].into_iter().filter(|part| !part.is_empty());
        Ok(parts.collect::<Vec<_>>().join("/"))
    }

    /// The cgroup `below` this one.
    pub(super) fn join(&self, below: &str) -> CgroupPath {
        CgroupPath { path: format!("{}/{below}", self.path), base: self.base.clone(), unit: None }
    }

    /// The last component: the cgroup's own name.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

impl std::fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.base {
            Base::Root => write!(f, "/{}", self.path),
            Base::Own | Base::Was(_) => f.write_str(&self.path),
        }
    }
}

/// The v2 cgroup of `pid`, relative to its ancestor `own`; `None` if that is where it lives.
pub(super) fn below(own: &str, pid: Pid) -> Result<Option<String>, Error> {
    let text =
        std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).map_err(Error::ProcessCgroup)?;
    let rest = own_path(&text, &[""]).and_then(|path| {
        let rest = path.strip_prefix(own)?;
        // A neighbour may have a name that only begins with ours: `/a/bc` is not below `/a/b`.
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/').to_owned())
    });
    match rest {
        Some(rest) if rest.is_empty() => Ok(None),
        Some(rest) => Ok(Some(rest)),
        None => Err(Error::NotBelow { pid: pid.as_raw_nonzero().get(), path: format!("/{own}") }),
    }
}

/// Our cgroup in one hierarchy, without the leading slash; `None` if it is not listed, or lies
/// outside of our cgroup namespace (`/..`) where no name reaches it.
fn own_path(proc_self_cgroup: &str, controllers: &[&str]) -> Option<String> {
    let path = proc_self_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        names.split(',').any(|name| controllers.contains(&name)).then_some(path)
    })?;
    let path = path.trim_start_matches('/');
    let climbs = path.split('/').any(|part| part == "..");
    (!climbs).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "9:name=systemd:/\n4:memory:/pods/shim\n3:cpu,cpuacct:/x\n0::/unified\n";

    fn parse(text: &str) -> Result<CgroupPath, Error> {
        CgroupPath::parse(Some(text), "id")
    }

    #[test]
    fn no_path_is_the_id_below_the_root() {
        assert_eq!(CgroupPath::parse(None, "c1").unwrap().to_string(), "/c1");
        assert_eq!(CgroupPath::parse(Some(""), "c1").unwrap().to_string(), "/c1");
    }

    #[test]
    fn dots_are_resolved_and_cannot_leave_the_hierarchy() {
        assert_eq!(parse("/a/./b//../c/").unwrap().to_string(), "/a/c");
        assert_eq!(parse("/../../a").unwrap().to_string(), "/a");
        assert_eq!(parse("../../a").unwrap().to_string(), "a");
    }

    #[test]
    fn root_cgroup_is_refused() {
        for path in ["/", "/.", "/a/..", "..", "/a\0b"] {
            assert!(matches!(parse(path), Err(Error::BadPath { .. })), "{path:?}");
        }
    }

    #[test]
    fn systemd_paths_are_recognised() {
        assert_eq!(parse("system.slice:cri:abc").unwrap().to_string(), "/system.slice/cri-abc.scope");
        assert!(parse("/a:b:c").unwrap().unit().is_none());
        assert!(matches!(CgroupPath::parse_unit(Some("/a"), "id"), Err(Error::BadUnit { .. })));
    }

    #[test]
    fn relative_paths_are_below_our_own_cgroup_of_each_hierarchy() {
        let path = CgroupPath { path: "c".into(), base: Base::Was(OWN.into()), unit: None };
        assert_eq!(path.within(&["memory"]).unwrap(), "pods/shim/c");
        assert_eq!(path.within(&["cpuacct"]).unwrap(), "x/c");
        assert_eq!(path.within(&["name=systemd"]).unwrap(), "c");
        assert_eq!(path.within(&[""]).unwrap(), "unified/c");
        assert!(matches!(path.within(&["pids"]), Err(Error::OwnCgroupHidden { .. })));
    }

    #[test]
    fn own_cgroup_outside_of_the_namespace_is_an_error() {
        assert_eq!(own_path("0::/../x\n", &[""]), None);
    }

    #[test]
    fn pinned_path_survives_a_state_file() {
        let path = CgroupPath { path: "c".into(), base: Base::Was(OWN.into()), unit: None };
        let text = serde_json::to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<CgroupPath>(&text).unwrap(), path);
    }
}
