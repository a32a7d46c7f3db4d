//! `ctr task exec`: another process in a running container.

use crate::Scenario;
use anyhow::{Result, ensure};
use berth_tests::command::{DEADLINE, Outcome};
use berth_tests::scene::{Scene, shifting_ids};
use std::io::Write;
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Both:
        exec_output_and_exit_code_are_passed_on,
        exec_runs_in_the_containers_namespaces_and_cgroup,
        exec_has_the_containers_privileges,
        exec_takes_a_directory_and_a_user,
        exec_stdin_is_passed_on_until_its_end,
        a_detached_exec_can_be_killed,
        an_exec_id_is_used_once,
        exec_of_what_is_not_there_fails,
        exec_in_a_paused_container_fails,
        exec_in_a_stopped_container_fails,
        execs_end_with_their_container,
        many_execs_at_once,
        a_grandchild_of_an_exec_outlives_it,
        a_grandchild_that_keeps_the_output_open_holds_nobody_up,
        exec_output_is_not_lost,
        exec_under_seccomp_is_filtered,
        exec_in_a_user_namespace_has_its_ids,
    ]
}

/// `ctr task exec` in a scene's container.
fn exec(scene: &Scene<'_>, container: &str, flags: &[&str], argv: &[&str]) -> Result<Outcome> {
    let id = scene.id(container);
    let mut arguments = vec!["task", "exec"];
    arguments.extend(flags);
    arguments.push(&id);
    arguments.extend(argv);
    scene.ctr(&arguments)
}

fn exec_output_and_exit_code_are_passed_on(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    scene.see("exec", exec(scene, "a", &["--exec-id", "e"], &["sh", "-c", "echo out; echo err >&2; exit 9"])?);
    scene.see("the id again", exec(scene, "a", &["--exec-id", "e"], &["true"])?);
    scene.see("a signal", exec(scene, "a", &["--exec-id", "f"], &["sh", "-c", "kill -KILL $$"])?);
    scene.see("another signal", exec(scene, "a", &["--exec-id", "g"], &["sh", "-c", "kill -SEGV $$"])?);
    scene.discard("a")
}

fn exec_runs_in_the_containers_namespaces_and_cgroup(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    let script = "for n in cgroup ipc mnt net pid user uts; do [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] && echo $n; done; \
        cmp /proc/self/cgroup /proc/1/cgroup && echo cgroup; pwd; ls /; env; ps -o pid,ppid,args | grep -ve ps -e '\\['";
    let outcome = exec(scene, "a", &["--exec-id", "e"], &["sh", "-c", script])?.success()?;
    // The process ids depend on how many were made before.
    scene.see("exec", outcome.stdout.replace(|c: char| c.is_ascii_digit(), "N"));
    scene.discard("a")
}

const PRIVILEGES: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp:|SigBlk|SigIgn|Umask)' /proc/self/status; id; umask; cat /proc/self/limits /proc/self/oom_score_adj; \
    ls -l /proc/self/fd 2>/dev/null | awk '{ print $1, $9, substr($11, 1, 5) }'; cut -d' ' -f5-7 /proc/self/stat | tr -d 0-9; cat /proc/self/comm";

fn exec_has_the_containers_privileges(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&["--cap-add", "CAP_SYS_PTRACE", "--cap-drop", "CAP_CHOWN"], "a")?;
    scene.see("exec", exec(scene, "a", &["--exec-id", "e"], &["sh", "-c", PRIVILEGES])?);
    scene.discard("a")
}

fn exec_takes_a_directory_and_a_user(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    scene.see("cwd", exec(scene, "a", &["--exec-id", "e", "--cwd", "/srv"], &["pwd"])?);
    scene.see("cwd that is not there", exec(scene, "a", &["--exec-id", "f", "--cwd", "/not/there"], &["pwd"])?.code);
    for user in ["guest", "1000", "1000:2000", "4321:5"] {
        let id = format!("u{}", user.replace(':', "-"));
        scene.see(user, exec(scene, "a", &["--exec-id", &id, "--user", user], &["sh", "-c", PRIVILEGES])?);
    }
    scene.see("nobody's", exec(scene, "a", &["--exec-id", "g", "--user", "stranger"], &["id"])?.code);
    scene.discard("a")
}

