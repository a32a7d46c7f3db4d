//! Events to containerd: one queue, in order, each kept until containerd has acknowledged it.
//!
//! containerd may be down for hours. Its own shim drops an event after some fifteen seconds, and retries out of order;
//! here the head of the queue is tried again until it is taken. A duplicate is possible, a loss only beyond the bound.

use crate::client::{Client, Failure};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use ttrpc::proto::Code;

use crate::convert::timestamp;

/// An event's topic and the name of its message.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    topic: &'static str,
    message: &'static str,
}

/// `TaskCreate`
pub const CREATE: Kind = Kind { topic: "/tasks/create", message: "containerd.events.TaskCreate" };
/// `TaskStart`
pub const START: Kind = Kind { topic: "/tasks/start", message: "containerd.events.TaskStart" };
/// `TaskExit`
pub const EXIT: Kind = Kind { topic: "/tasks/exit", message: "containerd.events.TaskExit" };
/// `TaskDelete`
pub const DELETE: Kind = Kind { topic: "/tasks/delete", message: "containerd.events.TaskDelete" };
/// `TaskOOM`
pub const OOM: Kind = Kind { topic: "/tasks/oom", message: "containerd.events.TaskOOM" };
/// `TaskExecAdded`
pub const EXEC_ADDED: Kind = Kind { topic: "/tasks/exec-added", message: "containerd.events.TaskExecAdded" };
/// `TaskExecStarted`
pub const EXEC_STARTED: Kind = Kind { topic: "/tasks/exec-started", message: "containerd.events.TaskExecStarted" };
/// `TaskPaused`
pub const PAUSED: Kind = Kind { topic: "/tasks/paused", message: "containerd.events.TaskPaused" };
/// `TaskResumed`
pub const RESUMED: Kind = Kind { topic: "/tasks/resumed", message: "containerd.events.TaskResumed" };

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const CALL: Duration = Duration::from_secs(5);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Some ten thousand events.
const BOUND: usize = 4 << 20;

/// The queue.
pub struct Events {
    namespace: String,
    waiting: Mutex<Waiting>,
    pending: watch::Sender<usize>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Arc<Vec<u8>>>,
    bytes: usize,
}

impl Events {
    /// An empty queue for events of one containerd namespace.
    pub fn new(namespace: String) -> Events {
        Events { namespace, waiting: Mutex::default(), pending: watch::Sender::new(0) }
    }

    /// Appends an event. Never waits.
    pub fn publish(&self, kind: Kind, message: &impl Message) {
        // Encoding fails only on messages with required fields, and events have none.
        let value = message.write_to_bytes().unwrap_or_default();
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())).into(),
            namespace: self.namespace.clone(),
            topic: kind.topic.into(),
            event: Some(Any { type_url: kind.message.into(), value, ..Any::default() }).into(),
            ..Envelope::default()
        };
        let request = ForwardRequest { envelope: Some(envelope).into(), ..ForwardRequest::default() };
        self.push(request.write_to_bytes().unwrap_or_default());
    }

    fn push(&self, request: Vec<u8>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.bytes += request.len();
        waiting.requests.push_back(Arc::new(request));
        while waiting.bytes > BOUND {
            let Some(oldest) = waiting.requests.pop_front() else { break };
            waiting.bytes -= oldest.len();
            tracing::error!("too many events wait for containerd, the oldest is dropped");
        }
        self.pending.send_replace(waiting.requests.len());
    }

    fn head(&self) -> Option<Arc<Vec<u8>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).requests.front().cloned()
    }

    /// Removes the head if it is still `request`: the bound may have dropped it meanwhile.
    fn acknowledge(&self, request: &Arc<Vec<u8>>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.requests.front().is_some_and(|head| Arc::ptr_eq(head, request)) {
            waiting.requests.pop_front();
            waiting.bytes -= request.len();
        }
        self.pending.send_replace(waiting.requests.len());
    }

    /// Sends what is queued to containerd at `address`, for ever.
    pub async fn send(self: Arc<Self>, address: String) {
        let mut pending = self.pending.subscribe();
        let (mut client, mut backoff) = (None, BACKOFF.0);
        loop {
            let Some(head) = self.head() else {
                // The sender lives as long as `self`.
                let _ = pending.wait_for(|count| *count > 0).await;
                continue;
            };
            if forward(&mut client, &address, &head).await {
                self.acknowledge(&head);
                backoff = BACKOFF.0;
            } else {
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
    }

    /// Waits until the queue is empty, at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let mut pending = self.pending.subscribe();
        if tokio::time::timeout(limit, pending.wait_for(|count| *count == 0)).await.is_err() {
            tracing::warn!("containerd did not take the last events");
        }
    }
}

/// True if containerd has taken the event, or never will.
async fn forward(client: &mut Option<Client>, address: &str, request: &[u8]) -> bool {
    // A connection from before containerd's restart fails once; a fresh one tells whether it is back.
    for mut connection in [client.take(), None] {
        if connection.is_none() {
            connection = Client::connect(address).await.ok();
        }
        let Some(mut connection) = connection else { continue };
        match tokio::time::timeout(CALL, connection.call(SERVICE, "Forward", request.to_vec())).await {
            Ok(Ok(_)) => {
                *client = Some(connection);
                return true;
            }
            Ok(Err(Failure::Status(status))) if !is_passing(status.code()) => {
                tracing::error!(status = status.message, "containerd refused an event");
                *client = Some(connection);
                return true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    false
}

fn is_passing(code: Code) -> bool {
    matches!(code, Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED | Code::CANCELLED | Code::RESOURCE_EXHAUSTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::response;
    use tokio::net::UnixListener;
    use ttrpc::proto::{Request, Response};

    fn path(name: &str) -> String {
        let path = std::env::temp_dir().join(format!("berth-events-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path.display().to_string()
    }

    #[tokio::test]
    async fn events_survive_a_daemon_that_comes_late_and_fails_first() {
        use containerd_shim_protos::events::task::TaskOOM;
        let path = path("late");
        let events = Arc::new(Events::new("default".into()));
        for id in ["a", "b", "c"] {
            events.publish(OOM, &TaskOOM { container_id: id.into(), ..TaskOOM::default() });
        }
        let sender = tokio::spawn(events.clone().send(path.clone()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, failures) = (seen.clone(), Arc::new(Mutex::new(1)));
        let handle = move |request: Request, _| {
            let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
            let event = TaskOOM::parse_from_bytes(&forward.envelope.event.value).unwrap();
            assert_eq!(forward.envelope.event.type_url, "containerd.events.TaskOOM");
            let fail = std::mem::replace(&mut *failures.lock().unwrap(), 0) > 0;
            if !fail {
                log.lock().unwrap().push(event.container_id);
            }
            async move { if fail { response(Code::UNAVAILABLE, "soon".into()) } else { Response::default() } }
        };
        let server = tokio::spawn(crate::rpc::serve(UnixListener::bind(&path).unwrap(), Arc::default(), handle));
        events.flush(Duration::from_secs(5)).await;
        assert_eq!(*seen.lock().unwrap(), ["a", "b", "c"]);
        sender.abort();
        server.abort();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_queue_is_bounded() {
        let events = Events::new("default".into());
        for _ in 0..5 {
            events.push(vec![0; BOUND / 4]);
        }
        assert_eq!(events.waiting.lock().unwrap().requests.len(), 4);
    }
}
