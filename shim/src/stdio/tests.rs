//! Real fifos, pipes, terminals and loggers; no root needed.

mod logger;
mod output;
mod terminal;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// A directory of a test's own, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-stdio-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(stdin: &Path, stdout: &Path, stderr: &Path) -> Config {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    Config {
        stdin: text(stdin),
        stdout: text(stdout),
        stderr: text(stderr),
        terminal: false,
        uid: 0,
        gid: 0,
        id: "box".into(),
        namespace: "tests".into(),
        children: Arc::default(),
    }
}

const NONE: fn() -> &'static Path = || Path::new("");

async fn open_files(config: &Config) -> (Io, [File; 3]) {
    match Io::open(config).await.unwrap() {
        (io, Stdio::Files(fds)) => {
            io.connect_stdin().unwrap();
            (io, fds.map(File::from))
        }
        (_, Stdio::Terminal) => panic!("a terminal"),
    }
}

/// A client: opens a fifo as containerd's clients do, and reads it to its end.
fn reader(path: &Path) -> thread::JoinHandle<Vec<u8>> {
    let path = path.to_owned();
    thread::spawn(move || {
        let mut read = Vec::new();
        File::open(path).unwrap().read_to_end(&mut read).unwrap();
        read
    })
}

/// A client that has its end open already, while nobody waits for it.
fn attach(path: &Path) -> thread::JoinHandle<Vec<u8>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    fcntl_setfl(&file, OFlags::empty()).unwrap();
    thread::spawn(move || {
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        read
    })
}

async fn join<T: Send + 'static>(thread: thread::JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("within ten seconds")
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn is_null(file: &File) -> bool {
    let (null, file) = (rustix::fs::stat("/dev/null").unwrap(), rustix::fs::fstat(file).unwrap());
    null.st_rdev == file.st_rdev
}

#[tokio::test]
async fn without_stdio_every_stream_is_null() {
    let (io, files) = open_files(&config(NONE(), NONE(), NONE())).await;
    assert!(files.iter().all(is_null));
    soon(io.drained()).await;
}

#[tokio::test]
async fn only_the_streams_that_are_named_are_made() {
    let dir = Dir::new();
    let stderr = dir.fifo("err");
    let client = reader(&stderr);
    let (io, [stdin, stdout, mut fd2]) = open_files(&config(NONE(), NONE(), &stderr)).await;
    assert!(is_null(&stdin) && is_null(&stdout));
    fd2.write_all(b"oops").unwrap();
    drop(fd2);
    soon(io.drained()).await;
    assert_eq!(join(client).await, b"oops");
}

#[tokio::test]
async fn output_reaches_its_fifos_and_ends_them() {
    let dir = Dir::new();
    let (out, err) = (dir.fifo("out"), dir.fifo("err"));
    let clients = [reader(&out), reader(&err)];
    let (io, [_, mut stdout, mut stderr]) = open_files(&config(NONE(), &out, &err)).await;
    let text: Vec<u8> = (0..300_000u32).flat_map(u32::to_ne_bytes).collect();
    let expected = text.clone();
    let writer = thread::spawn(move || stdout.write_all(&text).unwrap());
    stderr.write_all(b"to stderr").unwrap();
    drop(stderr);
    let [out, err] = clients;
    assert!(join(out).await == expected);
    assert_eq!(join(err).await, b"to stderr");
    join(writer).await;
    soon(io.drained()).await;
}

#[tokio::test]
async fn opening_waits_for_the_reader_without_blocking_the_reactor() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let config = config(NONE(), &out, NONE());
    let opening = tokio::spawn(async move { open_files(&config).await });
    pause().await; // this would not return, were the reactor blocked
    assert!(!opening.is_finished());
    let client = reader(&out);
    let (io, [_, mut stdout, _]) = soon(opening).await.unwrap();
    stdout.write_all(b"hello").unwrap();
    drop(stdout);
    soon(io.drained()).await;
    assert_eq!(join(client).await, b"hello");
}

