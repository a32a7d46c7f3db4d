//! What containerd and an image send: bootstrap messages, options, arguments, a passwd.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use containerd_shim_protos::bootstrap_api::BootstrapParams;
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::params::Params;
use crate::shim_options::Options;
use crate::{args, passwd_file};

const TYPES: [&str; 4] = [
    "containerd.runc.v1.Options",
    "containerd.runc.v2.Options",
    "runtimeoptions.v1.Options",
    "x/cri.runtimeoptions.v1.Options",
];

/// The standard input of `start`, and the options of any type in it.
pub fn messages(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let params = Params::parse(rest, "box", "default");
    assert_eq!(params, Params::parse(rest, "box", "default"));
    // Only a message that names this very container is believed.
    let named = BootstrapParams::parse_from_bytes(rest)
        .is_ok_and(|message| message.instance_id == "box" && message.namespace == "default");
    assert!(named || (params.ttrpc_address.is_none() && params.grpc_address.is_none() && params.socket_dir.is_none()));
    decode(params.options.as_ref());
    let type_url = TYPES[usize::from(*first) % TYPES.len()].to_owned();
    decode(Some(&Any { type_url, value: rest.to_owned(), ..Any::default() }));
    // The same bytes as TOML, in the message that CRI wraps it in.
    let mut value = vec![0x1a];
    value.extend(varint(rest.len()));
    value.extend_from_slice(rest);
    decode(Some(&Any { type_url: TYPES[2].to_owned(), value, ..Any::default() }));
    embedded(rest);
}

/// A message that names this container carries its addresses whole, whatever they are.
fn embedded(text: &[u8]) {
    let address = String::from_utf8_lossy(text).into_owned();
    let message = BootstrapParams {
        instance_id: "box".to_owned(),
        namespace: "default".to_owned(),
        containerd_ttrpc_address: address.clone(),
        ..BootstrapParams::default()
    };
    let params = Params::parse(&message.write_to_bytes().unwrap(), "box", "default");
    assert_eq!(params.ttrpc_address, Some(address).filter(|address| !address.is_empty()));
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn decode(any: Option<&Any>) {
    match Options::decode(any) {
        Ok(options) => drop(options.check()),
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty() && !error.contains(['\n', '\0']), "{error:?}");
        }
    }
}

/// A command line, its words ended by zeros.
pub fn arguments(data: &[u8]) {
    let words = || data.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_owned()));
    let parsed = args::parse(words());
    assert_eq!(parsed, args::parse(words()));
    if let Err(error) = parsed {
        assert!(!error.to_string().is_empty());
    }
    // Flags before the action are read whatever they hold.
    let value = String::from_utf8_lossy(data).replace('\0', "");
    let line = ["-namespace", &value, "-id", &value, "delete"].map(OsString::from);
    let parsed = args::parse(line).unwrap();
    assert_eq!(
        (parsed.namespace.as_str(), parsed.id.as_str(), parsed.action),
        (&*value, &*value, args::Action::Delete)
    );
}

/// A passwd as an image may have it: the home that is found is a line's own.
pub fn passwd(data: &[u8]) {
    for uid in [0, 1000, u32::MAX] {
        let Some(home) = passwd_file::home_of(data, uid) else { continue };
        assert!(!home.is_empty() && !home.contains([':', '\n']), "{home:?}");
        let line = format!(":{uid}:");
        let plus = format!(":+{uid}:");
        let has = |text: &str| data.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has(&home) && (has(&line) || has(&plus) || has(&format!("0{uid}:"))), "{home:?} of {uid}");
    }
}
