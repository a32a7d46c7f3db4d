//! `-info`: what this runtime can do, for `ctr plugins inspect-runtime` and CRI.

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::io::{Read, Write};

use crate::features::features;

const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints a `RuntimeInfo`. The options on standard input are sent back.
pub fn print() -> std::io::Result<()> {
    let mut stdin = Vec::new();
    // containerd sends options or nothing.
    let _ = std::io::stdin().lock().take(4 << 20).read_to_end(&mut stdin);
    let options = Any::parse_from_bytes(&stdin).ok().filter(|any| !any.type_url.is_empty());
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..RuntimeVersion::default() };
    let features = Any { type_url: FEATURES.into(), value: features().to_string().into_bytes(), ..Any::default() };
    let info = RuntimeInfo {
        name: "io.containerd.berth.v2".into(),
        version: Some(version).into(),
        options: options.into(),
        features: Some(features).into(),
        ..RuntimeInfo::default()
    };
    std::io::stdout().write_all(&info.write_to_bytes().unwrap_or_default())
}
