//! What the shim must refuse, and with which code, spoken without a containerd in between.

use crate::Scenario;
use crate::contract::{shim, shim_with};
use anyhow::{Context, Result, ensure};
use berth_tests::scene::{SLEEP, Scene};
use berth_tests::shim::{Refusal, Shim};
use berth_tests::task::{
    Answer, create, create_request, delete, end, exec, granted, kill, refused, start, state, wait,
};
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, Empty,
    ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StateRequest, StatsRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::ttrpc::Code;
use std::fs;

pub fn scenarios() -> Vec<Scenario> {
    let mut all = crate::scenarios![Both:
        unknown_ids_are_not_found_by_any_method,
        unknown_methods_are_unimplemented,
    ];
    all.extend(crate::scenarios![Berth:
        a_duplicate_container_already_exists,
        wrong_states_are_failed_preconditions,
        a_signal_out_of_range_is_refused,
        options_that_do_not_parse_are_refused,
        a_config_that_is_absent_or_not_json_is_refused,
        a_read_only_bundle_is_refused,
        a_process_that_dies_before_its_program_is_told_by_start,
        checkpoint_is_unimplemented,
    ]);
    all
}

fn unknown_ids_are_not_found_by_any_method(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    let id = || "nobody".to_owned();
    let see = |method: &str, answer: Result<Answer<Empty>>| -> Result<()> {
        let answer = answer?;
        scene.see(method, answer.map_or_else(|refusal| format!("{:?}", refusal.code), |_| "granted".into()));
        Ok(())
    };
    see("State", connection.call("State", &StateRequest { id: id(), ..Default::default() }))?;
    see("Start", connection.call("Start", &StartRequest { id: id(), ..Default::default() }))?;
    see("Delete", connection.call("Delete", &DeleteRequest { id: id(), ..Default::default() }))?;
    see("Pids", connection.call("Pids", &PidsRequest { id: id(), ..Default::default() }))?;
    see("Pause", connection.call("Pause", &PauseRequest { id: id(), ..Default::default() }))?;
    see("Resume", connection.call("Resume", &ResumeRequest { id: id(), ..Default::default() }))?;
    see("Kill", connection.call("Kill", &KillRequest { id: id(), signal: 9, ..Default::default() }))?;
    see("Exec", connection.call("Exec", &ExecProcessRequest { id: id(), exec_id: "e".into(), ..Default::default() }))?;
    see("ResizePty", connection.call("ResizePty", &ResizePtyRequest { id: id(), ..Default::default() }))?;
    see("CloseIO", connection.call("CloseIO", &CloseIORequest { id: id(), ..Default::default() }))?;
    see("Update", connection.call("Update", &UpdateTaskRequest { id: id(), ..Default::default() }))?;
    see("Wait", connection.call("Wait", &WaitRequest { id: id(), ..Default::default() }))?;
    see("Stats", connection.call("Stats", &StatsRequest { id: id(), ..Default::default() }))?;
    see("Connect", connection.call("Connect", &ConnectRequest { id: id(), ..Default::default() }))?;
    for (method, answer) in [
        ("Start of an exec", start(&shim, &connection, "nobody").map(|answer| answer.map(drop))),
        ("Kill of an exec", kill(&shim, &connection, "nobody", 9).map(|answer| answer.map(drop))),
        ("Wait for an exec", wait(&shim, &connection, "nobody").map(|answer| answer.map(drop))),
        ("Delete of an exec", delete(&shim, &connection, "nobody").map(|answer| answer.map(drop))),
    ] {
        scene.see(method, format!("{:?}", answer?.err().map(|refusal| refusal.code)));
    }
    end(&shim, &connection)
}

fn unknown_methods_are_unimplemented(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    let none = Empty::default();
    scene.see("method", format!("{:?}", refused(connection.call::<Empty>("Levitate", &none))?.code));
    let service = "containerd.task.v9.Task";
    scene.see("service", format!("{:?}", refused(connection.call_service::<Empty>(service, "State", &none))?.code));
    granted(create(&shim, &connection))?;
    end(&shim, &connection)
}

