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

/// Measures all series.
pub fn measure(
    containerd: &Containerd,
    contenders: &[Contender],
    blocks: usize,
    random: &mut Random,
    report: &mut Report,
) -> Result<()> {
    let make = |contender: &Contender, sample| contender.run(containerd, &format!("r{sample}"), &["true"]);
    series("`ctr run --rm` of `true`", contenders, blocks, random, report, &make)?;

    for contender in contenders {
        contender.start(containerd, &contender.host())?;
    }
    let make = |contender: &Contender, sample| contender.exec(containerd, &format!("e{sample}"));
    series("`ctr task exec` of `true`", contenders, blocks, random, report, &make)?;
    for contender in contenders {
        remove(containerd, &contender.host())?;
    }

    let client: Vec<f64> =
        (0..blocks).map(|_| timed(&mut containerd.ctr_command(&["version"]))).collect::<Result<_>>()?;
    report.note(format!("`ctr version`, which does nothing, takes {:.1} ms: the client's own share.", median(&client)));
    Ok(())
}

/// One operation, back to back and spaced.
fn series(
    what: &str,
    contenders: &[Contender],
    blocks: usize,
    random: &mut Random,
    report: &mut Report,
    make: Make<'_>,
) -> Result<()> {
    for spacing in Spacing::BOTH {
        eprintln!("{what}, {spacing}: {blocks} blocks");
        let mut sample = |contender: usize, number| Ok([timed(&mut make(&contenders[contender], number))?]);
        let [samples] = blocks::measure(contenders.len(), blocks, spacing, random, &mut sample)?;
        report.latencies(format!("{what}, {spacing}"), &samples, random);
    }
    Ok(())
}
