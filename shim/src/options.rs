//! Runtime options: what the user wrote for this runtime in containerd's configuration, in any of its three wrappings.

use containerd_shim_protos::shim::oci;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message};
use serde::Deserialize;
use std::path::{Path, PathBuf};

// The fuzz crate takes this file in by its path, and so by another name.
#[path = "options/network.rs"]
mod network;

pub use network::{CACHE_DIR, Mode, Network};

/// The options we understand. The TOML keys are those of the Go shim's `options.Options`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "PascalCase")]
pub struct Options {
    /// Use MS_MOVE and chroot in place of pivot_root.
    pub no_pivot_root: bool,
    /// Leave the session keyring as it is.
    pub no_new_keyring: bool,
    /// The cgroup that the server is put into.
    pub shim_cgroup: String,
    /// Owner of the stdio pipes.
    pub io_uid: u32,
    /// Group of the stdio pipes.
    pub io_gid: u32,
    /// Name of the runc binary. There is none here, but a name that does not resolve is the user's mistake.
    pub binary_name: String,
    /// Ask systemd for cgroups.
    pub systemd_cgroup: bool,
    /// Image to restore from, as CRIU made it.
    pub criu_image_path: String,
    /// Pod networks; no option of the Go shim's.
    #[serde(rename = "network")]
    pub network: Network,
}

/// Options that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The message is not what its type_url says.
    #[error("decode runtime options {}", one_line(type_url))]
    Decode {
        /// The type it claims.
        type_url: String,
        /// Why not.
        #[source]
        source: protobuf::Error,
    },
    /// The TOML is not ours.
    #[error("parse runtime options{}: line {line}: {}", one_line(file), one_line(reason.message()))]
    Toml {
        /// ` of <config_path>`, or nothing for a `config_body`.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong there. Not a source: its own text is a picture of several lines.
        reason: toml::de::Error,
    },
    /// The file of `config_path` is not there.
    #[error("read runtime options from {}", one_line(&path.to_string_lossy()))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// `binary_name` names nothing that can be executed.
    #[error("runtime options: BinaryName {0:?}: executable file not found in $PATH")]
    BinaryName(String),
}

/// A message may hold anything, and an error is one line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

const RUNC: [&str; 2] = ["containerd.runc.v1.Options", "containerd.runc.v2.Options"];
const RUNTIME_OPTIONS: [&str; 2] = ["runtimeoptions.v1.Options", "cri.runtimeoptions.v1.Options"];

impl Options {
    /// Decodes by type_url. A type that nobody here knows gives the defaults, and a warning in the log.
    pub fn decode(any: Option<&Any>) -> Result<Options, Error> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Options::default()) };
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        let decoded = |result: protobuf::Result<_>| {
            result.map_err(|source| Error::Decode { type_url: any.type_url.clone(), source })
        };
        if RUNC.contains(&name) {
            return oci::Options::parse_from_bytes(&any.value)
                .map(Options::from)
                .map_err(|source| Error::Decode { type_url: any.type_url.clone(), source });
        }
        if RUNTIME_OPTIONS.contains(&name) {
            return decoded(RuntimeOptions::decode(&any.value))?.load();
        }
        tracing::warn!(type_url = any.type_url, "runtime options of an unknown type are ignored");
        Ok(Options::default())
    }

    /// Refuses a `binary_name` that does not resolve: whoever set it expects that binary to be run.
    pub fn check(&self) -> Result<(), Error> {
        let name = &self.binary_name;
        if name.is_empty() || name == "runc" || resolves(name) {
            return Ok(());
        }
        Err(Error::BinaryName(name.clone()))
    }
}

fn resolves(name: &str) -> bool {
    use rustix::fs::{Access, access};
    if name.contains('/') {
        return access(name, Access::EXEC_OK).is_ok();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| access(directory.join(name), Access::EXEC_OK).is_ok())
}

impl From<oci::Options> for Options {
    fn from(runc: oci::Options) -> Options {
        Options {
            no_pivot_root: runc.no_pivot_root,
            no_new_keyring: runc.no_new_keyring,
            shim_cgroup: runc.shim_cgroup,
            io_uid: runc.io_uid,
            io_gid: runc.io_gid,
            binary_name: runc.binary_name,
            systemd_cgroup: runc.systemd_cgroup,
            criu_image_path: runc.criu_image_path,
            network: Network::default(),
        }
    }
}

/// `runtimeoptions.v1.Options`: CRI's wrapping for runtimes whose options it has no type for. The crate of messages
/// lacks it: type_url = 1, config_path = 2, config_body = 3.
#[derive(Debug, Default)]
struct RuntimeOptions {
    config_path: String,
    config_body: Vec<u8>,
}

