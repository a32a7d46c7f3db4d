//! The shim's side of the contract, spoken without a containerd in between: codes, idempotency, what may wait for what.

use crate::Scenario;
use anyhow::{Context, Result, anyhow, ensure};
use berth_tests::scene::{Runtime, SLEEP, Scene, until_it_traps};
use berth_tests::shim::{Connection, Shim};
use berth_tests::task::{
    Answer, create, create_request, delete, end, exec, granted, kill, refused, shutdown, start, state, wait,
};
use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, Empty, PauseRequest, PidsRequest,
    PidsResponse, ShutdownRequest, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

pub fn scenarios() -> Vec<Scenario> {
    let mut all = crate::scenarios![Both:
        a_container_from_create_to_shutdown,
        a_shutdown_waits_for_the_last_container,
        exec_ids_are_used_once,
        streams_that_nobody_wants_are_the_containers_null,
        update_changes_the_limits,
        the_time_of_exit_is_the_same_everywhere,
        a_second_start_answers_the_same_address,
        delete_cleans_up_after_a_killed_shim,
    ];
    all.extend(crate::scenarios![Berth:
        both_task_services_are_served,
        anything_may_stand_on_the_stdin_of_start,
        members_of_a_pod_share_a_shim,
        delete_is_idempotent,
        all_of_a_terminal_reaches_the_fifo,
    ]);
    all
}

/// A shim with a bundle that runs a script, over the scene's copy of the image.
pub fn shim(scene: &Scene<'_>, name: &str, script: &str) -> Result<Shim> {
    shim_with(scene, name, script, |_| ())
}

pub fn shim_with(
    scene: &Scene<'_>,
    name: &str,
    script: &str,
    change: impl FnOnce(&mut serde_json::Value),
) -> Result<Shim> {
    let shim = Shim::new(scene, name)?;
    fs::copy(scene.spec(name, &["sh", "-c", script], change)?, shim.bundle().join("config.json"))?;
    Ok(shim)
}

fn a_container_from_create_to_shutdown(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    let address = fs::read_to_string(shim.bundle().join("address")).context("read the bundle's address file");
    scene.see("the address file", scene.runtime == Runtime::Runc || address?.starts_with("unix://"));
    let pid = granted(create(&shim, &connection))?.pid;
    scene.see("created", format!("{:?}", granted(state(&shim, &connection))?.status));
    ensure!(granted(start(&shim, &connection, ""))?.pid == pid, "Start answers another pid than Create");
    scene.see("started", format!("{:?}", granted(state(&shim, &connection))?.status));
    let pids: PidsResponse =
        granted(connection.call("Pids", &PidsRequest { id: shim.id().into(), ..Default::default() }))?;
    ensure!(pids.processes.iter().any(|process| process.pid == pid), "{pid} is not among {pids:?}");
    let connect: ConnectResponse =
        granted(connection.call("Connect", &ConnectRequest { id: shim.id().into(), ..Default::default() }))?;
    ensure!(connect.task_pid == pid && connect.shim_pid > 0, "{connect:?}");
    let stats: StatsResponse =
        granted(connection.call("Stats", &StatsRequest { id: shim.id().into(), ..Default::default() }))?;
    scene.see("stats", &stats.stats.type_url);
    until_it_traps(pid)?;
    granted(kill(&shim, &connection, "", 15))?;
    scene.see("wait", granted(wait(&shim, &connection, ""))?.exit_status);
    scene.see("wait again", granted(wait(&shim, &connection, ""))?.exit_status);
    scene.see("stopped", format!("{:?}", granted(state(&shim, &connection))?.status));
    scene.see("kill when stopped", format!("{:?}", refused(kill(&shim, &connection, "", 15))?.code));
    scene.see("delete", granted(delete(&shim, &connection, ""))?.exit_status);
    scene.see("delete again", format!("{:?}", refused(delete(&shim, &connection, ""))?.code));
    shutdown(&shim, &connection);
    let gone = berth_tests::command::poll(Duration::from_secs(10), || {
        (!scene.containerd.shim_socket(shim.id()).exists()).then_some(())
    });
    ensure!(gone.is_some(), "the socket is still there");
    shim.delete()?.success()?;
    Ok(())
}

fn streams_that_nobody_wants_are_the_containers_null(scene: &Scene<'_>) -> Result<()> {
    let tell = |file: &str| format!("for fd in 0 2; do readlink /proc/self/fd/$fd; done > /{file}");
    let shim = shim(scene, "a", &format!("{}; {SLEEP}", tell("init")))?;
    let connection = shim.start()?;
    let pid = granted(create(&shim, &connection))?.pid;
    granted(start(&shim, &connection, ""))?;
    until_it_traps(pid)?;
    granted(exec(&shim, &connection, "e", &["sh", "-c", &tell("exec")]))?;
    granted(start(&shim, &connection, "e"))?;
    ensure!(granted(wait(&shim, &connection, "e"))?.exit_status == 0);
    for who in ["init", "exec"] {
        let said = fs::read_to_string(scene.rootfs()?.join(who))?;
        ensure!(said == "/dev/null\n/dev/null\n", "{who}: {said:?}");
        scene.see(who, said);
    }
    granted(delete(&shim, &connection, "e"))?;
    end(&shim, &connection)
}

