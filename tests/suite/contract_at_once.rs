//! The contract where several requests are under way at once: who waits for whom, and who must not.

use crate::Scenario;
use crate::contract::shim;
use anyhow::{Result, anyhow, ensure};
use berth_tests::scene::{SLEEP, Scene};
use berth_tests::shim::Shim;
use berth_tests::task::{create, create_request, delete, end, exec, granted, kill, shutdown, start, state, wait};
use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, Empty, PauseRequest,
};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Berth:
        questions_do_not_wait_for_a_create,
        a_client_that_leaves_aborts_nothing,
        a_kill_beside_a_pause_kills,
        who_waits_for_an_exec_hears_of_its_containers_end,
    ]
}

/// The request for one that waits until its fifo is read: to open that for writing waits for a reader.
fn create_that_waits(shim: &Shim) -> Result<(PathBuf, CreateTaskRequest)> {
    let fifo = shim.bundle().join("out");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)?;
    let request = CreateTaskRequest { stdout: fifo.to_string_lossy().into_owned(), ..create_request(shim) };
    Ok((fifo, request))
}

fn questions_do_not_wait_for_a_create(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let answer = shim.start_with(&[])?.success()?.stdout;
    let (fifo, request) = create_that_waits(&shim)?;
    let waiting = shim.connect(&answer)?;
    let create = std::thread::spawn(move || waiting.call::<CreateTaskResponse>("Create", &request));
    std::thread::sleep(Duration::from_millis(500));
    let connection = shim.connect(&answer)?;
    let begin = Instant::now();
    let connect = connection
        .call::<ConnectResponse>("Connect", &ConnectRequest { id: shim.id().into(), ..Default::default() })?;
    let asked = state(&shim, &connection)?;
    let took = begin.elapsed();
    ensure!(
        took < Duration::from_secs(1),
        "Connect and State took {took:?} beside a Create that waits: {connect:?} {asked:?}"
    );
    let reader = fs::File::open(&fifo)?;
    granted(create.join().map_err(|_| anyhow!("the thread that creates panicked"))?)?;
    drop(reader);
    end(&shim, &connection)
}

fn a_client_that_leaves_aborts_nothing(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let answer = shim.start_with(&[])?.success()?.stdout;
    let (fifo, request) = create_that_waits(&shim)?;
    let leaving = shim.connect(&answer)?;
    leaving.leave_after(Duration::from_millis(300), "Create", &request)?;
    let _reader = fs::File::open(&fifo)?;
    let connection = shim.connect(&answer)?;
    let created = berth_tests::command::poll(Duration::from_secs(10), || match state(&shim, &connection) {
        Ok(Ok(state)) if state.pid > 0 => Some(()),
        _ => None,
    });
    ensure!(created.is_some(), "the container was not created: {:?}", state(&shim, &connection)?);
    granted(start(&shim, &connection, ""))?;
    end(&shim, &connection)
}

/// What is frozen does not die (cgroup v1), and a pause may be half way when the kill comes.
fn a_kill_beside_a_pause_kills(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let answer = shim.start_with(&[])?.success()?.stdout;
    let (first, second) = (shim.connect(&answer)?, shim.connect(&answer)?);
    let pause = PauseRequest { id: shim.id().into(), ..Default::default() };
    for _ in 0..50 {
        granted(create(&shim, &first))?;
        granted(start(&shim, &first, ""))?;
        std::thread::scope(|scope| -> Result<()> {
            let pausing = scope.spawn(|| second.call::<Empty>("Pause", &pause)); // done or refused
            granted(kill(&shim, &first, "", 9))?;
            let _ = pausing.join().map_err(|_| anyhow!("the thread that pauses panicked"))??;
            Ok(())
        })?;
        granted(wait(&shim, &first, ""))?;
        granted(delete(&shim, &first, ""))?;
    }
    shutdown(&shim, &first);
    Ok(())
}

fn who_waits_for_an_exec_hears_of_its_containers_end(scene: &Scene<'_>) -> Result<()> {
    let shim = shim(scene, "a", SLEEP)?;
    let answer = shim.start_with(&[])?.success()?.stdout;
    let (first, second) = (shim.connect(&answer)?, shim.connect(&answer)?);
    granted(create(&shim, &first))?;
    granted(start(&shim, &first, ""))?;
    granted(exec(&shim, &first, "e", &["true"]))?;
    std::thread::scope(|scope| -> Result<()> {
        // As containerd does, before it starts the exec; but nobody starts it.
        let waiting = scope.spawn(|| granted(wait(&shim, &second, "e")));
        std::thread::sleep(Duration::from_millis(100));
        granted(kill(&shim, &first, "", 9))?;
        granted(wait(&shim, &first, ""))?;
        granted(delete(&shim, &first, ""))?;
        let waited = waiting.join().map_err(|_| anyhow!("the thread that waits panicked"))??;
        ensure!(waited.exit_status == 255, "{waited:?}");
        Ok(())
    })?;
    shutdown(&shim, &first);
    Ok(())
}
