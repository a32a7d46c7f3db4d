//! Directories that a create made, so that one that fails can take them back.

use super::Error;
use super::dir::Dir;
use rustix::io::Errno;

/// Remembers what was made, and removes it when dropped before [`Made::keep`].
#[derive(Default)]
pub(super) struct Made<'a>(Vec<(&'a Dir, String)>);

impl<'a> Made<'a> {
    /// Makes `path` below `root`, with the parents that are missing; true if it was not there before.
    pub(super) fn make(&mut self, root: &'a Dir, path: &str) -> Result<bool, Error> {
        let error = |source| Error::Directory { act: "make", path: path.to_owned(), source };
        // Somebody else's create may fail just now and take a parent back that both of us need.
        const TRIES: usize = 4;
        for _ in 0..TRIES {
            match self.one(root, path) {
                Err(Errno::NOENT) => {}
                result => return result.map_err(error),
            }
            for (slash, _) in path.match_indices('/') {
                match self.one(root, &path[..slash]) {
                    Err(Errno::NOENT) => break,
                    result => result.map_err(error)?,
                };
            }
        }
        self.one(root, path).map_err(error)
    }

    fn one(&mut self, root: &'a Dir, path: &str) -> Result<bool, Errno> {
        let new = root.mkdir(path)?;
        if new {
            self.0.push((root, path.to_owned()));
        }
        Ok(new)
    }

    /// All went well: the directories stay.
    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for (root, path) in self.0.drain(..).rev() {
            // A parent may be in use by somebody else by now; then it stays.
            let _ = root.rmdir(&path);
        }
    }
}
