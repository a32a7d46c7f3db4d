//! How long `ctr run --rm` and `ctr task exec` of `true` take.

use anyhow::Result;
use berth_tests::containerd::Containerd;
use std::process::Command;

use crate::blocks::{self, Spacing};
use crate::contender::{Contender, remove, timed};
use crate::report::Report;
use crate::statistics::{Random, median};

/// Makes the command of one sample; the number is new in each.
type Make<'a> = &'a dyn Fn(&Contender, usize) -> Command;

/// Medians in milliseconds, contender by contender, in the order of [`Spacing::BOTH`].
pub struct Totals {
    /// Of `ctr run --rm`.
    pub run: [Vec<f64>; 2],
    /// Of `ctr task exec`.
    pub exec: [Vec<f64>; 2],
}

/// Measures all series.
pub fn measure(
    containerd: &Containerd,
    contenders: &[Contender],
    blocks: usize,
    random: &mut Random,
    report: &mut Report,
) -> Result<Totals> {
    let make = |contender: &Contender, sample| contender.run(containerd, &format!("r{sample}"), &["true"]);
    let run = series("`ctr run --rm` of `true`", contenders, blocks, random, report, &make)?;

    for contender in contenders {
        contender.start(containerd, &host(contender))?;
    }
    let make = |contender: &Contender, sample| {
        containerd.ctr_command(&["task", "exec", "--exec-id", &format!("e{sample}"), &host(contender), "true"])
    };
    let exec = series("`ctr task exec` of `true`", contenders, blocks, random, report, &make)?;
    for contender in contenders {
        remove(containerd, &host(contender))?;
    }

    let client: Vec<f64> =
        (0..blocks).map(|_| timed(&mut containerd.ctr_command(&["version"]))).collect::<Result<_>>()?;
    report.note(format!("`ctr version`, which does nothing, takes {:.1} ms: the client's own share.", median(&client)));
    Ok(Totals { run, exec })
}

/// The container that a contender's execs run in.
fn host(contender: &Contender) -> String {
    format!("host-{}", contender.name)
}

/// One operation, back to back and spaced.
fn series(
    what: &str,
    contenders: &[Contender],
    blocks: usize,
    random: &mut Random,
    report: &mut Report,
    make: Make<'_>,
) -> Result<[Vec<f64>; 2]> {
    let mut medians = [Vec::new(), Vec::new()];
    for (spacing, medians) in Spacing::BOTH.into_iter().zip(&mut medians) {
        eprintln!("{what}, {spacing}: {blocks} blocks");
        let mut sample = |contender: usize, number| Ok([timed(&mut make(&contenders[contender], number))?]);
        let [samples] = blocks::measure(contenders.len(), blocks, spacing, random, &mut sample)?;
        *medians = report.latencies(format!("{what}, {spacing}"), &samples, random);
    }
    Ok(medians)
}
