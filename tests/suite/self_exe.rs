//! A container must never reach the shim's own file on the host: CVE-2019-5736 and its children.

use crate::Scenario;
use crate::contract::shim_with;
use anyhow::{Context, Result, ensure};
use berth_tests::command::{DEADLINE, poll};
use berth_tests::scene::Scene;
use berth_tests::task::{create, end, granted};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Berth:
        an_entrypoint_of_proc_self_exe_reaches_nothing,
        an_interpreter_of_proc_self_exe_reaches_nothing,
        the_exe_of_a_starting_exec_cannot_be_written,
        the_exe_of_a_starting_container_cannot_be_written,
        the_shim_cannot_be_written_from_the_hosts_pid_namespace,
    ]
}

/// What must not change of the shim's file.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    sha256: Vec<u8>,
    inode: u64,
    changed: (i64, i64),
    mode: u32,
}

fn fingerprint(path: &Path) -> Result<Fingerprint> {
    let about = path.metadata()?;
    Ok(Fingerprint {
        sha256: Sha256::digest(fs::read(path)?).to_vec(),
        inode: about.ino(),
        changed: (about.ctime(), about.ctime_nsec()),
        mode: about.mode(),
    })
}

/// Runs an attack, after which the shim's file must be as it was.
fn unharmed(scene: &Scene<'_>, attack: impl FnOnce() -> Result<()>) -> Result<()> {
    let shim = scene.containerd.shim();
    let before = fingerprint(&shim)?;
    attack()?;
    let after = fingerprint(&shim)?;
    ensure!(before == after, "the shim's file was {before:?} and is {after:?}");
    // And it still works.
    let outcome = scene.sh(&[], "afterwards", "echo alive")?.success()?;
    ensure!(outcome.stdout == "alive\n", "{outcome}");
    Ok(())
}

/// All that an image can ask for to make the attack easier.
const STRONG: [&str; 6] =
    ["--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SYS_PTRACE", "--cap-add", "CAP_DAC_READ_SEARCH"];

fn an_entrypoint_of_proc_self_exe_reaches_nothing(scene: &Scene<'_>) -> Result<()> {
    unharmed(scene, || {
        for (name, arguments) in [
            ("a", &["/proc/self/exe"][..]),
            ("b", &["/proc/self/exe", "-v"]),
            ("c", &["/proc/1/exe", "serve"]),
            ("d", &["/proc/thread-self/exe", "delete"]),
        ] {
            // Whatever it does, it must end, and by itself or with our kill.
            let running = scene.run_start(&[&["--rm"], &STRONG[..]].concat(), name, arguments)?;
            std::thread::sleep(Duration::from_millis(600));
            let _ = scene.ctr(&["task", "kill", "-s", "KILL", &scene.id(name)])?;
            running.wait(DEADLINE)?;
        }
        Ok(())
    })
}

fn an_interpreter_of_proc_self_exe_reaches_nothing(scene: &Scene<'_>) -> Result<()> {
    unharmed(scene, || {
        let running = scene.run_start(&[&["--rm"], &STRONG[..]].concat(), "a", &["/srv/self-interpreter"])?;
        std::thread::sleep(Duration::from_millis(600));
        let _ = scene.ctr(&["task", "kill", "-s", "KILL", &scene.id("a")])?;
        running.wait(DEADLINE)?;
        scene.sleeper(&STRONG, "b")?;
        for number in 0..5 {
            let name = format!("e{number}");
            let program = ["/srv/self-interpreter", "/proc/self/exe"][number % 2];
            let exec = scene.containerd.ctr_start(&["task", "exec", "--exec-id", &name, &scene.id("b"), program])?;
            std::thread::sleep(Duration::from_millis(200));
            let _ = scene.ctr(&["task", "kill", "-s", "KILL", "--exec-id", &name, &scene.id("b")])?;
            exec.wait(DEADLINE)?;
        }
        scene.discard("b")
    })
}

/// Opens whatever is not busybox behind an exe link, keeps it open past the process' end, and writes to it by all names.
/// Says how often it got hold of one, and WON if a write went through.
const THIEF: &str = r#"
    held=0
    while [ ! -e /mnt/stop ]; do
        for p in /proc/[0-9]*; do
            [ $p = /proc/$$ ] && continue
            x=$(readlink $p/exe 2>/dev/null)
            case "$x" in ''|*busybox*) continue;; esac
            (
                exec 4<$p/exe || exit
                # It may have become busybox, the container's own, since.
                case "$(readlink /proc/self/fd/4)" in *busybox*) exit;; esac
                echo held "$x" >> /mnt/held
                for try in 1 2 3 4 5 6 7 8 9 10; do
                    (echo '#!/bin/sh' > /proc/self/fd/4) 2>/dev/null && echo WON by fd "$x" >> /mnt/won
                    (: > $p/exe) 2>/dev/null && echo WON by exe "$x" >> /mnt/won
                    mount -o remount,rw $p/exe 2>/dev/null
                    chmod 777 /proc/self/fd/4 2>/dev/null && echo WON chmod "$x" >> /mnt/won
                    usleep 20000
                done
            ) 2>/dev/null &
        done
    done
    wait"#;