fn a_duplicate_container_already_exists(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    let refusal = refused(create(&shim, &connection))?;
    ensure!(refusal.code == Code::ALREADY_EXISTS && refusal.message.contains(shim.id()), "{refusal:?}");
    granted(start(&shim, &connection, ""))?;
    ensure!(refused(create(&shim, &connection))?.code == Code::ALREADY_EXISTS);
    end(&shim, &connection)
}

fn wrong_states_are_failed_preconditions(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    let precondition = |what: &str, refusal: Refusal| {
        ensure!(refusal.code == Code::FAILED_PRECONDITION, "{what}: {refusal:?}");
        Ok(())
    };
    let pause = || connection.call::<Empty>("Pause", &PauseRequest { id: shim.id().into(), ..Default::default() });
    let resume = || connection.call::<Empty>("Resume", &ResumeRequest { id: shim.id().into(), ..Default::default() });
    precondition("resume of a created task", refused(resume())?)?;
    granted(start(&shim, &connection, ""))?;
    precondition("second start", refused(start(&shim, &connection, ""))?)?;
    // The Go shim's code is UNKNOWN, and containerd's client looks at neither.
    refused(delete(&shim, &connection, "")).context("delete of a running task")?;
    granted(pause())?;
    precondition("pause of a paused task", refused(pause())?)?;
    precondition("exec in a paused task", refused(exec(&shim, &connection, "e", &["true"]))?)?;
    refused(delete(&shim, &connection, "")).context("delete of a paused task")?;
    granted(resume())?;
    granted(exec(&shim, &connection, "f", &["true"]))?;
    granted(kill(&shim, &connection, "", 9))?;
    granted(wait(&shim, &connection, ""))?;
    precondition("start of a stopped task", refused(start(&shim, &connection, ""))?)?;
    precondition("start of an exec in a stopped task", refused(start(&shim, &connection, "f"))?)?;
    precondition("exec in a stopped task", refused(exec(&shim, &connection, "g", &["true"]))?)?;
    precondition("pause of a stopped task", refused(pause())?)?;
    end(&shim, &connection)
}

fn a_signal_out_of_range_is_refused(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    granted(start(&shim, &connection, ""))?;
    for signal in [65, 99, 1000, u32::MAX] {
        let refusal = refused(kill(&shim, &connection, "", signal))?;
        ensure!(refusal.code == Code::INVALID_ARGUMENT, "signal {signal}: {refusal:?}");
        ensure!(
            refusal.message.contains("signal") && refusal.message.contains(&signal.to_string()[..2]),
            "{refusal:?}"
        );
    }
    let status = granted(state(&shim, &connection))?.status.value();
    ensure!(status == 2, "the task is not running any more, its status is {status}");
    end(&shim, &connection)
}

fn options_that_do_not_parse_are_refused(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    for url in ["containerd.runc.v1.Options", "runtimeoptions.v1.Options"] {
        let junk = Any { type_url: url.into(), value: vec![0xff; 7], ..Default::default() };
        let request = CreateTaskRequest { options: MessageField::some(junk), ..create_request(&shim) };
        let refusal = refused(connection.call::<CreateTaskResponse>("Create", &request))?;
        ensure!(refusal.code == Code::INVALID_ARGUMENT && refusal.message.contains("options"), "{url}: {refusal:?}");
    }
    let body = b"SystemdCgroup = maybe [";
    let mut value = vec![0x1a, body.len() as u8];
    value.extend_from_slice(body);
    let toml = Any { type_url: "runtimeoptions.v1.Options".into(), value, ..Default::default() };
    let request = CreateTaskRequest { options: MessageField::some(toml), ..create_request(&shim) };
    let refusal = refused(connection.call::<CreateTaskResponse>("Create", &request))?;
    ensure!(refusal.code == Code::INVALID_ARGUMENT, "TOML: {refusal:?}");
    let unknown = Any { type_url: "example.test/Unknown".into(), value: vec![0xff; 7], ..Default::default() };
    let request = CreateTaskRequest { options: MessageField::some(unknown), ..create_request(&shim) };
    granted(connection.call::<CreateTaskResponse>("Create", &request)).context("unknown options are ignored")?;
    end(&shim, &connection)
}

