//! Bytes as a stream of decisions.

/// What is left of the bytes. A stream that has run dry decides 0 for ever.
#[derive(Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// A number below `bound`, or 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let width = if bound > 256 { 2 } else { 1 };
        let taken = self.0.split_off(..width.min(self.0.len())).unwrap_or_default();
        let number = taken.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        number.checked_rem(bound).unwrap_or(0)
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Yes once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        !self.0.is_empty() && self.below(n) == 0
    }

    /// Eight bytes as they are.
    pub fn word(&mut self) -> u64 {
        let taken = self.0.split_off(..8.min(self.0.len())).unwrap_or_default();
        taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
