//! What this runtime can do: the features document of runtime-spec 1.3, features.md and features-linux.md.
//!
//! It says what is recognised, whatever the host has of it. The tests hand every word of it to the parser.

use runtime_core::state::OCI_VERSION;
use serde_json::{Value, json};

/// The whole document. `linux` must be there: containerd 2.x reads it without asking.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": CAPABILITIES,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": ACTIONS,
                "operators": OPERATORS,
                "archs": ARCHITECTURES,
                "knownFlags": FILTER_FLAGS,
                "supportedFlags": FILTER_FLAGS,
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": MEMORY_MODES, "flags": MEMORY_FLAGS },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": { "io.berth.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

const HOOKS: &[&str] = &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Without those that a file system takes itself.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

const FILTER_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

const MEMORY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

const MEMORY_FLAGS: &[&str] = &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// What one container asks of a network that the shim makes. Nothing else of annotations is looked at.
const UNSAFE_ANNOTATIONS: &[&str] = &["io.berth.network", "io.berth.network."];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use runtime_core::host::{CgroupLayout, Host};
    use runtime_core::plan::{InitPlan, Input};

    use super::*;

    fn spec(change: impl FnOnce(&mut Value)) -> Value {
        let mut spec = json!({
            "ociVersion": OCI_VERSION,
            "root": { "path": "rootfs" },
            "process": { "cwd": "/", "args": ["true"], "user": { "uid": 0, "gid": 0 } },
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "user" }],
                "uidMappings": [{ "containerID": 0, "hostID": 0, "size": 9 }],
                "gidMappings": [{ "containerID": 0, "hostID": 0, "size": 9 }] },
        });
        change(&mut spec);
        spec
    }

    /// Whether the spec makes a plan, without a warning.
    fn is_known(spec: &Value) -> Result<(), String> {
        let (spec, warnings) =
            runtime_core::spec::read(spec.to_string().as_bytes()).map_err(|error| error.to_string())?;
        let host = Host {
            cgroup: CgroupLayout::V2,
            last_capability: 40,
            apparmor: true,
            selinux: true,
            kcore: false,
            user_namespace: false,
            setgroups_denied: false,
            proc_of_namespace: true,
        };
        let plan = InitPlan::compile(&Input {
            spec: &spec,
            id: "box",
            bundle: Path::new("/bundle"),
            rootfs: &[],
            host: &host,
            home: None,
            terminal: false,
            no_pivot_root: false,
            no_new_keyring: false,
            cgroup: &[],
            host_network: false,
            seccomp: None,
            gate: None,
            preserve_fds: 0,
        });
        let warnings = [warnings, plan.map_err(|error| error.to_string())?.warnings].concat();
        if warnings.is_empty() { Ok(()) } else { Err(warnings.join(", ")) }
    }

    /// Each word of a list, in a spec that has it.
    fn every(words: &[&str], change: impl Fn(&mut Value, &str)) {
        for word in words {
            is_known(&spec(|spec| change(spec, word))).unwrap_or_else(|error| panic!("{word}: {error}"));
        }
        assert!(is_known(&spec(|spec| change(spec, "nonsense"))).is_err());
    }

    #[test]
    fn features_have_what_containerd_reads_without_asking() {
        let features = features();
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], Value::Bool(true));
        assert_eq!((&features["ociVersionMin"], &features["ociVersionMax"]), (&json!("1.0.0"), &json!("1.3.0")));
    }

    #[test]
    fn features_are_a_document_of_the_specification() {
        let features: oci_spec::runtime::Features = serde_json::from_value(features()).unwrap();
        let linux = features.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().map(Vec::len), Some(8));
        assert_eq!(linux.seccomp().as_ref().unwrap().archs().as_ref().map(Vec::len), Some(ARCHITECTURES.len()));
    }

    #[test]
    fn mount_options_are_no_file_systems() {
        // A bind takes no word that it does not know.
        every(MOUNT_OPTIONS, |spec, word| {
            let bind = json!({ "destination": "/x", "source": "/x", "type": "bind", "options": ["bind", word] });
            spec["mounts"] = json!([bind]);
        });
    }

    #[test]
    fn words_of_seccomp_are_known() {
        let rule = |action: &str, operator: &str| {
            let args = json!([{ "index": 0, "value": 1, "op": operator }]);
            json!({ "names": ["mkdir"], "action": action, "args": args })
        };
        let profile = |spec: &mut Value, field: &str, value: Value| {
            spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
            spec["linux"]["seccomp"][field] = json!([value]);
        };
        every(ACTIONS, |spec, word| profile(spec, "syscalls", rule(word, "SCMP_CMP_EQ")));
        every(OPERATORS, |spec, word| profile(spec, "syscalls", rule("SCMP_ACT_ERRNO", word)));
        every(ARCHITECTURES, |spec, word| profile(spec, "architectures", word.into()));
        every(FILTER_FLAGS, |spec, word| profile(spec, "flags", word.into()));
    }

    #[test]
    fn capabilities_and_memory_policies_are_known() {
        every(CAPABILITIES, |spec, word| spec["process"]["capabilities"] = json!({ "bounding": [word] }));
        every(MEMORY_MODES, |spec, word| {
            let nodes = if matches!(word, "MPOL_DEFAULT" | "MPOL_LOCAL") { "" } else { "0" };
            spec["linux"]["memoryPolicy"] = json!({ "mode": word, "nodes": nodes });
        });
        every(MEMORY_FLAGS, |spec, word| {
            spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": [word] });
        });
    }

    #[test]
    fn hooks_are_known() {
        for hook in HOOKS {
            let hooks = json!({ *hook: [{ "path": "relative" }] });
            assert!(is_known(&spec(|spec| spec["hooks"] = hooks)).is_err(), "{hook} is not looked at");
        }
    }
}
