//! How long `ctr run --rm` and `ctr task exec` of `true` take.

use anyhow::Result;
use berth_tests::containerd::Containerd;
use std::process::Command;

use crate::contender::{Contender, SPACE, remove, timed};
use crate::report::Report;
use crate::statistics::{Random, Ratio, median};

/// Blocks at the start of each series that do not count: caches fill, daemons wake.
const WARM_UP: usize = 2;

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
    let run = |contender: &Contender, sample| contender.run(containerd, &format!("r{sample}"), &["true"]);
    series("`ctr run --rm` of `true`", contenders, blocks, random, report, &run)?;

    for contender in contenders {
        contender.start(containerd, &host(contender))?;
    }
    let exec = |contender: &Contender, sample| {
        containerd.ctr_command(&["task", "exec", "--exec-id", &format!("e{sample}"), &host(contender), "true"])
    };
    series("`ctr task exec` of `true`", contenders, blocks, random, report, &exec)?;
    for contender in contenders {
        remove(containerd, &host(contender))?;
    }

    let client: Vec<f64> =
        (0..blocks).map(|_| timed(&mut containerd.ctr_command(&["version"]))).collect::<Result<_>>()?;
    report.note(format!("`ctr version`, which does nothing, takes {:.1} ms: the client's own share.", median(&client)));
    Ok(())
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
) -> Result<()> {
    for spaced in [false, true] {
        let how = if spaced { format!("{} ms apart", SPACE.as_millis()) } else { "back to back".to_owned() };
        eprintln!("{what}, {how}: {blocks} blocks");
        let samples = blocks_of(contenders, blocks, spaced, random, make)?;
        let medians: Vec<f64> = samples.iter().map(|samples| median(samples)).collect();
        let ratios = samples[1..].iter().map(|theirs| Ratio::of(&samples[0], theirs, random)).collect();
        report.latencies(format!("{what}, {how}"), &medians, ratios);
    }
    Ok(())
}

/// Per contender, the mean of its two samples in each block.
fn blocks_of(
    contenders: &[Contender],
    blocks: usize,
    spaced: bool,
    random: &mut Random,
    make: Make<'_>,
) -> Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::with_capacity(blocks); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let mut number = usize::from(spaced) << 20;
    for block in 0..WARM_UP + blocks {
        random.shuffle(&mut order);
        let mut sums = vec![0.0; contenders.len()];
        for &contender in order.iter().chain(order.iter().rev()) {
            if spaced {
                std::thread::sleep(SPACE);
            }
            number += 1;
            sums[contender] += timed(&mut make(&contenders[contender], number))?;
        }
        if block >= WARM_UP {
            samples.iter_mut().zip(sums).for_each(|(samples, sum)| samples.push(sum / 2.0));
        }
    }
    Ok(samples)
}
