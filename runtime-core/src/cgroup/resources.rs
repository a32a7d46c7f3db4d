//! From `linux.resources` to what is to be written where: decided here without a system call.
//! The acting side ([`apply`]) writes the list from top to bottom and has no choices of its own
//! but those that a [`Setting`] spells out.

pub(super) mod v1;
pub(super) mod v2;

use std::borrow::Cow;

use oci_spec::runtime::{LinuxPids, LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

use super::dir::Dir;
use super::layout::Controller;
use super::{Error, devices};

/// All that `linux.resources` asks for: decided before anything is made.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) settings: Vec<Setting>,
    pub(super) rules: devices::Rules,
}

impl Limits {
    pub(super) fn v1(limits: Option<&LinuxResources>) -> Result<Limits, Error> {
        let settings = limits.map(v1::settings).transpose()?.unwrap_or_default();
        Ok(Limits { settings, rules: devices::rules(limits)? })
    }

    pub(super) fn v2(limits: Option<&LinuxResources>) -> Result<Limits, Error> {
        let settings = limits.map(v2::settings).transpose()?.unwrap_or_default();
        Ok(Limits { settings, rules: devices::rules(limits)? })
    }
}

/// What a create finds where its cgroup shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or what somebody else left; then it must be empty.
    Left,
    /// What systemd made for us: processes are in it.
    Ours,
}

/// One value for one file of one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Who has the file.
    pub(super) controller: Controller,
    /// Its name in the cgroup's directory.
    pub(super) file: Cow<'static, str>,
    /// What to write.
    pub(super) value: String,
    /// The kernel checks some values against their neighbours' present ones, so the right order
    /// depends on what is in force. Such a setting goes first and, if it is refused with EINVAL,
    /// once more after all others: one of both orders is right, and nothing need be read.
    later: bool,
    missing: Missing,
}

/// What to do where a kernel does not have the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Missing {
    Fail,
    Skip,
    Write { file: &'static str, value: String },
}

impl Setting {
    fn new(controller: Controller, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Setting {
        Setting { controller, file: file.into(), value: value.to_string(), later: false, missing: Missing::Fail }
    }

    fn or_later(self) -> Setting {
        Setting { later: true, ..self }
    }

    fn if_present(self) -> Setting {
        Setting { missing: Missing::Skip, ..self }
    }

    /// Each file and value that may be written for it.
    pub(super) fn writes(&self) -> impl Iterator<Item = (&str, &str)> {
        let other = match &self.missing {
            Missing::Write { file, value } => Some((*file, value.as_str())),
            Missing::Fail | Missing::Skip => None,
        };
        std::iter::once((self.file.as_ref(), self.value.as_str())).chain(other)
    }

    fn or_else(self, file: &'static str, value: impl ToString) -> Setting {
        Setting { missing: Missing::Write { file, value: value.to_string() }, ..self }
    }
}

/// Writes `settings` in order; `dir_of` finds a controller's directory.
pub(super) fn apply<'a>(settings: &[Setting], dir_of: impl Fn(Controller) -> Option<&'a Dir>) -> Result<(), Error> {
    let mut postponed = Vec::new();
    for setting in settings {
        let dir = dir_of(setting.controller)
            .ok_or_else(|| Error::NoController { controller: setting.controller, file: setting.file.to_string() })?;
        match write(dir, setting) {
            Err(Errno::INVAL) if setting.later => postponed.push((dir, setting)),
            result => result.map_err(|source| refused(dir, setting, source))?,
        }
    }
    for (dir, setting) in postponed {
        write(dir, setting).map_err(|source| refused(dir, setting, source))?;
    }
    Ok(())
}

fn write(dir: &Dir, setting: &Setting) -> Result<(), Errno> {
    match (dir.write(&setting.file, &setting.value), &setting.missing) {
        (Err(Errno::NOENT), Missing::Skip) => Ok(()),
        (Err(Errno::NOENT), Missing::Write { file, value }) => dir.write(file, value),
        (result, _) => result,
    }
}

fn refused(dir: &Dir, setting: &Setting, source: Errno) -> Error {
    let file = setting.file.to_string();
    // The directory is there and the file is not: the controller is not on (v2), or the kernel
    // was built without this knob.
    if source == Errno::NOENT && dir.has("cgroup.procs") {
        return Error::NoController { controller: setting.controller, file };
    }
    // v1 keeps no limit below what cannot be reclaimed; the number helps whoever asked.
    if source == Errno::BUSY
        && let (Some(usage), Ok(limit)) = (memory_usage(dir, &file), setting.value.parse())
    {
        return Error::BelowUsage { file, limit, usage };
    }
    Error::Write { file, value: setting.value.clone(), source }
}

