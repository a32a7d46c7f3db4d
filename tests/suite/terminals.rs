//! `-t`: containers and execs on a terminal.

use crate::Scenario;
use anyhow::Result;
use berth_tests::command::DEADLINE;
use berth_tests::scene::{Runtime, Scene};
use berth_tests::terminal::Terminal;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Both:
        a_container_has_a_terminal,
        an_exec_has_a_terminal,
        typed_keys_arrive_and_control_c_interrupts,
        a_resize_reaches_the_container,
        all_output_of_a_terminal_arrives,
        a_terminal_of_a_user_belongs_to_the_user,
        a_detached_terminal_runs,
    ]
}

const ABOUT: &str = "tty; until stty size 2>/dev/null | grep -q '24 80'; do sleep 0.1; done; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo a terminal; ls -l /proc/self/fd/0 | cut -d' ' -f1; stat -c '%a %u %t:%T %n' /dev/console /dev/pts/0 /dev/tty; \
    echo $TERM; ps -o pid,pgid,sid,tty,args | grep -ve ps -e '\\['; (exec 3</dev/tty) && echo controlling; exit 5";

fn a_container_has_a_terminal(scene: &Scene<'_>) -> Result<()> {
    let (code, shown) = scene.run_on_terminal(&["--rm", "-t"], "a", &["sh", "-c", ABOUT])?.wait(DEADLINE)?;
    scene.see("exit code", code);
    scene.see("shown", shown);
    Ok(())
}

fn an_exec_has_a_terminal(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    let arguments = ["task", "exec", "-t", "--exec-id", "e", &id, "sh", "-c", ABOUT];
    let (code, shown) = Terminal::start(&mut scene.containerd.ctr_command(&arguments))?.wait(DEADLINE)?;
    scene.see("exit code", code);
    // The process ids depend on how many were made before.
    let rows = shown.lines().filter(|line| {
        !line.trim_start().starts_with(|c: char| c.is_ascii_digit()) || line.contains('/') || line.contains("24")
    });
    scene.see("shown", rows.collect::<Vec<_>>().join("\n"));
    scene.discard("a")
}

fn typed_keys_arrive_and_control_c_interrupts(scene: &Scene<'_>) -> Result<()> {
    let script = "echo ready; read line; echo line=$line; trap 'echo interrupted; exit 7' INT; echo again; while :; do sleep 0.1; done";
    let mut terminal = scene.run_on_terminal(&["--rm", "-t"], "a", &["sh", "-c", script])?;
    terminal.expect("ready\n")?;
    terminal.send("hello there\r")?;
    terminal.expect("line=hello there\n")?;
    terminal.expect("again\n")?;
    terminal.send("\x03")?;
    let (code, shown) = terminal.wait(DEADLINE)?;
    scene.see("exit code", code);
    scene.see("shown", shown);
    Ok(())
}

fn a_resize_reaches_the_container(scene: &Scene<'_>) -> Result<()> {
    // The size is set after the start, so the first that is seen may be 0 0.
    let script = "trap 'echo told' WINCH; while :; do s=$(stty size 2>/dev/null); case $s in '24 80') echo first $s;; '33 121') echo last $s; exit 3;; esac; sleep 0.1; done";
    let terminal = scene.run_on_terminal(&["--rm", "-t"], "a", &["sh", "-c", script])?;
    terminal.expect("first 24 80\n")?;
    terminal.resize(33, 121)?;
    terminal.expect("last 33 121\n")?;
    terminal.expect("told\n")?;
    scene.see("exit code", terminal.wait(DEADLINE)?.0);
    Ok(())
}

fn all_output_of_a_terminal_arrives(scene: &Scene<'_>) -> Result<()> {
    // With runc ctr closes its end of the output over what it has not read yet (output.rs), so it is given time.
    let rest = if scene.runtime == Runtime::Runc { "sleep 1" } else { "" };
    let script = format!("seq 1 20000; echo end; {rest}");
    let (code, shown) = scene.run_on_terminal(&["--rm", "-t"], "a", &["sh", "-c", &script])?.wait(DEADLINE)?;
    scene.see("exit code", code);
    scene.see("lines", shown.lines().count());
    scene.see("end", shown.trim_end().ends_with("20000\nend"));
    Ok(())
}

fn a_terminal_of_a_user_belongs_to_the_user(scene: &Scene<'_>) -> Result<()> {
    let id = scene.sleeper(&[], "a")?;
    let arguments = [
        "task",
        "exec",
        "-t",
        "--user",
        "guest",
        "--exec-id",
        "e",
        &id,
        "sh",
        "-c",
        "id -u; stat -c '%a %u %g' $(tty); echo hi > $(tty)",
    ];
    let (code, shown) = Terminal::start(&mut scene.containerd.ctr_command(&arguments))?.wait(DEADLINE)?;
    scene.see("exit code", code);
    // ctr resizes when it has started it, which a short process does not live to see.
    scene.see("shown", shown.lines().filter(|line| !line.contains("resize pty")).collect::<Vec<_>>().join("\n"));
    scene.discard("a")
}

fn a_detached_terminal_runs(scene: &Scene<'_>) -> Result<()> {
    scene.see("run", scene.run(&["-d", "-t"], "a", &["sh", "-c", "tty; trap 'exit 2' TERM; sleep 1000 & wait"])?.code);
    scene.see("status", scene.status("a")?);
    scene.discard("a")
}
