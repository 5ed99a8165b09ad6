//! The clock that the cores really run at, by counting: a chain of instructions that each take one cycle. What /proc says is
//! the nominal clock on a virtual machine, and an average over the past on a real one.

use super::affinity::Pinned;
use super::pool::Pool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Each core takes its best of this many tries: an interrupt only ever makes a core look slower.
const TRIES: usize = 5;
/// Rounds of 64 cycles in a try: about 15 µs, which the clock that times it resolves to 0.2 %.
const ROUNDS: u64 = 1000;

/// The mean clock of the pool's cores now; None on an architecture for which no such chain is known.
pub(super) fn mhz(pool: &Pool) -> Option<f64> {
    let _pinned = Pinned::to(pool.cores().first());
    let sum_hz = AtomicU64::new(0);
    pool.run(&|_, _| {
        let best = (0..TRIES).filter_map(|_| hz()).fold(0.0, f64::max);
        sum_hz.fetch_add(best as u64, Ordering::Relaxed);
    });
    let mean = sum_hz.into_inner() as f64 / pool.threads() as f64 / 1e6;
    (mean > 0.0).then_some(mean)
}

fn hz() -> Option<f64> {
    let start = Instant::now();
    let cycles = chain(ROUNDS)?;
    Some(cycles as f64 / start.elapsed().as_secs_f64())
}

/// Rotates a register by a constant 64 times a round, each rotation waiting for the last: one cycle each on every x86-64 core
/// since Sandy Bridge and Zen (Fog, instruction tables) and on Arm's Neoverse and Apple's cores. Additions would not do: newer
/// cores fold chains of them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn chain(rounds: u64) -> Option<u64> {
    let mut x = rounds | 1;
    for _ in 0..rounds {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: it changes one register of its own and the flags.
        unsafe {
            std::arch::asm!(".rept 64", "ror {x}, 7", ".endr", x = inout(reg) x, options(nomem, nostack));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: it changes one register of its own.
        unsafe {
            std::arch::asm!(".rept 64", "ror {x}, {x}, 7", ".endr", x = inout(reg) x, options(nomem, nostack));
        }
    }
    std::hint::black_box(x);
    Some(rounds * 64)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn chain(_rounds: u64) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_runs_between_half_and_ten_gigahertz() {
        if let Some(mhz) = mhz(&Pool::new(&[0])) {
            assert!((500.0..10_000.0).contains(&mhz), "{mhz} MHz");
        }
    }
}
