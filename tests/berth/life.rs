//! create, start, run, kill, delete, state, list, ps, pause, resume.

use anyhow::{Result, ensure};
use berth_tests::command::{self, DEADLINE};
use berth_tests::terminal::Terminal;
use std::fs;
use std::time::Duration;

use super::Fact;
use super::stage::{Stage, refused};

pub fn facts() -> Vec<Fact> {
    crate::facts![
        a_created_container_waits_for_start,
        run_is_as_its_program_ends,
        a_killed_program_is_128_and_its_signal,
        output_and_input_pass_through_run,
        run_keeps_what_shall_be_kept,
        signals_go_to_the_program,
        a_terminal_is_raw_and_has_our_size,
        a_paused_container_can_be_killed,
        a_container_without_a_pid_namespace_dies_whole,
        list_shows_what_there_is,
        ps_shows_the_containers_processes,
        a_program_that_is_missing_fails_create_and_leaves_nothing,
        config_can_be_elsewhere,
        nobody_starts_a_container_twice_at_once,
        a_create_that_was_killed_can_be_deleted,
        the_binary_is_out_of_reach,
        a_missing_binfmt_is_told_by_start,
        a_process_that_dies_before_its_program_is_told_by_run,
        a_program_may_have_few_files,
        hooks_read_the_state,
        a_container_in_the_making_is_creating,
        a_hook_that_fails_at_start_deletes_the_container,
        hooks_have_no_signal_blocked,
    ]
}

fn a_created_container_waits_for_start(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.script("echo ran > /ran; sleep 1000")?;
    stage.detached(&["create", "--pid-file", &stage.path("pid"), id])?.success()?;
    let state = stage.state(id)?;
    ensure!(state["status"] == "created" && state["ociVersion"] == "1.3.0" && state["id"] == **id, "{state}");
    ensure!(state["bundle"] == stage.path("bundle") && state["rootfs"] == stage.path("bundle/rootfs"), "{state}");
    let pid: i64 = fs::read_to_string(stage.path("pid"))?.parse()?;
    ensure!(state["pid"] == pid, "{state}");
    ensure!(!stage.directory.join("bundle/rootfs/ran").exists());
    // Many looks later it waits as before.
    for _ in 0..40 {
        ensure!(stage.state(id)?["status"] == "created");
    }
    stage.run(&["start", id])?.success()?;
    stage.until("the program runs", || stage.directory.join("bundle/rootfs/ran").exists())?;
    ensure!(stage.state(id)?["status"] == "running");
    refused(stage.run(&["start", id])?, 1, "cannot start an already running container")?;
    refused(stage.run(&["delete", id])?, 1, "that is not stopped: running")?;
    stage.run(&["kill", id, "KILL"])?.success()?;
    stage.expect(id, "stopped")?;
    ensure!(stage.state(id)?["pid"] == 0);
    refused(stage.run(&["start", id])?, 1, "cannot start a container that has stopped")?;
    refused(stage.run(&["kill", id])?, 1, "container not running")?;
    stage.run(&["kill", "--all", id])?.success()?;
    refused(stage.run(&["exec", id, "true"])?, 255, "cannot exec in a stopped container")?;
    stage.run(&["delete", id])?.success()?;
    refused(stage.run(&["state", id])?, 1, "container does not exist")
}

fn run_is_as_its_program_ends(stage: &Stage) -> Result<()> {
    stage.script("echo out; echo err >&2; exit 7")?;
    let outcome = stage.run(&["run", &stage.id("c")])?;
    ensure!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()) == (7, "out\n", "err\n"), "{outcome}");
    Ok(())
}

fn a_killed_program_is_128_and_its_signal(stage: &Stage) -> Result<()> {
    stage.script("kill -9 $$")?;
    stage.spec(|spec| spec["linux"]["namespaces"] = serde_json::json!([{ "type": "mount" }]))?;
    stage.spec(|spec| spec["hostname"] = "".into())?;
    let outcome = stage.run(&["run", &stage.id("c")])?;
    ensure!(outcome.code == 137, "{outcome}");
    Ok(())
}

fn output_and_input_pass_through_run(stage: &Stage) -> Result<()> {
    stage.script("cat | wc -c; head -c 3000000 /dev/zero")?;
    let input = stage.directory.join("input");
    fs::write(&input, vec![b'x'; 1 << 20])?;
    let mut command = stage.command(&["run", &stage.id("c")]);
    let outcome = command::start(command.stdin(fs::File::open(&input)?))?.wait(DEADLINE)?.success()?;
    ensure!(outcome.stdout.len() == 3_000_000 + "1048576\n".len(), "{} bytes", outcome.stdout.len());
    Ok(())
}

