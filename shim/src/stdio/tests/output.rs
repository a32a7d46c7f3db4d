//! When a client has taken an output, and how long it is kept for one.

use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::terminal::open_terminal;
use super::*;

const AT_ONCE: Duration = Duration::from_millis(500);

/// A client that reads as slowly as no pipe is, and counts.
fn slow_reader(path: &Path) -> (Arc<AtomicUsize>, thread::JoinHandle<Vec<u8>>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (path, so_far) = (path.to_owned(), count.clone());
    let reader = thread::spawn(move || {
        let (mut file, mut text, mut buffer) = (File::open(path).unwrap(), Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = file.read(&mut buffer) {
            text.extend_from_slice(&buffer[..read]);
            so_far.fetch_add(read, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(3));
        }
        text
    });
    (count, reader)
}

/// A client that has the fifo open and reads nothing.
fn idle_reader(path: &Path) -> File {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

#[tokio::test]
async fn an_exit_is_not_told_before_a_slow_client_has_all() {
    let dir = Dir::new();
    let (out, err) = (dir.fifo("out"), dir.fifo("err"));
    let (clients, readers): (Vec<_>, Vec<_>) = [&out, &err].map(|path| slow_reader(path)).into_iter().unzip();
    let (io, [_, stdout, stderr]) = open_files(&config(NONE(), &out, &err)).await;
    let writers = [stdout, stderr].map(|mut file| thread::spawn(move || file.write_all(&[b'x'; 400_000]).unwrap()));
    for writer in writers {
        join(writer).await;
    }
    let read = || clients.iter().map(|count| count.load(Ordering::SeqCst)).sum::<usize>();
    assert!(read() < 780_000, "the pipes are empty already");
    soon(io.taken()).await;
    // What a read has returned is the client's, though it may not have counted it yet.
    assert!(read() >= 800_000 - 2 * 4096, "told after {} of 800000 bytes", read());
    for reader in readers {
        assert_eq!(join(reader).await.len(), 400_000);
    }
}

#[tokio::test]
async fn an_exit_does_not_wait_for_who_keeps_the_pipe() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = reader(&out);
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    stdout.write_all(b"said").unwrap();
    tokio::time::timeout(AT_ONCE, io.taken()).await.unwrap();
    let writing_on = thread::spawn(move || while stdout.write_all(&[b'x'; 4096]).is_ok() {});
    tokio::time::timeout(AT_ONCE, io.taken()).await.unwrap();
    soon(io.close()).await;
    join(writing_on).await;
    assert!(join(client).await.starts_with(b"said"));
}

#[tokio::test]
async fn an_exit_does_not_wait_for_what_a_survivor_writes_after_it() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let (_, client) = slow_reader(&out);
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    let writing_on = thread::spawn(move || while stdout.write_all(&[b'x'; 4096]).is_ok() {});
    pause().await;
    soon(io.taken()).await;
    soon(io.close()).await;
    join(writing_on).await;
    join(client).await;
}

#[tokio::test]
async fn an_exit_does_not_wait_where_nobody_reads() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = idle_reader(&out);
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    drop(client);
    stdout.write_all(b"unheard").unwrap();
    tokio::time::timeout(AT_ONCE, io.taken()).await.unwrap();
}

#[tokio::test]
async fn an_exit_waits_for_a_client_that_takes_nothing_but_not_for_ever() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let _client = idle_reader(&out);
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    stdout.write_all(b"unread").unwrap();
    let asked = Instant::now();
    soon(io.taken()).await;
    assert!(asked.elapsed() >= AT_ONCE);
}

#[tokio::test]
async fn what_nobody_has_read_is_kept_for_the_next_client() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = idle_reader(&out);
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    drop(client);
    stdout.write_all(b"while nobody listened").unwrap();
    drop(stdout);
    soon(io.taken()).await;
    pause().await;
    assert_eq!(soon(join(reader(&out))).await, b"while nobody listened");
    soon(io.drained()).await;
}

#[tokio::test]
async fn what_nobody_has_read_does_not_outlast_delete() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let client = idle_reader(&out);
    let (io, [_, mut stdout, _]) = open_files(&config(NONE(), &out, NONE())).await;
    drop(client);
    // More than the fifo holds: the copy itself waits for a reader.
    stdout.write_all(&[b'x'; 100_000]).unwrap();
    drop(stdout);
    tokio::time::timeout(AT_ONCE, io.drained()).await.unwrap();
    let left = idle_reader(&out);
    assert_eq!((&left).read(&mut [0; 1]).unwrap(), 0, "something is kept, or somebody has the fifo open");
}

#[tokio::test]
async fn a_terminals_last_words_come_before_its_exit() {
    let dir = Dir::new();
    let out = dir.fifo("out");
    let (count, client) = slow_reader(&out);
    let (io, master, mut slave) = open_terminal(config(NONE(), &out, NONE())).await;
    io.attach_console(master).unwrap();
    let process = thread::spawn(move || slave.write_all(&[b'z'; 200_000]).unwrap());
    join(process).await;
    soon(io.taken()).await;
    assert!(count.load(Ordering::SeqCst) >= 200_000 - 4096);
    assert_eq!(join(client).await.len(), 200_000);
}