#[tokio::test]
async fn a_reader_that_never_comes_is_an_error_and_lets_the_thread_go() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let waiting = fifo::output(&out, Duration::from_millis(50));
    assert!(matches!(soon(waiting).await, Err(Error::NoReader { .. })));
    // The runtime's shutdown would wait for a thread that is still in open(2).
}

#[tokio::test]
async fn a_cancelled_opening_lets_the_thread_go_even_when_the_fifo_is_gone() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let path = out.clone();
    let opening = tokio::spawn(async move { fifo::output(&path, fifo::RENDEZVOUS).await });
    pause().await;
    std::fs::remove_file(out).unwrap();
    opening.abort();
    assert!(opening.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_client_may_detach_and_another_attach() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let path = out.clone();
    let first = thread::spawn(move || {
        let mut read = [0; 5];
        File::open(path).unwrap().read_exact(&mut read).unwrap();
        read
    });
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    stdout.write_all(b"first").unwrap();
    assert_eq!(&join(first).await, b"first");
    stdout.write_all(b"while nobody reads ").unwrap();
    pause().await;
    let second = attach(&out);
    stdout.write_all(b"second").unwrap();
    drop(stdout);
    assert_eq!(join(second).await, b"while nobody reads second");
    soon(io.drained()).await;
}

#[tokio::test]
async fn a_full_fifo_stops_the_container_but_not_the_reactor_and_resumes() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&out).unwrap();
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    let writer = thread::spawn(move || stdout.write_all(&vec![b'x'; 1 << 20]).unwrap());
    pause().await;
    assert!(!writer.is_finished());
    let second = attach(&out);
    drop(client);
    assert_eq!(join(second).await.len(), 1 << 20);
    join(writer).await;
    soon(io.drained()).await;
}

#[tokio::test]
async fn small_writes_fill_no_less_than_the_pipe_while_nobody_reads() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&out).unwrap();
    let (io, [_, stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    let mut stdout = stdout;
    for _ in 0..100 {
        stdout.write_all(&[b'y'; 999]).unwrap();
        tokio::task::yield_now().await;
    }
    let second = attach(&out);
    drop((client, stdout));
    assert_eq!(join(second).await.len(), 99_900);
    soon(io.drained()).await;
}

#[tokio::test]
async fn a_survivor_with_the_pipe_keeps_drained_waiting_until_close() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = reader(&out);
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    stdout.write_all(b"before").unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), io.drained()).await;
    assert!(early.is_err());
    stdout.write_all(b" and last").unwrap();
    soon(io.close()).await;
    assert_eq!(join(client).await, b"before and last");
    assert!(stdout.write_all(b"nobody").is_err());
    soon(io.close()).await;
}

#[tokio::test]
async fn close_does_not_wait_for_a_survivor_that_writes_on_or_a_client_that_reads_nothing() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let _client = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&out).unwrap();
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    let writer = thread::spawn(move || while stdout.write_all(&[b'x'; 4096]).is_ok() {});
    pause().await;
    soon(io.close()).await;
    join(writer).await;
}

#[tokio::test]
async fn an_ended_output_waits_for_its_client_to_read_but_not_for_ever() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&out).unwrap();
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    stdout.write_all(b"unread").unwrap();
    let ended = std::time::Instant::now();
    drop(stdout);
    soon(io.drained()).await;
    assert!(ended.elapsed() >= Duration::from_millis(200), "the fifo was closed over a client that had not read");
    assert_eq!(rustix::io::ioctl_fionread(&client).unwrap(), 6);
}

#[tokio::test]
async fn dropping_releases_everything() {
    let dir = Dir::new();
    let (input, out) = (dir.fifo("in"), dir.fifo("out"));
    let client = reader(&out);
    let (io, [mut stdin, _stdout, _]) = open_files(&config(&input, &out, NONE())).await;
    drop(io);
    assert_eq!(join(client).await, b"");
    let end = tokio::task::spawn_blocking(move || stdin.read(&mut [0; 1]).unwrap());
    assert_eq!(soon(end).await.unwrap(), 0);
}

