//! `delete`: clean up after a shim that is gone, from what is on disk alone.
//!
//! containerd runs it after every connection that closed, also after a clean Shutdown, and kills it after five seconds.
//! What a live server of the group still owns is the server's to delete, and it is asked to.

use crate::args::Args;
use crate::bootstrap::socket::Socket;
use crate::client::{Client, Failure};
use crate::convert::timestamp;
use containerd_shim_protos::api::{DeleteRequest, DeleteResponse, KillRequest, StateRequest, WaitRequest};
use protobuf::Message;
use runtime_core::children::Children;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const SERVICE: &str = "containerd.task.v2.Task";
/// Of containerd's five seconds, what a live server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// 128 + SIGKILL, which is how whatever we find is ended.
const KILLED: u32 = 137;

/// Why something may be left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Which bundle?
    #[error("delete needs -id")]
    NoContainer,
    /// The container's remains.
    #[error("clean up container {id}")]
    Destroy {
        /// Its id.
        id: String,
        /// Why not.
        #[source]
        source: runtime_core::container::Error,
    },
    /// containerd does not listen to us.
    #[error("print the result")]
    Reply(#[source] std::io::Error),
}

/// Runs the `delete` action.
pub fn delete(args: &Args) -> Result<(), Error> {
    if args.id.is_empty() {
        return Err(Error::NoContainer);
    }
    let bundle = bundle(args);
    // Before the file goes.
    let pid = read(&bundle.join("init.pid")).and_then(|pid| pid.parse().ok()).unwrap_or(0);
    let socket = read(&bundle.join("address")).and_then(|address| Socket::at(&address, &args.id));
    // After a Delete there is nothing left to ask for, and containerd waits for us.
    if let Some(socket) = socket.as_ref().filter(|_| runtime_core::container::is_recorded(&bundle)) {
        delete_by_server(&socket.address(), &args.id);
    }
    let failed = |source| Error::Destroy { id: args.id.clone(), source };
    for error in runtime_core::container::destroy(&bundle, &Children::default()).map_err(failed)? {
        eprintln!("after delete: {error}");
    }
    // The pod's record tells of it, and `berth net gc` may do what could not be done here.
    if let Err(fault) = crate::network::clean_up(&bundle) {
        eprintln!("after delete: network: {fault}");
    }
    if let Some(socket) = &socket {
        socket.remove_if_dead();
    }
    let exited_at = Some(timestamp(SystemTime::now())).into();
    let response = DeleteResponse { pid, exit_status: KILLED, exited_at, ..DeleteResponse::default() };
    let reply = response.write_to_bytes().unwrap_or_default();
    std::io::stdout().write_all(&reply).map_err(Error::Reply)
}

/// `-bundle`, or the directory beside the current one that is named after the container.
fn bundle(args: &Args) -> PathBuf {
    if let Some(bundle) = &args.bundle {
        return bundle.clone();
    }
    let current = std::env::current_dir().unwrap_or_default();
    current.parent().unwrap_or(Path::new("/")).join(&args.id)
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Has a live server delete the container, if there is one and it owns it. Whatever comes of it, the disk is looked at
/// afterwards.
fn delete_by_server(address: &str, id: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Ok(runtime) = runtime {
        let asked = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(address, id)).await });
        if asked.is_err() {
            eprintln!("the shim's server does not answer");
        }
    }
}

async fn ask(address: &str, id: &str) {
    let Ok(mut server) = Client::connect(address).await else { return };
    let state = StateRequest { id: id.into(), ..StateRequest::default() };
    // Only its owner has a state of it.
    if call(&mut server, "State", &state).await.is_err() {
        return;
    }
    let signal = libc::SIGKILL.cast_unsigned();
    let kill = KillRequest { id: id.into(), signal, all: true, ..KillRequest::default() };
    let wait = WaitRequest { id: id.into(), ..WaitRequest::default() };
    let delete = DeleteRequest { id: id.into(), ..DeleteRequest::default() };
    // Each may find that it is done already; Delete tells.
    let _ = call(&mut server, "Kill", &kill).await;
    let _ = call(&mut server, "Wait", &wait).await;
    let _ = call(&mut server, "Delete", &delete).await;
}

async fn call(server: &mut Client, method: &str, request: &impl Message) -> Result<Vec<u8>, Failure> {
    server.call(SERVICE, method, request.write_to_bytes().unwrap_or_default()).await
}
