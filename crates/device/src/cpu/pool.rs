//! The CPU device's threads: one pinned to each core that this process may use, joined by a barrier that spins before it
//! sleeps, so that a parallel region costs about a microsecond and not a thread's start.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// How often a waiting thread looks before it lets the operating system take the core.
const SPINS: u32 = 20_000;

type Job = *const (dyn Fn(usize, usize) + Sync);

struct Shared {
    /// Raised by one for each job; a worker runs when it sees a new value.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// Threads that take part, the caller among them.
    threads: AtomicUsize,
    finished: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is written by the caller of `run` while no worker reads it (all have finished the job before), published by
// the release store to `epoch`, and read after an acquire load of it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A team of pinned threads; the caller of [`Pool::run`] is thread 0 and is pinned by the device while it measures.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, JoinHandle<()>)>,
    cores: Vec<usize>,
    /// Held while a job runs, so that two callers take turns.
    turn: Mutex<()>,
}

impl Pool {
    /// A thread for each core in `cores`, less one: the caller's. A core whose thread cannot be started is left out.
    #[must_use]
    pub fn new(cores: &[usize]) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            threads: AtomicUsize::new(1),
            finished: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new(), cores: cores.iter().take(1).copied().collect(), turn: Mutex::new(()) };
        for core in cores.iter().skip(1).copied() {
            let (shared, index) = (Arc::clone(&pool.shared), pool.workers.len() + 1);
            let work = move || {
                super::affinity::pin(core);
                worker(&shared, index);
            };
            if let Ok(handle) = std::thread::Builder::new().name(format!("cpu-{core}")).spawn(work) {
                pool.workers.push((handle.thread().clone(), handle));
                pool.cores.push(core);
            }
        }
        pool.shared.threads.store(pool.workers.len() + 1, Ordering::Relaxed);
        pool
    }

    /// Threads of the team.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The cores they are pinned to.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// Runs `job(thread, threads)` once on every thread and returns when all are done. Not to be called from within a job.
    ///
    /// # Panics
    /// If the job panicked on any thread.
    pub fn run(&self, job: &(dyn Fn(usize, usize) + Sync)) {
        let threads = self.threads();
        if threads == 1 {
            return job(0, 1);
        }
        // A caller whose job panicked left nothing half done: its job was over on every thread.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the lifetime is erased; this function returns after every worker has finished with the job.
        let erased: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), Job>(job) };
        // SAFETY: no worker reads `job` now: each waits for the next epoch, having finished the last, and the turn is ours.
        unsafe { *self.shared.job.get() = Some(erased) };
        self.shared.finished.store(0, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for (thread, _) in &self.workers {
            thread.unpark();
        }
        let own = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(0, threads)));
        let mut spins = 0;
        while self.shared.finished.load(Ordering::Acquire) < self.workers.len() {
            spins += 1;
            if spins % SPINS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!self.shared.panicked.swap(false, Ordering::Relaxed), "a kernel panicked on a worker thread");
    }

    /// Runs `job(part, range)` with `0..n` cut into one contiguous range a thread, each a multiple of `grain` but the last.
    pub fn split(&self, n: usize, grain: usize, job: &(dyn Fn(usize, std::ops::Range<usize>) + Sync)) {
        self.run(&|thread, threads| {
            let grains = n.div_ceil(grain.max(1));
            let at = |t: usize| (grains * t / threads * grain.max(1)).min(n);
            job(thread, at(thread)..if thread + 1 == threads { n } else { at(thread + 1) });
        });
    }
}

fn worker(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::park() }
        }
        seen += 1;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let threads = shared.threads.load(Ordering::Relaxed);
        // SAFETY: the acquire load above saw the epoch that was stored after the job; the caller keeps it alive until
        // `finished` says that all are done.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: as above.
            let run = std::panic::AssertUnwindSafe(|| unsafe { (*job)(index, threads) });
            if std::panic::catch_unwind(run).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.finished.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for (thread, handle) in self.workers.drain(..) {
            thread.unpark();
            // A worker's panic was reported by `run`.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_each_job_once() {
        let pool = Pool::new(&[0, 0, 0]);
        for _ in 0..1000 {
            let counts: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|thread, threads| {
                assert_eq!(threads, 3);
                counts[thread].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn ranges_cover_all_and_never_overlap() {
        let pool = Pool::new(&[0, 0, 0]);
        for (n, grain) in [(0, 4), (1, 4), (100, 16), (96, 16), (7, 1)] {
            let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            pool.split(n, grain, &|_, range| {
                for seen in &seen[range] {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(seen.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{n} by {grain}");
        }
    }

    #[test]
    fn a_panic_in_a_kernel_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(&[0, 0]);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.run(&|t, _| assert!(t != 1, "seeded"))));
        assert!(panicked.is_err());
        pool.run(&|_, _| {});
    }
}