#[tokio::test]
async fn stdin_outlives_its_client_until_it_is_closed() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    let (io, [mut stdin, ..]) = open_files(&config(&input, NONE(), NONE())).await;
    let path = input.clone();
    let write = move |text: &'static [u8]| File::options().write(true).open(&path).unwrap().write_all(text).unwrap();
    let container = thread::spawn(move || {
        let mut read = String::new();
        stdin.read_to_string(&mut read).unwrap();
        read
    });
    write(b"one ");
    pause().await;
    assert!(!container.is_finished());
    let last = File::options().write(true).open(&input).unwrap();
    write(b"two ");
    io.close_stdin();
    pause().await;
    assert!(!container.is_finished(), "the client still has its end");
    (&last).write_all(b"three").unwrap();
    drop(last);
    assert_eq!(join(container).await, "one two three");
}

#[tokio::test]
async fn stdin_is_not_taken_before_it_is_connected() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    let path = input.clone();
    let client = thread::spawn(move || File::options().write(true).open(path).unwrap().write_all(b"all").unwrap());
    let (io, stdio) = Io::open(&config(&input, NONE(), NONE())).await.unwrap();
    let Stdio::Files([stdin, ..]) = stdio else { panic!("a terminal") };
    pause().await;
    assert!(!client.is_finished());
    std::fs::remove_file(&input).unwrap();
    io.connect_stdin().unwrap();
    join(client).await;
    io.close_stdin();
    let mut read = String::new();
    let read = tokio::task::spawn_blocking(move || File::from(stdin).read_to_string(&mut read).map(|_| read));
    assert_eq!(soon(read).await.unwrap().unwrap(), "all");
}

#[tokio::test]
async fn a_stdin_that_was_closed_before_it_was_connected_ends() {
    let dir = Dir::new();
    let input = dir.fifo("in");
    let (io, stdio) = Io::open(&config(&input, NONE(), NONE())).await.unwrap();
    let Stdio::Files([stdin, ..]) = stdio else { panic!("a terminal") };
    io.close_stdin();
    io.connect_stdin().unwrap();
    let end = tokio::task::spawn_blocking(move || File::from(stdin).read(&mut [0; 1]).unwrap());
    assert_eq!(soon(end).await.unwrap(), 0);
}

#[tokio::test]
async fn a_file_is_appended_to_by_both_outputs() {
    let dir = Dir::new();
    let log = dir.path("a/b/log");
    let uri = format!("file://{}", log.display());
    for _ in 0..2 {
        let (io, [_, mut stdout, mut stderr]) = open_files(&config(NONE(), Path::new(&uri), Path::new(&uri))).await;
        stdout.write_all(b"out\n").unwrap();
        pause().await;
        stderr.write_all(b"err\n").unwrap();
        drop((stdout, stderr));
        soon(io.drained()).await;
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "out\nerr\nout\nerr\n");
    assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o644);
}

#[tokio::test]
async fn a_regular_file_in_place_of_a_fifo_is_appended_to_and_read() {
    let dir = Dir::new();
    let (input, log) = (dir.path("in"), dir.path("log"));
    std::fs::write(&input, "given").unwrap();
    std::fs::write(&log, "old ").unwrap();
    let (io, [mut stdin, mut stdout, _]) = open_files(&config(&input, &log, NONE())).await;
    let mut read = String::new();
    let read = soon(tokio::task::spawn_blocking(move || stdin.read_to_string(&mut read).map(|_| read))).await.unwrap();
    assert_eq!(read.unwrap(), "given");
    stdout.write_all(b"new").unwrap();
    drop(stdout);
    soon(io.drained()).await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "old new");
}

#[tokio::test]
async fn missing_paths_are_errors_that_name_them() {
    let dir = Dir::new();
    let missing = dir.path("missing");
    let error = Io::open(&config(NONE(), &missing, NONE())).await.err().unwrap();
    assert_eq!(error.to_string(), format!("open {}", missing.display()));
    let error = Io::open(&config(&missing, NONE(), NONE())).await.err().unwrap();
    assert_eq!(error.to_string(), format!("open {}", missing.display()));
}