/// A directory that the thief writes its news to.
fn news(scene: &Scene<'_>) -> Result<(std::path::PathBuf, String)> {
    let directory = scene.scratch()?.join("news");
    fs::create_dir_all(&directory)?;
    let flag = format!("type=bind,src={},dst=/mnt,options=bind:rw", directory.display());
    Ok((directory, flag))
}

/// What the thief got: a hold on our binary is to be expected, a way to change it is not.
fn check_loot(directory: &Path) -> Result<()> {
    let won = fs::read_to_string(directory.join("won")).unwrap_or_default();
    ensure!(won.is_empty(), "the container wrote to our binary, as it saw it:\n{won}");
    Ok(())
}

/// Waits until the thief got hold of our binary.
fn wait_for_the_thief(directory: &Path) -> Result<()> {
    let held = || directory.join("held").exists().then_some(());
    poll(DEADLINE, held).context("the thief never got hold of our binary, so nothing was tried")
}

fn the_exe_of_a_starting_exec_cannot_be_written(scene: &Scene<'_>) -> Result<()> {
    let (directory, flag) = news(scene)?;
    unharmed(scene, || {
        let flags = [&["-d", "--mount", &flag], &STRONG[..]].concat();
        scene.run(&flags, "a", &["sh", "-c", THIEF])?.success()?;
        for number in 0..8 {
            let name = format!("e{number}");
            scene.ctr(&["task", "exec", "--exec-id", &name, &scene.id("a"), "true"])?.success()?;
        }
        fs::write(directory.join("stop"), "")?;
        scene.wait_for_status("a", "STOPPED")?;
        scene.discard("a")
    })?;
    check_loot(&directory)
}

fn the_exe_of_a_starting_container_cannot_be_written(scene: &Scene<'_>) -> Result<()> {
    let (directory, flag) = news(scene)?;
    unharmed(scene, || {
        // The thief's pid namespace is the one that the victims are created in.
        let flags = [&["-d", "--mount", &flag], &STRONG[..]].concat();
        scene.run(&flags, "a", &["sh", "-c", THIEF])?.success()?;
        let join = format!("pid:/proc/{}/ns/pid", scene.pid("a")?);
        // One that is created and not started shows our binary for as long as the thief needs.
        let victim = shim_with(scene, "victim", "true", |spec| {
            if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
                namespaces.retain(|namespace| namespace["type"] != "pid");
                namespaces.push(json!({ "type": "pid", "path": join.trim_start_matches("pid:") }));
            }
        })?;
        let connection = victim.start()?;
        granted(create(&victim, &connection))?;
        wait_for_the_thief(&directory)?;
        end(&victim, &connection)?;
        for number in 0..6 {
            scene.run(&["--rm", "--with-ns", &join], &format!("v{number}"), &["true"])?.success()?;
        }
        fs::write(directory.join("stop"), "")?;
        scene.wait_for_status("a", "STOPPED")?;
        scene.discard("a")
    })?;
    check_loot(&directory)
}

fn the_shim_cannot_be_written_from_the_hosts_pid_namespace(scene: &Scene<'_>) -> Result<()> {
    // Without a pid namespace the shim itself is in sight. Only its own file is aimed at.
    unharmed(scene, || {
        let script = "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in *containerd-shim-berth-v2*TAG*) \
            (echo x > $p/exe) 2>/dev/null && echo WON $p; exec 4<$p/exe && (echo x > /proc/self/fd/4) 2>/dev/null && echo WON fd $p; echo tried;; esac; done; exit 0";
        let script = script.replace("TAG", &scene.id("a"));
        let outcome = scene.run_spec(&["--rm"], "a", &["sh", "-c", &script], |spec| {
            if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
                namespaces.retain(|namespace| namespace["type"] != "pid");
            }
            for set in ["bounding", "permitted", "effective"] {
                if let Some(set) = spec["process"]["capabilities"][set].as_array_mut() {
                    set.push("CAP_SYS_PTRACE".into());
                }
            }
        })?;
        ensure!(outcome.stdout.contains("tried"), "the shim was not in sight, so nothing was tried: {outcome}");
        ensure!(!outcome.stdout.contains("WON"), "{outcome}");
        Ok(())
    })
}
