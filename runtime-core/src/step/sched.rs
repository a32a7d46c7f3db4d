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

impl BitSet {
    /// Puts a number in.
    pub fn insert(&mut self, bit: u32) {
        let word = bit as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (bit % 64);
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
}