fn run_keeps_what_shall_be_kept(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.script("exit 3")?;
    let outcome = stage.run(&["run", "--keep", id])?;
    ensure!(outcome.code == 3, "{outcome}");
    ensure!(stage.state(id)?["status"] == "stopped");
    Ok(())
}

fn signals_go_to_the_program(stage: &Stage) -> Result<()> {
    stage.script("trap 'echo term; exit 4' TERM; trap 'echo usr' USR1; echo ready; while :; do sleep 0.1; done")?;
    let running = command::start(stage.command(&["run", &stage.id("c")]).stdin(std::process::Stdio::null()))?;
    running.expect(&["ready"])?;
    let pid = rustix::process::Pid::from_raw(running.pid());
    let send = |signal| pid.map(|pid| rustix::process::kill_process(pid, signal)).transpose();
    send(rustix::process::Signal::USR1)?;
    running.expect(&["usr"])?;
    send(rustix::process::Signal::TERM)?;
    let outcome = running.wait(DEADLINE)?;
    ensure!(outcome.code == 4 && outcome.stdout.ends_with("term\n"), "{outcome}");
    Ok(())
}

fn a_terminal_is_raw_and_has_our_size(stage: &Stage) -> Result<()> {
    stage.spec(|spec| spec["process"]["terminal"] = true.into())?;
    stage.script(
        "tty; stty size; trap 'stty size' WINCH; echo ready; until read line; do :; done; echo \"<$line>\"; exit 6",
    )?;
    let mut terminal = Terminal::start(&mut stage.command(&["run", &stage.id("c")]))?;
    terminal.expect("ready")?;
    ensure!(terminal.shown().contains("/dev/pts/0\n24 80\n"), "{}", terminal.shown());
    terminal.resize(30, 100)?;
    terminal.expect("30 100")?;
    terminal.send("word\r")?;
    let (code, shown) = terminal.wait(Duration::from_secs(20))?;
    ensure!(code == 6 && shown.contains("<word>"), "{code} {shown}");
    Ok(())
}

fn a_paused_container_can_be_killed(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.detached(&["run", "-d", id])?.success()?;
    refused(stage.run(&["resume", id])?, 1, "container not paused")?;
    stage.run(&["pause", id])?.success()?;
    ensure!(stage.state(id)?["status"] == "paused");
    refused(stage.run(&["exec", id, "true"])?, 255, "cannot exec in a paused container")?;
    refused(stage.run(&["pause", id])?, 1, "container not running")?;
    stage.run(&["resume", id])?.success()?;
    ensure!(stage.state(id)?["status"] == "running");
    stage.run(&["pause", id])?.success()?;
    stage.run(&["kill", id, "9"])?.success()?;
    stage.expect(id, "stopped")?;
    stage.run(&["delete", id])?.success().map(drop)
}

fn a_container_without_a_pid_namespace_dies_whole(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.spec(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        namespaces.into_iter().for_each(|all| all.retain(|namespace| namespace["type"] != "pid"));
    })?;
    stage.script("sleep 1000 & sleep 1000 & wait")?;
    stage.detached(&["run", "-d", id])?.success()?;
    let pids = || stage.run(&["ps", "-f", "json", id]).map(|outcome| outcome.stdout).unwrap_or_default();
    stage.until("three processes", || pids().split(',').count() == 3)?;
    stage.run(&["kill", id, "KILL"])?.success()?;
    stage.until("no process", || pids() == "null\n")?;
    stage.run(&["delete", id])?.success().map(drop)
}

fn list_shows_what_there_is(stage: &Stage) -> Result<()> {
    let (one, two) = (&stage.id("a"), &stage.id("b"));
    stage.run(&["spec", "--help"])?.success()?;
    stage.detached(&["run", "-d", one])?.success()?;
    stage.spec(|spec| spec["linux"]["cgroupsPath"] = format!("/{two}").into())?;
    stage.detached(&["create", two])?.success()?;
    let table = stage.run(&["list"])?.success()?.stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows[0] == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], "{table}");
    ensure!(rows[1][0] == one && rows[1][2] == "running" && rows[1][5] == "root", "{table}");
    ensure!(rows[2][0] == two && rows[2][2] == "created" && rows.len() == 3, "{table}");
    ensure!(stage.run(&["list", "-q"])?.stdout == format!("{one}\n{two}\n"));
    let json: serde_json::Value = serde_json::from_str(&stage.run(&["list", "--format", "json"])?.stdout)?;
    ensure!(json[0]["id"] == **one && json[1]["status"] == "created", "{json}");
    Ok(())
}

