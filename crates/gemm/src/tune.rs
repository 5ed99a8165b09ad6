//! Which of a provider's algorithms is fastest for a product. Each is tried in the order of the provider's own ranking, the best few
//! and its first choice then run in turn, and what was found is kept for the next run on the same chip, driver and library. How far
//! the first choice is behind is part of the record.

use ridgepoint_core::record::Tuning;
use ridgepoint_core::stats::Summary;
use ridgepoint_core::{DeviceInfo, Seconds};
use ridgepoint_device::{Device, DeviceError, GemmPlan, Result};
use ridgepoint_harness::{depth, recall, remember, trial};

/// Candidates that are timed in turn at the end, beside the first choice.
const FINALISTS: usize = 3;
/// Turns of each finalist: at least so many …
const TURNS: usize = 5;
/// … and as many as fit into this.
const FINAL: Seconds = Seconds(0.05);
const MOST_TURNS: usize = 100;
/// Slower than the best by this factor is not timed further.
const HOPELESS: f64 = 1.5;

/// One execution, over the next operand set.
type Run<'r> = dyn FnMut(&mut dyn GemmPlan) -> Result<()> + 'r;

/// Chooses the plan's algorithm; None where there is no choice. `what` names provider, library and product.
///
/// # Errors
/// `Unsupported` where no algorithm runs; a lost device.
pub(crate) fn tune(plan: &mut dyn GemmPlan, device: &dyn Device, what: &str, run: &mut Run<'_>) -> Result<Option<Tuning>> {
    let offered = plan.candidates();
    if offered < 2 {
        return Ok(None);
    }
    let depth = depth().min(offered);
    let mut tuning = Tuning { offered: offered as u32, ..Tuning::default() };
    let mut search = Search { plan, device, run };
    let kept = recall(device, what).and_then(|text| Kept::read(&text));
    // A search that went less deep than this one is to go has not seen all.
    let best = match kept.filter(|kept| kept.depth >= depth).map(|kept| search.find(&kept.name)) {
        Some(Ok(index)) => vec![index],
        Some(Err(DeviceError::Lost(reason))) => return Err(DeviceError::Lost(reason)),
        Some(Err(error)) => {
            tuning.note = Some(format!("what an earlier run found is left aside: {error}"));
            vec![]
        }
        None => vec![],
    };
    let finalists = if best.is_empty() { search.try_all(depth, &mut tuning)? } else { best };
    let (index, times) = search.finals(&finalists)?;
    search.plan.select(index)?;
    tuning.chosen = index as u32;
    if let (Some(first), Some(best)) = (times.first().filter(|_| index > 0), times.get(index_of(&finalists, index))) {
        (tuning.first, tuning.best) = (first.clone(), best.clone());
    }
    if tuning.tried > 0 {
        remember(device, what, &Kept { depth, name: search.plan.name(index) }.text());
    }
    Ok(Some(tuning))
}

/// The name of a finding: what of the device's libraries and of the product an algorithm's speed depends on.
pub(crate) fn what(provider: &str, library: Option<&str>, product: &str, info: &DeviceInfo) -> String {
    format!("gemm {provider} {} {product} {}", library.unwrap_or_default(), info.memory)
}

/// The same in words, for the record's configuration.
pub(crate) fn words(tuning: &Tuning) -> String {
    let Tuning { offered, tried, note, .. } = tuning;
    let note = note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
    if *tried == 0 {
        format!("{offered} offered, the fastest found by an earlier run")
    } else {
        format!("{offered} offered, {tried} tried{note}")
    }
}

/// Where a finalist's times are: the first choice's come first, whether it is one or not.
fn index_of(finalists: &[usize], index: usize) -> usize {
    if index == 0 { 0 } else { 1 + finalists.iter().filter(|i| **i > 0).position(|i| *i == index).unwrap_or(0) }
}

/// What is kept: how deep the search went, and what the fastest is called.
#[derive(Debug, PartialEq)]
struct Kept {
    depth: usize,
    name: String,
}

impl Kept {
    fn text(&self) -> String {
        format!("{} {}", self.depth, self.name)
    }

    fn read(text: &str) -> Option<Self> {
        let (depth, name) = text.split_once(' ')?;
        Some(Self { depth: depth.parse().ok()?, name: name.to_owned() })
    }
}

struct Search<'s, 'r> {
    plan: &'s mut dyn GemmPlan,
    device: &'s dyn Device,
    run: &'s mut Run<'r>,
}

impl Search<'_, '_> {
    /// The algorithm of this name, if it is still offered and still runs.
    fn find(&mut self, name: &str) -> Result<usize> {
        let index = (0..self.plan.candidates()).find(|i| self.plan.name(*i) == name);
        let index = index.ok_or_else(|| DeviceError::unsupported(format!("'{}' is no longer offered", name.escape_debug())))?;
        self.time(index)?;
        Ok(index)
    }

    /// A short trial of one.
    fn time(&mut self, index: usize) -> Result<Seconds> {
        self.plan.select(index)?;
        trial(self.device, &mut |_| (self.run)(self.plan))
    }

    /// Tries the first `depth`, and gives the fastest few. One that fails is passed over.
    fn try_all(&mut self, depth: usize, tuning: &mut Tuning) -> Result<Vec<usize>> {
        let mut times: Vec<(f64, usize)> = Vec::new();
        let mut refused = None;
        for index in 0..depth {
            tuning.tried += 1;
            match self.time(index) {
                Ok(seconds) => times.push((seconds.0, index)),
                Err(error @ DeviceError::Lost(_)) => return Err(error),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some((least, _)) = times.first().copied() else {
            let why = refused.map(|error| format!(": {error}")).unwrap_or_default();
            return Err(DeviceError::unsupported(format!("none of the provider's {depth} first algorithms ran{why}")));
        };
        Ok(times.into_iter().filter(|(t, _)| *t <= least * HOPELESS).take(FINALISTS).map(|(_, index)| index).collect())
    }

    /// Runs the first choice and the finalists in turn, so that what drifts meets all of them. The fastest by its median, and the
    /// times of each, the first choice's first.
    fn finals(&mut self, finalists: &[usize]) -> Result<(usize, Vec<Vec<Seconds>>)> {
        let order: Vec<usize> = std::iter::once(0).chain(finalists.iter().copied().filter(|i| *i > 0)).collect();
        let mut times: Vec<Vec<Seconds>> = vec![Vec::new(); order.len()];
        // A first choice that does not run at all is no rival.
        let runs: Vec<bool> = order.iter().map(|index| self.time(*index).is_ok()).collect();
        let mut spent = 0.0;
        let mut turn = 0;
        while turn < TURNS || (turn < MOST_TURNS && spent < FINAL.0) {
            for (slot, index) in order.iter().enumerate().filter(|(slot, _)| runs[*slot]) {
                self.plan.select(*index)?;
                let hold = self.device.hold()?;
                let start = self.device.record()?;
                (self.run)(self.plan)?;
                let end = self.device.record()?;
                drop(hold);
                let seconds = self.device.elapsed(&start, &end)?;
                spent += seconds.0;
                times[slot].push(seconds);
            }
            turn += 1;
        }
        let median =
            |times: &[Seconds]| Summary::of(&times.iter().map(|s| s.0).collect::<Vec<_>>()).map_or(f64::INFINITY, |s| s.median);
        let best = (0..order.len()).filter(|slot| runs[*slot]).min_by(|a, b| median(&times[*a]).total_cmp(&median(&times[*b])));
        let best = best.ok_or_else(|| DeviceError::unsupported("no algorithm that was chosen runs twice"))?;
        Ok((order[best], times))
    }
}
