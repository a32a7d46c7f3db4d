//! Where the time goes: each action of a shim by itself, and what is left of ctr's times without them.

use anyhow::Result;
use berth_tests::containerd::Containerd;
use berth_tests::scene::{Runtime, Scene};

use crate::blocks::{self, Samples, Spacing};
use crate::contender::Contender;
use crate::latency::Totals;
use crate::report::Report;
use crate::stage::{self, Stage};
use crate::statistics::Random;

/// What containerd does to run and remove a container, in its order.
const RUN: [&str; 8] = [
    "`start`, process to its end",
    "Create",
    "Start",
    "Wait for the end of `true`",
    "Delete",
    "Shutdown",
    "`delete`, process to its end",
    "**sum**",
];

/// What containerd does for an exec.
const EXEC: [&str; 5] = ["Exec", "Start", "Wait for the end of `true`", "Delete", "**sum**"];

/// Measures all actions. `totals` are ctr's times of the same.
pub fn measure(
    containerd: &Containerd,
    contenders: &[Contender],
    blocks: usize,
    random: &mut Random,
    totals: &Totals,
    report: &mut Report,
) -> Result<()> {
    let spec = stage::spec(containerd, &contenders[0])?;
    let scenes: Vec<Scene<'_>> = contenders
        .iter()
        .map(|contender| Scene::new(containerd, if contender.is_ours() { Runtime::Berth } else { Runtime::Runc }))
        .collect();
    let mut perform = || -> Result<()> {
        let stages = contenders.iter().zip(&scenes).map(|(contender, scene)| Stage::new(contender, scene, &spec));
        let stages: Vec<Stage<'_>> = stages.collect::<Result<_>>()?;
        for (spacing, total) in Spacing::BOTH.into_iter().zip(&totals.run) {
            report.table(format!("Inside the shim: `ctr run --rm` of `true`, {spacing}"));
            let mut sample = |contender: usize, number| stages[contender].run(number);
            let samples = blocks::measure(stages.len(), blocks, spacing, random, &mut sample)?;
            rows("ctr run --rm", &RUN, &samples, total, random, report);
        }
        let hosts = stages.iter().map(Stage::host).collect::<Result<Vec<_>>>()?;
        for (spacing, total) in Spacing::BOTH.into_iter().zip(&totals.exec) {
            report.table(format!("Inside the shim: `ctr task exec` of `true`, {spacing}"));
            let mut sample = |contender: usize, number| hosts[contender].exec(number);
            let samples = blocks::measure(stages.len(), blocks, spacing, random, &mut sample)?;
            rows("ctr task exec", &EXEC, &samples, total, random, report);
        }
        hosts.into_iter().try_for_each(|host| host.end())
    };
    let failure = perform().err().map(|error| format!("{error:#}"));
    for scene in scenes {
        scene.finish(failure.clone().map_or(Ok(()), |error| Err(anyhow::anyhow!(error))))?;
    }
    Ok(())
}

/// The actions, their sum, and what ctr and containerd need around it.
fn rows<const ACTIONS: usize>(
    command: &str,
    actions: &[&str; ACTIONS],
    samples: &[Samples; ACTIONS],
    total: &[f64],
    random: &mut Random,
    report: &mut Report,
) {
    let mut sums = Vec::new();
    for (action, samples) in actions.iter().zip(samples) {
        sums = report.latencies((*action).to_owned(), samples, random);
    }
    let around: Vec<f64> = total.iter().zip(&sums).map(|(total, sum)| total - sum).collect();
    report.times(format!("`{command}` above"), total);
    report.times(format!("`{command}` less the sum: ctr and containerd"), &around);
    // Berth's own: what the others leave to the background may run beside ctr and be counted here.
    let floor = around[0];
    let others = total[1..].iter().map(|theirs| format!("{:.2}", floor / theirs));
    report.note(format!(
        "A shim in Berth's place that took no time at all would leave these {floor:.1} ms: {} of the others' `{command}`.",
        others.collect::<Vec<_>>().join(" and ")
    ));
}
