//! `ctr run`: what goes in and what comes out of a container's first process.

use crate::{Scenario, skip};
use anyhow::{Result, ensure};
use berth_tests::command::DEADLINE;
use berth_tests::scene::{SLEEP, Scene, strs};
use berth_tests::version::Version;
use std::fs;
use std::io::Write;
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    let mut all = crate::scenarios![Both:
        output_and_exit_code_are_passed_on,
        a_signal_death_is_128_plus_the_signal,
        stdin_is_passed_on_until_its_end,
        output_of_a_grandchild_does_not_keep_ctr_waiting,
        null_io_and_log_files,
        a_binary_logger_gets_the_output,
        working_directory_is_set,
        environment_is_set,
        user_is_set,
        user_of_the_spec_is_set_with_its_groups_and_umask,
        hostname_is_set,
        without_rm_the_container_stays,
        detached_task_outlives_ctr,
        the_pid_file_names_init,
        seccomp_default_profile_is_applied,
        seccomp_profile_of_the_user_is_applied,
        capabilities_are_added_and_dropped,
        no_new_privileges_can_be_turned_off,
        rlimits_are_set,
        sysctls_are_set,
        oom_score_is_set,
        a_spec_of_the_users_own_runs_from_a_directory,
        without_pivot_root,
    ];
    all.extend(crate::scenarios![Berth: options_come_from_a_file]);
    all
}

fn output_and_exit_code_are_passed_on(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.sh(&[], "a", "echo out; echo err >&2; exit 7")?;
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (7, "out\n", "err\n"), "{outcome}");
    scene.see("true", scene.run(&["--rm"], "b", &["true"])?);
    scene.see("false", scene.run(&["--rm"], "c", &["false"])?);
    scene.see("255", scene.sh(&[], "d", "exit 255")?);
    Ok(())
}

fn a_signal_death_is_128_plus_the_signal(scene: &Scene<'_>) -> Result<()> {
    // Init ignores signals from inside its pid namespace, so a child dies, and the shell says how.
    scene.see("a child", scene.sh(&[], "a", "sh -c 'kill -SEGV $$'")?);
    scene.sleeper(&[], "b")?;
    scene.ctr(&["task", "kill", "-s", "KILL", &scene.id("b")])?.success()?;
    scene.wait_for_status("b", "STOPPED")?;
    scene.see("init", scene.ctr(&["task", "delete", &scene.id("b")])?);
    scene.ctr(&["container", "delete", &scene.id("b")])?.success()?;
    Ok(())
}

fn stdin_is_passed_on_until_its_end(scene: &Scene<'_>) -> Result<()> {
    let mut running = scene.run_start(&["--rm"], "a", &["sh", "-c", "while read l; do echo got $l; done; echo end"])?;
    if let Some(mut stdin) = running.stdin() {
        stdin.write_all(b"one\ntwo\n")?;
        // ctr passes an end of its stdin on only if it comes after the task's start.
        std::thread::sleep(Duration::from_secs(2));
    }
    scene.see("echoed", running.wait(DEADLINE)?.success()?);
    Ok(())
}

fn output_of_a_grandchild_does_not_keep_ctr_waiting(scene: &Scene<'_>) -> Result<()> {
    // Killed with its pid namespace, so the pipe is closed by the kernel.
    scene.see("own pid namespace", scene.sh(&[], "a", "sleep 1000 & echo started")?.success()?);
    Ok(())
}

fn null_io_and_log_files(scene: &Scene<'_>) -> Result<()> {
    scene.see("null io", scene.sh(&["--null-io"], "a", "echo unseen; readlink /proc/self/fd/1; exit 3")?);
    let log = scene.scratch()?.join("deep/log");
    let uri = format!("file://{}", log.display());
    scene.see("log file", scene.sh(&["--log-uri", &uri], "b", "echo out; sleep 0.3; echo err >&2; sleep 0.3")?);
    scene.see("in the log file", fs::read_to_string(&log).unwrap_or_default());
    scene.see("log file again", scene.sh(&["--log-uri", &uri], "b", "echo appended")?);
    scene.see("in the log file", fs::read_to_string(&log).unwrap_or_default());
    Ok(())
}

