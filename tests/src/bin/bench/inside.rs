//! Where the time goes: each action of a shim by itself, and what is left of ctr's times without them.

use anyhow::Result;
use berth_tests::containerd::Containerd;
use berth_tests::scene::{Runtime, Scene};
use std::process::Command;

use crate::blocks::{self, Samples, Spacing};
use crate::contender::{Contender, remove, timed};
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

/// Measures all actions, and in the same blocks ctr's times of the same.
pub fn measure(
    containerd: &Containerd,
    contenders: &[Contender],
    blocks: usize,
    random: &mut Random,
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
        let mut take = |contender: usize, number| stages[contender].run(number);
        let ctr = |contender: usize, number| contenders[contender].run(containerd, &format!("t{number}"), &["true"]);
        series("ctr run --rm", &RUN, (contenders.len(), blocks), random, report, &mut take, &ctr)?;

        let hosts = stages.iter().map(Stage::host).collect::<Result<Vec<_>>>()?;
        contenders.iter().try_for_each(|contender| contender.start(containerd, &contender.host()))?;
        let mut take = |contender: usize, number| hosts[contender].exec(number);
        let ctr = |contender: usize, number| contenders[contender].exec(containerd, &format!("t{number}"));
        series("ctr task exec", &EXEC, (contenders.len(), blocks), random, report, &mut take, &ctr)?;
        contenders.iter().try_for_each(|contender| remove(containerd, &contender.host()))?;
        hosts.into_iter().try_for_each(|host| host.end())
    };
    let failure = perform().err().map(|error| format!("{error:#}"));
    for scene in scenes {
        scene.finish(failure.clone().map_or(Ok(()), |error| Err(anyhow::anyhow!(error))))?;
    }
    Ok(())
}

/// Both spacings of a command and of its actions, a table each. A block has two samples of the one and two of the other
/// from every contender, so that what is left when the latter is taken from the former is of the same moment.
fn series<const ACTIONS: usize>(
    command: &str,
    actions: &[&str; ACTIONS],
    (contenders, blocks): (usize, usize),
    random: &mut Random,
    report: &mut Report,
    take: &mut dyn FnMut(usize, usize) -> Result<[f64; ACTIONS]>,
    ctr: &dyn Fn(usize, usize) -> Command,
) -> Result<()> {
    for spacing in Spacing::BOTH {
        report.table(format!("Inside the shim: `{command}` of `true`, {spacing}"));
        let mut sample = |lane: usize, number| match lane.checked_sub(contenders) {
            None => take(lane, number),
            Some(contender) => Ok([timed(&mut ctr(contender, number))?; ACTIONS]),
        };
        let samples = blocks::measure(2 * contenders, blocks, spacing, random, &mut sample)?;
        rows(command, actions, &samples, contenders, random, report);
    }
    Ok(())
}

/// The actions, their sum, and what ctr and containerd need around it.
fn rows<const ACTIONS: usize>(
    command: &str,
    actions: &[&str; ACTIONS],
    samples: &[Samples; ACTIONS],
    contenders: usize,
    random: &mut Random,
    report: &mut Report,
) {
    for (action, samples) in actions.iter().zip(samples) {
        report.latencies((*action).to_owned(), &samples[..contenders], random);
    }
    let (sums, totals) = samples[ACTIONS - 1].split_at(contenders);
    let around: Samples = totals
        .iter()
        .zip(sums)
        .map(|(totals, sums)| totals.iter().zip(sums).map(|(total, sum)| total - sum).collect())
        .collect();
    let totals = report.latencies(format!("`{command}`"), totals, random);
    // Berth's own: what the others leave to the background may run beside ctr and be counted here.
    let floor = report.latencies(format!("`{command}` less the sum: ctr and containerd"), &around, random)[0];
    let others = totals[1..].iter().map(|theirs| format!("{:.2}", floor / theirs));
    report.note(format!(
        "A shim in Berth's place that took no time at all would leave these {floor:.1} ms: {} of the others' `{command}`.",
        others.collect::<Vec<_>>().join(" and ")
    ));
}