fn a_shutdown_waits_for_the_last_container(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    granted(start(&shim, &connection, ""))?;
    granted(connection.call::<Empty>("Shutdown", &ShutdownRequest { id: shim.id().into(), ..Default::default() }))?;
    scene.see("after an early shutdown", format!("{:?}", granted(state(&shim, &connection))?.status));
    end(&shim, &connection)
}

fn exec_ids_are_used_once(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    granted(start(&shim, &connection, ""))?;
    granted(exec(&shim, &connection, "e", &["sleep", "1000"]))?;
    scene.see("added twice", format!("{:?}", refused(exec(&shim, &connection, "e", &["true"]))?.code));
    scene.see("killed before its start", format!("{:?}", refused(kill(&shim, &connection, "e", 9))?.code));
    granted(start(&shim, &connection, "e"))?;
    scene.see("added while it runs", format!("{:?}", refused(exec(&shim, &connection, "e", &["true"]))?.code));
    ensure!(refused(delete(&shim, &connection, "e")).is_ok(), "a running exec was deleted");
    granted(kill(&shim, &connection, "e", 9))?;
    scene.see("its end", granted(wait(&shim, &connection, "e"))?.exit_status);
    scene.see("deleted", granted(delete(&shim, &connection, "e"))?.exit_status);
    granted(exec(&shim, &connection, "e", &["true"]))?;
    end(&shim, &connection)
}

fn update_changes_the_limits(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    let pid = granted(create(&shim, &connection))?.pid;
    granted(start(&shim, &connection, ""))?;
    let update = |resources: serde_json::Value| -> Result<Answer<Empty>> {
        let url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
        let resources = Any { type_url: url.into(), value: resources.to_string().into_bytes(), ..Default::default() };
        connection.call(
            "Update",
            &UpdateTaskRequest { id: shim.id().into(), resources: MessageField::some(resources), ..Default::default() },
        )
    };
    let group = format!("{}/{}", scene.containerd.namespace(), shim.id());
    for resources in [
        json!({ "memory": { "limit": 67_108_864 }, "pids": { "limit": 55 } }),
        json!({ "cpu": { "quota": 40000, "period": 100_000, "shares": 333, "cpus": "0" } }),
        json!({ "memory": { "limit": 33_554_432, "swap": 67_108_864 } }),
        json!({ "memory": { "limit": 134_217_728, "swap": 268_435_456 } }),
        json!({ "pids": { "limit": -1 }, "cpu": { "quota": -1 } }),
    ] {
        scene.see(
            "update",
            format!("{resources} {:?}", update(resources.clone())?.map(drop).map_err(|refusal| refusal.code)),
        );
        for (hierarchy, file) in [
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
            ("pids", "pids.max"),
            ("cpu", "cpu.cfs_quota_us"),
            ("cpu", "cpu.shares"),
            ("cpuset", "cpuset.cpus"),
        ] {
            let path = format!("/sys/fs/cgroup/{hierarchy}/{group}/{file}");
            scene.see(file, fs::read_to_string(path).unwrap_or_default());
        }
    }
    ensure!(update(json!({ "memory": { "limit": 4096 } }))?.is_err(), "a limit below what is used was granted");
    ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "init did not survive");
    end(&shim, &connection)
}

fn the_time_of_exit_is_the_same_everywhere(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", "exit 3")?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    granted(start(&shim, &connection, ""))?;
    let waited = granted(wait(&shim, &connection, ""))?;
    let state = granted(state(&shim, &connection))?;
    let deleted = granted(delete(&shim, &connection, ""))?;
    ensure!(
        waited.exited_at == state.exited_at && state.exited_at == deleted.exited_at,
        "{waited:?} {state:?} {deleted:?}"
    );
    scene.see("status", format!("{} {} {}", waited.exit_status, state.exit_status, deleted.exit_status));
    shutdown(&shim, &connection);
    shim.delete()?.success()?;
    Ok(())
}

fn a_second_start_answers_the_same_address(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let first = shim.start_with(&[])?.success()?.stdout;
    let second = shim.start_with(&[])?.success()?.stdout;
    ensure!(first == second, "first {first:?}, then {second:?}");
    ensure!(
        first.contains(&*scene.containerd.shim_socket(shim.id()).to_string_lossy()),
        "{first} is not where ctr shim looks"
    );
    let connection = shim.connect(&first)?;
    granted(create(&shim, &connection))?;
    end(&shim, &connection)
}

