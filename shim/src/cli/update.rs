//! `update`: other limits.

use std::io::Read;

use oci_spec::runtime::LinuxResources;
use runtime_core::state::Status;
use serde_json::{Map, Value, json};

use super::flags::{Flag, Given, Until, value};
use super::home::Berth;
use super::{Command, Error};

const FLAGS: &[Flag] = &[
    value("resources", Some('r'), "FILE", "linux.resources as JSON, or - for standard input; other flags are ignored"),
    value("blkio-weight", None, "WEIGHT", "from 10 to 1000"),
    value("cpu-period", None, "USEC", "period of the CPU limit"),
    value("cpu-quota", None, "USEC", "CPU time per period; -1 is no limit"),
    value("cpu-burst", None, "USEC", "CPU time that may be saved up"),
    value("cpu-share", None, "SHARES", "weight against other containers"),
    value("cpu-rt-period", None, "USEC", "period of the realtime limit"),
    value("cpu-rt-runtime", None, "USEC", "realtime CPU time per period"),
    value("cpu-idle", None, "0|1", "SCHED_IDLE"),
    value("cpuset-cpus", None, "LIST", "CPUs to use"),
    value("cpuset-mems", None, "LIST", "memory nodes to use"),
    value("kernel-memory", None, "BYTES", "ignored: the kernel has it no more"),
    value("kernel-memory-tcp", None, "BYTES", "ignored likewise"),
    value("memory", None, "BYTES", "memory limit; k, m and g are understood, -1 is no limit"),
    value("memory-reservation", None, "BYTES", "soft limit"),
    value("memory-swap", None, "BYTES", "limit of memory and swap together; -1 is no limit"),
    value("pids-limit", None, "N", "how many processes"),
    value("l3-cache-schema", None, "SCHEMA", "Intel RDT, of a container that has it"),
    value("mem-bw-schema", None, "SCHEMA", "likewise"),
];

pub const UPDATE: Command = Command {
    name: "update",
    words: "<container-id>",
    about: "change the limits of a container",
    flags: FLAGS,
    until: Until::End,
    clones: false,
    run: update,
};

/// A flag, its place in `linux.resources`, and how it is read.
const PLACES: [(&str, &str, &str, Reading); 14] = [
    ("blkio-weight", "blockIO", "weight", Reading::Number),
    ("cpu-period", "cpu", "period", Reading::Number),
    ("cpu-quota", "cpu", "quota", Reading::Number),
    ("cpu-burst", "cpu", "burst", Reading::Number),
    ("cpu-share", "cpu", "shares", Reading::Number),
    ("cpu-rt-period", "cpu", "realtimePeriod", Reading::Number),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", Reading::Number),
    ("cpu-idle", "cpu", "idle", Reading::Number),
    ("cpuset-cpus", "cpu", "cpus", Reading::Text),
    ("cpuset-mems", "cpu", "mems", Reading::Text),
    ("memory", "memory", "limit", Reading::Bytes),
    ("memory-reservation", "memory", "reservation", Reading::Bytes),
    ("memory-swap", "memory", "swap", Reading::Bytes),
    ("pids-limit", "pids", "limit", Reading::Number),
];

#[derive(Debug, Clone, Copy)]
enum Reading {
    Number,
    Bytes,
    Text,
}

fn update(berth: &Berth, given: &Given) -> Result<u8, Error> {
    let [id] = given.words("update")?;
    let (_lock, container) = berth.locked(id)?;
    if container.status()? == Status::Stopped {
        return Err(Error::NotRunning);
    }
    if ["l3-cache-schema", "mem-bw-schema"].iter().any(|flag| given.value(flag).is_some()) {
        return Err(Error::Unimplemented("updating an Intel RDT configuration is not supported"));
    }
    if ["kernel-memory", "kernel-memory-tcp"].iter().any(|flag| given.value(flag).is_some()) {
        berth.log.warn("Kernel memory settings are ignored and will be removed");
    }
    let resources = match given.text("resources")? {
        Some(file) => from_file(file)?,
        None => from_flags(given)?,
    };
    container.update(&resources)?;
    Ok(0)
}

fn from_file(file: &str) -> Result<LinuxResources, Error> {
    let mut json = Vec::new();
    match file {
        "-" => std::io::stdin().read_to_end(&mut json).map(drop).map_err(Error::file("read", "standard input"))?,
        file => json = std::fs::read(file).map_err(Error::file("open", file))?,
    }
    let json = serde_json::from_slice(&json).map_err(|source| Error::Json { what: file.to_owned(), source })?;
    resources(json)
}

fn from_flags(given: &Given) -> Result<LinuxResources, Error> {
    let mut found = Map::new();
    for (flag, part, name, reading) in PLACES {
        let Some(text) = given.text(flag)? else { continue };
        let part = found.entry(part).or_insert_with(|| json!({}));
        part[name] = read(flag, text, reading)?;
    }
    resources(Value::Object(found))
}

fn read(flag: &'static str, text: &str, reading: Reading) -> Result<Value, Error> {
    let bad = |wanted| Error::Value { flag, value: text.to_owned(), wanted };
    Ok(match reading {
        Reading::Text => text.into(),
        Reading::Number => text.parse::<i64>().map_err(|_| bad("a number in range"))?.into(),
        Reading::Bytes if text == "-1" => (-1).into(),
        Reading::Bytes => bytes(text).ok_or_else(|| bad("a size"))?.into(),
    })
}

/// What is left out stays as it is.
fn resources(mut json: Value) -> Result<LinuxResources, Error> {
    // A limit is taken away together with that of swap, which cannot be above it.
    if let Some(memory) = json.get_mut("memory").filter(|memory| memory["limit"] == -1 && memory["swap"].is_null()) {
        memory["swap"] = (-1).into();
    }
    serde_json::from_value(json).map_err(|source| Error::Json { what: "the resources".to_owned(), source })
}

/// `33554432`, `32m`, `1.5GiB`: in units of 1024.
fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let number = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(number)?;
    let unit = unit.trim();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << (10 * power));
    }
    let bytes = number.parse::<f64>().ok()? * f64::from(1024).powi(power);
    (bytes >= 0.0 && bytes < i64::MAX as f64).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn given(line: &str) -> Given {
        super::super::flags::parse(FLAGS, Until::End, line.split(' ').map(OsString::from)).unwrap()
    }

    #[test]
    fn sizes_are_in_units_of_1024() {
        assert_eq!(bytes("33554432"), Some(33_554_432));
        assert_eq!(bytes("32m"), Some(33_554_432));
        assert_eq!(bytes("32MiB"), Some(33_554_432));
        assert_eq!(bytes("1.5g"), Some(1_610_612_736));
        for bad in ["", "m", "1x", "-5", "9999999999999999999", "1e400p"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn flags_become_resources() {
        let resources = from_flags(&given("c --memory 32m --pids-limit 7 --cpuset-cpus 0 --cpu-quota -1")).unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(33_554_432));
        assert_eq!(resources.pids().unwrap().limit(), 7);
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.cpus().as_deref(), cpu.period()), (Some(-1), Some("0"), None));
        let resources = from_flags(&given("c --memory -1")).unwrap();
        assert_eq!(resources.memory().unwrap().swap(), Some(-1));
        assert!(from_flags(&given("c --memory much")).is_err());
        assert!(from_flags(&given("c --blkio-weight 70000")).is_err());
    }
}
