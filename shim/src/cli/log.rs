//! Errors and warnings where the caller wants them, in the two forms of runc's log: conmon and containerd read the JSON.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use serde_json::json;

use super::{Error, time};

/// The form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// Where to, and how.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<Mutex<File>>,
    format: Format,
    debug: bool,
}

impl Log {
    /// Appends to a file; without one, standard error.
    pub fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<Self, Error> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.map(Mutex::new).map_err(Error::file("open", path))
        };
        Ok(Self { file: path.map(open).transpose()?, format, debug })
    }

    /// A command's failure, which is told on standard error in any case.
    pub fn fatal(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }

    /// Something that the user should know.
    pub fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    /// Several of them.
    pub fn warn_all(&self, messages: &[String]) {
        messages.iter().for_each(|message| self.warn(message));
    }

    /// Something for whoever looks for a fault.
    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let line = line(self.format, level, message, &time::rfc3339(SystemTime::now(), 0));
        // There is nobody left to be told that this fails.
        let _ = match &self.file {
            Some(file) => file.lock().map(|mut file| file.write_all(line.as_bytes())).unwrap_or(Ok(())),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn line(format: Format, level: &str, message: &str, time: &str) -> String {
    match format {
        Format::Json => format!("{}\n", json!({ "level": level, "msg": message, "time": time })),
        Format::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_runc_writes_them() {
        let time = "2026-11-21T07:30:00Z";
        assert_eq!(
            line(Format::Json, "error", "no \"x\"", time),
            "{\"level\":\"error\",\"msg\":\"no \\\"x\\\"\",\"time\":\"2026-11-21T07:30:00Z\"}\n"
        );
        assert_eq!(
            line(Format::Text, "error", "no \"x\"", time),
            "time=\"2026-11-21T07:30:00Z\" level=error msg=\"no \\\"x\\\"\"\n"
        );
    }
}
