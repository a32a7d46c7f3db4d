//! Network devices that become the container's. All of it in a network namespace of the trial's own.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::bundle::Bundle;
use super::{Stop, Test, sys};

pub const TESTS: &[Test] =
    &[("net_devices_move_with_their_addresses", moved), ("net_device_that_cannot_move_fails_the_create", refused)];

/// Runs a trial as a host that has a pair of devices, `one` with addresses and `other` without.
fn on_a_host_of_its_own(trial: fn() -> Result<(), Stop>) -> Result<(), Stop> {
    if Command::new("ip").arg("-V").output().is_err() {
        return Err(Stop::CannotRun("there is no ip(8)"));
    }
    let run = move || {
        sys::unshare_network();
        for words in [
            "link add one type veth peer name other",
            "address add 10.7.0.1/24 dev one",
            "address add fd00::7/64 dev one nodad",
            "link set one up",
            "link set other up",
        ] {
            let done = Command::new("ip").args(words.split(' ')).output()?;
            assert!(done.status.success(), "{words}: {done:?}");
        }
        trial()
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| Err(Stop::Failed("it panicked".to_owned())))
}

fn moved() -> Result<(), Stop> {
    on_a_host_of_its_own(|| {
        let bundle = Bundle::new().sh("busybox ip -o address; echo up; exec sleep 100");
        let bundle = bundle.set("/linux/netDevices", json!({"one": {"name": "eth7"}, "other": {"name": "peer%d"}}));
        let mut live = bundle.start()?;
        let said = live.init.up();
        for expected in ["eth7    inet 10.7.0.1/24", "eth7    inet6 fd00::7/64", "peer0    inet6 fe80"] {
            let found = said.lines().any(|line| line.replace('\\', " ").contains(expected));
            assert!(found, "{expected}: {said}");
        }
        assert!(!fs::read_to_string("/proc/thread-self/net/dev")?.contains("one"));
        for name in ["eth7", "peer0"] {
            let exec = live.sh(&format!("busybox ip link show {name}"))?.success()?;
            assert!(exec.contains(",UP"), "{exec}");
        }
        Ok(())
    })
}

fn refused() -> Result<(), Stop> {
    on_a_host_of_its_own(|| {
        let said = Bundle::new().set("/linux/netDevices", json!({"absent": {}})).refused()?;
        assert_eq!(said, "linux.netDevices \"absent\": find the device: no such device");
        let said = Bundle::new().set("/linux/netDevices", json!({"one": {"name": "lo"}})).refused()?;
        assert_eq!(said, "linux.netDevices \"one\": move it to the container: file exists");
        let said = Bundle::new().namespace("network", None).set("/linux/netDevices", json!({"one": {}})).refused()?;
        assert_eq!(said, "linux.netDevices: unable to move network devices without a private NET namespace");
        Ok(())
    })
}
