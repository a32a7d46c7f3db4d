//! What programs do wrong, and how long they may take.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use netns::cni::cache::Attachment;
use netns::cni::engine::Engine;
use netns::cni::fault::Code;
use serde_json::json;

use crate::scene::{ANSWER, Scene, attachment, list};

#[test]
fn what_a_plugin_can_do_wrong_is_one_clear_error() {
    let scene = Scene::new("wrong");
    for (script, words) in [
        ("echo garbage", "failed to unmarshal raw result \"garbage\\n\""),
        ("true", "failed to unmarshal raw result"),
        ("echo '[]'", "the result is no JSON object"),
        (r#"echo '{"cniVersion":"7.0.0"}'"#, "unsupported CNI result version \"7.0.0\""),
        ("echo what; exit 1", "error parsing its diagnostic message \"what\\n\""),
        ("exit 1", "netplugin failed with no error message: exit status: 1"),
        ("kill -9 $$", "netplugin failed with no error message: signal: 9 (SIGKILL)"),
        (r#"echo '{"code":11,"msg":"later"}'; exit 1"#, "later"),
    ] {
        scene.plugin("wrong", script);
        let error = scene.engine.add(&list("1.0.0", json!([{"type":"wrong"}])), &attachment()).unwrap_err().to_string();
        assert!(
            error.starts_with("plugin type=\"wrong\" failed (add): ") && error.contains(words),
            "{script}: {error}"
        );
    }
    let error = scene.engine.add(&list("1.0.0", json!([{"type":"absent"}])), &attachment()).unwrap_err().to_string();
    assert!(error.contains("failed to find plugin \"absent\" in path ["), "{error}");
    let error = scene.engine.add(&list("1.0.0", json!([{"type":"../x"}])), &attachment()).unwrap_err().to_string();
    assert!(error.contains("invalid plugin name"), "{error}");
    for (id, name) in [("", "eth0"), ("a/b", "eth0"), ("pod", ""), ("pod", "a/b"), ("pod", "sixteen-letters-")] {
        let attachment = Attachment { container_id: id.to_owned(), if_name: name.to_owned(), ..attachment() };
        let error = scene.engine.add(&list("1.0.0", json!([{"type":"wrong"}])), &attachment).unwrap_err();
        assert_eq!(error.code, Code::ENVIRONMENT, "{id} {name}");
    }
}

#[test]
fn a_plugin_that_hangs_is_killed_with_what_it_started() {
    let mut scene = Scene::new("hangs");
    scene.engine.timeout = Duration::from_millis(700);
    let pids = scene.directory.join("pids");
    let script = format!("sleep 1000 & echo $! $$ >{0}.new; mv {0}.new {0}; wait", pids.display());
    scene.plugin("hangs", &script);
    let begin = Instant::now();
    let error = scene.engine.add(&list("1.0.0", json!([{"type":"hangs"}])), &attachment()).unwrap_err().to_string();
    assert!(error.contains("did not end in time and was killed"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    let deadline = Instant::now() + Duration::from_secs(5);
    for pid in fs::read_to_string(pids).unwrap().split_whitespace() {
        let runs = || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        while runs() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!runs(), "{pid} is still there");
    }
}

#[test]
fn output_left_to_a_daemon_does_not_hold_us() {
    let scene = Scene::new("daemon");
    scene.plugin("daemon", &format!("{ANSWER}; sleep 30 & echo $! >{}/pid", scene.directory.display()));
    let begin = Instant::now();
    scene.engine.add(&list("1.0.0", json!([{"type":"daemon"}])), &attachment()).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20));
    let pid = fs::read_to_string(scene.directory.join("pid")).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_large_configuration_that_nobody_reads_does_not_hold_us() {
    let scene = Scene::new("large");
    fs::write(scene.directory.join("draft"), format!("#!/bin/sh\n{ANSWER}\n")).unwrap();
    fs::set_permissions(scene.directory.join("draft"), fs::Permissions::from_mode(0o755)).unwrap();
    let (draft, path) = (scene.directory.join("draft"), scene.directory.join("bin/deaf"));
    assert!(std::process::Command::new("cp").arg("-p").arg(draft).arg(path).status().unwrap().success());
    let text = "x".repeat(300_000);
    scene.engine.add(&list("1.0.0", json!([{"type":"deaf","x":text}])), &attachment()).unwrap();
}

#[test]
fn a_binary_that_is_being_written_is_tried_again() {
    let scene = Scene::new("busy");
    scene.plugin("busy", ANSWER);
    let path = scene.directory.join("bin/busy");
    let writer = fs::OpenOptions::new().append(true).open(path).unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1300));
        drop(writer);
    });
    scene.engine.add(&list("1.0.0", json!([{"type":"busy"}])), &attachment()).unwrap();
    ends.join().unwrap();
}

#[test]
fn versions_and_status_are_asked_of_the_plugin() {
    let scene = Scene::new("versions");
    scene.plugin(
        "new",
        r#"[ $CNI_COMMAND = VERSION ] && echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' ||
        { echo '{"code":50,"msg":"not ready"}'; exit 1; }"#,
    );
    scene.plugin("old", r#"echo '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1"#);
    assert_eq!(scene.engine.version("new").unwrap(), ["1.0.0", "1.1.0"]);
    assert_eq!(scene.engine.version("old").unwrap(), ["0.1.0"]);
    let native = Engine { native: true, ..scene.engine.clone() };
    assert_eq!(native.version("loopback").unwrap().len(), 7);
    let error = scene.engine.status(&list("1.1.0", json!([{"type":"new"}]))).unwrap_err();
    assert_eq!(error.code, Code::NOT_AVAILABLE);
}