fn a_binary_logger_gets_the_output(scene: &Scene<'_>) -> Result<()> {
    let directory = scene.scratch()?;
    let logger = directory.join("logger");
    // File descriptors 3 and 4 are the container's output, 5 is closed when the logger is ready. logging/doc.go
    let script = "#!/bin/sh\nexec 5>&-\ncat <&3 >$2.out &\ncat <&4 >$2.err &\necho $CONTAINER_ID $CONTAINER_NAMESPACE $1 >$2.env\nwait\n";
    fs::write(&logger, script)?;
    fs::set_permissions(&logger, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let to = directory.join("logged");
    let uri = format!("binary://{}?to={}", logger.display(), to.display());
    scene.see("run", scene.sh(&["--log-uri", &uri], "a", "echo out; echo err >&2; exit 4")?);
    for part in ["out", "err", "env"] {
        scene.see(part, fs::read_to_string(to.with_extension(part)).unwrap_or_default());
    }
    Ok(())
}

fn working_directory_is_set(scene: &Scene<'_>) -> Result<()> {
    scene.see("cwd", scene.sh(&["--cwd", "/home/guest"], "a", "pwd; readlink /proc/self/cwd")?.success()?);
    // runc makes one that is not there.
    scene.see("made", scene.sh(&["--cwd", "/not/there"], "b", "pwd; ls -ld /not /not/there | cut -c1-10")?);
    Ok(())
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn environment_is_set(scene: &Scene<'_>) -> Result<()> {
    let flags = ["--env", "FOO=bar baz", "--env", "EMPTY=", "--env", "PATH=/bin:/srv", "--env", "FOO=again"];
    // Of a name given twice the last value counts; where in the list it stands means nothing.
    scene.see("env", sorted(&scene.run(&[&["--rm"], &flags[..]].concat(), "a", &["env"])?.success()?.stdout));
    scene.see("default", scene.run(&["--rm"], "b", &["env"])?.success()?);
    Ok(())
}

fn user_is_set(scene: &Scene<'_>) -> Result<()> {
    if scene.version() == Version::V1_6 {
        return skip("ctr 1.6 has no --user; user_of_the_spec_is_set_with_its_groups_and_umask does the same");
    }
    for user in ["guest", "1000", "1000:2000", "guest:extra", "4321", "0:1000"] {
        let script =
            "id; grep -E 'Groups|Uid|Gid|Cap' /proc/self/status; echo $HOME; ls -ln /proc/self/fd/1 | cut -c1-25";
        scene.see(user, scene.sh(&["--user", user], "a", script)?);
    }
    Ok(())
}

fn user_of_the_spec_is_set_with_its_groups_and_umask(scene: &Scene<'_>) -> Result<()> {
    let script = [
        "sh",
        "-c",
        "id; umask; grep -E 'Groups|Uid|Gid|Cap|NoNew' /proc/self/status; echo > /tmp/new; ls -ln /tmp/new | cut -c1-25",
    ];
    let outcome = scene.run_spec(&["--rm"], "a", &script, |spec| {
        spec["process"]["user"] =
            serde_json::json!({"uid": 1000, "gid": 1000, "additionalGids": [2000, 3000, 10], "umask": 0o27});
    })?;
    scene.see("guest", outcome);
    Ok(())
}

fn hostname_is_set(scene: &Scene<'_>) -> Result<()> {
    scene.see("default", scene.sh(&[], "a", "[ $(hostname) != '' ] && echo has one")?);
    let outcome = scene.run_spec(&["--rm"], "b", &["hostname"], |spec| spec["hostname"] = "of-the-spec".into())?;
    scene.see("of the spec", outcome.success()?);
    if scene.version() != Version::V1_6 {
        scene.see("of the flag", scene.sh(&["--hostname", "of-the-flag"], "c", "hostname; cat /etc/hostname")?);
    }
    Ok(())
}

fn without_rm_the_container_stays(scene: &Scene<'_>) -> Result<()> {
    scene.see("run", scene.run(&[], "a", &["sh", "-c", "echo once; exit 5"])?);
    let listed = scene.ctr(&["container", "ls", "-q"])?.success()?.stdout;
    ensure!(listed.lines().any(|line| line == scene.id("a")), "the container is not listed:\n{listed}");
    scene.see("task", scene.status("a")?);
    scene.see("second run", scene.run(&[], "a", &["true"])?.failure()?.code);
    scene.see("start again", scene.ctr(&["task", "start", &scene.id("a")])?);
    scene.see("delete", scene.ctr(&["container", "delete", &scene.id("a")])?);
    Ok(())
}

fn detached_task_outlives_ctr(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    scene.see("status", scene.status("a")?);
    scene.see("delete while it runs", scene.ctr(&["task", "delete", &scene.id("a")])?.failure()?);
    scene.see("container while it runs", scene.ctr(&["container", "delete", &scene.id("a")])?.failure()?.code);
    scene.ctr(&["task", "kill", &scene.id("a")])?.success()?;
    scene.wait_for_status("a", "STOPPED")?;
    scene.see("delete", scene.ctr(&["task", "delete", &scene.id("a")])?);
    scene.see("container", scene.ctr(&["container", "delete", &scene.id("a")])?);
    Ok(())
}

fn the_pid_file_names_init(scene: &Scene<'_>) -> Result<()> {
    let file = scene.scratch()?.join("pid");
    scene.run(&["-d", "--pid-file", &file.to_string_lossy()], "a", &["sh", "-c", SLEEP])?.success()?;
    let pid: i32 = fs::read_to_string(&file)?.trim().parse()?;
    ensure!(pid == scene.pid("a")?, "the pid file says {pid}, ctr task ls {}", scene.pid("a")?);
    let inside = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let seen = inside.lines().find(|line| line.starts_with("NSpid")).unwrap_or_default();
    ensure!(seen.ends_with("\t1"), "init is not 1 inside: {seen}");
    scene.discard("a")
}

fn seccomp_default_profile_is_applied(scene: &Scene<'_>) -> Result<()> {
    let script = "grep -E '^Seccomp:|NoNewPrivs' /proc/self/status; unshare -U true; mount -t tmpfs x /tmp; chroot / true; echo $?; date -s 10:00";
    scene.see("default profile", scene.sh(&["--seccomp"], "a", script)?);
    scene.see(
        "with a capability",
        scene.sh(&["--seccomp", "--cap-add", "CAP_SYS_ADMIN"], "b", "mount -t tmpfs x /tmp && echo mounted")?,
    );
    Ok(())
}

fn seccomp_profile_of_the_user_is_applied(scene: &Scene<'_>) -> Result<()> {
    let profile = scene.scratch()?.join("profile.json");
    let text = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
            { "names": ["sethostname"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["no_such_call_exists"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] },
        ],
    });
    fs::write(&profile, text.to_string())?;
    let script = "grep ^Seccomp: /proc/self/status; mkdir /tmp/a; hostname other; touch /tmp/b && echo touched; setarch linux32 true; echo $?";
    scene.see("profile", scene.sh(&["--seccomp", "--seccomp-profile", &profile.to_string_lossy()], "a", script)?);
    Ok(())
}

