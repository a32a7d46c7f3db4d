//! A file that appears whole: by way of one without a name, where the file system knows such files.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Makes a file of mode 0600, which must not be there, with that content. `before` it appears, it is handed to the
/// caller; a crash leaves nothing.
pub(crate) fn create(
    path: &Path,
    content: &[u8],
    before: impl Fn(&OwnedFd) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let directory = path.parent().ok_or(Errno::INVAL)?;
    let mode = Mode::from_raw_mode(0o600);
    let fill = |file: &OwnedFd| {
        before(file)?;
        rustix::io::write(file, content).map(|_| ())
    };
    match rustix::fs::open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
        Ok(file) => {
            fill(&file)?;
            let own = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
            Ok(file)
        }
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, mode)?;
            fill(&file).inspect_err(|_| drop(fs::remove_file(path)))?;
            Ok(file)
        }
        Err(errno) => Err(errno),
    }
}

/// Gives a file that has its content the name under which it is known, in place of one that may be there. The two change
/// places: one that is replaced by rename(2) alone makes ext4 write the new content to the disk at once.
pub(crate) fn publish(draft: &Path, path: &Path) -> Result<(), Errno> {
    let rename = |flags| rustix::fs::renameat_with(CWD, draft, CWD, path, flags);
    match rename(RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => rename(RenameFlags::EXCHANGE).and_then(|()| rustix::fs::unlink(draft)),
        // Of a file system that knows no such ways.
        Err(Errno::INVAL) => rename(RenameFlags::empty()),
        done => done,
    }
}
