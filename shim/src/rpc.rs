//! A ttrpc server on the crate's own messages.
//!
//! The crate's `Server` is not used because it drops a handler when its client disconnects, and answers
//! INVALID_ARGUMENT where containerd needs UNIMPLEMENTED to fall back to an older service (invariants 6 and 11).
//! Here each request runs in a task of its own to its end, whoever still listens.

use std::future::Future;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use ttrpc::proto::{Code, Codec, GenMessage, GenMessageError, MESSAGE_TYPE_REQUEST, MessageHeader, Request, Response};

use crate::error::response;
use crate::lifetime::Lifetime;
use std::sync::Arc;

/// Who asked. A handler that only waits may give up when its caller has gone.
pub struct Caller(UnboundedSender<GenMessage>);

impl Caller {
    /// Resolves when the connection is closed.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

/// Accepts connections for ever. `handle` answers one request.
pub async fn serve<H, F>(listener: UnixListener, lifetime: Arc<Lifetime>, handle: H)
where
    H: Fn(Request, Caller) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) if is_same_user(&stream) => {
                let (guard, handle) = (lifetime.connection(), handle.clone());
                tokio::spawn(async move {
                    connection(stream, handle).await;
                    drop(guard);
                });
            }
            Ok(_) => tracing::warn!("a connection from another user was refused"),
            Err(error) => {
                tracing::error!(%error, "accept a connection");
                // Out of descriptors or memory: the connection stays in the backlog until there is room.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// The socket's directory is closed to others already; this holds where it was moved.
fn is_same_user(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

async fn connection<H, F>(stream: UnixStream, handle: H)
where
    H: Fn(Request, Caller) -> F,
    F: Future<Output = Response> + Send + 'static,
{
    let (reader, writer) = stream.into_split();
    let (answers, queue) = unbounded_channel();
    // Either end of the connection ends it. Requests under way go on; their answers have nowhere to go.
    tokio::select! {
        () = read(reader, answers, handle) => {}
        () = write(writer, queue) => {}
    }
}

async fn read<H, F>(mut reader: OwnedReadHalf, answers: UnboundedSender<GenMessage>, handle: H)
where
    H: Fn(Request, Caller) -> F,
    F: Future<Output = Response> + Send + 'static,
{
    loop {
        let (header, request) = match GenMessage::read_from(&mut reader).await {
            Ok(message) => (message.header, decode(message)),
            Err(GenMessageError::ReturnError(header, _)) => {
                (header, Err(response(Code::RESOURCE_EXHAUSTED, "the message is too long".into())))
            }
            Err(GenMessageError::InternalError(_)) => return,
        };
        match request {
            Ok(Some(request)) => {
                let answering = handle(request, Caller(answers.clone()));
                let answers = answers.clone();
                tokio::spawn(async move {
                    let response = answering.await;
                    // A closed channel: the client has gone, and what was done stays done.
                    let _ = answers.send(frame(header.stream_id, &response));
                });
            }
            Ok(None) => {}
            Err(refusal) => drop(answers.send(frame(header.stream_id, &refusal))),
        }
    }
}

/// A request, or nothing for frames of streams: there are none on our services.
fn decode(message: GenMessage) -> Result<Option<Request>, Response> {
    if message.header.type_ != MESSAGE_TYPE_REQUEST {
        return Ok(None);
    }
    Request::decode(&message.payload)
        .map(Some)
        .map_err(|error| response(Code::INVALID_ARGUMENT, format!("decode the request: {error}")))
}

fn frame(stream_id: u32, response: &Response) -> GenMessage {
    // Encoding fails only on messages with required fields, and this has none.
    let payload = response.encode().unwrap_or_default();
    GenMessage { header: MessageHeader::new_response(stream_id, payload.len() as u32), payload }
}

async fn write(mut writer: OwnedWriteHalf, mut queue: UnboundedReceiver<GenMessage>) {
    while let Some(message) = queue.recv().await {
        if message.write_to(&mut writer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Failure};
    use std::time::Duration;
    use tokio::sync::oneshot;

    fn listen(name: &str) -> (UnixListener, String) {
        let path = std::env::temp_dir().join(format!("berth-rpc-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        (UnixListener::bind(&path).unwrap(), path.display().to_string())
    }

    #[tokio::test]
    async fn unknown_service_and_method_are_unimplemented() {
        let (listener, path) = listen("unknown");
        let server = tokio::spawn(serve(listener, Arc::default(), |request: Request, _| async move {
            match (request.service.as_str(), request.method.as_str()) {
                ("known", "known") => Response { payload: request.payload, ..Response::default() },
                _ => response(Code::UNIMPLEMENTED, "no".into()),
            }
        }));
        let mut client = Client::connect(&path).await.unwrap();
        assert_eq!(client.call("known", "known", vec![1, 2]).await.unwrap(), [1, 2]);
        for (service, method) in [("unknown", "known"), ("known", "unknown")] {
            let failure = client.call(service, method, vec![]).await.unwrap_err();
            assert!(matches!(failure, Failure::Status(status) if status.code() == Code::UNIMPLEMENTED));
        }
        server.abort();
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn a_disconnect_does_not_cancel() {
        let (listener, path) = listen("disconnect");
        let (done, finished) = oneshot::channel();
        let done = Arc::new(std::sync::Mutex::new(Some(done)));
        let server = tokio::spawn(serve(listener, Arc::default(), move |_: Request, caller: Caller| {
            let done = done.clone();
            async move {
                caller.gone().await;
                tokio::time::sleep(Duration::from_millis(10)).await;
                done.lock().unwrap().take().unwrap().send(()).unwrap();
                Response::default()
            }
        }));
        let mut client = Client::connect(&path).await.unwrap();
        let call = tokio::time::timeout(Duration::from_millis(50), client.call("s", "m", vec![])).await;
        assert!(call.is_err(), "answered before the client left");
        drop(client);
        finished.await.unwrap();
        server.abort();
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn answers_do_not_wait_for_each_other() {
        let (listener, path) = listen("concurrent");
        let server = tokio::spawn(serve(listener, Arc::default(), |request: Request, _| async move {
            if request.method == "slow" {
                std::future::pending::<()>().await;
            }
            Response::default()
        }));
        let mut client = Client::connect(&path).await.unwrap();
        let slow = tokio::time::timeout(Duration::from_millis(20), client.call("s", "slow", vec![])).await;
        assert!(slow.is_err());
        client.call("s", "quick", vec![]).await.unwrap();
        server.abort();
        std::fs::remove_file(path).unwrap();
    }
}