/// What `memory.limit_in_bytes`, or its like with swap, limits.
fn memory_usage(dir: &Dir, file: &str) -> Option<u64> {
    let usage = file.strip_suffix("limit_in_bytes").map(|prefix| format!("{prefix}usage_in_bytes"))?;
    dir.read(&usage).ok()?.trim().parse().ok()
}

/// The value for `pids.max`, the same on v1 and v2. Zero is a limit (runtime-spec 1.3); runc writes
/// 1 for it, because systemd knows no zero, and so no task beyond the first can be made either way.
fn pids_max(pids: &LinuxPids) -> String {
    match pids.limit() {
        ..0 => "max".to_owned(),
        0 => "1".to_owned(),
        limit => limit.to_string(),
    }
}

fn throttles(devices: &Option<Vec<LinuxThrottleDevice>>) -> impl Iterator<Item = (i64, i64, u64)> {
    devices.iter().flatten().map(|device| (device.major(), device.minor(), device.rate()))
}

/// `rdma.max` lines, the same on v1 and v2; by device name, for a stable order.
fn rdma(resources: &LinuxResources) -> Vec<Setting> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    devices
        .into_iter()
        .map(|(name, limits)| {
            let mut line = name.clone();
            if let Some(handles) = limits.hca_handles() {
                line += &format!(" hca_handle={handles}");
            }
            if let Some(objects) = limits.hca_objects() {
                line += &format!(" hca_object={objects}");
            }
            Setting::new("rdma", "rdma.max", line)
        })
        .collect()
}

/// Limits on pages of each size and, since Linux 5.7, on their reservations; `file` is what the version calls a limit. The
/// size becomes a part of a file's name. `64KB`, `2MB`, `1GB`: runtime-spec, config-linux.md
fn huge_pages(resources: &LinuxResources, file: &str) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::PageSize { size: size.clone() });
        }
        settings.push(Setting::new("hugetlb", format!("hugetlb.{size}.{file}"), limit.limit()));
        settings.push(Setting::new("hugetlb", format!("hugetlb.{size}.rsvd.{file}"), limit.limit()).if_present());
    }
    Ok(settings)
}

/// The kernel takes a value to its first NUL, and some of its parsers to the first line's end: what follows would be passed
/// over without a word.
fn of_one_line(settings: Vec<Setting>) -> Result<Vec<Setting>, Error> {
    match settings.iter().find(|setting| setting.value.contains(['\n', '\0'])) {
        Some(Setting { file, value, .. }) => Err(Error::BadLine { file: file.to_string(), value: value.clone() }),
        None => Ok(settings),
    }
}

/// Zero means unset, in the fields of which OCI says so.
fn nonzero<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

#[cfg(test)]
fn written(settings: &[Setting]) -> Vec<String> {
    settings.iter().map(|s| format!("{}={}", s.file, s.value)).collect()
}

#[cfg(test)]
fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_pages_that_are_none_are_refused() {
        for size in ["", "../../x", "2MB/../../x", "2MB\\n", "2 MB", "2MB.rsvd"] {
            let limits = resources(&format!(r#"{{"hugepageLimits":[{{"pageSize":"{size}","limit":1}}]}}"#));
            assert!(matches!(v1::settings(&limits), Err(Error::PageSize { .. })), "{size}");
            assert!(matches!(v2::settings(&limits), Err(Error::PageSize { .. })), "{size}");
        }
    }

    #[test]
    fn values_of_more_than_one_line_are_refused() {
        for json in [
            r#"{"cpu":{"cpus":"0\n1-3"}}"#,
            r#"{"cpu":{"mems":"0\u0000,1"}}"#,
            r#"{"rdma":{"mlx5_1 hca_handle=1\n":{"hcaHandles":3}}}"#,
        ] {
            assert!(matches!(v1::settings(&resources(json)), Err(Error::BadLine { .. })), "{json}");
            assert!(matches!(v2::settings(&resources(json)), Err(Error::BadLine { .. })), "{json}");
        }
        let json = r#"{"network":{"priorities":[{"name":"eth0\nlo","priority":5}]}}"#;
        assert!(matches!(v1::settings(&resources(json)), Err(Error::BadLine { .. })));
        let json = r#"{"unified":{"memory.high":"5\u00006"}}"#;
        assert!(matches!(v2::settings(&resources(json)), Err(Error::BadLine { .. })));
    }
}
