//! The server: one process for a group of containers, from the first `start` to the last Shutdown.

use crate::args::Args;
use crate::events::Events;
use crate::lifetime::Lifetime;
use crate::task::Task;
use crate::{log, rpc, sys};
use runtime_core::children::Children;
use runtime_core::container::Runtime;
use rustix::process::{DumpableBehavior, set_child_subreaper, set_dumpable_behavior, setsid};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// containerd gives Shutdown three seconds.
const FLUSH: Duration = Duration::from_secs(3);
/// Compiled seccomp profiles, for all servers and commands of the host. Beside it are the containers of `berth`, and the
/// name is one that no container can have.
pub const SECCOMP_CACHE: &str = "/run/berth/@seccomp";
/// Blocking work wants few pages and no idle threads: a server may wait for months.
const IDLE_THREAD: Duration = Duration::from_millis(500);
const STACK: usize = 512 << 10;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the kernel was asked for.
    #[error("{act}")]
    Prepare {
        /// The act.
        act: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The host is none that containers can be run on.
    #[error(transparent)]
    Runtime(runtime_core::container::Error),
}

fn failed<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Prepare { act, source: source.into() }
}

/// Serves until nobody needs it. The listener is standard input, the log standard error.
pub fn serve(args: &Args) -> Result<(), Error> {
    log::init(args.debug);
    let listener = take_listener().map_err(failed("take the listener from standard input"))?;
    prepare()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .thread_keep_alive(IDLE_THREAD)
        .build()
        .map_err(failed("start the event loop"))?;
    let result = runtime.block_on(run(args, listener));
    // A thread that hangs in the kernel must not keep the process.
    runtime.shutdown_background();
    result
}

fn take_listener() -> io::Result<UnixListener> {
    let listener: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn prepare() -> Result<(), Error> {
    sys::keep_one_heap();
    sys::ignore_no_signals();
    setsid().map_err(failed("start a session"))?;
    // The kernel names a process after the file, and ours is a descriptor.
    let _ = rustix::thread::set_name(c"containerd-shim");
    set_child_subreaper(Some(rustix::process::getpid())).map_err(failed("become a child subreaper"))?;
    // A container that joins our namespaces' owners must not look into our memory or open our binary.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("become undumpable"))
}

async fn run(args: &Args, listener: UnixListener) -> Result<(), Error> {
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed("listen"))?;
    let lifetime = Arc::new(Lifetime::default());
    let runtime = Arc::new(Runtime::new(Some(PathBuf::from(SECCOMP_CACHE))).map_err(Error::Runtime)?);
    let events = Arc::new(Events::new(args.namespace.clone()));
    tokio::spawn(events.clone().send(events_address(args)));
    tokio::spawn(reap(runtime.children.clone(), signal(SignalKind::child()).map_err(failed("watch SIGCHLD"))?));
    let mut terminated = signal(SignalKind::terminate()).map_err(failed("watch SIGTERM"))?;
    // Ctrl-C at containerd's terminal is not meant for us; tokio's handler makes it harmless.
    let _interrupted = signal(SignalKind::interrupt()).map_err(failed("watch SIGINT"))?;
    let task = Task::new(&args.namespace, events.clone(), runtime, lifetime.clone());
    let answer = move |request, caller| task.clone().handle(request, caller);
    let serving = tokio::spawn(rpc::serve(listener, lifetime.clone(), answer));
    tokio::select! {
        () = lifetime.ended() => {}
        _ = terminated.recv() => tracing::info!("terminated by a signal"),
    }
    // The name first: a `start` from now on starts a server of its own. One whose connection we have not answered
    // sees it close and does the same.
    if let Some(socket) = &args.socket {
        let _ = std::fs::remove_file(socket);
    }
    serving.abort();
    events.flush(FLUSH).await;
    Ok(())
}

/// Where events go: containerd says it in the environment, and its ttrpc socket is named after the other one.
fn events_address(args: &Args) -> String {
    let given = std::env::var("TTRPC_ADDRESS").ok().filter(|address| !address.is_empty());
    given.unwrap_or_else(|| format!("{}.ttrpc", args.address))
}

async fn reap(children: Arc<Children>, mut child: tokio::signal::unix::Signal) {
    while child.recv().await.is_some() {
        children.reap_orphans();
    }
}