const CAPABILITIES: &str = "grep -E 'Cap|NoNew' /proc/self/status";

fn capabilities_are_added_and_dropped(scene: &Scene<'_>) -> Result<()> {
    scene.see("default", scene.sh(&[], "a", CAPABILITIES)?);
    scene.see("more", scene.sh(&["--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SYS_PTRACE"], "b", CAPABILITIES)?);
    scene.see("less", scene.sh(&["--cap-drop", "CAP_CHOWN", "--cap-drop", "CAP_NET_RAW"], "c", CAPABILITIES)?);
    let sets = |spec: &mut serde_json::Value| {
        let all = ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"];
        spec["process"]["capabilities"] = serde_json::json!({
            "bounding": all, "permitted": all, "effective": ["CAP_KILL"], "inheritable": all, "ambient": ["CAP_CHOWN"],
        });
        spec["process"]["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 });
    };
    scene.see("five sets", scene.run_spec(&["--rm"], "d", &["sh", "-c", CAPABILITIES], sets)?);
    let none = |spec: &mut serde_json::Value| {
        let _ = spec["process"].as_object_mut().and_then(|process| process.remove("capabilities"));
    };
    scene.see("none", scene.run_spec(&["--rm"], "e", &["sh", "-c", CAPABILITIES], none)?);
    Ok(())
}

fn no_new_privileges_can_be_turned_off(scene: &Scene<'_>) -> Result<()> {
    scene.see("allowed", scene.sh(&["--allow-new-privs"], "a", CAPABILITIES)?.success()?);
    Ok(())
}

fn rlimits_are_set(scene: &Scene<'_>) -> Result<()> {
    let limits = |spec: &mut serde_json::Value| {
        spec["process"]["rlimits"] = serde_json::json!([
            { "type": "RLIMIT_NOFILE", "hard": 512, "soft": 256 },
            { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 },
            { "type": "RLIMIT_CPU", "hard": 1000, "soft": 900 },
        ]);
    };
    scene.see("of the spec", scene.run_spec(&["--rm"], "a", &["cat", "/proc/self/limits"], limits)?);
    scene.see("default", scene.run(&["--rm"], "b", &["cat", "/proc/self/limits"])?);
    Ok(())
}

fn sysctls_are_set(scene: &Scene<'_>) -> Result<()> {
    let sysctls = |spec: &mut serde_json::Value| {
        spec["linux"]["sysctl"] = serde_json::json!({
            "net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "4096", "net.ipv4.ping_group_range": "0 100",
        });
    };
    let script =
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ping_group_range";
    scene.see("inside", scene.run_spec(&["--rm"], "a", &["sh", "-c", script], sysctls)?);
    Ok(())
}

fn oom_score_is_set(scene: &Scene<'_>) -> Result<()> {
    let score = |spec: &mut serde_json::Value| spec["process"]["oomScoreAdj"] = 321.into();
    scene.see("inside", scene.run_spec(&["--rm"], "a", &["cat", "/proc/self/oom_score_adj"], score)?);
    scene.see("default", scene.run(&["--rm"], "b", &["cat", "/proc/self/oom_score_adj"])?);
    Ok(())
}

fn a_spec_of_the_users_own_runs_from_a_directory(scene: &Scene<'_>) -> Result<()> {
    let rootfs = scene.rootfs()?;
    let mut arguments =
        vec!["run".to_owned(), "--rm".into(), "--runtime".into(), scene.runtime.name(), "--rootfs".into()];
    arguments.extend([rootfs.to_string_lossy().into_owned(), scene.id("a"), "/bin/sh".into(), "-c".into()]);
    arguments.push("/bin/ls /; echo written > /srv/here".into());
    scene.see("run --rootfs", scene.ctr(&strs(&arguments))?);
    scene.see("in the directory", fs::read_to_string(rootfs.join("srv/here")).unwrap_or_default());
    Ok(())
}

fn without_pivot_root(scene: &Scene<'_>) -> Result<()> {
    scene.see("run --no-pivot", scene.sh(&["--no-pivot"], "a", "ls /; ls /proc/1/exe")?);
    Ok(())
}

fn options_come_from_a_file(scene: &Scene<'_>) -> Result<()> {
    let file = scene.scratch()?.join("options.toml");
    let path = file.to_string_lossy().into_owned();
    let run = |name: &str| scene.sh(&["--runtime-config-path", &path], name, "echo ran");
    let refused = run("missing")?.failure()?;
    ensure!(refused.stderr.contains(&path) && refused.stderr.contains("no such file"), "{refused}");
    scene.check_nothing_left()?;
    fs::write(&file, "NoPivotRoot = maybe")?;
    let refused = run("broken")?.failure()?;
    ensure!(refused.stderr.contains(&path) && refused.stderr.contains("line 1"), "{refused}");
    scene.check_nothing_left()?;
    fs::write(&file, "NoPivotRoot = true\nNoNewKeyring = true\nSomethingUnknown = 5\n")?;
    ensure!(run("good")?.success()?.stdout == "ran\n");
    Ok(())
}
