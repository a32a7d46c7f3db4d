//! Samples in blocks: in each, every contender runs twice, in a random order and then in the reverse of it.

use anyhow::Result;
use std::fmt;

use crate::contender::SPACE;
use crate::statistics::Random;

/// Blocks at the start of each series that do not count: caches fill, daemons wake.
const WARM_UP: usize = 2;

/// What lies between two samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    BackToBack,
    Spaced,
}

impl Spacing {
    pub const BOTH: [Spacing; 2] = [Spacing::BackToBack, Spacing::Spaced];
}

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spacing::BackToBack => f.write_str("back to back"),
            Spacing::Spaced => write!(f, "{} ms apart", SPACE.as_millis()),
        }
    }
}

/// The series of one quantity, by contender: the mean of the two samples in each block.
pub type Samples = Vec<Vec<f64>>;

/// Takes the samples of quantities that are measured together. `sample` gets the contender's index and a number that is
/// new in each.
pub fn measure<const QUANTITIES: usize>(
    contenders: usize,
    blocks: usize,
    spacing: Spacing,
    random: &mut Random,
    sample: &mut dyn FnMut(usize, usize) -> Result<[f64; QUANTITIES]>,
) -> Result<[Samples; QUANTITIES]> {
    let mut samples = std::array::from_fn(|_| vec![Vec::with_capacity(blocks); contenders]);
    let mut order: Vec<usize> = (0..contenders).collect();
    let mut number = (spacing as usize) << 20;
    for block in 0..WARM_UP + blocks {
        random.shuffle(&mut order);
        let mut sums = vec![[0.0; QUANTITIES]; contenders];
        for &contender in order.iter().chain(order.iter().rev()) {
            if spacing == Spacing::Spaced {
                std::thread::sleep(SPACE);
            }
            number += 1;
            let taken = sample(contender, number)?;
            sums[contender].iter_mut().zip(taken).for_each(|(sum, taken)| *sum += taken);
        }
        if block < WARM_UP {
            continue;
        }
        for (contender, sums) in sums.into_iter().enumerate() {
            samples.iter_mut().zip(sums).for_each(|(samples, sum)| samples[contender].push(sum / 2.0));
        }
    }
    Ok(samples)
}