/// A create that is refused, in a shim that is then let go.
fn refuse_create(shim: &Shim, words: &[&str]) -> Result<()> {
    let started = shim.start_with(&[])?;
    if started.code != 0 {
        // To find out at once is as good.
        ensure!(words.iter().all(|word| started.stderr.contains(word) || started.stdout.contains(word)), "{started}");
        return Ok(());
    }
    let connection = shim.connect(&started.stdout)?;
    let refusal = refused(create(shim, &connection))?;
    ensure!(words.iter().all(|word| refusal.message.contains(word)), "{words:?} are not in {refusal:?}");
    // containerd's own way out of a failed create.
    ensure!(refused(delete(shim, &connection, ""))?.code == Code::NOT_FOUND, "the container is there");
    let _ = connection.call::<Empty>("Shutdown", &ShutdownRequest { id: shim.id().into(), ..Default::default() });
    shim.delete()?.success()?;
    Ok(())
}

fn a_config_that_is_absent_or_not_json_is_refused(scene: &Scene<'_>) -> Result<()> {
    let absent = Shim::new(scene, "absent")?;
    refuse_create(&absent, &["config.json"])?;
    for (name, text) in
        [("empty", ""), ("broken", "{ \"ociVersion\": "), ("binary", "\u{0}\u{1}"), ("wrong", "{\"process\": 5}")]
    {
        let shim = Shim::new(scene, name)?;
        fs::write(shim.bundle().join("config.json"), text)?;
        refuse_create(&shim, &["config.json"]).with_context(|| name.to_owned())?;
    }
    let list = Shim::new(scene, "list")?;
    fs::write(list.bundle().join("config.json"), "[]")?;
    refuse_create(&list, &[])?;
    let directory = Shim::new(scene, "directory")?;
    fs::create_dir(directory.bundle().join("config.json"))?;
    refuse_create(&directory, &["config.json"])
}

fn a_read_only_bundle_is_refused(scene: &Scene<'_>) -> Result<()> {
    use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
    let shim = shim(scene, "a", SLEEP)?;
    mount_bind(shim.bundle(), shim.bundle())?;
    mount_remount(shim.bundle(), MountFlags::BIND | MountFlags::RDONLY, "")?;
    let outcome = refuse_create(&shim, &["ead-only file system"]);
    unmount(shim.bundle(), UnmountFlags::DETACH)?;
    let _ = fs::remove_file(scene.containerd.shim_socket(shim.id()));
    outcome
}

/// A hook kills who runs it, which is to become the program.
fn a_process_that_dies_before_its_program_is_told_by_start(scene: &Scene<'_>) -> Result<()> {
    let shim = shim_with(scene, "a", SLEEP, |spec| {
        let hook = serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"] });
        spec["hooks"] = serde_json::json!({ "startContainer": [hook] });
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
    })?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    let refusal = refused(start(&shim, &connection, ""))?;
    let words = "exec sh: the process ended before that, with status 137";
    ensure!(refusal.code == Code::UNKNOWN && refusal.message.contains(words), "{refusal:?}");
    let status = granted(wait(&shim, &connection, ""))?.exit_status;
    ensure!(status == 137, "Wait answers {status}");
    end(&shim, &connection)
}

fn checkpoint_is_unimplemented(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    let request = CheckpointTaskRequest { id: shim.id().into(), path: "/tmp/none".into(), ..Default::default() };
    let refusal = refused(connection.call::<Empty>("Checkpoint", &request))?;
    ensure!(refusal.code == Code::UNIMPLEMENTED, "{refusal:?}");
    end(&shim, &connection)
}
