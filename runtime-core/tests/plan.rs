//! Golden tests: every `tests/plan/*.json` is a spec, and each `.plan` beside it what it becomes on a kind of host.
//!
//! A spec may say under `test` what else goes into its plan: `hosts` (`v2`, `v1`, `lsm`, `old`), `rootfs` (mounts of the
//! snapshotter), `exec` (a process that joins the container), `no_pivot_root`, `home`.
//! `BLESS=1 cargo test -p runtime-core --test plan` writes the plans anew: read the diff.

#[path = "plan/support.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use runtime_core::spec;
use serde_json::{Value, json};
use support::{compile, host, merge, minimal};

#[test]
fn specs_become_their_golden_plans() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for path in specs() {
        let json = fs::read(&path).unwrap();
        let test = serde_json::from_slice::<Value>(&json).unwrap()["test"].take();
        let spec = spec::parse(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let hosts = test["hosts"].as_array().cloned().unwrap_or_else(|| vec![json!("v2")]);
        for name in hosts.iter().filter_map(Value::as_str) {
            let plan = match compile(&spec, &test, &host(name)) {
                Ok(plan) => plan.to_string(),
                Err(error) => format!("error: {error}\n"),
            };
            let golden = path.with_extension(format!("{name}.plan"));
            if bless {
                fs::write(&golden, &plan).unwrap();
            } else if fs::read_to_string(&golden).unwrap_or_default() != plan {
                wrong.push(format!("--- {}: is now\n{plan}", golden.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nBLESS=1 writes them anew", wrong.join("\n"));
}

fn specs() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let mut specs: Vec<_> = fs::read_dir(directory)
        .expect("tests/plan")
        .map(|entry| entry.expect("tests/plan").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    specs.sort();
    specs
}

#[test]
fn bad_specs_name_what_is_wrong() {
    for (patch, expected) in bad() {
        let mut value = minimal();
        merge(&mut value, &patch);
        let spec = spec::parse(value.to_string().as_bytes()).unwrap();
        let found = match compile(&spec, &value["test"], &host("v2")) {
            Ok(_) => "no error".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{patch}");
    }
}

fn mount(mount: Value) -> Value {
    json!({ "mounts": [mount] })
}

fn namespaces(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({ "type": kind })).collect()
}

/// Changes of a good spec, and the errors they make.
#[rustfmt::skip]
fn bad() -> Vec<(Value, &'static str)> {
    let process = bad_processes();
    let mounts = bad_mounts();
    let linux = bad_linux();
    process.into_iter().chain(mounts).chain(linux).collect()
}

#[rustfmt::skip]
fn bad_processes() -> Vec<(Value, &'static str)> {
    let process = |patch: Value| json!({ "process": patch });
    vec![
        (json!({ "process": null }), "process must not be empty"),
        (process(json!({ "args": [] })), "process.args must not be empty"),
        (process(json!({ "args": null })), "process.args must not be empty"),
        (process(json!({ "args": ["a\0b"] })), "process.args \"a\\0b\" contains a null byte"),
        (process(json!({ "cwd": "" })), "process.cwd must not be empty"),
        (process(json!({ "cwd": "tmp" })), "process.cwd \"tmp\": must be an absolute path"),
        (process(json!({ "env": ["PATH"] })), "process.env \"PATH\": invalid environment variable: missing '='"),
        (process(json!({ "env": ["=a"] })), "process.env \"=a\": invalid environment variable: name cannot be empty"),
        (process(json!({ "user": { "uid": u32::MAX } })), "process.user.uid \"4294967295\": out of range"),
        (process(json!({ "user": { "additionalGids": [u32::MAX] } })), "process.user.additionalGids \"4294967295\": out of range"),
        (process(json!({ "oomScoreAdj": 1001 })), "process.oomScoreAdj \"1001\": must lie between -1000 and 1000"),
        (process(json!({ "rlimits": [{ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 }] })), "process.rlimits[0] \"RLIMIT_CPU\": the soft limit is above the hard limit"),
        (process(json!({ "rlimits": [{ "type": "RLIMIT_CPU" }, { "type": "RLIMIT_CPU" }] })), "process.rlimits[1] \"RLIMIT_CPU\": duplicated rlimit"),
        (process(json!({ "apparmorProfile": "cri" })), "process.apparmorProfile \"cri\": AppArmor is disabled or not supported by this kernel"),
        (process(json!({ "selinuxLabel": "a:b:c" })), "process.selinuxLabel \"a:b:c\": SELinux is disabled or not supported by this kernel"),
        (process(json!({ "scheduler": { "policy": "SCHED_OTHER", "nice": 20 } })), "process.scheduler.nice \"20\": must lie between -20 and 19"),
        (process(json!({ "scheduler": { "policy": "SCHED_IDLE", "priority": 1 } })), "process.scheduler.priority: can only be specified for SCHED_FIFO or SCHED_RR"),
        (process(json!({ "scheduler": { "policy": "SCHED_FIFO", "priority": -1 } })), "process.scheduler.priority \"-1\": must not be negative"),
        (process(json!({ "scheduler": { "policy": "SCHED_RR", "runtime": 1 } })), "process.scheduler.runtime, deadline and period: can only be specified for SCHED_DEADLINE"),
        (process(json!({ "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 8 } })), "process.ioPriority.priority \"8\": must lie between 0 and 7"),
        (json!({ "test": { "exec": { "user": {}, "cwd": "/", "args": ["true"], "execCPUAffinity": { "final": "3-1" } } } }), "process.execCPUAffinity.final \"3-1\": must be numbers and ranges like \"0-3,7\""),
        (process(json!({ "terminal": true, "consoleSize": { "height": 65536, "width": 1 } })), "process.consoleSize.height \"65536\": out of range"),
    ]
}

#[rustfmt::skip]
fn bad_mounts() -> Vec<(Value, &'static str)> {
    vec![
        (mount(json!({ "destination": "/" , "type": "tmpfs" })), "mounts[0] (/) \"/\": mountpoint is on the top of rootfs"),
        (mount(json!({ "destination": "/a/../..", "type": "tmpfs" })), "mounts[0] (/a/../..) \"/a/../..\": mountpoint is on the top of rootfs"),
        (mount(json!({ "destination": "", "type": "tmpfs" })), "mounts[0] ().destination must not be empty"),
        (mount(json!({ "destination": "/a" })), "mounts[0] (/a).type must not be empty"),
        (mount(json!({ "destination": "/a", "options": ["bind"] })), "mounts[0] (/a).source must not be empty"),
        (mount(json!({ "destination": "/a", "source": "/b", "options": ["rbind", "size=1m"] })), "mounts[0] (/a).options \"size=1m\": bind mounts cannot have any filesystem-specific options applied"),
        (mount(json!({ "destination": "/proc/self", "type": "tmpfs" })), "mounts[0] (/proc/self) \"/proc/self\": cannot be mounted because it is inside /proc"),
        (mount(json!({ "destination": "/proc", "type": "tmpfs" })), "mounts[0] (/proc) \"/proc\": cannot be mounted because it is not of type proc"),
        (mount(json!({ "destination": "/x/../proc", "source": "/tmp", "options": ["bind"] })), "mounts[0] (/x/../proc) \"/proc\": cannot be mounted because it is not of type proc"),
        (mount(json!({ "destination": "/a", "source": "/b", "options": ["bind", "idmap"] })), "mounts[0] (/a).options: \"idmap\" needs uidMappings and gidMappings, or a user namespace of the container's own"),
        (mount(json!({ "destination": "/a", "source": "/b", "options": ["bind"], "uidMappings": [{ "hostID": 1, "containerID": 0, "size": 1 }] })), "mounts[0] (/a): id-mapped mounts must have both uid and gid mappings specified"),
        (mount(json!({ "destination": "/a", "type": "tmpfs", "options": ["ridmap"] })), "mounts[0] (/a): id-mapped mounts are only supported for bind-mounts"),
        (mount(json!({ "destination": "/a", "source": "/b", "options": ["bind", "idmap=uids=0-1-2"] })), "mounts[0] (/a).options \"idmap=uids=0-1-2\" is not supported"),
        (mount(json!({ "destination": "/a", "type": "tmpfs", "options": ["remount"] })), "mounts[0] (/a).options \"remount\" without bind is not supported"),
        (json!({ "root": null }), "root must not be empty"),
        (json!({ "root": { "path": "" } }), "root.path must not be empty"),
        (json!({ "test": { "rootfs": [{ "type": "overlay", "target": "/a" }] } }), "rootfs[0].target \"/a\": the first mount must be the root"),
        (json!({ "test": { "rootfs": [{ "type": "overlay", "options": ["lowerdir=/a", "uidmap=0:1:1"] }] } }), "rootfs[0].options: \"uidmap=\" and \"gidmap=\" belong together"),
        (json!({ "test": { "rootfs": [{ "type": "overlay", "options": ["uidmap=0:1:1", "gidmap=0:1:1"] }] } }), "rootfs[0].options \"lowerdir=\" must not be empty"),
        (json!({ "test": { "rootfs": [{ "type": "overlay", "options": ["uidmap=0:1:1,7", "gidmap=0:1:1"] }] } }), "rootfs[0].options \"uidmap=0:1:1,7\": wants inside:outside:size, and more after commas"),
        (json!({ "test": { "rootfs": [{ "type": "overlay", "options": ["uidmap=0:1:1", "gidmap=0:1:0"] }] } }), "rootfs[0].options \"gidmap=0:1:0\": wants inside:outside:size, and more after commas"),
        (json!({ "test": { "rootfs": [{ "type": "overlay", "options": ["idmap"] }] } }), "rootfs[0].options \"idmap\", \"ridmap\" is not supported"),
    ]
}

#[rustfmt::skip]
fn bad_linux() -> Vec<(Value, &'static str)> {
    let linux = |patch: Value| json!({ "linux": patch });
    let sysctl = |key: &str| json!({ "linux": { "sysctl": { key: "1" } } });
    vec![
        (json!({ "linux": null }), "linux must not be empty"),
        (json!({ "hostname": "", "linux": { "namespaces": [], "maskedPaths": ["/proc/kcore"] } }), "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace"),
        (json!({ "hostname": "", "linux": { "namespaces": [], "readonlyPaths": ["/proc/sys"] } }), "linux.readonlyPaths: unable to restrict sys entries without a private MNT namespace"),
        (json!({ "hostname": "", "linux": { "namespaces": namespaces(&["user"]), "uidMappings": [{ "hostID": 1, "containerID": 0, "size": 1 }], "gidMappings": [{ "hostID": 1, "containerID": 0, "size": 1 }] } }), "linux.namespaces: a user namespace without a mount namespace of its own has nothing to mount on"),
        (json!({ "hostname": "", "linux": { "namespaces": [] }, "test": { "no_pivot_root": true } }), "linux.namespaces: without a mount namespace of the container's, the root cannot be moved (--no-pivot)"),
        (linux(json!({ "namespaces": namespaces(&["mount", "pid", "pid"]) })), "linux.namespaces[2] \"pid\": duplicated namespace"),
        (linux(json!({ "namespaces": [{ "type": "network", "path": "x" }] })), "linux.namespaces[0].path \"x\": must be an absolute path"),
        (json!({ "hostname": "a", "linux": { "namespaces": namespaces(&["mount"]) } }), "hostname: unable to set hostname without a private UTS namespace"),
        (json!({ "domainname": "a", "linux": { "namespaces": namespaces(&["mount"]) } }), "domainname: unable to set domainname without a private UTS namespace"),
        (linux(json!({ "uidMappings": [{ "hostID": 1, "containerID": 0, "size": 1 }] })), "linux.uidMappings: user namespace mappings specified, but user namespace isn't enabled in the config"),
        (linux(json!({ "namespaces": namespaces(&["mount", "user"]) })), "linux.uidMappings: a new user namespace needs both uid and gid mappings"),
        (json!({ "process": { "user": { "gid": 5 } }, "linux": { "namespaces": namespaces(&["mount", "user"]), "uidMappings": [{ "hostID": 1, "containerID": 0, "size": 1 }], "gidMappings": [{ "hostID": 1, "containerID": 0, "size": 5 }] } }), "process.user.gid \"5\": is not mapped in the user namespace"),
        (linux(json!({ "rootfsPropagation": "sideways" })), "linux.rootfsPropagation \"sideways\": is not supported"),
        (json!({ "linux": { "rootfsPropagation": "rprivate" }, "test": { "no_pivot_root": true } }), "linux.rootfsPropagation \"rprivate\": [r]private is not safe without pivot_root"),
        (linux(json!({ "mountLabel": "a:b:c" })), "linux.mountLabel \"a:b:c\": SELinux is disabled or not supported by this kernel"),
        (sysctl("kernel.panic"), "linux.sysctl \"kernel.panic\": is not in a separate kernel namespace"),
        (sysctl("kernel.hostname"), "linux.sysctl \"kernel.hostname\": is not allowed as it conflicts with the OCI \"hostname\" field"),
        (sysctl("user.max_user_namespaces"), "linux.sysctl \"user.max_user_namespaces\": is not allowed without a user namespace"),
        (sysctl("net/../kernel/panic"), "linux.sysctl \"net/../kernel/panic\": is not the name of a sysctl"),
        (sysctl("net.//.kernel.panic"), "linux.sysctl \"net.//.kernel.panic\": is not the name of a sysctl"),
        (json!({ "linux": { "namespaces": namespaces(&["mount"]), "sysctl": { "net.ipv4.ip_forward": "1" } } }), "linux.sysctl \"net.ipv4.ip_forward\": not allowed in host network namespace"),
        (json!({ "linux": { "namespaces": namespaces(&["mount"]), "sysctl": { "kernel.sem": "1" } } }), "linux.sysctl \"kernel.sem\": is not allowed in the hosts ipc namespace"),
        (linux(json!({ "devices": [{ "path": "/dev/x", "type": "a" }] })), "linux.devices[0].type \"a\": invalid device type"),
        (linux(json!({ "devices": [{ "path": "/dev/x", "type": "c", "major": -1 }] })), "linux.devices[0].major \"-1\": must be a device number"),
        (linux(json!({ "netDevices": { "eth0": { "name": "a b" } } })), "linux.netDevices \"a b\": is not the name of a network device"),
        (json!({ "linux": { "namespaces": namespaces(&["mount"]), "netDevices": { "eth0": {} } } }), "linux.netDevices: unable to move network devices without a private NET namespace"),
        (linux(json!({ "memoryPolicy": { "mode": "MPOL_LOCAL", "nodes": "0" } })), "linux.memoryPolicy.nodes: memory policy mode requires 0 nodes but got 1"),
        (linux(json!({ "memoryPolicy": { "mode": "MPOL_BIND", "nodes": "" } })), "linux.memoryPolicy.nodes must not be empty"),
        (linux(json!({ "memoryPolicy": { "mode": "MPOL_BIND", "nodes": "0-9999" } })), "linux.memoryPolicy.nodes \"0-9999\": invalid memory policy nodes: must be numbers and ranges like \"0-3,7\""),
        (linux(json!({ "personality": { "domain": "LINUX32", "flags": ["A"] } })), "linux.personality.flags \"A\": is not a flag of OCI"),
        (linux(json!({ "timeOffsets": { "boottime": { "secs": 1 } } })), "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in the config"),
        (linux(json!({ "namespaces": [{ "type": "mount" }, { "type": "time", "path": "/t" }], "timeOffsets": { "boottime": { "secs": 1 } } })), "linux.timeOffsets: time namespace enabled, but both namespace path and time offsets specified"),
        (linux(json!({ "namespaces": namespaces(&["mount", "time"]), "timeOffsets": { "realtime": { "secs": 1 } } })), "linux.timeOffsets \"realtime\": must be monotonic or boottime"),
        (linux(json!({ "namespaces": namespaces(&["mount", "time"]), "timeOffsets": { "boottime": { "nanosecs": 1000000000 } } })), "linux.timeOffsets.boottime.nanosecs \"1000000000\": must be less than a second"),
        (json!({ "hooks": { "createRuntime": [{ "path": "true" }] } }), "hooks.createRuntime[0].path \"true\": must be an absolute path"),
        (json!({ "hooks": { "poststop": [{ "path": "" }] } }), "hooks.poststop[0].path must not be empty"),
        (json!({ "hooks": { "poststart": [{ "path": "/bin/true", "timeout": 0 }] } }), "hooks.poststart[0].timeout \"0\": must be greater than zero"),
        (json!({ "hooks": { "prestart": [{ "path": "/bin/true", "args": ["a\0b"] }] } }), "hooks.prestart[0].args \"a\\0b\" contains a null byte"),
    ]
}

#[test]
fn empty_fields_ask_for_nothing() {
    let mut value = minimal();
    merge(
        &mut value,
        &json!({
            "hooks": { "prestart": [], "poststop": null }, "hostname": "", "domainname": "", "mounts": null,
            "process": { "apparmorProfile": "", "selinuxLabel": "", "capabilities": {}, "rlimits": null },
            "linux": {
                "netDevices": {}, "timeOffsets": {}, "sysctl": {}, "mountLabel": "", "rootfsPropagation": "",
                "uidMappings": [], "maskedPaths": [], "devices": null,
                "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "" },
            },
        }),
    );
    let spec = spec::parse(value.to_string().as_bytes()).unwrap();
    compile(&spec, &Value::Null, &host("v2")).unwrap();
}

#[test]
fn unknown_capabilities_are_left_out() {
    let mut value = minimal();
    merge(&mut value, &json!({ "process": { "capabilities": { "bounding": ["CAP_FLY", "CAP_KILL"] } } }));
    let spec = spec::parse(value.to_string().as_bytes()).unwrap();
    let plan = compile(&spec, &Value::Null, &host("v2")).unwrap().to_string();
    assert!(plan.contains("limit the bounding set to KILL\n"), "{plan}");
}

/// Whatever stands in config.json, a plan or an error comes of it.
#[test]
fn mutated_specs_never_panic() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below.max(1) as u64) as usize
    };
    let mut compiled = 0;
    for path in specs() {
        let value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for _ in 0..60 {
            let mut mutated = value.clone();
            for _ in 0..=next(3) {
                support::mutate(&mut mutated, &mut next);
            }
            let Ok(spec) = spec::parse(mutated.to_string().as_bytes()) else { continue };
            for name in ["v1", "v2", "lsm", "old"] {
                compiled +=
                    usize::from(compile(&spec, &mutated["test"], &host(name)).map(|plan| plan.to_string()).is_ok());
            }
        }
    }
    assert!(compiled > 100, "only {compiled} mutated specs still compile: the mutation is too rough to tell anything");
}
