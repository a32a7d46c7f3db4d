//! What this binary does inside a container: roles that no applet of busybox plays.

use std::fs;

use super::{budget, crash, hunt};

/// Plays the role that the arguments name, if they name one.
pub fn play() -> Option<i32> {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.get(1..)? {
        ["--role", "fds"] => Some(fds()),
        ["--role", "parent", bundles @ ..] => Some(crash::parent(bundles)),
        ["--role", "budget", bundle] => Some(budget::play(bundle)),
        ["--role", "hunter", host] => Some(hunt::hunter(host)),
        _ => None,
    }
}

/// Prints what is open.
fn fds() -> i32 {
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let to = fs::read_link(entry.path());
        // The one that reads this directory is closed by now.
        if let Ok(to) = to.as_ref().map(|to| to.to_string_lossy())
            && !to.ends_with("/fd")
        {
            println!("{} {to}", entry.file_name().to_string_lossy());
        }
    }
    0
}
