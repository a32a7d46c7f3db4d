//! Input that cannot work: one clear error that names the act and its object, runc's exit code, and nothing left.

use crate::Scenario;
use anyhow::{Result, ensure};
use berth_tests::command::Outcome;
use berth_tests::scene::{Runtime, Scene};
use berth_tests::version::Version;
use serde_json::{Value, json};
use std::fs;

pub fn scenarios() -> Vec<Scenario> {
    let mut all = crate::scenarios![Both:
        a_command_that_does_not_exist,
        a_command_that_cannot_be_executed,
        a_working_directory_that_is_none,
        a_mount_source_that_is_missing,
        a_root_that_is_missing,
        a_root_that_is_a_link,
        a_full_cgroup,
        a_spec_without_a_process,
        an_unknown_namespace,
        a_namespace_given_twice,
        an_unknown_mount_type,
        a_device_that_is_none,
        a_sysctl_of_the_host,
        a_seccomp_profile_that_makes_no_sense,
        a_cgroup_path_that_climbs,
        an_unknown_stdio_scheme,
    ];
    all.extend(crate::scenarios![Berth:
        a_user_out_of_range,
        maps_without_a_user_namespace,
        an_unknown_capability,
        an_unknown_rlimit,
        labels_without_their_security_module,
        what_is_not_done_is_refused,
    ]);
    all
}

/// The command must fail, with the words in its error where it is ours, and with one line of error.
fn refuse(scene: &Scene<'_>, what: &str, outcome: &Outcome, words: &[&str]) -> Result<()> {
    ensure!(outcome.code != 0, "{what} was accepted: {outcome}");
    scene.see(what, format!("exit code {}", outcome.code));
    if scene.runtime == Runtime::Berth {
        let said = outcome.stderr.to_lowercase();
        for word in words {
            ensure!(said.contains(&word.to_lowercase()), "{what}: the error does not say {word:?}: {outcome}");
        }
        let lines = outcome.stderr.lines().filter(|line| !line.starts_with("time=")).count();
        ensure!(lines == 1, "{what}: {lines} lines of error: {outcome}");
    }
    // ctr before 2.0 leaves a task that it could not start to be deleted by hand, --rm or not.
    if scene.version() != Version::V2 {
        scene.clear();
    }
    scene.check_nothing_left()
}

/// A run with the spec changed must fail so.
fn refuse_spec(scene: &Scene<'_>, name: &str, words: &[&str], change: impl FnOnce(&mut Value)) -> Result<()> {
    let outcome = scene.run_spec(&["--rm"], name, &["true"], change)?;
    refuse(scene, name, &outcome, words)
}

fn a_command_that_does_not_exist(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.run(&["--rm"], "a", &["no-such-program"])?;
    refuse(scene, "in PATH", &outcome, &["exec: \"no-such-program\": executable file not found in $PATH"])?;
    let outcome = scene.run(&["--rm"], "b", &["/no/such/program"])?;
    refuse(scene, "by path", &outcome, &["exec: \"/no/such/program\"", "no such file or directory"])?;
    let outcome = scene.run(&["--rm"], "c", &["/srv/dangling"])?;
    refuse(scene, "a dangling link", &outcome, &["/srv/dangling", "no such file or directory"])?;
    let outcome = scene.run(&["--rm"], "d", &["/srv/bad-interpreter"])?;
    refuse(scene, "an interpreter", &outcome, &["/srv/bad-interpreter", "no such file or directory"])?;
    let outcome = scene.run(&["-d"], "e", &["no-such-program"])?;
    scene.see("detached", outcome.code);
    scene.ctr(&["container", "delete", &scene.id("e")]).map(drop)
}

fn a_command_that_cannot_be_executed(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.run(&["--rm"], "a", &["/srv/plain"])?;
    refuse(scene, "not executable", &outcome, &["exec: \"/srv/plain\"", "permission denied"])?;
    let outcome = scene.run(&["--rm"], "b", &["/srv"])?;
    refuse(scene, "a directory", &outcome, &["exec: \"/srv\""])?;
    let outcome = scene.run(&["--rm"], "c", &["/srv/garbage"])?;
    refuse(scene, "garbage", &outcome, &["exec format error"])?;
    let outcome = scene.run(&["--rm", "--env", "PATH=/srv"], "d", &["plain"])?;
    refuse(scene, "not executable in PATH", &outcome, &["exec: \"plain\""])
}

