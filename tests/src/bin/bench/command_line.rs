//! The OCI command lines by themselves, without a containerd: `berth run` beside `runc run` and `crun run` of the same
//! bundle, whose spec is that of a `ctr run` with a new network namespace and a seccomp profile of 400 names.

use anyhow::{Context, Result};
use berth_tests::containerd::Containerd;
use berth_tests::image;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::blocks::{self, Spacing};
use crate::contender::{Contender, environment, timed};
use crate::report::Report;
use crate::stage;
use crate::statistics::Random;

/// Measures `run` of `true`, from before the command's fork to after its end, when the container is deleted again.
pub fn measure(
    containerd: &Containerd,
    contenders: &[Contender],
    blocks: usize,
    random: &mut Random,
    report: &mut Report,
) -> Result<()> {
    let spec = stage::spec(containerd, &contenders[0])?;
    let directory = containerd.directory().join("command-line");
    let rootfs = directory.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    image::unpack(&rootfs)?;
    let bundles: Vec<Bundle<'_>> = contenders
        .iter()
        .map(|contender| Bundle::make(contender, &spec, &directory, containerd.namespace()))
        .collect::<Result<_>>()?;
    report.table("The command lines: `run` of `true` in a bundle, without a containerd".to_owned());
    for spacing in Spacing::BOTH {
        let mut sample = |contender: usize, number| Ok([timed(&mut bundles[contender].run(number))?]);
        let [samples] = blocks::measure(contenders.len(), blocks, spacing, random, &mut sample)?;
        report.latencies(format!("`run`, {spacing}"), &samples, random);
    }
    Ok(())
}

/// A contender's bundle and the directory of its state.
struct Bundle<'a> {
    contender: &'a Contender,
    bundle: PathBuf,
    root: PathBuf,
    shim: PathBuf,
}

impl<'a> Bundle<'a> {
    fn make(contender: &'a Contender, spec: &Value, directory: &Path, namespace: &str) -> Result<Bundle<'a>> {
        let bundle = directory.join(contender.name);
        fs::create_dir_all(&bundle)?;
        let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime-core/tests/profiles/default.json");
        let profile = fs::read_to_string(&profile).with_context(|| format!("read {}", profile.display()))?;
        let mut spec = spec.clone();
        spec["process"]["args"] = json!(["true"]);
        spec["root"]["path"] = json!(directory.join("rootfs"));
        spec["linux"]["cgroupsPath"] = format!("/{namespace}/{}", contender.name).into();
        spec["linux"]["seccomp"] = serde_json::from_str(&profile)?;
        fs::write(bundle.join("config.json"), spec.to_string())?;
        let shim = berth_tests::version::shim()?;
        Ok(Bundle { contender, root: bundle.join("state"), bundle, shim })
    }

    fn run(&self, number: usize) -> Command {
        let mut command = match self.contender.binary() {
            Some(binary) => Command::new(binary),
            None => {
                let mut command = Command::new(&self.shim);
                command.arg0("berth");
                command
            }
        };
        command.envs(environment()).arg("--root").arg(&self.root).arg("run");
        command.arg("--bundle").arg(&self.bundle).arg(format!("l{number}"));
        command
    }
}
