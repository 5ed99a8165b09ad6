//! What values do to a GEMM: each case with data of every kind, in turns.

use super::{Job, Session, progress};
use crate::environment::now;
use crate::exit::{Failure, Outcome};
use ridgepoint_core::{Case, Component, Distribution};
use ridgepoint_harness::{Suite, measure_in_turns};
use std::collections::BTreeSet;

/// The case with each kind of data, the default first; empty for what is no GEMM, or cannot be said of it.
fn kinds(suite: &dyn Suite, case: &Case) -> Vec<Case> {
    if case.component != Component::Gemm {
        return Vec::new();
    }
    let id = case.id.as_str();
    let plain = id.split('/').filter(|segment| !segment.starts_with("data=")).collect::<Vec<_>>().join("/");
    let of = |data: Distribution| {
        if data == Distribution::Normal { suite.parse(&plain) } else { suite.parse(&format!("{plain}/data={}", data.word())) }
    };
    Distribution::GENERATED.into_iter().filter_map(of).collect()
}

/// The cases of the jobs that have kinds of data: each once, by device and provider.
fn groups(jobs: &[Job]) -> Vec<(&Job, Vec<Case>)> {
    let mut seen = BTreeSet::new();
    jobs.iter()
        .filter_map(|job| {
            let kinds = kinds(job.listed.suite, &job.listed.case);
            let first = kinds.first()?.id.clone();
            seen.insert((job.device, first, job.provider.clone())).then_some((job, kinds))
        })
        .collect()
}

impl Session {
    /// Measures the GEMM among `jobs` with data of every kind; false if it was interrupted before the end.
    pub(crate) fn measure_data(&mut self, jobs: &[Job]) -> Outcome<bool> {
        let groups = groups(jobs);
        if groups.is_empty() {
            return Err(Failure::usage(
                "--data-sweep is for GEMM, and none of these cases is one; try `ridgepoint run --data-sweep gemm/m4096n4096k4096/bf16`",
            ));
        }
        let progress = progress(groups.len());
        for (job, cases) in groups {
            let id = self.devices[job.device].info().id.clone();
            progress.set_message(format!("{id} {} {} with each kind of data", cases[0].id, job.provider));
            if !cases.iter().all(|case| self.is_done(&id, case.id.as_str(), &job.provider)) {
                let (started, interrupted) = (now(), self.interrupted.clone());
                let go_on = || !interrupted.load(std::sync::atomic::Ordering::Relaxed);
                let (device, how) = (self.devices[job.device].as_ref(), (&self.policy, self.seed));
                let measured = measure_in_turns(job.listed.suite, &cases, &job.provider, device, how, &go_on);
                if self.interrupted() {
                    // Turns that were cut off are no comparison: all of them are made again.
                    progress.abandon();
                    return Ok(false);
                }
                for (case, measured) in cases.iter().zip(measured) {
                    self.complete(job.device, case, &job.provider, measured, started.clone())?;
                }
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(true)
    }
}
