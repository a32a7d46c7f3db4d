//! What `linux.resources` come to, without a cgroup: for who wants to look at it, as the fuzz target `resources` does.

use oci_spec::runtime::LinuxResources;

use super::resources::Limits;
use super::{Error, devices, systemd};

/// All that would be done about limits.
#[derive(Debug, PartialEq, Eq)]
pub struct Decided {
    /// In order: the controller, a file in the cgroup's directory, and what is written there. Where a kernel may have
    /// another file in its place, that one follows.
    pub writes: Vec<(&'static str, String, String)>,
    /// v1: the files of the devices controller, likewise, with the lines written to each.
    pub device_lines: [(&'static str, Vec<String>); 2],
    /// v2: the program that rules on devices, a struct bpf_insn in each word.
    pub device_program: Vec<u64>,
    /// What a systemd of the version asked for is told: the names of properties and their values, as Rust prints them.
    pub properties: Vec<(&'static str, String)>,
}

impl Decided {
    /// On cgroup v1, and on a hybrid host.
    pub fn v1(resources: &LinuxResources, systemd: u32) -> Result<Decided, Error> {
        Limits::v1(Some(resources)).map(|limits| Decided::of(&limits, systemd))
    }

    /// On cgroup v2.
    pub fn v2(resources: &LinuxResources, systemd: u32) -> Result<Decided, Error> {
        Limits::v2(Some(resources)).map(|limits| Decided::of(&limits, systemd))
    }

    /// With what the systemd driver makes of them first.
    #[must_use]
    pub fn for_systemd(resources: &LinuxResources) -> LinuxResources {
        systemd::whole_percents(resources)
    }

    fn of(limits: &Limits, version: u32) -> Decided {
        let of_setting = |setting: &super::resources::Setting| {
            let owned = |(file, value): (&str, &str)| (setting.controller, file.to_owned(), value.to_owned());
            setting.writes().map(owned).collect::<Vec<_>>()
        };
        Decided {
            writes: limits.settings.iter().flat_map(of_setting).collect(),
            device_lines: limits.rules.v1(),
            device_program: devices::bpf::program(&limits.rules),
            properties: systemd::told(limits, version).map(|(name, value)| (name, format!("{value:?}"))).collect(),
        }
    }
}
