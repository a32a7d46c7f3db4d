//! The group's socket: where it is, and who listens on it.

use containerd_shim_protos::api::ConnectRequest;
use protobuf::Message;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MessageHeader, Request};

/// Where containerd's own shim puts its sockets; tools compute the path from this.
const DIRECTORY: &str = "/run/containerd/s";
/// How long a server may take to answer before it counts as alive but busy.
const PATIENCE: Duration = Duration::from_secs(1);
/// A server that is going away holds its name for a moment.
const ATTEMPTS: u32 = 5;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of the sockets.
    #[error("create {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The socket itself.
    #[error("listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// The socket of one group.
#[derive(Debug, PartialEq, Eq)]
pub struct Socket {
    path: PathBuf,
    id: String,
}

/// What [`Socket::bind`] found.
pub enum Bound {
    /// Nobody was there: we listen now.
    New(UnixListener),
    /// A live server of the same group.
    Live,
}

impl Socket {
    /// `<directory>/<hex of sha256 of Join(containerd's address, namespace, group)>`, as the Go shim names it.
    pub fn of_group(directory: Option<&Path>, containerd: &str, namespace: &str, group: &str) -> Socket {
        let name = join(&[containerd, namespace, group]);
        let mut file = String::with_capacity(64);
        for byte in Sha256::digest(name.as_bytes()) {
            let _ = write!(file, "{byte:02x}");
        }
        Socket { path: directory.unwrap_or(Path::new(DIRECTORY)).join(file), id: group.to_owned() }
    }

    /// A socket that is known by its address, as the `address` file has it.
    pub fn at(address: &str, id: &str) -> Option<Socket> {
        let path = address.trim().strip_prefix("unix://")?;
        Some(Socket { path: PathBuf::from(path), id: id.to_owned() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, only ours to enter.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(DIRECTORY))
    }

    /// `unix://` and the file.
    pub fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Listens, unless a live server of the group does already. A dead one's socket is replaced.
    pub fn bind(&self) -> Result<Bound, Error> {
        let directory = self.directory();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
        let failed = |source| Error::Listen { path: self.path.clone(), source };
        for _ in 0..ATTEMPTS {
            match UnixListener::bind(&self.path) {
                Ok(listener) => {
                    std::fs::set_permissions(&self.path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
                    return Ok(Bound::New(listener));
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(failed(error)),
            }
            if self.reserve() {
                return Ok(Bound::Live);
            }
            self.remove_if_dead();
        }
        Err(failed(ErrorKind::AddrInUse.into()))
    }

    /// Asks the server to stay for a container that is about to come. False if there is none, or it is just leaving:
    /// it unlinks its socket first and closes what it had not answered.
    fn reserve(&self) -> bool {
        let Ok(stream) = UnixStream::connect(&self.path) else { return false };
        match connect_request(&stream, &self.id) {
            Ok(()) => true,
            // Alive, and too busy to answer in time.
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Unlinks the socket, unless somebody listens on it.
    pub fn remove_if_dead(&self) {
        if matches!(UnixStream::connect(&self.path), Err(error) if error.kind() == ErrorKind::ConnectionRefused) {
            self.remove();
        }
    }

    /// Unlinks the socket.
    pub fn remove(&self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One `Connect` call, and the head of its answer.
fn connect_request(mut stream: &UnixStream, id: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = Request {
        service: "containerd.task.v2.Task".into(),
        method: "Connect".into(),
        payload: ConnectRequest { id: id.into(), ..ConnectRequest::default() }.write_to_bytes()?,
        ..Request::default()
    };
    let payload = request.write_to_bytes()?;
    let mut frame = Vec::from(MessageHeader::new_request(1, payload.len() as u32));
    frame.extend_from_slice(&payload);
    stream.write_all(&frame)?;
    stream.read_exact(&mut [0; MESSAGE_HEADER_LENGTH])
}

/// Go's `filepath.Join`: empty parts are left out and the result is cleaned.
fn join(parts: &[&str]) -> String {
    let joined = parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
    let rooted = joined.starts_with('/');
    let mut clean: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." if clean.last().is_some_and(|last| *last != "..") => drop(clean.pop()),
            ".." if rooted => {}
            _ => clean.push(part),
        }
    }
    match (rooted, clean.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_the_one_the_go_shim_computes() {
        let socket = Socket::of_group(None, "/run/containerd/containerd.sock", "default", "web");
        // printf %s /run/containerd/containerd.sock/default/web | sha256sum
        let hash = "2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883";
        assert_eq!(socket.address(), format!("unix:///run/containerd/s/{hash}"));
        assert_eq!(socket, Socket::of_group(None, "/run//containerd/./containerd.sock", "default", "web"));
    }

    #[test]
    fn join_cleans_as_go_does() {
        assert_eq!(join(&["/a//b/", "", "../c", "d"]), "/a/c/d");
        assert_eq!(join(&["/..", "a"]), "/a");
        assert_eq!(join(&["a", "./b"]), "a/b");
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_closing_server_is_not_taken_for_alive() {
        let directory = std::env::temp_dir().join(format!("berth-socket-{}", std::process::id()));
        let socket = Socket::of_group(Some(&directory), "/c", "ns", "g");
        let Bound::New(first) = socket.bind().unwrap() else { panic!("somebody listens") };
        drop(first);
        let Bound::New(second) = socket.bind().unwrap() else { panic!("a dead socket answered") };
        // A server that unlinks its name and closes what it had not accepted.
        let leaving = std::thread::spawn({
            let path = socket.path().to_owned();
            move || {
                let (stream, _) = second.accept().unwrap();
                std::fs::remove_file(path).unwrap();
                drop(stream);
                drop(second);
            }
        });
        assert!(matches!(socket.bind().unwrap(), Bound::New(_)));
        leaving.join().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
