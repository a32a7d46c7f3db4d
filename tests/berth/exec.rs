//! exec.

use anyhow::{Result, ensure};
use berth_tests::command::{self, DEADLINE};
use berth_tests::terminal::Terminal;
use serde_json::json;
use std::fs;
use std::time::Duration;

use super::Fact;
use super::stage::{Stage, refused};

pub fn facts() -> Vec<Fact> {
    crate::facts![
        an_exec_is_as_its_program_ends,
        a_debug_log_tells_the_first_cpus_of_an_exec,
        flags_make_the_process,
        a_process_can_come_from_a_file,
        a_detached_exec_goes_on,
        an_exec_has_a_terminal,
        an_exec_that_cannot_be_is_255,
        an_exec_into_a_created_container_runs,
        an_exec_of_a_paused_container_waits_for_resume,
        input_ends_an_exec,
        an_exec_goes_into_a_cgroup_below,
    ]
}

fn running(stage: &Stage) -> Result<String> {
    let id = stage.id("c");
    stage.detached(&["run", "-d", &id])?.success()?;
    Ok(id)
}

fn an_exec_is_as_its_program_ends(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    let outcome = stage.run(&["exec", id, "sh", "-c", "echo out; echo err >&2; exit 9"])?;
    ensure!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()) == (9, "out\n", "err\n"), "{outcome}");
    ensure!(stage.run(&["exec", id, "sh", "-c", "kill -9 $$"])?.code == 137);
    Ok(())
}

fn a_debug_log_tells_the_first_cpus_of_an_exec(stage: &Stage) -> Result<()> {
    stage.spec(|spec| spec["process"]["execCPUAffinity"] = serde_json::json!({ "initial": "0" }))?;
    let id = &running(stage)?;
    let outcome = stage.run(&["--debug", "exec", id, "true"])?.success()?;
    ensure!(outcome.stderr.contains("level=debug msg=\"initial CPU affinity: 0x1\""), "{outcome}");
    let outcome = stage.run(&["exec", id, "true"])?.success()?;
    ensure!(outcome.stderr.is_empty(), "{outcome}");
    Ok(())
}

fn flags_make_the_process(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    let show = "id -u; id -g; id -G; pwd; echo $ONE$TWO; grep -E 'CapEff|NoNewPrivs' /proc/self/status";
    let flags = ["exec", "--user", "5:6", "-g", "7", "--cwd", "/bin", "-e", "ONE=1", "--env=TWO=2"];
    let more = ["--cap", "CAP_SYS_PTRACE", "--no-new-privs", id, "sh", "-c", show];
    let arguments: Vec<&str> = flags.into_iter().chain(more).collect();
    let outcome = stage.run(&arguments)?.success()?;
    let expected = "5\n6\n6 7\n/bin\n12\n";
    ensure!(outcome.stdout.starts_with(expected) && outcome.stdout.contains("NoNewPrivs:\t1"), "{outcome}");
    let root = stage.run(&["exec", "--cap", "CAP_SYS_PTRACE", id, "grep", "CapEff", "/proc/self/status"])?;
    let bits = u64::from_str_radix(root.stdout.trim().rsplit('\t').next().unwrap_or_default(), 16)?;
    ensure!(bits & 1 << 19 != 0 && bits & 1 << 21 == 0, "{bits:x}");
    Ok(())
}

fn a_process_can_come_from_a_file(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    let file = stage.path("process.json");
    let process = json!({
        "user": { "uid": 1000, "gid": 1000 }, "cwd": "/tmp", "env": ["PATH=/bin", "A=b"],
        "args": ["sh", "-c", "id -u; pwd; echo $A; exit 3"],
    });
    fs::write(&file, process.to_string())?;
    let outcome = stage.run(&["exec", "--process", &file, id])?;
    ensure!((outcome.code, outcome.stdout.as_str()) == (3, "1000\n/tmp\nb\n"), "{outcome}");
    fs::write(&file, "{}")?;
    refused(stage.run(&["exec", "-p", &file, id])?, 255, "parse")?;
    fs::write(&file, json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "x", "args": ["id"] }).to_string())?;
    refused(stage.run(&["exec", "-p", &file, id])?, 255, "Cwd must be an absolute path")
}

fn a_detached_exec_goes_on(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    let file = stage.path("pid");
    stage.detached(&["exec", "-d", "--pid-file", &file, id, "sleep", "2000"])?.success()?;
    let pid = fs::read_to_string(&file)?;
    ensure!(fs::read_to_string(format!("/proc/{pid}/cmdline"))? == "sleep\x002000\x00");
    let pids = stage.run(&["ps", "-f", "json", id])?.stdout;
    ensure!(pids.contains(&pid), "{pid} is not among {pids}");
    Ok(())
}

