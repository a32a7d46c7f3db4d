//! The bundle and its config.json, as the flags of create and run name them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use runtime_core::spec;

use super::Error;
use super::flags::Given;

const CONFIG: &str = "config.json";

/// A bundle.
#[derive(Debug)]
pub struct Bundle {
    /// Absolute.
    pub path: PathBuf,
    /// What its config.json says.
    pub spec: Spec,
    /// What is to be told of that.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// `--bundle`, or where we are; `--config`, or the bundle's own.
    pub fn load(given: &Given) -> Result<Self, Error> {
        let path = given.path("bundle").unwrap_or_else(|| ".".into());
        let path = path.canonicalize().map_err(Error::file("chdir", path))?;
        let config = given.path("config").unwrap_or_else(|| path.join(CONFIG));
        let (spec, warnings) = load(&config)?;
        Ok(Self { path, spec, warnings })
    }
}

fn load(config: &Path) -> Result<spec::Read<Spec>, Error> {
    let json = match std::fs::read(config) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let given = config.file_name().unwrap_or_default();
            return Err(Error::NoSpec(given.into()));
        }
        json => json.map_err(Error::file("read", config))?,
    };
    let read = spec::read(&json).map_err(|source| Error::Json { what: config.display().to_string(), source })?;
    match read.0.process() {
        None => Err(Error::Spec("process property must not be empty")),
        Some(process) if process.cwd().as_os_str().is_empty() => Err(Error::Spec("Cwd property must not be empty")),
        Some(process) if !process.cwd().is_absolute() => Err(Error::Spec("Cwd must be an absolute path")),
        Some(process) if process.args().as_ref().is_none_or(Vec::is_empty) => {
            Err(Error::Spec("args must not be empty"))
        }
        Some(_) => Ok(read),
    }
}