impl RuntimeOptions {
    fn decode(bytes: &[u8]) -> protobuf::Result<RuntimeOptions> {
        let mut options = RuntimeOptions::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                0x0a => drop(input.read_string()?),
                0x12 => options.config_path = input.read_string()?,
                0x1a => options.config_body = input.read_bytes()?,
                _ => input.skip_field(protobuf::rt::WireType::new(tag & 7).ok_or_else(truncated)?)?,
            }
        }
        Ok(options)
    }

    fn load(self) -> Result<Options, Error> {
        let (body, file) = match (self.config_body, self.config_path) {
            (body, _) if !body.is_empty() => (body, String::new()),
            (_, path) if !path.is_empty() => (read(Path::new(&path))?, format!(" of {path}")),
            _ => return Ok(Options::default()),
        };
        toml::from_slice(&body).map_err(|reason| {
            let before = reason.span().and_then(|span| body.get(..span.start)).unwrap_or_default();
            Error::Toml { file, line: 1 + before.iter().filter(|byte| **byte == b'\n').count(), reason }
        })
    }
}

fn truncated() -> protobuf::Error {
    std::io::Error::from(std::io::ErrorKind::InvalidData).into()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.into(), value, ..Any::default() }
    }

    #[test]
    fn nothing_gives_the_defaults() {
        assert_eq!(Options::decode(None).unwrap(), Options::default());
        assert_eq!(Options::decode(Some(&Any::default())).unwrap(), Options::default());
    }

    #[test]
    fn runc_options_are_read() {
        let runc = oci::Options { io_uid: 7, systemd_cgroup: true, ..oci::Options::default() };
        let options = any("containerd.runc.v1.Options", runc.write_to_bytes().unwrap());
        let expected = Options { io_uid: 7, systemd_cgroup: true, ..Options::default() };
        assert_eq!(Options::decode(Some(&options)).unwrap(), expected);
    }

    #[test]
    fn toml_has_the_same_keys() {
        let body = b"SystemdCgroup = true\nIoGid = 3\nRoot = \"/x\"\n";
        let mut message = vec![0x0a, 1, b't', 0x1a, body.len() as u8];
        message.extend_from_slice(body);
        let options = Options::decode(Some(&any("runtimeoptions.v1.Options", message))).unwrap();
        assert_eq!((options.systemd_cgroup, options.io_gid), (true, 3));
    }

    #[test]
    fn a_network_is_asked_for_by_a_table_of_its_own() {
        let of = |body: &str| {
            let message = [&[0x1a, u8::try_from(body.len()).unwrap()], body.as_bytes()].concat();
            Options::decode(Some(&any("runtimeoptions.v1.Options", message)))
        };
        let options = of("SystemdCgroup = true\n[network]\nmode = \"cni\"\nconf_dir = \"/c\"\n").unwrap();
        assert_eq!((options.network.mode, options.systemd_cgroup), (Mode::Cni, true));
        assert_eq!(options.network.conf_dir, Path::new("/c"));
        assert_eq!(of("").unwrap().network, Network::default());
        for (body, wrong) in [("[network]\nmode = \"bridge\"", "bridge"), ("[network]\nbin_dir = \"/x\"", "bin_dir")] {
            let error = of(body).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(wrong) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn an_unknown_type_is_ignored_and_a_broken_blob_is_not() {
        assert_eq!(Options::decode(Some(&any("example.Options", vec![1, 2, 3]))).unwrap(), Options::default());
        for type_url in ["containerd.runc.v1.Options", "runtimeoptions.v1.Options"] {
            assert!(Options::decode(Some(&any(type_url, vec![0xff, 0xff, 0xff]))).is_err(), "{type_url}");
        }
        let toml = any("runtimeoptions.v1.Options", vec![0x1a, 3, b'\n', b'=', b'=']);
        let error = Options::decode(Some(&toml)).unwrap_err();
        assert!(matches!(error, Error::Toml { line: 2, .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }

    #[test]
    fn an_error_is_one_line_whatever_the_message_holds() {
        let toml = b"network.mode = \"a\\nb\"";
        let body = [&[0x1a, u8::try_from(toml.len()).unwrap()], &toml[..]].concat();
        for (type_url, value, expected) in [
            (
                "a\n/containerd.runc.v1.Options",
                vec![0xff],
                "decode runtime options a\u{fffd}/containerd.runc.v1.Options",
            ),
            ("runtimeoptions.v1.Options", b"\x12\x03/\n\0".to_vec(), "read runtime options from /\u{fffd}\u{fffd}"),
            (
                "runtimeoptions.v1.Options",
                body,
                "parse runtime options: line 1: unknown variant `a\u{fffd}b`, expected ",
            ),
        ] {
            let error = Options::decode(Some(&any(type_url, value))).unwrap_err().to_string();
            assert!(error.starts_with(expected) && error.lines().count() == 1, "{error:?}");
        }
    }

    #[test]
    fn a_binary_that_does_not_resolve_is_refused() {
        let named = |name: &str| Options { binary_name: name.into(), ..Options::default() }.check();
        assert!(named("").is_ok() && named("runc").is_ok() && named("/bin/sh").is_ok() && named("sh").is_ok());
        assert!(named("no-runc").is_err() && named("/no/runc").is_err());
    }
}