fn a_working_directory_that_is_none(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.run(&["--rm", "--cwd", "/etc/passwd"], "a", &["true"])?;
    refuse(scene, "a file", &outcome, &["/etc/passwd", "not a directory"])?;
    let outcome = scene.run(&["--rm", "--cwd", "relative"], "b", &["true"])?;
    refuse(scene, "a relative one", &outcome, &["cwd", "relative"])?;
    let outcome = scene.run(&["--rm", "--read-only", "--cwd", "/not/there"], "c", &["pwd"])?;
    scene.see("one to be made on a read-only root", outcome.code);
    Ok(())
}

fn a_mount_source_that_is_missing(scene: &Scene<'_>) -> Result<()> {
    let outcome =
        scene.run(&["--rm", "--mount", "type=bind,src=/no/such/source,dst=/mnt,options=rbind:ro"], "a", &["true"])?;
    refuse(scene, "bind", &outcome, &["mount", "/no/such/source", "/mnt", "no such file or directory"])
}

fn a_root_that_is_missing(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "missing", &["/no/such/root", "no such file or directory"], |spec| {
        spec["root"]["path"] = "/no/such/root".into();
    })?;
    let file = scene.scratch()?.join("file");
    fs::write(&file, "")?;
    refuse_spec(scene, "file", &[&file.to_string_lossy(), "not a directory"], |spec| {
        spec["root"]["path"] = json!(file);
    })
}

fn a_root_that_is_a_link(scene: &Scene<'_>) -> Result<()> {
    let (rootfs, link) = (scene.rootfs()?, scene.scratch()?.join("link"));
    std::os::unix::fs::symlink(&rootfs, &link)?;
    let outcome = scene.run_spec(&["--rm"], "a", &["true"], |spec| spec["root"]["path"] = json!(link))?;
    refuse(scene, "link", &outcome, &[&link.to_string_lossy()])
}

fn a_full_cgroup(scene: &Scene<'_>) -> Result<()> {
    let few = |spec: &mut Value| spec["linux"]["resources"]["pids"] = json!({ "limit": 1 });
    // One process fits, the shell's child does not.
    let outcome = scene.run_spec(&["--rm"], "a", &["sh", "-c", "sleep 1 & echo $?; true"], few)?;
    let code = outcome.code;
    ensure!(scene.runtime == Runtime::Runc || code != 0 || outcome.stderr.contains("fork"), "{outcome}");
    scene.check_nothing_left()?;
    scene.run_spec(&["-d"], "b", &["sleep", "1000"], few)?;
    if scene.status("b")? == "RUNNING" {
        let outcome = scene.ctr(&["task", "exec", "--exec-id", "e", &scene.id("b"), "true"])?;
        ensure!(scene.runtime == Runtime::Runc || outcome.code != 0, "an exec fits: {outcome}");
        ensure!(scene.runtime == Runtime::Runc || outcome.stderr.contains("temporarily unavailable"), "{outcome}");
    }
    scene.discard("b")
}

fn a_spec_without_a_process(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "empty-args", &["process", "args"], |spec| spec["process"]["args"] = json!([]))?;
    refuse_spec(scene, "empty-word", &["exec"], |spec| spec["process"]["args"] = json!([""]))
}

fn add_namespace(spec: &mut Value, namespace: Value) {
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(namespace);
    }
}

fn an_unknown_namespace(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "unknown", &["nonsense"], |spec| add_namespace(spec, json!({ "type": "nonsense" })))
}

fn a_namespace_given_twice(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "twice", &["namespace", "ipc"], |spec| add_namespace(spec, json!({ "type": "ipc" })))
}

fn maps_without_a_user_namespace(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "maps", &["user namespace"], |spec| {
        spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
        spec["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    })
}

fn an_unknown_mount_type(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "type", &["nonsensefs", "/mnt"], |spec| {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.push(json!({ "destination": "/mnt", "type": "nonsensefs", "source": "x" }));
        }
    })
}

fn a_device_that_is_none(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "device", &["`z`"], |spec| {
        spec["linux"]["devices"] = json!([{ "path": "/dev/odd", "type": "z", "major": 1, "minor": 3 }]);
    })
}

fn a_sysctl_of_the_host(scene: &Scene<'_>) -> Result<()> {
    let before = fs::read_to_string("/proc/sys/vm/swappiness")?;
    refuse_spec(scene, "sysctl", &["vm.swappiness"], |spec| spec["linux"]["sysctl"] = json!({ "vm.swappiness": "1" }))?;
    refuse_spec(scene, "network", &["net.ipv4.ip_forward"], |spec| {
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "network");
        }
        spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "0" });
    })?;
    ensure!(fs::read_to_string("/proc/sys/vm/swappiness")? == before, "the host's sysctl was changed");
    Ok(())
}

