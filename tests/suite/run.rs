//! `ctr run` and its flags.

use crate::{Scenario, skip};
use anyhow::Result;
use berth_tests::scene::Scene;
use berth_tests::version::Version;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Both:
        output_and_exit_code_are_passed_on,
        a_signal_death_is_128_plus_the_signal,
        working_directory_is_set,
        user_is_set,
    ]
}

fn output_and_exit_code_are_passed_on(scene: &Scene<'_>) -> Result<()> {
    let outcome = scene.sh(&[], "a", "echo out; echo err >&2; exit 7")?;
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (7, "out\n", "err\n"), "{outcome}");
    Ok(())
}

fn a_signal_death_is_128_plus_the_signal(scene: &Scene<'_>) -> Result<()> {
    scene.see("killed by itself", scene.sh(&[], "a", "sh -c 'kill -SEGV $$'")?);
    Ok(())
}

fn working_directory_is_set(scene: &Scene<'_>) -> Result<()> {
    scene.see("cwd", scene.sh(&["--cwd", "/home/guest"], "a", "pwd; readlink /proc/self/cwd")?.success()?);
    Ok(())
}

fn user_is_set(scene: &Scene<'_>) -> Result<()> {
    if scene.version() == Version::V1_6 {
        return skip("ctr 1.6 has no --user");
    }
    for user in ["guest", "1000", "1000:2000", "guest:extra", "4321", "0:1000"] {
        scene.see(user, scene.sh(&["--user", user], "a", "id; grep -E 'Groups|Uid|Gid' /proc/self/status")?);
    }
    Ok(())
}
