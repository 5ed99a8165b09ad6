//! The case in hand: made ready and proved right when criterion first wants it, timed as often as criterion asks, and checked
//! again before criterion may tell.
//!
//! Criterion knows benchmarks that run and no others. One that can't, or that is wrong, unwinds out of it with the reason, which
//! `main` catches; that is no panic, and no hook sees it.

use ridgepoint_core::{Metric, Seconds};
use ridgepoint_device::Result;
use ridgepoint_harness::{Bench, Refused};
use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;

/// A place for one case.
pub(crate) struct Hand<'d> {
    bench: RefCell<Option<Bench<'d>>>,
    metric: Cell<Metric>,
    /// Something was timed that was not checked yet.
    unchecked: Cell<bool>,
}

impl<'d> Hand<'d> {
    pub(crate) fn empty() -> Self {
        Self { bench: RefCell::new(None), metric: Cell::new(Metric::Bandwidth), unchecked: Cell::new(false) }
    }

    /// The figure that the case is about.
    pub(crate) fn metric(&self) -> Metric {
        self.metric.get()
    }

    /// Puts down what was held, its memory with it, for a case about `metric`.
    pub(crate) fn clear(&self, metric: Metric) {
        self.bench.replace(None);
        self.unchecked.set(false);
        self.metric.set(metric);
    }

    /// Makes the case ready and warm, if it is not yet.
    pub(crate) fn hold(&self, prove: impl FnOnce() -> std::result::Result<Bench<'d>, Refused>) {
        let mut held = self.bench.borrow_mut();
        if held.is_none() {
            let mut bench = prove().unwrap_or_else(|refused| stop(refused));
            right(bench.warm_up());
            *held = Some(bench);
        }
    }

    /// The time of so many executions.
    pub(crate) fn time(&self, executions: u64) -> Seconds {
        self.unchecked.set(true);
        let mut held = self.bench.borrow_mut();
        held.as_mut().map_or(Seconds(0.0), |bench| right(bench.time(executions)).seconds)
    }

    /// Checks what was timed, unless it has been since.
    pub(crate) fn check(&self) {
        if self.unchecked.replace(false)
            && let Some(bench) = self.bench.borrow_mut().as_mut()
        {
            let verification = right(bench.verify());
            if !verification.passed() {
                stop(Refused::Wrong(verification));
            }
        }
    }
}

fn right<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| stop(Refused::Error(error)))
}

fn stop(refused: Refused) -> ! {
    resume_unwind(Box::new(refused))
}
