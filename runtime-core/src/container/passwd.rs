//! The home directory of a user, from the container's own `etc/passwd`.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat2};

use crate::program::CStringArray;

/// More of a passwd is not read: it may be one line of many gigabytes, which would be our memory.
const LONGEST: u64 = 16 << 20;

/// Sets HOME, where the environment has none, to what the container's passwd says of the user, or to `/`, as runc does.
pub(super) fn set_home(env: &mut CStringArray, root: BorrowedFd<'_>, uid: u32) {
    if env.iter().any(|variable| variable.to_bytes().starts_with(b"HOME=")) {
        return;
    }
    let home = home(root, uid).unwrap_or_else(|| "/".to_owned());
    if let Ok(variable) = CString::new(format!("HOME={home}")) {
        env.push(variable);
    }
}

/// The image owns the file: it is opened beneath the root, must be a regular file, and is read line by line. One of procfs
/// is none, though it says so: a link to `/proc/kmsg` would have us take the kernel's messages from whoever reads them.
fn home(root: BorrowedFd<'_>, uid: u32) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let passwd = openat2(root, c"etc/passwd", flags, Mode::empty(), resolve).ok()?;
    let regular = FileType::from_raw_mode(fstat(&passwd).ok()?.st_mode) == FileType::RegularFile;
    if !regular || fstatfs(&passwd).ok()?.f_type == PROC_SUPER_MAGIC {
        return None;
    }
    home_of(BufReader::new(std::fs::File::from(passwd).take(LONGEST)), uid)
}

/// passwd(5): `name:password:uid:gid:gecos:home:shell`.
pub(super) fn home_of(passwd: impl BufRead, uid: u32) -> Option<String> {
    passwd.lines().map_while(Result::ok).find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let matches = fields.next()?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (matches && !home.is_empty()).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1000::/home/app:/bin/sh\nno:x:7:7:::\n";

    #[test]
    fn home_is_the_users() {
        assert_eq!(home_of(PASSWD.as_bytes(), 1000).as_deref(), Some("/home/app"));
    }

    #[test]
    fn unknown_user_and_empty_home_have_none() {
        assert_eq!(home_of(PASSWD.as_bytes(), 5), None);
        assert_eq!(home_of(PASSWD.as_bytes(), 7), None);
    }
}
