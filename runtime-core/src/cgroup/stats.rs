//! What a cgroup used: plain data in the shape of `io.containerd.cgroups.v1.Metrics` and
//! `io.containerd.cgroups.v2.Metrics`, field by field what containerd's Go reader fills. Of those
//! messages `network` and v1's `cgroup_stats` are left out: no reader of a cgroup can know them.
//!
//! Times are as in the messages: nanoseconds on v1, microseconds on v2. Sizes are bytes.

pub mod details;
pub mod v1;
pub mod v2;

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::Error;
use super::dir::{Dir, existing};

/// What a cgroup used, in its version's terms.
#[derive(Clone, Debug, PartialEq)]
pub enum Stats {
    /// From cgroup v1.
    V1(Box<v1::Metrics>),
    /// From cgroup v2.
    V2(Box<v2::Metrics>),
}

/// Both versions' `RdmaStat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaStat {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// Allowed.
    pub limit: Vec<RdmaEntry>,
}

/// One device of [`RdmaStat`]; without a limit a number is `u32::MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Its name.
    pub device: String,
    /// HCA handles.
    pub hca_handles: u32,
    /// HCA objects.
    pub hca_objects: u32,
}

/// The text of a file that this kernel or cgroup may not have.
fn text(dir: &Dir, file: &str) -> Result<Option<String>, Error> {
    existing(dir.read(file)).map_err(|source| read_error(file, source))
}

/// The text of a file that every such cgroup has while it exists.
fn required(dir: &Dir, file: &str) -> Result<String, Error> {
    dir.read(file).map_err(|source| read_error(file, source))
}

fn read_error(file: &str, source: Errno) -> Error {
    Error::Read { file: file.to_owned(), source }
}

/// The number in a file; `max` is what `unlimited` says, a missing file zero.
fn number(dir: &Dir, file: &str, unlimited: u64) -> Result<u64, Error> {
    let text = text(dir, file)?;
    Ok(text.map_or(0, |text| parse_number(&text, unlimited)))
}

fn parse_number(text: &str, unlimited: u64) -> u64 {
    match text.trim() {
        "max" => unlimited,
        text => text.parse().unwrap_or(0),
    }
}

/// `key value` lines; what is no unsigned number counts as zero, as in the Go reader.
struct Keyed<'a>(BTreeMap<&'a str, u64>);

impl<'a> Keyed<'a> {
    fn parse(text: &'a str) -> Keyed<'a> {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Keyed(lines.map(|(key, value)| (key, value.trim().parse().unwrap_or(0))).collect())
    }

    fn get(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }
}

/// `rdma.current` and `rdma.max`; `None` without the controller.
fn rdma(dir: &Dir) -> Result<Option<RdmaStat>, Error> {
    let (Some(current), Some(limit)) = (text(dir, "rdma.current")?, text(dir, "rdma.max")?) else {
        return Ok(None);
    };
    Ok(Some(RdmaStat { current: parse_rdma(&current), limit: parse_rdma(&limit) }))
}

/// Lines like `mlx4_0 hca_handle=2 hca_object=max`.
fn parse_rdma(text: &str) -> Vec<RdmaEntry> {
    let entry = |line: &str| {
        let (device, values) = line.split_once(' ')?;
        let value = |key: &str| {
            let value = values.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            match value {
                Some("max") => u32::MAX,
                value => value.and_then(|value| value.parse().ok()).unwrap_or(0),
            }
        };
        let (hca_handles, hca_objects) = (value("hca_handle"), value("hca_object"));
        Some(RdmaEntry { device: device.to_owned(), hca_handles, hca_objects })
    };
    text.lines().filter_map(entry).collect()
}

/// The host's huge page sizes as cgroup files spell them: `2MB`, `1GB`.
fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<u64> = names.filter_map(|name| parse_huge_page_size(&name)).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(huge_page_size).collect()
}

/// `hugepages-2048kB` in kB.
fn parse_huge_page_size(name: &str) -> Option<u64> {
    name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
}

/// As mem_fmt() of mm/hugetlb_cgroup.c does.
fn huge_page_size(kilobytes: u64) -> String {
    match kilobytes {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_lines_with_odd_values_count_as_zero() {
        let keyed = Keyed::parse("oom 3\nlow -1\nbroken\n");
        assert_eq!((keyed.get("oom"), keyed.get("low"), keyed.get("broken")), (3, 0, 0));
    }

    #[test]
    fn huge_pages_are_called_as_the_kernel_does() {
        let size = |name| parse_huge_page_size(name).map(huge_page_size);
        assert_eq!(size("hugepages-2048kB").unwrap(), "2MB");
        assert_eq!(size("hugepages-1048576kB").unwrap(), "1GB");
        assert_eq!(size("hugepages-64kB").unwrap(), "64KB");
        assert_eq!(size("nonsense"), None);
    }

    #[test]
    fn rdma_lines_are_read() {
        let entries = parse_rdma("mlx4_0 hca_handle=2 hca_object=max\nocrdma1 hca_handle=3 hca_object=4\n");
        let expected = RdmaEntry { device: "mlx4_0".into(), hca_handles: 2, hca_objects: u32::MAX };
        assert_eq!(entries[0], expected);
        assert_eq!(entries[1].hca_objects, 4);
    }
}
