//! What containerd writes to the standard input of `start`.
//!
//! Up to 2.2 it is nothing or an `Any` with the runtime options, from 2.3 on a `BootstrapParams`. The two cannot be
//! told apart by their bytes: an `Any` decodes as `BootstrapParams{instance_id: type_url, namespace: value}`. So the
//! new message is believed only if it names the container that the flags name.

use containerd_shim_protos::bootstrap_api::BootstrapParams;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::path::PathBuf;

/// The parameters, of whichever generation. A field that was not sent is `None`.
#[derive(Debug, Default, PartialEq)]
pub struct Params {
    /// Runtime options.
    pub options: Option<Any>,
    /// Where events go.
    pub ttrpc_address: Option<String>,
    /// containerd's own socket, a part of our socket's name.
    pub grpc_address: Option<String>,
    /// Where our socket shall be.
    pub socket_dir: Option<PathBuf>,
}

impl Params {
    /// Never fails: what cannot be decoded was not sent for us.
    pub fn parse(stdin: &[u8], id: &str, namespace: &str) -> Params {
        if stdin.is_empty() {
            return Params::default();
        }
        match BootstrapParams::parse_from_bytes(stdin) {
            Ok(params) if params.instance_id == id && params.namespace == namespace => Params::from(params),
            _ => Params { options: Any::parse_from_bytes(stdin).ok(), ..Params::default() },
        }
    }
}

impl From<BootstrapParams> for Params {
    fn from(params: BootstrapParams) -> Params {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let is_options = |any: &Any| any.type_url.ends_with(".Options");
        Params {
            options: params
                .extensions
                .into_iter()
                .filter_map(|extension| extension.value.0)
                .map(|any| *any)
                .find(is_options),
            ttrpc_address: given(params.containerd_ttrpc_address),
            grpc_address: given(params.containerd_grpc_address),
            socket_dir: params.socket_dir.and_then(given).map(PathBuf::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;

    fn options() -> Any {
        Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0x48, 1], ..Any::default() }
    }

    fn bootstrap(id: &str) -> Vec<u8> {
        let other = Any { type_url: "containerd.io/nri.v1.PluginConfig".into(), ..Any::default() };
        let extension = |any| Extension { value: Some(any).into(), ..Extension::default() };
        let params = BootstrapParams {
            instance_id: id.into(),
            namespace: "default".into(),
            containerd_ttrpc_address: "/run/c.ttrpc".into(),
            extensions: vec![extension(other), extension(options())],
            socket_dir: Some("/run/s".into()),
            ..BootstrapParams::default()
        };
        params.write_to_bytes().unwrap()
    }

    #[test]
    fn bootstrap_params_of_this_container_are_believed() {
        let params = Params::parse(&bootstrap("web"), "web", "default");
        assert_eq!(params.options, Some(options()));
        assert_eq!(params.ttrpc_address.as_deref(), Some("/run/c.ttrpc"));
        assert_eq!((params.grpc_address, params.socket_dir), (None, Some(PathBuf::from("/run/s"))));
    }

    #[test]
    fn an_any_is_not_taken_for_bootstrap_params() {
        let params = Params::parse(&options().write_to_bytes().unwrap(), "web", "default");
        assert_eq!(params, Params { options: Some(options()), ..Params::default() });
    }

    #[test]
    fn nothing_and_noise_are_no_parameters() {
        assert_eq!(Params::parse(&[], "web", "default"), Params::default());
        assert_eq!(Params::parse(&[0xff; 9], "web", "default"), Params::default());
    }
}
