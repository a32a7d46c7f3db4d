//! config.json, read and parsed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, Process, Spec};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use crate::plan::unavailable;

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// `<bundle>/config.json`.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not JSON, or not a spec.
    #[error("parse {}", path.display())]
    Parse {
        /// `<bundle>/config.json`.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// An error in a longer JSON is not searched for its field.
const LONGEST: usize = 256 << 10;

/// What was read, and what is to be told of it.
pub type Read<T> = (T, Vec<String>);

/// Reads `<bundle>/config.json`.
pub fn load(bundle: &Path) -> Result<Read<Spec>, Error> {
    let path = bundle.join("config.json");
    match fs::read(&path) {
        Ok(json) => read(&json).map_err(|source| Error::Parse { path, source }),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// A spec from JSON. Names of capabilities that nobody knows are left out, and told: OCI wants a warning.
pub fn read(json: &[u8]) -> Result<Read<Spec>, serde_json::Error> {
    lenient(json, "/process/capabilities")
}

/// The process of an exec from JSON, likewise.
pub fn read_process(json: &[u8]) -> Result<Read<Process>, serde_json::Error> {
    lenient(json, "/capabilities")
}

/// A spec from JSON, for who has nobody to tell what was left out.
pub fn parse(json: &[u8]) -> Result<Spec, serde_json::Error> {
    read(json).map(|(spec, _)| spec)
}

/// The process of an exec from JSON, likewise.
pub fn parse_process(json: &[u8]) -> Result<Process, serde_json::Error> {
    read_process(json).map(|(process, _)| process)
}

fn lenient<T: DeserializeOwned>(json: &[u8], capabilities: &str) -> Result<Read<T>, serde_json::Error> {
    serde_json::from_slice(json).map(|read| (read, Vec::new())).or_else(|error| {
        let mut value: Value = serde_json::from_slice(json)?;
        let dropped = drop_unknown(&mut value, capabilities);
        let process = capabilities.trim_end_matches("/capabilities");
        let renamed = rename_flags(&mut value, &format!("{process}/"));
        let rooted = add_user(&mut value, process);
        if dropped.is_empty() && !renamed && !rooted {
            return Err(named::<T>(error, json, &value));
        }
        let warning = (!dropped.is_empty()).then(|| unavailable(dropped));
        let read = serde_json::from_value(value.clone()).map_err(|error| named::<T>(error, json, &value))?;
        Ok((read, warning.into_iter().collect()))
    })
}

/// Takes out of every set the names that are no capability's, and says which these were.
fn drop_unknown(spec: &mut Value, capabilities: &str) -> BTreeSet<String> {
    let mut dropped = BTreeSet::new();
    let sets = spec.pointer_mut(capabilities).and_then(Value::as_object_mut);
    for names in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        names.retain(|name| match name.as_str() {
            Some(text) if Capability::deserialize(name).is_err() => {
                dropped.insert(text.to_owned());
                false
            }
            _ => true,
        });
    }
    dropped
}

/// An error of a parser tells a line at most; which field it is tells its absence.
fn named<T: DeserializeOwned>(error: serde_json::Error, json: &[u8], whole: &Value) -> serde_json::Error {
    // Each try reads all of it.
    if json.len() > LONGEST {
        return error;
    }
    let (mut whole, mut path) = (whole.clone(), String::new());
    while let Some(next) = culprit::<T>(&mut whole, &path) {
        path.push('/');
        path.push_str(&next);
    }
    let Some(field) = path.strip_prefix('/').map(|path| path.replace('/', ".")) else { return error };
    serde_json::Error::custom(format!("{}{error}: {field}", words(&field)))
}

/// What users of runc look for in an error about a field.
fn words(field: &str) -> &'static str {
    match field {
        field if field.starts_with("linux.memoryPolicy.flags") => "invalid memory policy flag: ",
        "linux.memoryPolicy" | "linux.memoryPolicy.mode" => "invalid memory policy mode: ",
        _ => "",
    }
}

/// The member of the object, or of the list, at a JSON pointer without which the rest can be parsed.
fn culprit<T: DeserializeOwned>(whole: &mut Value, path: &str) -> Option<String> {
    /// Of more it is not worth the time: each is a try.
    const MOST: usize = 64;
    let names: Vec<String> = match whole.pointer(path)? {
        Value::Object(members) if members.len() <= MOST => members.keys().cloned().collect(),
        Value::Array(members) if members.len() <= MOST => (0..members.len()).map(|index| index.to_string()).collect(),
        _ => return None,
    };
    names.into_iter().filter(|name| !name.contains(['/', '~'])).find(|name| {
        let mut without = whole.clone();
        match without.pointer_mut(path) {
            Some(Value::Object(members)) => drop(members.remove(name)),
            Some(Value::Array(members)) => drop(name.parse().map(|index: usize| members.remove(index))),
            _ => return false,
        }
        serde_json::from_value::<T>(without).is_ok()
    })
}

/// A process without a user is root's, as in runc; oci-spec wants one.
fn add_user(spec: &mut Value, process: &str) -> bool {
    let Some(process) = spec.pointer_mut(process).and_then(Value::as_object_mut) else { return false };
    let missing = !process.contains_key("user");
    process.entry("user").or_insert_with(|| serde_json::json!({}));
    missing
}

/// oci-spec 0.10 misspells two flags of schedulers.
fn rename_flags(spec: &mut Value, process: &str) -> bool {
    let flags = spec.pointer_mut(&format!("{process}scheduler/flags")).and_then(Value::as_array_mut);
    let mut renamed = false;
    for flag in flags.into_iter().flatten() {
        let theirs = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = theirs.into();
        renamed = true;
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_an_absent_file_names_it() {
        let error = load(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "read /nonexistent/config.json");
    }

    #[test]
    fn error_names_the_field() {
        for (json, field) in [
            (r#"{"ociVersion":"1.0.0","linux":{"memoryPolicy":{"nodes":"0"}}}"#, "linux.memoryPolicy"),
            (r#"{"ociVersion":"1.0.0","linux":{"devices":[],"rootfsPropagation":5}}"#, "linux.rootfsPropagation"),
            (r#"{"ociVersion":"1.0.0","mounts":[{"destination":"/a"},{"destination":7}]}"#, "mounts.1"),
        ] {
            let error = parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.ends_with(&format!(": {field}")), "{error}");
            assert_eq!(error.starts_with("invalid memory policy mode"), field == "linux.memoryPolicy", "{error}");
        }
        assert!(parse(b"{").unwrap_err().to_string().starts_with("EOF while parsing"));
    }

    #[test]
    fn process_without_a_user_is_roots() {
        let process = parse_process(br#"{"cwd":"/","args":["true"]}"#).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        let spec = parse(br#"{"ociVersion":"1.0.0","process":{"cwd":"/"}}"#).unwrap();
        assert_eq!(spec.process().as_ref().map(|process| process.user().uid()), Some(0));
    }

    #[test]
    fn unknown_capabilities_are_left_out_and_other_errors_stay() {
        let sets = r#"{"bounding":["CAP_FLY","CAP_KILL"],"effective":["CAP_FLY","CAP_ACT"]}"#;
        let process = format!(r#"{{"user":{{}},"cwd":"/","capabilities":{sets}}}"#);
        let (process, warnings) = read_process(process.as_bytes()).unwrap();
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: [CAP_ACT CAP_FLY]"]);
        let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone());
        assert_eq!(bounding, Some([Capability::Kill].into()));
        let error = parse_process(br#"{"user":{"uid":4294967296},"cwd":"/"}"#).unwrap_err();
        assert!(error.to_string().starts_with("invalid value: integer `4294967296`, expected u32"), "{error}");
    }
}
