//! What the program may not do, see or write.

use std::fs;

use serde_json::{Value, json};

use super::bundle::{Bundle, shell};
use super::identity::field;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("seccomp_is_in_force_with_and_without_no_new_privs", seccomp),
    ("seccomp_that_denies_getcwd_lets_init_and_exec_start", getcwd),
    ("seccomp_that_allows_little_lets_a_program_start", default_profile),
    ("seccomp_that_denies_what_is_young_lets_init_and_exec_start", young),
    ("seccomp_that_kills_shows_in_the_exit", kill),
    ("seccomp_that_allows_nothing_ends_the_process", nothing),
    ("masked_paths_show_nothing", masked),
    ("masked_and_readonly_paths_may_be_missing", missing_paths),
    ("readonly_paths_are_readonly", readonly_paths),
    ("readonly_root_is_readonly_and_mounts_are_not", readonly_root),
    ("sysctls_are_set_in_the_containers_namespaces_only", sysctls),
    ("sysctl_of_the_host_is_refused", host_sysctls),
    ("hostname_and_domainname_are_the_specs", names),
];

fn deny(name: &str, errno: u32) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]})
}

fn seccomp() -> Result<(), Stop> {
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new().set("/linux/seccomp", deny("mkdir", 122));
        let bundle = bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let script = "mkdir /tmp/made 2>&1; cat /proc/self/status";
        let mut live = bundle.sh(&format!("{script}; echo up; exec sleep 100")).start()?;
        let of_init = live.init.up();
        let of_exec = live.sh(script)?.success()?;
        for said in [of_init, of_exec] {
            assert!(said.starts_with("mkdir: can't create directory '/tmp/made': Disk quota exceeded"), "{said}");
            assert_eq!(field(&said, "Seccomp"), "2");
            assert_eq!(field(&said, "NoNewPrivs"), if no_new_privileges { "1" } else { "0" });
        }
    }
    Ok(())
}

/// What we call ourselves on the way may be forbidden.
fn getcwd() -> Result<(), Stop> {
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new().set("/linux/seccomp", deny("getcwd", 1)).set("/process/cwd", json!("/tmp"));
        let bundle = bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let live = bundle.args(&["sleep", "100"]).start()?;
        assert_eq!(live.sh("echo in")?.success()?, "in");
    }
    Ok(())
}

fn default_profile() -> Result<(), Stop> {
    let profile: Value = serde_json::from_str(include_str!("../profiles/default.json"))?;
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new().set("/linux/seccomp", profile.clone());
        let bundle = bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let live = bundle.sh("exec sleep 100").start()?;
        assert_eq!(live.sh("mkdir /tmp/made && ls /tmp")?.success()?, "made");
    }
    Ok(())
}

/// With the one a program is looked for, with the other descriptors are closed, when a filter may be in force already.
fn young() -> Result<(), Stop> {
    for no_new_privileges in [true, false] {
        let mut profile = deny("faccessat2", 1);
        profile["syscalls"][0]["names"] = json!(["faccessat2", "close_range", "openat2"]);
        let bundle = Bundle::new().set("/linux/seccomp", profile);
        let bundle = bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let live = bundle.sh("exec sleep 100").start()?;
        assert_eq!(live.sh("echo alive")?.success()?, "alive");
        let mut process = shell("");
        process["args"] = json!(["/etc"]);
        assert!(live.exec(&process).is_err());
    }
    Ok(())
}

fn kill() -> Result<(), Stop> {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    // The first process of a pid namespace is killed by seccomp like any other.
    let output = Bundle::new().set("/linux/seccomp", profile).args(&["mkdir", "/tmp/made"]).run()?;
    assert_eq!(output.status, 128 + 31);
    Ok(())
}

/// It can neither execute nor say so nor exit: it must not spin for ever.
fn nothing() -> Result<(), Stop> {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []});
    let mut live = Bundle::new().set("/linux/seccomp", profile).create()?;
    let error = live.container.start().err().ok_or("it was started")?.to_string();
    assert!(error.ends_with("ended before that, with status 132"), "{error}");
    assert!(live.init.ended_within(std::time::Duration::from_secs(5)));
    assert_eq!(live.init.wait().status, 128 + 4);
    Ok(())
}

