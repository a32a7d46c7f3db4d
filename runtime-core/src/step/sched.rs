//! Scheduling, as data.

/// `struct sched_attr` without its size. sched_setattr(2)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedAttr {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub runtime: u64,
    /// Likewise.
    pub deadline: u64,
    /// Likewise.
    pub period: u64,
}

/// A set of CPUs, or of NUMA nodes, as the kernel takes them: words of the machine's size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BitSet(pub Vec<u64>);

/// More CPUs, or NUMA nodes, no kernel has. linux/threads.h, linux/numa.h
const MOST: u32 = 8192;

impl BitSet {
    /// `0-3,7`. cpuset(7), "List format"
    #[must_use]
    pub fn parse(list: &str) -> Option<BitSet> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number < MOST);
        let mut set = BitSet::default();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            (first..=last).for_each(|bit| set.insert(bit));
        }
        Some(set)
    }

    /// Puts a number in.
    pub fn insert(&mut self, bit: u32) {
        let word = bit as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (bit % 64);
    }

    /// In ascending order.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        let of_word = |(index, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index as u32 * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(of_word)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for BitSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has = |bit: usize| self.0.get(bit / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0);
        let starts = (0..self.0.len() * 64).filter(|bit| has(*bit) && (*bit == 0 || !has(bit - 1)));
        for (index, start) in starts.enumerate() {
            let end = (start..).take_while(|bit| has(*bit)).last().unwrap_or(start);
            f.write_str(if index > 0 { "," } else { "" })?;
            if start == end { write!(f, "{start}")? } else { write!(f, "{start}-{end}")? }
        }
        Ok(())
    }
}

/// As one number, the way that masks are printed.
impl std::fmt::LowerHex for BitSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits: String = self.0.iter().rev().map(|word| format!("{word:016x}")).collect();
        let digits = digits.trim_start_matches('0');
        f.pad_integral(true, "0x", if digits.is_empty() { "0" } else { digits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_prints_as_a_list() {
        let mut set = BitSet::default();
        [0, 1, 2, 63, 64, 200].into_iter().for_each(|bit| set.insert(bit));
        assert_eq!(set.to_string(), "0-2,63-64,200");
        assert_eq!(BitSet::default().to_string(), "");
    }

    #[test]
    fn lists_are_sets() {
        let set = BitSet::parse("0-2,7,65").unwrap();
        assert_eq!(set.numbers().collect::<Vec<_>>(), [0, 1, 2, 7, 65]);
        assert_eq!(format!("{set:#x}"), "0x20000000000000087");
        assert_eq!(format!("{:#x}", BitSet::default()), "0x0");
        for bad in ["", "1-", "3-1", "9999999", "a"] {
            assert_eq!(BitSet::parse(bad), None, "{bad:?}");
        }
    }
}