/// Kills the shim that answers on a connection, and waits until it is gone.
fn kill_shim(shim: &Shim, connection: &Connection) -> Result<()> {
    let connect: ConnectResponse =
        granted(connection.call("Connect", &ConnectRequest { id: shim.id().into(), ..Default::default() }))?;
    let pid = Pid::from_raw(connect.shim_pid as i32).context("Connect answers no shim pid")?;
    kill_process(pid, Signal::KILL)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

fn delete_cleans_up_after_a_killed_shim(scene: &Scene<'_>) -> Result<()> {
    for (name, paused) in [("a", false), ("b", true)] {
        let shim = shim(scene, name, SLEEP)?;
        let connection = shim.start()?;
        granted(create(&shim, &connection))?;
        granted(start(&shim, &connection, ""))?;
        granted(exec(&shim, &connection, "e", &["sleep", "1000"]))?;
        granted(start(&shim, &connection, "e"))?;
        if paused {
            granted(connection.call::<Empty>("Pause", &PauseRequest { id: shim.id().into(), ..Default::default() }))?;
        }
        kill_shim(&shim, &connection)?;
        let begin = Instant::now();
        scene.see("delete", shim.delete()?.success()?.code);
        ensure!(
            begin.elapsed() < Duration::from_secs(5),
            "delete took {:?}, containerd kills it after 5 s",
            begin.elapsed()
        );
        // The socket is removed by whoever binds it next; containerd removes the bundle.
        let _ = fs::remove_file(scene.containerd.shim_socket(shim.id()));
        fs::remove_dir_all(shim.bundle())?;
    }
    scene.check_nothing_left()
}

fn both_task_services_are_served(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = StateRequest { id: shim.id().into(), ..Default::default() };
        let state: StateResponse = granted(connection.call_service(service, "State", &request))?;
        ensure!(state.id == shim.id(), "{service}: {state:?}");
    }
    end(&shim, &connection)
}

fn anything_may_stand_on_the_stdin_of_start(scene: &Scene<'_>) -> Result<()> {
    let options = [b"\x0a\x1acontainerd.runc.v1.Options".as_slice(), b"\x12\x00"].concat();
    for (name, stdin) in
        [("junk", b"\xff\xff\xff\xff".as_slice()), ("text", b"hello"), ("any", &options), ("long", &[b'x'; 70_000])]
    {
        let shim = shim(scene, name, SLEEP)?;
        let outcome = shim.start_with(stdin)?;
        ensure!(outcome.code == 0 && outcome.stderr.is_empty(), "{name}: {outcome}");
        let connection = shim.connect(&outcome.stdout)?;
        granted(create(&shim, &connection))?;
        end(&shim, &connection)?;
    }
    Ok(())
}

fn members_of_a_pod_share_a_shim(scene: &Scene<'_>) -> Result<()> {
    let leader = shim(scene, "a", SLEEP)?;
    let group = leader.id().to_owned();
    let member =
        shim_with(scene, "b", SLEEP, |spec| spec["annotations"] = json!({ "io.kubernetes.cri.sandbox-id": group }))?;
    let (first, second) = (leader.start_with(&[])?.success()?.stdout, member.start_with(&[])?.success()?.stdout);
    ensure!(first == second, "the leader is at {first:?}, the member at {second:?}");
    ensure!(fs::read_to_string(member.bundle().join("address"))?.trim() == first.trim(), "the member's address file");
    let connection = leader.connect(&first)?;
    for container in [&leader, &member] {
        granted(create(container, &connection))?;
        granted(start(container, &connection, ""))?;
    }
    // The leader's end is not the member's, and `delete` of one leaves the other alone.
    granted(kill(&leader, &connection, "", 9))?;
    granted(wait(&leader, &connection, ""))?;
    granted(delete(&leader, &connection, ""))?;
    shutdown(&leader, &connection);
    leader.delete()?.success()?;
    ensure!(granted(state(&member, &connection))?.status.value() == 2, "the member does not run any more");
    end(&member, &connection)
}

fn delete_is_idempotent(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    // Before anything, beside a live shim that owns the container, after its death, and again.
    shim.delete()?.success()?;
    let connection = shim.start()?;
    granted(create(&shim, &connection))?;
    granted(start(&shim, &connection, ""))?;
    kill_shim(&shim, &connection)?;
    shim.delete()?.success()?;
    shim.delete()?.success()?;
    scene.check_processes_gone()
}

fn all_of_a_terminal_reaches_the_fifo(scene: &Scene<'_>) -> Result<()> {
    use std::io::Read;
    // Without ctr between: what is lost here is lost by the shim.
    for round in 0..10 {
        let shim = shim_with(scene, &format!("r{round}"), "seq 1 20000; echo end", |spec| {
            spec["process"]["terminal"] = true.into()
        })?;
        let fifo = shim.bundle().join("out");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )?;
        let path = fifo.to_string_lossy().into_owned();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            fs::File::open(fifo).and_then(|mut fifo| fifo.read_to_string(&mut text)).map(|_| text)
        });
        let connection = shim.start()?;
        let request = CreateTaskRequest { stdout: path, terminal: true, ..create_request(&shim) };
        granted(connection.call::<CreateTaskResponse>("Create", &request))?;
        granted(start(&shim, &connection, ""))?;
        granted(wait(&shim, &connection, ""))?;
        end(&shim, &connection)?;
        let text = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        ensure!(
            text.lines().count() == 20_001 && text.ends_with("end\r\n"),
            "round {round}: {} lines",
            text.lines().count()
        );
    }
    Ok(())
}
