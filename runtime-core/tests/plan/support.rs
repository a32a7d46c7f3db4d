//! What the tests of the plan need: hosts, a spec that is right, and ways to spoil it.

use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{Process, Spec};
use runtime_core::host::{CgroupLayout, Hierarchy, Host};
use runtime_core::plan::rootfs::Mount;
use runtime_core::plan::{CgroupDirectory, Error, ExecInput, InitPlan, Input};
use runtime_core::step::{Seccomp, SockFilter};
use serde_json::{Value, json};

/// A kind of host: `v2`, `v1`, `lsm` (v2 with AppArmor and SELinux), `old` (a kernel of 2020).
pub fn host(name: &str) -> Host {
    let hierarchy = |name: &str, options: &[&str]| Hierarchy {
        name: name.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let v1 = vec![
        hierarchy("systemd", &["name=systemd"]),
        hierarchy("cpu,cpuacct", &["cpu", "cpuacct"]),
        hierarchy("memory", &["memory"]),
    ];
    Host {
        cgroup: if name == "v1" { CgroupLayout::V1(v1) } else { CgroupLayout::V2 },
        last_capability: if name == "old" { 37 } else { 40 },
        apparmor: name == "lsm",
        selinux: name == "lsm",
        kcore: true,
        user_namespace: false,
        setgroups_denied: false,
        proc_of_namespace: name != "old",
    }
}

/// Compiles what `test` says: an init, or an exec.
pub fn compile(spec: &Spec, test: &Value, host: &Host) -> Result<InitPlan, Error> {
    let rootfs: Vec<Mount> = test["rootfs"].as_array().into_iter().flatten().map(mount).collect();
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    // What a profile becomes is seccomp's to test.
    let seccomp = seccomp.map(|profile| {
        let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
        let flags = if profile.listener_path().is_some() { listener } else { 0 };
        Arc::new(Seccomp { program: vec![SockFilter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }], flags })
    });
    let spec_terminal = spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
    if test["exec"].is_object() {
        let process: Process = serde_json::from_value(test["exec"].clone()).unwrap_or_default();
        return InitPlan::compile_exec(&ExecInput {
            process: &process,
            spec,
            id: "box",
            host,
            home: test["home"].as_str(),
            terminal: process.terminal().unwrap_or(false),
            no_new_keyring: false,
            seccomp,
            preserve_fds: 0,
        });
    }
    InitPlan::compile(&Input {
        spec,
        id: "box",
        bundle: Path::new("/bundle"),
        rootfs: &rootfs,
        host,
        home: test["home"].as_str(),
        terminal: spec_terminal,
        no_pivot_root: test["no_pivot_root"].as_bool().unwrap_or(false),
        no_new_keyring: false,
        cgroup: &directories(host),
        host_network: false,
        seccomp,
        gate: test["gate"].as_str().map(Path::new),
        preserve_fds: 0,
    })
}

fn mount(value: &Value) -> Mount {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Mount {
        fstype: text(&value["type"]),
        source: text(&value["source"]),
        target: text(&value["target"]),
        options: value["options"].as_array().into_iter().flatten().map(text).collect(),
    }
}

fn directories(host: &Host) -> Vec<CgroupDirectory> {
    let CgroupLayout::V1(hierarchies) = &host.cgroup else { return Vec::new() };
    let directory = |hierarchy: &Hierarchy| CgroupDirectory {
        hierarchy: hierarchy.name.clone(),
        path: Path::new("/sys/fs/cgroup").join(&hierarchy.name).join("default/box"),
    };
    hierarchies.iter().map(directory).collect()
}

/// The least that is right.
pub fn minimal() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "cwd": "/", "env": ["PATH=/bin"] },
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }
            ],
        },
    })
}

/// RFC 7386, but that null stays: a spec may hold it.
pub fn merge(value: &mut Value, patch: &Value) {
    let (Some(target), Some(patch)) = (value.as_object_mut(), patch.as_object()) else {
        *value = patch.clone();
        return;
    };
    for (key, patch) in patch {
        merge(target.entry(key.clone()).or_insert(Value::Null), patch);
    }
}

/// Puts something odd somewhere.
pub fn mutate(value: &mut Value, next: &mut impl FnMut(usize) -> usize) {
    let odd = [
        json!(null),
        json!(""),
        json!("/"),
        json!("../.."),
        json!("a\0b"),
        json!("=,\"="),
        json!([]),
        json!({}),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(4_294_967_295_u32),
        json!(true),
        json!("ro"),
        json!("rbind"),
        json!("/proc/self"),
        json!("日本"),
        json!("tmpfs"),
        json!("cgroup"),
    ];
    match value {
        Value::Object(map) if !map.is_empty() && next(8) != 0 => {
            let chosen = next(map.len());
            if let Some(child) = map.values_mut().nth(chosen) {
                mutate(child, next);
            }
        }
        Value::Array(list) if !list.is_empty() => match next(6) {
            0 => {
                let copy = list[next(list.len())].clone();
                list.push(copy);
            }
            1 => drop(list.swap_remove(next(list.len()))),
            _ => {
                let chosen = next(list.len());
                mutate(&mut list[chosen], next);
            }
        },
        _ => *value = odd[next(odd.len())].clone(),
    }
}
