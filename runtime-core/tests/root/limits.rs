//! Limits that end what they limit.

use runtime_core::container::{Error, ErrorKind};
use serde_json::json;

use super::bundle::Bundle;
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("exec_beyond_the_pids_limit_says_so", pids),
    ("memory_limit_too_low_to_start_is_told", memory),
    ("missing_controller_is_refused_and_names_it", missing),
    ("update_changes_limits_of_a_running_container", update),
];

fn pids() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("exec sleep 100").set("/linux/resources/pids", json!({"limit": 1}));
    let live = bundle.start()?;
    let error = live.sh("true").err().map(|_| ());
    let outcome = live.exec(&super::bundle::shell("true"));
    match outcome {
        Err(error) => {
            let text = error.to_string();
            assert!(text.ends_with("resource temporarily unavailable"), "{text}");
        }
        Ok(_) => return Err("it ran".into()),
    }
    assert!(error.is_some());
    Ok(())
}

fn memory() -> Result<(), Stop> {
    let bundle = Bundle::new().set("/linux/resources/memory", json!({"limit": 4096}));
    let error = match bundle.create() {
        Err(error) => error,
        Ok(live) => live.container.start().err().ok_or("it started in one page")?,
    };
    let text = error.to_string();
    assert!(text.contains("ended before it was ready, with status 137") || text.contains("memory"), "{text}");
    Ok(())
}

fn missing() -> Result<(), Stop> {
    let limits = json!([{"pageSize": "3MB", "limit": 0}]);
    let error = Bundle::new().set("/linux/resources/hugepageLimits", limits).create().err().ok_or("created")?;
    assert!(matches!(error, Error::Cgroup(_)) && error.kind() != ErrorKind::NotFound, "{error:?}");
    assert!(error.to_string().contains("hugetlb"), "{error}");
    Ok(())
}

fn update() -> Result<(), Stop> {
    let live = Bundle::new().sh("exec sleep 100").start()?;
    let resources = serde_json::from_value(json!({"pids": {"limit": 1}}))?;
    live.container.update(&resources)?;
    assert!(live.exec(&super::bundle::shell("true")).is_err());
    let resources = serde_json::from_value(json!({"pids": {"limit": 100}}))?;
    live.container.update(&resources)?;
    assert_eq!(live.sh("echo in")?.success()?, "in");
    Ok(())
}
