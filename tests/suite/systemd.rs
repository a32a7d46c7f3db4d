//! systemd's scopes, where systemd runs the host: in the guests.

use crate::{Scenario, skip};
use anyhow::{Result, ensure};
use berth_tests::scene::Scene;
use std::fs;
use std::path::Path;

pub fn scenarios() -> Vec<Scenario> {
    crate::scenarios![Berth: systemd_makes_the_cgroup_where_the_options_say_so]
}

fn systemd_makes_the_cgroup_where_the_options_say_so(scene: &Scene<'_>) -> Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        return skip("needs systemd as pid 1");
    }
    let options = scene.scratch()?.join("options.toml");
    fs::write(&options, "SystemdCgroup = true\n")?;
    let unit = format!("t-{}.scope", scene.id("a"));
    let path = format!("berthtests-ctr.slice:t:{}", scene.id("a"));
    scene.sleeper(&["--cgroup", &path, "--runtime-config-path", &options.to_string_lossy()], "a")?;
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", scene.pid("a")?))?;
    let scope = format!("/berthtests.slice/berthtests-ctr.slice/{unit}");
    ensure!(cgroups.lines().any(|line| line.ends_with(&scope)), "{cgroups}");
    let entered = scene.ctr(&["task", "exec", "--exec-id", "e", &scene.id("a"), "cat", "/proc/self/cgroup"])?;
    ensure!(entered.code == 0 && !entered.stdout.is_empty(), "{entered}");
    scene.discard("a")
}
