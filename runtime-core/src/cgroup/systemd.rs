//! The cgroup of a container as a scope of systemd's, which makes it and would undo what it did not hear of.
//!
//! A scope begins with a process. A container's own is not there yet when its limits are set, and is born right into its
//! cgroup where clone3(2) can do that; so the scope begins with a bystander, which goes when the container's process is in.

mod bus;
mod properties;
mod unit;

use rustix::process::Pid;

pub use bus::Error;
pub(super) use properties::whole_percents;
pub(super) use unit::Unit;

use super::Error as CgroupError;
use super::resources::{Limits, Setting};
use bus::Manager;
use properties::Property;

/// Starts the scope with `pid` in it, and all that systemd can be told of its limits.
pub(super) fn start(unit: &Unit, pid: Pid, limits: &Limits, v2: bool) -> Result<(), CgroupError> {
    try_start(unit, pid, limits, v2).map_err(failed("start", unit))
}

fn try_start(unit: &Unit, pid: Pid, limits: &Limits, v2: bool) -> Result<(), Error> {
    let mut manager = Manager::connect()?;
    let version = manager.version()?;
    let mut properties = properties::of_scope(unit, pid.as_raw_nonzero().get().cast_unsigned());
    properties.push(properties::io_accounting(v2));
    properties.extend(told(limits, version));
    match manager.start(&unit.name, &properties) {
        // A failed one of this name may be all that is left of somebody.
        Err(error) if error.is(".UnitExists") => {
            manager.reset_failed(&unit.name)?;
            manager.start(&unit.name, &properties)
        }
        result => result,
    }
}

/// What a scope's limits are to a systemd of this version.
pub(super) fn told(limits: &Limits, version: u32) -> impl Iterator<Item = Property> {
    let start = properties::at_start(&limits.settings, version);
    let limited = properties::of_limits(&limits.settings, version);
    start.into_iter().chain(limited).chain(properties::of_devices(&limits.rules))
}

/// Changes the limits that systemd knows.
pub(super) fn update(unit: &Unit, settings: &[Setting]) -> Result<(), CgroupError> {
    try_update(unit, settings).map_err(failed("change", unit))
}

fn try_update(unit: &Unit, settings: &[Setting]) -> Result<(), Error> {
    let mut manager = Manager::connect()?;
    let version = manager.version()?;
    let properties = properties::of_limits(settings, version);
    if properties.is_empty() { Ok(()) } else { manager.set(&unit.name, &properties) }
}

/// Ends the scope, whose cgroups are gone, and returns when its name is free. One that is gone is no error.
pub(super) fn stop(unit: &Unit) -> Result<(), CgroupError> {
    try_stop(unit).map_err(failed("stop", unit))
}

fn try_stop(unit: &Unit) -> Result<(), Error> {
    let gone = |result: Result<(), Error>| match result {
        Err(error) if error.is(".NoSuchUnit") => Ok(()),
        result => result,
    };
    let mut manager = match Manager::connect() {
        // Without a bus systemd still sees that nobody is in it.
        Err(Error::Bus(_) | Error::NoSystemd) => return Ok(()),
        manager => manager?,
    };
    gone(manager.stop(&unit.name))?;
    gone(manager.reset_failed(&unit.name))
}

fn failed(act: &'static str, unit: &Unit) -> impl FnOnce(Error) -> CgroupError {
    move |source| CgroupError::Unit { act, unit: unit.name.clone(), source }
}