fn a_seccomp_profile_that_makes_no_sense(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "action", &["SCMP_ACT_NONSENSE"], |spec| {
        spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_NONSENSE" });
    })?;
    refuse_spec(scene, "architecture", &["SCMP_ARCH_ABACUS"], |spec| {
        spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ABACUS"],
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }] });
    })
}

fn a_cgroup_path_that_climbs(scene: &Scene<'_>) -> Result<()> {
    let id = scene.id("climb");
    let path = format!("/../../../{}/{id}", scene.containerd.namespace());
    let outcome = scene.run_spec(&["--rm"], "climb", &["true"], |spec| spec["linux"]["cgroupsPath"] = path.into())?;
    // runc cleans the path and runs; to refuse it is as good.
    ensure!(outcome.code == 0 || outcome.stderr.contains(".."), "{outcome}");
    scene.check_nothing_left()
}

fn an_unknown_stdio_scheme(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.run(&["--rm", "--log-uri", "pigeon:///somewhere"], "a", &["true"])?;
    refuse(scene, "scheme", &outcome, &["pigeon"])?;
    let outcome = scene.run(&["--rm", "--log-uri", "binary:///no/such/logger"], "b", &["true"])?;
    refuse(scene, "logger", &outcome, &["/no/such/logger"])
}

fn a_user_out_of_range(scene: &Scene<'_>) -> Result<()> {
    // -1 means «leave it» to setresuid(2): what asks for it must not run as somebody else.
    refuse_spec(scene, "uid", &["uid", "4294967295"], |spec| {
        spec["process"]["user"] = json!({ "uid": 4_294_967_295_u32, "gid": 0 })
    })?;
    refuse_spec(scene, "gid", &["gid", "4294967295"], |spec| {
        spec["process"]["user"] = json!({ "uid": 0, "gid": 4_294_967_295_u32 })
    })?;
    refuse_spec(scene, "unmapped", &["5000"], |spec| {
        add_namespace(spec, json!({ "type": "user" }));
        spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
        spec["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 0, "size": 1000 }]);
        spec["process"]["user"] = json!({ "uid": 5000, "gid": 0 });
    })
}

fn an_unknown_capability(scene: &Scene<'_>) -> Result<()> {
    // containerd's own specs name capabilities that older kernels have not; runc warns and goes on, and so may we.
    let outcome = scene.run_spec(&["--rm"], "capability", &["true"], |spec| {
        spec["process"]["capabilities"]["bounding"] = json!(["CAP_NONSENSE"]);
    })?;
    ensure!(outcome.code == 0 || outcome.stderr.contains("CAP_NONSENSE"), "{outcome}");
    Ok(())
}

fn an_unknown_rlimit(scene: &Scene<'_>) -> Result<()> {
    refuse_spec(scene, "rlimit", &["RLIMIT_NONSENSE"], |spec| {
        spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NONSENSE", "hard": 1, "soft": 1 }]);
    })?;
    refuse_spec(scene, "soft", &["RLIMIT_NOFILE"], |spec| {
        spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 10, "soft": 20 }]);
    })
}

fn labels_without_their_security_module(scene: &Scene<'_>) -> Result<()> {
    if !std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        refuse_spec(scene, "apparmor", &["apparmor"], |spec| {
            spec["process"]["apparmorProfile"] = "some-profile".into()
        })?;
    }
    if !std::path::Path::new("/sys/fs/selinux").exists() {
        let label = "system_u:system_r:container_t:s0";
        refuse_spec(scene, "selinux", &["selinux"], |spec| spec["process"]["selinuxLabel"] = label.into())?;
    }
    Ok(())
}

fn what_is_not_done_is_refused(scene: &Scene<'_>) -> Result<()> {
    type Change = fn(&mut Value);
    let changes: [(&str, &[&str], Change); 2] = [
        ("intelRdt", &["intelRdt"], |spec| spec["linux"]["intelRdt"] = json!({ "closID": "x" })),
        ("timens", &["time"], |spec| {
            spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1, "nanosecs": 0 } })
        }),
    ];
    for (name, words, change) in changes {
        let outcome = scene.run_spec(&["--rm"], name, &["true"], change)?;
        // What is done one day is not refused any more.
        if outcome.code != 0 {
            refuse(scene, name, &outcome, words)?;
        } else if scene.version() != Version::V1_6 {
            // containerd 1.6 knows nothing of these, and passes none of them on.
            eprintln!("note: {name} is accepted; is it done?");
        }
    }
    Ok(())
}