fn exec_stdin_is_passed_on_until_its_end(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    let id = scene.id("a");
    let arguments = ["task", "exec", "--exec-id", "e", &id, "sh", "-c", "while read l; do echo got $l; done; echo end"];
    let mut running = scene.containerd.ctr_start(&arguments)?;
    if let Some(mut stdin) = running.stdin() {
        stdin.write_all(b"one\ntwo\n")?;
        std::thread::sleep(Duration::from_secs(2));
    }
    scene.see("echoed", running.wait(DEADLINE)?);
    scene.discard("a")
}

fn a_detached_exec_can_be_killed(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    let id = scene.id("a");
    scene.see("detached", exec(scene, "a", &["-d", "--exec-id", "e"], &["sleep", "1000"])?);
    scene.see("kill", scene.ctr(&["task", "kill", "--exec-id", "e", "-s", "TERM", &id])?);
    scene.see("delete", delete_when_stopped(scene, &id, "e")?);
    for verb in ["kill", "delete"] {
        let outcome = scene.ctr(&["task", verb, "--exec-id", "e", &id])?.failure()?;
        ensure!(outcome.stderr.contains("not exist"), "{verb} again: {outcome}");
    }
    scene.see("the container", scene.status("a")?);
    scene.discard("a")
}

/// `ctr task delete --exec-id`, as soon as the exec has stopped.
fn delete_when_stopped(scene: &Scene<'_>, id: &str, exec: &str) -> Result<Outcome> {
    for _ in 0..100 {
        let outcome = scene.ctr(&["task", "delete", "--exec-id", exec, id])?;
        if !outcome.stderr.contains("must be stopped") {
            return Ok(outcome);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("exec {exec} did not stop")
}

fn an_exec_id_is_used_once(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    exec(scene, "a", &["-d", "--exec-id", "e"], &["sleep", "1000"])?.success()?;
    let again = exec(scene, "a", &["-d", "--exec-id", "e"], &["sleep", "1000"])?.failure()?;
    ensure!(again.stderr.contains("already exists"), "the duplicate is not named as one: {again}");
    ensure!(again.stderr.contains('e'), "the id is not named: {again}");
    scene.discard("a")
}

fn exec_of_what_is_not_there_fails(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    for (exec_id, program, texts) in [
        ("e", "no-such-program", ["no-such-program", "executable file not found in $PATH"]),
        ("f", "/no/such/program", ["/no/such/program", "no such file or directory"]),
        ("g", "/srv/plain", ["/srv/plain", "permission denied"]),
        ("h", "/srv", ["/srv", ""]),
        ("i", "/srv/garbage", ["", "exec format error"]),
    ] {
        let outcome = exec(scene, "a", &["--exec-id", exec_id], &[program])?.failure()?;
        for text in texts {
            ensure!(
                outcome.stderr.to_lowercase().contains(&text.to_lowercase()),
                "{program}: the error does not say {text:?}: {outcome}"
            );
        }
        scene.see(program, outcome.code);
    }
    scene.see("the container", scene.status("a")?);
    scene.see("and it works", exec(scene, "a", &["--exec-id", "z"], &["echo", "yes"])?);
    scene.discard("a")
}

fn exec_in_a_paused_container_fails(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    scene.ctr(&["task", "pause", &scene.id("a")])?.success()?;
    let outcome = exec(scene, "a", &["--exec-id", "e"], &["true"])?.failure()?;
    ensure!(outcome.stderr.contains("paused"), "the error does not say paused: {outcome}");
    scene.ctr(&["task", "resume", &scene.id("a")])?.success()?;
    scene.see("resumed", exec(scene, "a", &["--exec-id", "f"], &["echo", "yes"])?);
    scene.discard("a")
}

fn exec_in_a_stopped_container_fails(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    scene.ctr(&["task", "kill", &scene.id("a")])?.success()?;
    scene.wait_for_status("a", "STOPPED")?;
    let outcome = exec(scene, "a", &["--exec-id", "e"], &["true"])?.failure()?;
    ensure!(
        outcome.stderr.contains("stopped") || outcome.stderr.contains("not running"),
        "the error does not say stopped: {outcome}"
    );
    scene.discard("a")
}

fn execs_end_with_their_container(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    let id = scene.id("a");
    let running =
        scene.containerd.ctr_start(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", "echo up; sleep 1000"])?;
    std::thread::sleep(Duration::from_secs(1));
    scene.ctr(&["task", "kill", "-s", "KILL", &id])?.success()?;
    scene.see("exec", running.wait(DEADLINE)?);
    scene.wait_for_status("a", "STOPPED")?;
    scene.discard("a")
}

fn many_execs_at_once(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    let id = scene.id("a");
    let mut running = Vec::new();
    for number in 0..10 {
        let (name, script) = (format!("e{number}"), format!("echo {number}; exit {number}"));
        running.push(scene.containerd.ctr_start(&["task", "exec", "--exec-id", &name, &id, "sh", "-c", &script])?);
    }
    for (number, exec) in running.into_iter().enumerate() {
        let outcome = exec.wait(DEADLINE)?;
        ensure!(outcome.code == number as i32 && outcome.stdout == format!("{number}\n"), "exec {number}: {outcome}");
    }
    scene.discard("a")
}

fn a_grandchild_of_an_exec_outlives_it(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    let script = "sleep 1234 >/dev/null 2>&1 </dev/null & echo started";
    scene.see("exec", exec(scene, "a", &["--exec-id", "e"], &["sh", "-c", script])?);
    scene.see("it lives", exec(scene, "a", &["--exec-id", "f"], &["sh", "-c", "ps -o args | grep -c '^sleep 1234'"])?);
    scene.discard("a")
}

fn a_grandchild_that_keeps_the_output_open_holds_nobody_up(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    // The Go shim waits 10 s for the end of the output, then closes it; how long ours waits is its own affair.
    scene.see("exec", exec(scene, "a", &["--exec-id", "e"], &["sh", "-c", "sleep 1234 & echo started; exit 4"])?);
    scene.see("the container", scene.status("a")?);
    scene.discard("a")
}

fn exec_output_is_not_lost(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&[], "a")?;
    for number in 0..5 {
        let id = format!("e{number}");
        let outcome = exec(scene, "a", &["--exec-id", &id], &["seq", "1", "100000"])?.success()?;
        ensure!(outcome.stdout.ends_with("\n100000\n"), "{} bytes arrived", outcome.stdout.len());
    }
    scene.discard("a")
}

fn exec_under_seccomp_is_filtered(scene: &Scene<'_>) -> Result<()> {
    scene.sleeper(&["--seccomp"], "a")?;
    scene.see(
        "exec",
        exec(
            scene,
            "a",
            &["--exec-id", "e"],
            &["sh", "-c", "grep -E '^Seccomp:|NoNew' /proc/self/status; unshare -U true"],
        )?,
    );
    scene.discard("a")
}

fn exec_in_a_user_namespace_has_its_ids(scene: &Scene<'_>) -> Result<()> {
    let turn = shifting_ids();
    scene.sleeper(&["--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000"], "a")?;
    drop(turn);
    scene.see(
        "exec",
        exec(
            scene,
            "a",
            &["--exec-id", "e"],
            &["sh", "-c", "id; cat /proc/self/uid_map; grep -E 'Cap|Groups' /proc/self/status; touch /tmp/x"],
        )?,
    );
    scene.see("as a user", exec(scene, "a", &["--exec-id", "f", "--user", "guest"], &["sh", "-c", "id"])?);
    scene.discard("a")
}
