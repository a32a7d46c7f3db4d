//! `spec`: a config.json to begin with, as runc writes it. `features`: what we can do.

use std::io::Write;

use runtime_core::host::{CgroupLayout, Host};
use serde_json::{Value, json};

use super::flags::{Given, Until, switch, value};
use super::home::Berth;
use super::{Command, Error};
use crate::features;

pub const SPEC: Command = Command {
    name: "spec",
    words: "",
    about: "write a config.json to begin with",
    flags: &[
        value("bundle", Some('b'), "DIR", "where (the current directory)"),
        switch("rootless", None, "for a container of an ordinary user"),
    ],
    until: Until::End,
    clones: false,
    run: spec,
};

pub const FEATURES: Command = Command {
    name: "features",
    words: "",
    about: "print what this runtime can do",
    flags: &[],
    until: Until::End,
    clones: false,
    run: features,
};

fn features(_: &Berth, given: &Given) -> Result<u8, Error> {
    let [] = given.words("features")?;
    println!("{:#}", features::features());
    Ok(0)
}

fn spec(_: &Berth, given: &Given) -> Result<u8, Error> {
    let [] = given.words("spec")?;
    let config = given.path("bundle").unwrap_or_default().join("config.json");
    if config.symlink_metadata().is_ok() {
        return Err(Error::State("File config.json exists. Remove it first".to_owned()));
    }
    let mut spec = template(Host::probe().is_ok_and(|host| host.cgroup == CgroupLayout::V2));
    if given.is_on("rootless") {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        make_rootless(&mut spec, uid.as_raw(), gid.as_raw());
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&config);
    let mut file = file.map_err(Error::file("create", &config))?;
    writeln!(file, "{spec:#}").map_err(Error::file("write", &config))?;
    Ok(0)
}

/// Private, read-only, with three capabilities and a shell.
fn template(cgroup_namespace: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, fstype: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": fstype, "source": source, "options": options });
    let private = ["nosuid", "noexec", "nodev"];
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].into_iter().chain(cgroup_namespace.then_some("cgroup"));
    json!({
        "ociVersion": runtime_core::state::OCI_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "berth",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &private),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces.map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The caller is root in a user namespace of its own, which may mount no sysfs of a network that is not its, knows no
/// other group, and is given no cgroup.
fn make_rootless(spec: &mut Value, uid: u32, gid: u32) {
    let linux = &mut spec["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    linux["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    linux["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
        if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            options.retain(|option| {
                !option.as_str().is_some_and(|option| option.starts_with("gid=") || option.starts_with("uid="))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_specs() {
        for cgroup_namespace in [true, false] {
            let mut spec = template(cgroup_namespace);
            assert!(runtime_core::spec::parse(spec.to_string().as_bytes()).is_ok());
            make_rootless(&mut spec, 1000, 1001);
            let parsed = runtime_core::spec::parse(spec.to_string().as_bytes()).unwrap();
            let linux = parsed.linux().as_ref().unwrap();
            assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
            assert!(linux.resources().is_none() && !spec.to_string().contains("gid="));
        }
    }
}
