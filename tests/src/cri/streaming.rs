//! `Exec` and `Attach` over containerd's streaming server: Kubernetes' `v4.channel.k8s.io` on a websocket.
//!
//! Every message is binary and its first byte is the channel: 0 standard input, 1 output, 2 error, 3 the verdict
//! (a Kubernetes `Status` as JSON, the last message), 4 the terminal's size. The protocol cannot close standard input;
//! ending the session does.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::Code;
use tungstenite::{ClientRequestBuilder, Message, WebSocket};

use super::{Error, Result};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const VERDICT: u8 = 3;
const RESIZE: u8 = 4;

/// How long a read waits.
const SILENCE: Duration = Duration::from_secs(2);
/// How long a session may be silent about what a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A session; dropping it disconnects.
pub struct Stream {
    method: &'static str,
    socket: WebSocket<TcpStream>,
    /// Standard output so far.
    pub stdout: Vec<u8>,
    /// Standard error so far.
    pub stderr: Vec<u8>,
    verdict: Option<Value>,
    closed: bool,
}

impl Stream {
    /// Connects to the URL that `Exec` or `Attach` gave.
    pub(super) fn open(method: &'static str, url: &str) -> Result<Stream> {
        let failed = |what: &str, cause: &dyn std::fmt::Display| Error {
            method,
            code: Code::Unavailable,
            message: format!("{what} {url}: {cause}"),
        };
        let rest = url.strip_prefix("http://").ok_or_else(|| failed("parse", &"not an http URL"))?;
        let address = rest.split('/').next().unwrap_or_default();
        let uri = format!("ws://{rest}").parse().map_err(|e| failed("parse", &e))?;
        let socket = TcpStream::connect(address).map_err(|e| failed("connect to", &e))?;
        socket.set_read_timeout(Some(SILENCE)).map_err(|e| failed("set up", &e))?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol("v4.channel.k8s.io");
        let (socket, _) = tungstenite::client(request, socket).map_err(|e| failed("upgrade", &e))?;
        Ok(Stream { method, socket, stdout: Vec::new(), stderr: Vec::new(), verdict: None, closed: false })
    }

    /// Writes to the process's standard input.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(STDIN, bytes)
    }

    /// Tells the terminal its size.
    pub fn resize(&mut self, width: u16, height: u16) -> Result<()> {
        self.write(RESIZE, json!({ "Width": width, "Height": height }).to_string().as_bytes())
    }

    fn write(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        let mut message = vec![channel];
        message.extend_from_slice(bytes);
        self.socket.send(Message::binary(message)).map_err(|e| self.error(&format!("write to channel {channel}: {e}")))
    }

    /// Writes a line until standard output has its answer. A session's first answers may pass it by: containerd hands its
    /// input on before it gives it the output (`ContainerIO.Attach` in containerd's cri/io/container_io.go).
    pub fn ask(&mut self, line: &[u8], answer: &str) -> Result<()> {
        let started = Instant::now();
        while !self.has_said(answer) {
            self.send(line)?;
            while self.read()? && !self.has_said(answer) {}
            if self.closed || started.elapsed() > PATIENCE {
                return Err(self.error(&format!("without {answer}")));
            }
        }
        Ok(())
    }

    fn has_said(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.stdout).contains(text)
    }

    /// Reads until standard output contains `text`; all of it so far.
    pub fn read_until(&mut self, text: &str) -> Result<String> {
        self.read_while(|stream| !stream.has_said(text), text)?;
        Ok(String::from_utf8_lossy(&self.stdout).into_owned())
    }

    /// Reads to the end of the session; the exit code, or `None` if there was no verdict (Attach gives none for a
    /// process that failed).
    pub fn finish(&mut self) -> Result<Option<i32>> {
        self.read_while(|stream| !stream.closed && stream.verdict.is_none(), "its end")?;
        Ok(self.verdict.as_ref().and_then(exit_code))
    }

    /// The verdict as it came.
    pub fn verdict(&self) -> Option<&Value> {
        self.verdict.as_ref()
    }

    fn read_while(&mut self, unfinished: impl Fn(&Stream) -> bool, what: &str) -> Result<()> {
        let started = Instant::now();
        while unfinished(self) {
            if self.closed {
                return Err(self.error(&format!("closed before {what}")));
            }
            if started.elapsed() > PATIENCE {
                return Err(self.error(&format!("silent for {} s before {what}", PATIENCE.as_secs())));
            }
            self.read()?;
        }
        Ok(())
    }

    /// Whether something came, before the session ended or fell silent.
    fn read(&mut self) -> Result<bool> {
        use tungstenite::Error as Ws;
        match self.socket.read() {
            Ok(Message::Binary(message)) => match message.split_first() {
                Some((&STDOUT, bytes)) => self.stdout.extend_from_slice(bytes),
                Some((&STDERR, bytes)) => self.stderr.extend_from_slice(bytes),
                Some((&VERDICT, bytes)) if !bytes.is_empty() => self.verdict = serde_json::from_slice(bytes).ok(),
                _ => {}
            },
            Ok(Message::Close(_)) | Err(Ws::ConnectionClosed | Ws::AlreadyClosed | Ws::Protocol(_)) => {
                self.closed = true
            }
            Err(Ws::Io(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
            Err(Ws::Io(_)) => self.closed = true, // reset: containerd ended it without a goodbye
            Ok(_) => {}
            Err(e) => return Err(self.error(&format!("read: {e}"))),
        }
        Ok(!self.closed)
    }

    fn error(&self, what: &str) -> Error {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stderr = String::from_utf8_lossy(&self.stderr);
        Error {
            method: self.method,
            code: Code::Unknown,
            message: format!("session {what}; stdout {stdout:?}, stderr {stderr:?}, verdict {:?}", self.verdict),
        }
    }
}

/// The exit code in a Kubernetes `Status`.
fn exit_code(status: &Value) -> Option<i32> {
    if status["status"] == "Success" {
        return Some(0);
    }
    let causes = status["details"]["causes"].as_array()?;
    let cause = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
    cause["message"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_exit_code_0() {
        assert_eq!(exit_code(&json!({"metadata": {}, "status": "Success"})), Some(0));
    }

    #[test]
    fn failure_has_its_exit_code_among_its_causes() {
        let status = json!({"status": "Failure", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(exit_code(&status), Some(3));
        assert_eq!(exit_code(&json!({"status": "Failure", "message": "no such container"})), None);
    }
}