fn an_exec_has_a_terminal(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    let script = "tty; stty size; echo ready; read line; echo \"<$line>\"; exit 8";
    let mut terminal = Terminal::start(&mut stage.command(&["exec", "-t", id, "sh", "-c", script]))?;
    terminal.expect("ready")?;
    ensure!(terminal.shown().contains("/dev/pts/0\n24 80\n"), "{}", terminal.shown());
    terminal.send("word\r")?;
    let (code, shown) = terminal.wait(Duration::from_secs(20))?;
    ensure!(code == 8 && shown.contains("<word>"), "{code} {shown}");
    refused(stage.run(&["exec", "-t", "-d", id, "sh"])?, 255, "cannot allocate tty")
}

fn an_exec_that_cannot_be_is_255(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    refused(stage.run(&["exec", id, "nonsense"])?, 255, "executable file not found in $PATH")?;
    refused(stage.run(&["exec", id, "/etc"])?, 255, "is a directory")?;
    refused(stage.run(&["exec", id])?, 255, "exec args cannot be empty")?;
    refused(stage.run(&["exec", "--user", "x", id, "id"])?, 255, "invalid value")?;
    refused(stage.run(&["exec", "--cap", "CAP_FLY", id, "id"])?, 255, "invalid value")?;
    refused(stage.run(&["exec", "--cwd", "bin", id, "id"])?, 255, "Cwd must be an absolute path")?;
    refused(stage.run(&["exec", "--cwd", "/nonsense", id, "id"])?, 255, "no such file or directory")?;
    refused(stage.run(&["exec", &stage.id("none"), "id"])?, 255, "container does not exist")
}

fn an_exec_into_a_created_container_runs(stage: &Stage) -> Result<()> {
    let id = &stage.id("c");
    stage.detached(&["create", id])?.success()?;
    ensure!(stage.run(&["exec", id, "echo", "early"])?.success()?.stdout == "early\n");
    ensure!(stage.state(id)?["status"] == "created");
    Ok(())
}

fn an_exec_of_a_paused_container_waits_for_resume(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    stage.run(&["pause", id])?.success()?;
    let mut command = stage.command(&["exec", "--ignore-paused", id, "echo", "late"]);
    let waiting = command::start(command.stdin(std::process::Stdio::null()))?;
    std::thread::sleep(Duration::from_millis(300));
    stage.run(&["resume", id])?.success()?;
    ensure!(waiting.wait(DEADLINE)?.success()?.stdout == "late\n");
    Ok(())
}

fn input_ends_an_exec(stage: &Stage) -> Result<()> {
    let id = &running(stage)?;
    let input = stage.path("input");
    fs::write(&input, "some words\n")?;
    let mut command = stage.command(&["exec", id, "cat"]);
    let outcome = command::start(command.stdin(fs::File::open(&input)?))?.wait(DEADLINE)?.success()?;
    ensure!(outcome.stdout == "some words\n", "{outcome}");
    Ok(())
}

fn an_exec_goes_into_a_cgroup_below(stage: &Stage) -> Result<()> {
    let (id, cgroup) = (&running(stage)?, stage.id("x"));
    let v1 = format!("/sys/fs/cgroup/pids/{cgroup}");
    let is_v1 = std::path::Path::new(&v1).exists();
    let (below, asked) =
        if is_v1 { (format!("{v1}/sub"), "pids:sub") } else { (format!("/sys/fs/cgroup/{cgroup}/sub"), "sub") };
    fs::create_dir(&below)?;
    stage
        .detached(&["exec", "-d", "--pid-file", &stage.path("pid"), "--cgroup", asked, id, "sleep", "3000"])?
        .success()?;
    ensure!(fs::read_to_string(format!("{below}/cgroup.procs"))? == fs::read_to_string(stage.path("pid"))? + "\n");
    let outside = if is_v1 { "pids:.." } else { ".." };
    let outcome = stage.run(&["exec", "--cgroup", outside, id, "true"])?;
    ensure!(outcome.stderr.contains("bad sub cgroup path: .."), "{outcome}");
    if is_v1 {
        for (bad, words) in [("nonsense", "error adding pid to cgroups"), ("fly:/", "unknown controller fly")] {
            let outcome = stage.run(&["exec", "--cgroup", bad, id, "true"])?;
            ensure!(outcome.code != 0 && outcome.stderr.contains(words), "{bad}: {outcome}");
        }
    }
    stage.run(&["exec", "--cgroup", "/", id, "true"])?.success()?;
    for bad in ["pids:../..", "pids:nonsense", "fly:sub", "a:b:c", ",:x"] {
        let outcome = stage.run(&["exec", "--cgroup", bad, id, "true"])?;
        ensure!(outcome.code != 0, "{bad}: {outcome}");
    }
    Ok(())
}