fn ps_shows_the_containers_processes(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.detached(&["run", "-d", id])?.success()?;
    let pid = stage.state(id)?["pid"].to_string();
    ensure!(stage.run(&["ps", "--format", "json", id])?.stdout == format!("[{pid}]\n"));
    let table = stage.run(&["ps", id, "-e", "-o", "pid,args"])?.success()?.stdout;
    ensure!(table.lines().count() == 2 && table.contains("sleep 1000"), "{table}");
    Ok(())
}

fn a_program_that_is_missing_fails_create_and_leaves_nothing(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.spec(|spec| spec["process"]["args"] = serde_json::json!(["nonsense"]))?;
    let text = "unable to start container process: exec: \\\"nonsense\\\": executable file not found in $PATH";
    refused(stage.run(&["create", id])?, 1, text)?;
    refused(stage.run(&["run", id])?, 1, text)?;
    refused(stage.run(&["state", id])?, 1, "container does not exist")
}

fn config_can_be_elsewhere(stage: &Stage) -> Result<()> {
    stage.script("exit 12")?;
    fs::rename(stage.path("bundle/config.json"), stage.path("other.json"))?;
    refused(stage.run(&["run", &stage.id("c")])?, 1, "JSON specification file config.json not found")?;
    let outcome = stage.run(&["run", "--config", &stage.path("other.json"), &stage.id("c")])?;
    ensure!(outcome.code == 12, "{outcome}");
    Ok(())
}

fn nobody_starts_a_container_twice_at_once(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.detached(&["create", id])?.success()?;
    let start = || command::start(stage.command(&["start", id]).stdin(std::process::Stdio::null()));
    let racers = (0..4).map(|_| start()).collect::<Result<Vec<_>>>()?;
    let codes = racers.into_iter().map(|racer| Ok(racer.wait(DEADLINE)?.code)).collect::<Result<Vec<_>>>()?;
    ensure!(codes.iter().filter(|code| **code == 0).count() == 1, "{codes:?}");
    Ok(())
}

fn a_create_that_was_killed_can_be_deleted(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    fs::create_dir_all(stage.directory.join("states").join(id))?;
    refused(stage.run(&["state", id])?, 1, "container does not exist")?;
    refused(stage.run(&["create", id])?, 1, "container with given ID already exists")?;
    refused(stage.run(&["delete", id])?, 1, "container does not exist")?;
    ensure!(!stage.directory.join("states").join(id).exists());
    stage.run(&["delete", "--force", id])?.success().map(drop)
}

/// CVE-2019-5736: what a container's first process is cloned from cannot be written to.
fn the_binary_is_out_of_reach(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.detached(&["create", id])?.success()?;
    let exe = format!("/proc/{}/exe", stage.state(id)?["pid"]);
    let opened = fs::File::options().write(true).open(&exe);
    ensure!(opened.is_err(), "{exe} could be opened for writing");
    let own = fs::metadata(berth_tests::version::shim()?)?;
    let theirs = fs::metadata(&exe)?;
    use std::os::unix::fs::MetadataExt;
    ensure!((own.dev(), own.ino()) != (theirs.dev(), theirs.ino()), "it is the file itself");
    Ok(())
}

/// What only execve finds is told across processes.
fn a_missing_binfmt_is_told_by_start(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    let program = stage.directory.join("bundle/rootfs/bin/broken");
    fs::write(&program, "no program\n")?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    stage.spec(|spec| spec["process"]["args"] = serde_json::json!(["/bin/broken"]))?;
    stage.detached(&["create", id])?.success()?;
    refused(stage.run(&["start", id])?, 1, "exec /bin/broken: exec format error")?;
    stage.expect(id, "stopped")
}

/// A hook kills who runs it, which is to become the program.
fn a_process_that_dies_before_its_program_is_told_by_run(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.script("exit 7")?;
    stage.spec(|spec| {
        spec["linux"]["namespaces"] = serde_json::json!([{ "type": "mount" }]);
        spec["hostname"] = "".into();
        let hook = serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"] });
        spec["hooks"] = serde_json::json!({ "startContainer": [hook] });
    })?;
    refused(stage.run(&["run", id])?, 1, "exec sh: the process ended before that, with status 137")?;
    refused(stage.run(&["state", id])?, 1, "container does not exist")
}

