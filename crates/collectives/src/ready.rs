//! A collective made ready: ranks up, outputs of every rank checked to the last element.

use crate::cases::Shape;
use crate::reference;
use crate::variants;
use ridgepoint_core::{Backend, Seconds, Verification};
use ridgepoint_device::{Checked, CollectiveProblem, Communicator, Device, Received, Result, Timing};
use ridgepoint_harness::verify::in_chunks;
use ridgepoint_harness::{Prepared, Ready};
use std::collections::BTreeMap;

pub(crate) fn prepare<'d>(shape: Shape, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let collectives = variants::find(device, provider, shape.ranks as usize)?;
    let dtype = collectives.encoding(shape.dtype);
    let problem = shape.problem(dtype, seed);
    let communicator = collectives.communicator(&problem)?;
    let config = communicator.config();
    let mut labels = Vec::new();
    if provider == "shared-memory" {
        labels.push("shared-memory engine".into());
    }
    if provider == "tcp" {
        labels.push("TCP engine".into());
    }
    // Another library or transport is another number.
    if provider == "mpi" {
        labels.extend(config.get("library").cloned());
    }
    labels.extend(config.get("planted fault").map(|fault| format!("planted fault {fault}")));
    // Buffers stay where the execution before left them, as in nccl-tests; on a host that may be a cache, which is faster than
    // the memory that the roof is made of.
    let buffers = shape.bytes.0 * 2 * shape.ranks;
    if device.info().backend == Backend::Cpu && buffers <= device.info().last_level_cache().0 {
        labels.push("cached".into());
    }
    if shape.ranks == 1 && shape.in_place {
        labels.push("nothing to move: one rank, in place".into());
    }
    if config.contains_key("oversubscribed") {
        labels.push("oversubscribed".into());
    }
    // Up to this many bytes a collective takes a fraction of a microsecond where ranks share a cache, too little for a sample to
    // last as long as it must; several of them do.
    let passes = if shape.bytes.0 <= SHORT { PASSES } else { 1 };
    Ok(Prepared { ready: Box::new(Run { communicator, problem, passes, length: 0 }), config, labels, dtype })
}

struct Run {
    communicator: Box<dyn Communicator>,
    problem: CollectiveProblem,
    /// Executions in one turn.
    passes: u64,
    /// Executions of the last timed run.
    length: u64,
}

/// Bytes of what is short.
const SHORT: u64 = 64 << 10;
/// Executions of what is short that are timed as one.
const PASSES: u64 = 16;

impl Ready for Run {
    fn passes(&self) -> u64 {
        self.passes
    }

    fn count(&mut self, executions: u64) {
        self.passes = (1..=self.passes).rev().find(|n| executions.is_multiple_of(*n)).unwrap_or(1);
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        self.communicator.run(self.passes() as usize).map(drop)
    }

    fn poison(&mut self) -> Result<()> {
        self.communicator.poison()
    }

    fn run_timed(&mut self, _first: usize, n: u64) -> Option<Result<Timing>> {
        // Runs of another length were to warm up.
        if std::mem::replace(&mut self.length, n) != n {
            self.communicator.forget();
        }
        Some(self.communicator.run((n * self.passes()) as usize))
    }

    fn observed(&self) -> BTreeMap<String, String> {
        let work = skew(&self.communicator.working()).map(|text| ("work of ranks".into(), text + ", mean over runs"));
        let late =
            skew(&self.communicator.lateness()).map(|text| ("lateness of ranks".into(), text + " after the first, median"));
        let times = over_ranks(&self.communicator.times()).map(|text| ("time of ranks".into(), text));
        work.into_iter().chain(late).chain(times).collect()
    }

    fn check(&mut self) -> Result<Verification> {
        let Outputs { found, tolerance, how } = outputs(self.communicator.as_mut(), &self.problem)?;
        let Checked { checked, wrong, error } = found;
        let error = if error.is_finite() { error } else { f64::MAX };
        Ok(Verification { method: how, error, tolerance, checked, wrong })
    }
}

/// What every rank's output was found to be.
pub(crate) struct Outputs {
    pub(crate) found: Checked,
    pub(crate) tolerance: f64,
    /// How it was looked at, in words.
    pub(crate) how: String,
}

/// Compares every element of every rank with what it must be: on the ranks' own devices where those can, else here.
pub(crate) fn outputs(communicator: &mut dyn Communicator, p: &CollectiveProblem) -> Result<Outputs> {
    let tolerance = reference::tolerance(p, communicator.rounding());
    let against = if tolerance > 0.0 { "against f64, relative to Σ|x|" } else { "exact" };
    if let Some(found) = communicator.check(tolerance)? {
        return Ok(Outputs { found, tolerance, how: format!("every element of every rank, on its own device, {against}") });
    }
    let mut found = Checked::default();
    // A rank that receives nothing has nothing to check.
    for rank in (0..p.ranks).filter(|rank| p.receives(*rank) > 0) {
        let (out, received) = (communicator.output(rank)?, Received::by(p, rank));
        let check = |range: std::ops::Range<u64>| received.check(&out, range.start as usize..range.end as usize, tolerance);
        in_chunks(p.receives(rank) as u64, check).into_iter().for_each(|part| found.merge(part));
    }
    Ok(Outputs { found, tolerance, how: format!("every element of every rank, {against}") })
}

/// Which rank works longest, without waiting, and which shortest; or which comes last and which first. Where all are alike, none
/// is slow.
fn skew(working: &[Seconds]) -> Option<String> {
    let all = || working.iter().enumerate();
    let (slow, most) = all().max_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
    let (fast, least) = all().min_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
    let micro = |s: &Seconds| s.0 * 1e6;
    Some(format!("{:.2} µs (rank {fast}) to {:.2} µs (rank {slow})", micro(least), micro(most)))
}

/// Smallest, 99th percentile and largest of the ranks' mean times.
fn over_ranks(times: &[Seconds]) -> Option<String> {
    let mut micro: Vec<f64> = times.iter().map(|s| s.0 * 1e6).collect();
    micro.sort_by(f64::total_cmp);
    let (least, most) = (micro.first()?, micro.last()?);
    let p99 = micro[((micro.len() as f64 * 0.99).ceil() as usize).clamp(1, micro.len()) - 1];
    Some(format!("min {least:.2} µs, p99 {p99:.2} µs, max {most:.2} µs over {} ranks", micro.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_over_ranks_are_min_p99_and_max() {
        let times: Vec<Seconds> = (1..=200).map(|i| Seconds(f64::from(i) * 1e-6)).collect();
        assert_eq!(over_ranks(&times).unwrap(), "min 1.00 µs, p99 198.00 µs, max 200.00 µs over 200 ranks");
        assert_eq!(over_ranks(&times[..1]).unwrap(), "min 1.00 µs, p99 1.00 µs, max 1.00 µs over 1 ranks");
        assert_eq!(over_ranks(&[]), None);
    }

    #[test]
    fn the_slow_rank_is_named() {
        let text = skew(&[Seconds(2e-6), Seconds(3.5e-6), Seconds(1e-6)]).unwrap();
        assert_eq!(text, "1.00 µs (rank 2) to 3.50 µs (rank 1)");
        assert_eq!(skew(&[]), None);
    }
}
