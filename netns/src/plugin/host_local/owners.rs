//! Who has which lease, so that a look-up need not read every one. The leases are the truth: this file is believed only
//! while its time is that of their directory, which whoever gives or frees a lease changes, and what it says of a lease is
//! looked up. The Go plugin passes it by, as it is nobody's lease.
//!
//! The time that both are given is of the past, one that no change can give: by the clock of many file systems (tmpfs, and
//! all before Linux 6.13) two changes within some milliseconds are at the same time.

use std::cell::Cell;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const NAME: &str = ".owners";

/// Freed leases stay in the file; so many beyond as many as it began with, and it is written anew.
const SPARE: usize = 200;

/// So long ago is the time of what is believed.
const PAST: Duration = Duration::from_secs(3600);

/// The file: how many leases it began with, then a line for each: address and container.
pub(super) struct Owners {
    path: PathBuf,
    directory: PathBuf,
    believed: Cell<bool>,
}

/// A lease's content begins with its container.
fn container(content: &str) -> &str {
    content.lines().next().unwrap_or_default()
}

impl Owners {
    /// Of the leases in a directory, which are locked.
    pub(super) fn of(directory: &Path) -> Self {
        let path = directory.join(NAME);
        // Set, and not come by a write whose writer was killed before it set it.
        let is_set = |owners: &Metadata| owners.mtime() < owners.ctime();
        let owners = fs::metadata(&path).ok().filter(is_set).and_then(|owners| owners.modified().ok());
        let believed = owners.is_some() && owners == fs::metadata(directory).and_then(|leases| leases.modified()).ok();
        Self { path, directory: directory.to_owned(), believed: Cell::new(believed) }
    }

    /// The names of all leases that may be a container's; None: they have to be read.
    pub(super) fn candidates(&self, container: &str) -> Option<Vec<PathBuf>> {
        let text = fs::read_to_string(&self.path).ok().filter(|_| self.believed.get())?;
        let mut lines = text.lines();
        let most = 2 * lines.next()?.parse::<usize>().ok()? + SPARE;
        let (mut count, mut its) = (0, Vec::new());
        for line in lines {
            count += 1;
            let (address, owner) = line.split_once(' ')?;
            if owner == container {
                its.push(self.directory.join(address));
            }
        }
        its.sort();
        its.dedup();
        (count <= most).then_some(its)
    }

    /// Begins again with all that are there.
    pub(super) fn begin(&self, leases: &[(PathBuf, String)]) {
        let mut text = format!("{}\n", leases.len());
        for (path, content) in leases {
            text += &line(&path.file_name().unwrap_or_default().to_string_lossy(), content);
        }
        self.believed.set(fs::write(&self.path, text).is_ok());
        self.changed();
    }

    /// A lease was given.
    pub(super) fn given(&self, address: &str, content: &str) {
        if self.believed.get() {
            let append = || File::options().append(true).open(&self.path)?.write_all(line(address, content).as_bytes());
            self.believed.set(append().is_ok());
            self.changed();
        }
    }

    /// The directory was changed by us, and by us alone.
    pub(super) fn changed(&self) {
        let stamp = || -> io::Result<()> {
            let at = SystemTime::now() - PAST;
            File::options().append(true).open(&self.path)?.set_modified(at)?;
            File::open(&self.directory)?.set_modified(at)
        };
        self.believed.set(self.believed.get() && stamp().is_ok());
    }
}

fn line(address: &str, content: &str) -> String {
    format!("{address} {}\n", container(content))
}
