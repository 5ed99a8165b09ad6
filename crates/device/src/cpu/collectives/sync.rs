//! Waiting across processes: a number in shared memory that only grows, and a barrier made of it. Whoever waits spins first,
//! since peers are usually less than a microsecond away, and then sleeps in a futex, so that a late peer gets the core.
//!
//! No wait is without an end: a sleeper wakes every few milliseconds and asks its caller whether to go on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often a sleeper asks whether it should give up.
const SLICE: Duration = Duration::from_millis(20);

/// A number that only grows (it may wrap), on a cache line of its own.
#[repr(C, align(64))]
pub(super) struct Flag {
    value: AtomicU32,
    sleepers: AtomicU32,
}

impl Flag {
    pub(super) fn get(&self) -> u32 {
        self.value.load(Ordering::Acquire)
    }

    /// Stores `value` and wakes whoever sleeps for it. What was written before is seen by whoever sees the value.
    pub(super) fn set(&self, value: u32) {
        // Both are sequentially consistent, as is the other side: either this load sees the sleeper, or it sees the value.
        self.value.store(value, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            wake(&self.value);
        }
    }

    /// Waits until the value is `target` or past it; false if `give_up` said so. It is asked before the first sleep and after
    /// each slice of it, not while spinning.
    pub(super) fn reach(&self, target: u32, spins: u32, give_up: &mut dyn FnMut() -> bool) -> bool {
        let reached = |value: u32| value.wrapping_sub(target) as i32 >= 0;
        for _ in 0..spins {
            if reached(self.get()) {
                return true;
            }
            std::hint::spin_loop();
        }
        if reached(self.get()) {
            return true;
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let outcome = loop {
            let now = self.value.load(Ordering::SeqCst);
            if reached(now) {
                break true;
            }
            if give_up() {
                break false;
            }
            sleep(&self.value, now, SLICE);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

/// A barrier of any number of ranks.
#[repr(C, align(64))]
pub(super) struct Barrier {
    arrived: AtomicU32,
    phase: Flag,
}

impl Barrier {
    /// Waits for all `n`; false if `give_up` said so, after which the barrier is of no more use.
    pub(super) fn wait(&self, n: u32, spins: u32, give_up: &mut dyn FnMut() -> bool) -> bool {
        // Read before arriving: the last one to arrive moves it on.
        let phase = self.phase.get();
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 >= n {
            self.arrived.store(0, Ordering::Relaxed);
            self.phase.set(phase.wrapping_add(1));
            return true;
        }
        self.phase.reach(phase.wrapping_add(1), spins, give_up)
    }
}

/// Sleeps while the word is `value`, at most for `limit` (below a second); may wake for no reason.
fn sleep(word: &AtomicU32, value: u32, limit: Duration) {
    let limit = libc::timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos() as libc::c_long };
    // SAFETY: the word and the time live through the call; not private, since the sleepers are different processes.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const limit) };
}

fn wake(word: &AtomicU32) {
    // SAFETY: wakes whoever sleeps on the word; touches no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, libc::c_int::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::time::Instant;

    fn flag() -> Flag {
        Flag { value: AtomicU32::new(0), sleepers: AtomicU32::new(0) }
    }

    #[test]
    fn a_flag_is_reached_at_its_target_and_past_it_also_where_it_wraps() {
        let flag = flag();
        let mut never = || panic!("there was nothing to wait for");
        flag.set(5);
        assert!(flag.reach(5, 0, &mut never) && flag.reach(3, 0, &mut never));
        assert!(flag.reach(u32::MAX, 0, &mut never), "5 comes after the wrap");
        assert!(!flag.reach(6, 10, &mut || true));
    }

    #[test]
    fn a_wake_is_never_lost() {
        let (there, back, turns) = (flag(), flag(), 2000);
        let started = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 1..=turns {
                    assert!(there.reach(i, 0, &mut || false));
                    back.set(i);
                }
            });
            for i in 1..=turns {
                there.set(i);
                assert!(back.reach(i, 0, &mut || false));
            }
        });
        // A lost wake costs a whole slice; a few are allowed to a busy machine.
        assert!(started.elapsed() < SLICE * turns / 8, "{:?}", started.elapsed());
    }

    #[test]
    fn no_one_leaves_a_barrier_before_the_last_has_come() {
        let barrier = Barrier { arrived: AtomicU32::new(0), phase: flag() };
        let (n, rounds) = (3, 2000u64);
        let work = AtomicU64::new(0);
        for spins in [0, 200] {
            work.store(0, Ordering::Relaxed);
            std::thread::scope(|scope| {
                for _ in 0..n {
                    scope.spawn(|| {
                        for round in 1..=rounds {
                            work.fetch_add(1, Ordering::Relaxed);
                            assert!(barrier.wait(n, spins, &mut || false));
                            let seen = work.load(Ordering::Relaxed);
                            assert!((round * 3..=round * 3 + 2).contains(&seen), "{seen} in round {round}");
                        }
                    });
                }
            });
        }
    }
}
