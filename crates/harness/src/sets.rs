//! How many sets of operands a cold case goes over, so that each execution finds its own in no cache.

use ridgepoint_core::{Bytes, DeviceInfo};

/// Most sets: filling and checking more takes longer than emptying the caches before each execution.
pub const MOST_SETS: u64 = 256;

/// So many that between two executions on one set twice the last-level cache goes by, where an execution moves `moved` bytes and a set
/// occupies `held`. One where an execution moves more than that itself, and where there would be more than [`MOST_SETS`] or they
/// would take more than a quarter of the memory: then the caches are emptied before each ([`crate::Ready::cold_by_itself`] says which).
#[must_use]
pub fn operand_sets(info: &DeviceInfo, moved: Bytes, held: Bytes) -> u64 {
    sets([info.last_level_cache(), info.memory].map(|bytes| bytes.0), moved.0, held.0)
}

/// The same for what is read as a whole each time: two sets even of what is far larger than a cache, so that nothing that an execution left
/// there serves the next.
#[must_use]
pub fn operand_sets_or_two(info: &DeviceInfo, moved: Bytes, held: Bytes) -> u64 {
    if moved.0 > 2 * info.last_level_cache().0 { 2 } else { operand_sets(info, moved, held) }
}

fn sets([cache, memory]: [u64; 2], moved: u64, held: u64) -> u64 {
    let wanted = 2 * cache / moved.max(1) + 1;
    if wanted <= MOST_SETS && wanted.saturating_mul(held) <= memory / 4 { wanted } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_between_is_never_less_than_twice_the_cache() {
        let of = |moved: u64, held: u64| sets([50 << 20, 80 << 30], moved, held);
        assert_eq!(of(200 << 20, 200 << 20), 1);
        assert_eq!(of(8 << 20, 8 << 20), 13);
        // A window over a long cache moves little of what lies there.
        assert_eq!(of(16 << 20, 1 << 30), 7);
        assert_eq!(of(16 << 20, 4 << 30), 1, "too much memory");
        assert_eq!(of(1 << 20, 1 << 20), 101);
        assert_eq!(of(4096, 4096), 1, "too many");
    }
}
