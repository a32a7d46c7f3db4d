//! Loggers.

use std::time::Instant;

use super::terminal::open_terminal;
use super::*;

/// A logger that is a shell script.
fn script(dir: &Dir, text: &str) -> PathBuf {
    let path = dir.path("logger.sh");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_logger_gets_its_pipes_arguments_and_two_variables() {
    let dir = Dir::new();
    let log = dir.path("log");
    let logger = script(
        &dir,
        "#!/bin/sh\necho \"$1=$2 $CONTAINER_ID $CONTAINER_NAMESPACE ${HOME-none}\" >\"$2\"\nprintf r >&5\nexec 5>&-\n\
         cat <&3 >>\"$2\"\ncat <&4 >>\"$2\"\n",
    );
    let uri = format!("binary-v2://{}?log={}", logger.display(), log.display());
    let (io, [_, mut stdout, mut stderr]) = open_files(&config(NONE(), Path::new(&uri), Path::new(&uri))).await;
    stdout.write_all(b"out\n").unwrap();
    stderr.write_all(b"err\n").unwrap();
    drop((stdout, stderr));
    soon(io.drained()).await;
    soon(io.close()).await;
    let expected = format!("log={} box tests none\nout\nerr\n", log.display());
    assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
}

#[tokio::test]
async fn a_terminals_logger_gets_the_terminals_output() {
    let dir = Dir::new();
    let log = dir.path("log");
    let logger = script(&dir, "#!/bin/sh\nexec 5>&-\ncat <&3 >\"$2\"\ncat <&4 >>\"$2\"\n");
    let uri = format!("binary://{}?log={}", logger.display(), log.display());
    let (io, master, mut slave) = open_terminal(config(NONE(), Path::new(&uri), NONE())).await;
    io.attach_console(master).unwrap();
    slave.write_all(b"seen").unwrap();
    drop(slave);
    soon(io.drained()).await;
    soon(io.close()).await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "seen");
}

#[tokio::test]
async fn silence_is_readiness_for_binary_and_failure_for_binary_v2() {
    let dir = Dir::new();
    let logger = script(&dir, "#!/bin/sh\nexec 5>&-\ncat <&3 >/dev/null\n");
    let open = async |scheme: &str| {
        let uri = format!("{scheme}://{}", logger.display());
        Io::open(&config(NONE(), Path::new(&uri), NONE())).await.map(|(io, _)| io)
    };
    soon(open("binary").await.unwrap().close()).await;
    assert!(matches!(open("binary-v2").await, Err(Error::LoggerNotReady { .. })));
}

#[tokio::test]
async fn a_logger_that_does_not_see_the_end_is_terminated() {
    let dir = Dir::new();
    let logger = script(&dir, "#!/bin/sh\nexec 5>&-\nexec sleep 1000\n");
    let uri = format!("binary://{}", logger.display());
    let (io, _files) = open_files(&config(NONE(), Path::new(&uri), NONE())).await;
    let begun = Instant::now();
    soon(io.close()).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_logger_that_is_missing_is_an_error_that_names_it() {
    let error = Io::open(&config(NONE(), Path::new("binary:///no/such/logger"), NONE())).await.err().unwrap();
    assert_eq!(error.to_string(), "start logger /no/such/logger");
}
