//! Commands in a pod's container: ExecSync, and Exec and Attach over the streaming server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use berth_tests::cri::Cri;
use berth_tests::cri::kubelet::Kubelet;
use berth_tests::cri::streaming::Stream;

use crate::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Pods:
        exec_sync_tells_output_and_exit_code,
        exec_sync_kills_what_outlives_its_timeout,
        exec_sync_ends_although_a_grandchild_holds_its_output,
        an_exec_that_cannot_start_says_why,
        exec_tells_its_exit_code,
        exec_has_a_standard_input,
        exec_has_a_terminal,
        a_client_attaches_twice,
        a_client_attaches_to_a_terminal,
        twenty_execs_run_at_once,
    ]
}

fn exec_sync_tells_output_and_exit_code(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let mut container = k.sleeper(&pod, "one").env("GREETING", "hello");
    container.config.working_dir = "/home/guest".to_owned();
    container.config.linux.get_or_insert_default().security_context.get_or_insert_default().run_as_user =
        Some(berth_tests::cri::v1::Int64Value { value: 1000 });
    let one = k.start(&sandbox, &pod, &container)?;
    for script in [
        "echo out; echo err >&2",
        "echo $GREETING from $PWD as $(id); exit 3",
        "exit 255",
        "kill -TERM $$",
        "kill -KILL $$",
        "sh -c 'kill -SEGV $$'",
        "grep -E '^(Sig(Blk|Ign)|Cap|NoNewPrivs|Seccomp:|Umask)' /proc/self/status; cat /proc/self/oom_score_adj",
        "ls /proc/self/fd | wc -l; stat -Lc %t:%T /proc/self/fd/0; cut -d: -f2- /proc/self/cgroup; env | sort",
        "cut -d' ' -f7 /proc/$$/stat; [ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo leads its session",
    ] {
        k.see(script, format!("{:?}", k.cri.sh(&one, script)?));
    }
    let many = k.cri.sh(&one, "head -c 1000000 /dev/zero | tr '\\0' x; head -c 500000 /dev/zero | tr '\\0' y >&2")?;
    assert_eq!((many.stdout.len(), many.stderr.len(), many.code), (1_000_000, 500_000, 0));
    Ok(())
}

fn exec_sync_kills_what_outlives_its_timeout(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let started = Instant::now();
    let error = k.cri.exec(&one, &["sleep", "777"], 1).err().context("a command outlived its timeout")?;
    k.see("timeout", format!("{:?}", error.code));
    ensure!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    k.see("left", k.cri.sh(&one, "pgrep -x -f 'sleep 777' | wc -l")?.stdout);
    k.see("in time", format!("{:?}", k.cri.exec(&one, &["echo", "quick"], 20)?));
    Ok(())
}

fn exec_sync_ends_although_a_grandchild_holds_its_output(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let started = Instant::now();
    k.see("output", format!("{:?}", k.cri.sh(&one, "sleep 3 & echo done; exit 5")?));
    ensure!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
    // A grandchild that holds it for ever must not keep the container from being stopped.
    let client = Cri::new(&k.scene.containerd.socket())?;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.sh(&one, "sleep 1000 & echo done; exit 5").map(drop));
        std::thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        k.cri.stop(&one, 10)?;
        ensure!(started.elapsed() < Duration::from_secs(9), "the stop took {:?}", started.elapsed());
        let _whatever = waiting.join().map_err(|_| anyhow!("a thread panicked"))?;
        ensure!(started.elapsed() < Duration::from_secs(25), "the exec ended after {:?}", started.elapsed());
        k.see("exit code", k.cri.status(&one)?.exit_code);
        Ok(())
    })
}

fn an_exec_that_cannot_start_says_why(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    for (command, words) in [
        ("/no/such/program", "no such file or directory"),
        ("no-such-program", "executable file not found in $PATH"),
        ("/srv/plain", "permission denied"),
    ] {
        let error = k.cri.exec(&one, &[command], 0).err().with_context(|| format!("{command} was started"))?;
        ensure!(error.message.contains(words) && error.message.contains(command), "{command}: {error}");
        let mut session = k.cri.exec_stream(&one, &[command], false, false)?;
        let code = session.finish()?;
        k.see(command, format!("{:?} {code:?}", error.code));
        let verdict = session.verdict().context("no verdict")?.to_string();
        ensure!(verdict.contains(words), "{command}: {verdict}");
    }
    k.see("then", format!("{:?}", k.cri.sh(&one, "echo fine")?));
    Ok(())
}

/// How a session ended and what it said.
fn ended(session: &mut Stream) -> Result<String> {
    let code = session.finish()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&session.stdout), String::from_utf8_lossy(&session.stderr));
    Ok(format!("{code:?} {stdout:?} {stderr:?}"))
}