/// Less than the descriptors that a container is made of.
fn a_program_may_have_few_files(stage: &Stage) -> Result<()> {
    let id = &stage.id("x");
    stage.spec(|spec| {
        spec["process"]["rlimits"] = serde_json::json!([{ "type": "RLIMIT_NOFILE", "soft": 12, "hard": 12 }]);
    })?;
    stage.script("ulimit -n; exit 7")?;
    let outcome = stage.run(&["run", id])?;
    ensure!((outcome.code, outcome.stdout.as_str()) == (7, "12\n"), "{outcome}");
    stage.detached(&["create", id])?.success()?;
    stage.run(&["start", id])?.success()?;
    stage.expect(id, "stopped")
}

fn hooks_read_the_state(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    let hook = |name: &str| {
        let file = stage.path(name);
        serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("cat > {file}")] }])
    };
    let hooks = serde_json::json!({ "createRuntime": hook("1"), "poststart": hook("2"), "poststop": hook("3") });
    stage.spec(|spec| spec["hooks"] = hooks)?;
    stage.detached(&["create", id])?.success()?;
    stage.run(&["start", id])?.success()?;
    stage.run(&["delete", "-f", id])?.success()?;
    for (file, status) in [("1", "created"), ("2", "running"), ("3", "stopped")] {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(stage.path(file))?)?;
        ensure!(state["status"] == status && state["id"] == **id, "{file}: {state}");
    }
    Ok(())
}

fn a_hook_that_fails_at_start_deletes_the_container(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    let log = stage.path("log");
    let stop = serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("cat >> {log}")] }]);
    for (round, (kind, path)) in [("startContainer", "/bin/false"), ("poststart", "/bin/false")].into_iter().enumerate()
    {
        stage.spec(|spec| spec["hooks"] = serde_json::json!({ kind: [{ "path": path }], "poststop": stop }))?;
        stage.detached(&["create", id])?.success()?;
        let text = format!("error running {kind} hook #0: {path}: exit status 1");
        refused(stage.run(&["start", id])?, 1, &text)?;
        refused(stage.run(&["state", id])?, 1, "container does not exist")?;
        let stopped = fs::read_to_string(&log)?.matches("\"status\":\"stopped\"").count();
        ensure!(stopped == round + 1, "{stopped} poststop hooks after {kind}");
        refused(stage.run(&["run", id])?, 1, &text)?;
        refused(stage.run(&["state", id])?, 1, "container does not exist")?;
        fs::write(&log, "{\"status\":\"stopped\"}".repeat(round + 1))?;
    }
    Ok(())
}

fn a_container_in_the_making_is_creating(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    let (began, go) = (stage.path("began"), stage.path("go"));
    let script = format!("touch {began}; while ! test -e {go}; do sleep 0.02; done");
    let hook = serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 60 }]);
    stage.spec(|spec| spec["hooks"] = serde_json::json!({ "createRuntime": hook }))?;
    let null = || std::process::Stdio::null();
    let mut making = stage.command(&["create", id]).stdin(null()).stdout(null()).stderr(null()).spawn()?;
    let seen = stage.until("the hook runs", || fs::exists(&began).unwrap_or(false)).and_then(|()| stage.state(id));
    fs::write(&go, "")?;
    let status = command::wait_for(&mut making, DEADLINE)?;
    let seen = seen?;
    ensure!(seen["status"] == "creating" && seen["pid"] == 0, "{seen}");
    ensure!(status.is_some_and(|status| status.success()), "{status:?}");
    stage.expect(id, "created")
}

fn hooks_have_no_signal_blocked(stage: &Stage) -> Result<()> {
    let file = stage.path("status");
    let hook =
        serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("cat /proc/self/status > {file}")] }]);
    stage.spec(|spec| spec["hooks"] = serde_json::json!({ "createRuntime": hook }))?;
    stage.script("grep -E 'Sig(Blk|Cgt)' /proc/self/status")?;
    let none = "SigBlk:\t0000000000000000\n";
    let outcome = stage.run(&["run", &stage.id("c")])?.success()?;
    ensure!(outcome.stdout.contains(none), "{outcome}");
    let status = fs::read_to_string(&file)?;
    ensure!(status.contains(none) && status.contains("SigCgt:\t0000000000000000\n"), "{status}");
    Ok(())
}