fn masked() -> Result<(), Stop> {
    let script = "cat /etc/secret; ls -A /etc/secrets; ls -A /etc/more; (echo x >/etc/secrets/x) 2>&1; \
         cat /proc/timer_list; stat -c %t:%T /etc/secret; echo up; exec sleep 100";
    let paths = json!(["/etc/secret", "/etc/secrets", "/etc/more", "/proc/timer_list"]);
    let bundle = Bundle::new().set("/linux/maskedPaths", paths).sh(script);
    fs::write(bundle.image("/etc/secret"), "secret")?;
    for directory in ["/etc/secrets", "/etc/more"] {
        fs::create_dir(bundle.image(directory))?;
        fs::write(bundle.image(directory).join("key"), "secret")?;
    }
    let mut live = bundle.start()?;
    assert_eq!(live.init.up(), "sh: can't create /etc/secrets/x: Read-only file system\n1:3");
    assert_eq!(live.sh("cat /etc/secret; ls -A /etc/secrets")?.success()?, "");
    Ok(())
}

fn missing_paths() -> Result<(), Stop> {
    let paths = json!(["/no/where", "/etc/file/below", "/bin/busybox/below"]);
    let bundle = Bundle::new().set("/linux/maskedPaths", paths.clone()).set("/linux/readonlyPaths", paths);
    bundle.says()?;
    assert!(!bundle.image("/no").exists());
    Ok(())
}

fn readonly_paths() -> Result<(), Stop> {
    let script = "for file in /etc/x /proc/sys/kernel/domainname /tmp/x; do (echo x >$file) 2>&1; done; cat /etc/kept";
    let bundle = Bundle::new().sh(script).set("/linux/readonlyPaths", json!(["/etc", "/proc/sys"]));
    fs::write(bundle.image("/etc/kept"), "kept")?;
    let refused = |path: &str| format!("sh: can't create {path}: Read-only file system\n");
    assert_eq!(bundle.says()?, refused("/etc/x") + &refused("/proc/sys/kernel/domainname") + "kept");
    assert!(bundle.image("/tmp/x").exists());
    Ok(())
}

fn readonly_root() -> Result<(), Stop> {
    let script =
        "(: >/x) 2>&1; mkdir /tmp/x 2>&1; touch /volume/x /dev/x && mount | grep ' on / '; echo up; exec sleep 100";
    let bundle = Bundle::new().sh(script).set("/root/readonly", json!(true));
    // The mount point is missing: it is made before the root is read-only.
    let volume = json!({"destination": "/volume", "type": "tmpfs", "source": "tmpfs"});
    let mut live = bundle.with_mount(volume).start()?;
    let said = live.init.up();
    assert!(said.starts_with("sh: can't create /x: Read-only file system\nmkdir: can't create directory"), "{said}");
    assert!(said.contains(" on / type tmpfs (ro,"), "{said}");
    assert!(live.sh("touch /y 2>&1")?.stdout.contains("Read-only"));
    Ok(())
}

fn sysctls() -> Result<(), Stop> {
    let host = |path: &str| fs::read_to_string(format!("/proc/sys/{path}")).unwrap();
    let before = [host("kernel/msgmax"), host("net/ipv4/ip_forward"), host("kernel/domainname")];
    let wanted = json!({"kernel.msgmax": "4321", "net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/rp_filter": "2",
        "net.ipv4.ip_local_port_range": "2000 3000", "kernel.shm_rmid_forced": "1"});
    let script = "cd /proc/sys; cat kernel/msgmax net/ipv4/ip_forward net/ipv4/conf/lo/rp_filter \
         net/ipv4/ip_local_port_range kernel/shm_rmid_forced";
    assert_eq!(Bundle::new().set("/linux/sysctl", wanted).sh(script).says()?, "4321\n1\n2\n2000\t3000\n1");
    assert_eq!(before, [host("kernel/msgmax"), host("net/ipv4/ip_forward"), host("kernel/domainname")]);
    Ok(())
}

fn host_sysctls() -> Result<(), Stop> {
    for (name, kind) in [("kernel.panic", "none"), ("net.ipv4.ip_forward", "network"), ("kernel.msgmax", "ipc")] {
        let bundle = Bundle::new().namespace(kind, None).set("/linux/sysctl", json!({name: "1"}));
        let text = bundle.refused()?;
        assert!(text.starts_with(&format!("linux.sysctl \"{name}\"")), "{text}");
    }
    let own = json!({"type": "network", "path": "/proc/self/ns/net"});
    let bundle = Bundle::new().namespace("network", Some(own));
    let text = bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})).refused()?;
    assert!(text.contains("host network"), "{text}");
    Ok(())
}

fn names() -> Result<(), Stop> {
    let bundle = Bundle::new().set("/hostname", json!("inside")).set("/domainname", json!("example"));
    assert_eq!(bundle.sh("hostname; cat /proc/sys/kernel/domainname").says()?, "inside\nexample");
    Ok(())
}