fn exec_tells_its_exit_code(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    for script in ["echo out; echo err >&2", "exit 7", "echo dying; kill -KILL $$", "sleep 0.5; exit 255"] {
        let mut session = k.cri.exec_stream(&one, &["sh", "-c", script], false, false)?;
        k.see(script, ended(&mut session)?);
    }
    // More than every buffer on the way, with a reader that begins late.
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; exit 2";
    let mut session = k.cri.exec_stream(&one, &["sh", "-c", script], false, false)?;
    std::thread::sleep(Duration::from_millis(500));
    let code = session.finish()?;
    assert_eq!((code, session.stdout.len()), (Some(2), 3_000_000));
    Ok(())
}

fn exec_has_a_standard_input(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let mut session = k.cri.exec_stream(&one, &["sh", "-c", "read a; echo got $a; read b; exit $b"], true, false)?;
    session.send(b"first\n")?;
    session.read_until("got first\n")?;
    session.send(b"12\n")?;
    k.see("two lines", ended(&mut session)?);

    let mut session = k.cri.exec_stream(&one, &["sh", "-c", "head -c 1000000 | md5sum"], true, false)?;
    let block = [b'a'; 10_000];
    for _ in 0..100 {
        session.send(&block)?;
    }
    k.see("a million bytes", ended(&mut session)?);

    let none = k.cri.exec_stream(&one, &["sh", "-c", "cat; echo end of it"], false, false);
    k.see("none", ended(&mut none?)?);
    Ok(())
}

fn exec_has_a_terminal(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let mut session = k.cri.exec_stream(&one, &["sh", "-c", "tty; read x; stty size; exit 8"], true, true)?;
    session.read_until("/dev/pts/")?;
    session.resize(132, 43)?;
    std::thread::sleep(Duration::from_millis(300));
    session.send(b"\n")?;
    k.see("size", ended(&mut session)?);

    let script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 1000 & wait $!; done";
    let mut session = k.cri.exec_stream(&one, &["sh", "-c", script], true, true)?;
    session.read_until("ready")?;
    session.send(b"\x03")?;
    k.see("interrupt", ended(&mut session)?);

    let mut session = k.cri.exec_stream(&one, &["sh"], true, true)?;
    session
        .send(b"echo a$((20+3))b; cut -d' ' -f7 /proc/$$/stat >/dev/null && test -t 0 -a -t 1 -a -t 2; exit $?\n")?;
    let code = session.finish()?;
    let shown = String::from_utf8_lossy(&session.stdout).into_owned();
    ensure!(code == Some(0) && shown.contains("a23b"), "{code:?} {shown:?}");

    let mut session = k.cri.exec_stream(&one, &["seq", "1", "50000"], true, true)?;
    let code = session.finish()?;
    let lines = String::from_utf8_lossy(&session.stdout).lines().count();
    k.see("much of it", format!("{code:?} {lines}"));
    Ok(())
}

fn a_client_attaches_twice(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let script = "while read line; do echo you said $line; [ $line = bye ] && exit 21; done; exit 1";
    let echo = k.start(&sandbox, &pod, &k.script(&pod, "echo", script).stdin(false))?;
    let mut session = k.cri.attach(&echo, true, false)?;
    session.ask(b"one\n", "you said one")?;
    drop(session);
    let mut session = k.cri.attach(&echo, true, false)?;
    session.ask(b"two\n", "you said two")?;
    session.send(b"bye\n")?; // the answer may come too late for this session
    let status = k.cri.wait_for(&echo, berth_tests::cri::v1::ContainerState::ContainerExited)?;
    k.see("exit code", status.exit_code);
    k.wait_for_line("echo", "you said two")
}

fn a_client_attaches_to_a_terminal(k: &Kubelet<'_>) -> Result<()> {
    let pod = k.pod("pod")?;
    let sandbox = k.run(&pod)?;
    let mut container = k.script(&pod, "shell", "").stdin(true);
    container.config.command = vec!["/bin/sh".to_owned()];
    let shell = k.start(&sandbox, &pod, &container)?;
    let mut session = k.cri.attach(&shell, true, true)?;
    session.resize(90, 30)?;
    session.ask(b"echo $((1+2))$((3+4)); tty\n", "37\r\n")?;
    session.send(b"stty size\n")?;
    session.read_until("30 90")?;
    session.send(b"exit 22\n")?;
    let status = k.cri.wait_for(&shell, berth_tests::cri::v1::ContainerState::ContainerExited)?;
    k.see("exit code", status.exit_code);
    Ok(())
}

fn twenty_execs_run_at_once(k: &Kubelet<'_>) -> Result<()> {
    let (_, one) = k.one_sleeper()?;
    let socket = k.scene.containerd.socket();
    std::thread::scope(|scope| {
        let (socket, one) = (&socket, &one);
        let running: Vec<_> = (0..20)
            .map(|index| {
                scope.spawn(move || -> Result<()> {
                    let cri = Cri::new(socket)?;
                    let output = cri.sh(one, &format!("echo {index}; sleep 0.{index}; exit {index}"))?;
                    ensure!(output.code == index && output.stdout == format!("{index}\n"), "{index}: {output:?}");
                    Ok(())
                })
            })
            .collect();
        for thread in running {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        k.see("processes left", k.cri.sh(one, "pgrep -x sleep | wc -l")?.stdout);
        Ok(())
    })
}
