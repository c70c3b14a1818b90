//! How fast this machine's memory is read: the limit of every decode step.

use std::hint::black_box;
use std::time::Instant;

use crate::arena::Arena;
use crate::disjoint::Disjoint;
use crate::pool::Pool;

mod limits {
    /// More than any cache holds.
    pub(super) const WORDS: usize = 1 << 24;
    /// Readings, of which the fastest counts.
    pub(super) const READINGS: usize = 7;
}

/// Bytes a second that all threads of `pool` read from memory together.
pub fn read_bandwidth(pool: &Pool) -> f64 {
    let words = Arena::large().filled(limits::WORDS, 1_u64);
    let mut sums = vec![0; pool.threads()];
    let fastest = (0..limits::READINGS).map(|_| read_once(pool, &words, &mut sums));
    let seconds = fastest.fold(f64::INFINITY, f64::min);
    #[expect(clippy::cast_precision_loss, reason = "a size far below 2^52")]
    let bytes = size_of_val(&*words) as f64;
    bytes / seconds
}

fn read_once(pool: &Pool, words: &[u64], sums: &mut [u64]) -> f64 {
    let sums = Disjoint::new(sums);
    let start = Instant::now();
    pool.run(&|share| {
        let part = share.part(words.len(), 64);
        // SAFETY: each share has its own place.
        let sum = unsafe { sums.part(share.part(sums.len(), 1)) };
        sum.fill(black_box(words[part].iter().fold(0, |sum, word| sum ^ word)));
    });
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn memory_is_read_at_some_speed() {
        assert!(read_bandwidth(&Pool::new(Cpu::best(), 2)) > 1e6);
    }
}
