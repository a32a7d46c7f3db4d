//! A ttrpc client for one call at a time: events to containerd, and `delete` to a live shim.

use tokio::net::UnixStream;
use ttrpc::proto::{Code, Codec, GenMessage, MESSAGE_TYPE_RESPONSE, MessageHeader, Request, Response, Status};

/// A connection.
pub struct Client {
    stream: UnixStream,
    stream_id: u32,
}

/// A call that brought no result.
#[derive(Debug)]
pub enum Failure {
    /// The connection is of no more use.
    Connection,
    /// The server answered with an error.
    Status(Status),
}

impl Client {
    /// Connects to a path, with or without `unix://` before it.
    pub async fn connect(address: &str) -> std::io::Result<Client> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        Ok(Client { stream: UnixStream::connect(path).await?, stream_id: 1 })
    }

    /// One call. A caller that gives up leaves an answer behind, which the next call passes over.
    pub async fn call(&mut self, service: &str, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let request = Request { service: service.into(), method: method.into(), payload, ..Request::default() };
        let payload = request.encode().map_err(|_| Failure::Connection)?;
        let stream_id = self.stream_id;
        self.stream_id += 2;
        let header = MessageHeader::new_request(stream_id, payload.len() as u32);
        GenMessage { header, payload }.write_to(&mut self.stream).await.map_err(|_| Failure::Connection)?;
        loop {
            let message = GenMessage::read_from(&mut self.stream).await.map_err(|_| Failure::Connection)?;
            if message.header.stream_id == stream_id && message.header.type_ == MESSAGE_TYPE_RESPONSE {
                return answer(&message.payload);
            }
        }
    }
}

fn answer(payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let response = Response::decode(payload).map_err(|_| Failure::Connection)?;
    match response.status.into_option() {
        Some(status) if status.code() != Code::OK => Err(Failure::Status(status)),
        _ => Ok(response.payload),
    }
}
