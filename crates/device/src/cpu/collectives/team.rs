//! The parent's side: ranks that are up, told what to do and never waited for without an end.

use super::OfJob;
use super::fault::Fault;
use super::ops::{CHUNK, one_shot};
use super::rank::Rank;
use super::segment::{Command, Manner, Segment};
use crate::{CollectiveOp, CollectiveProblem, Communicator, DeviceError, Result, Rounding, Timing};
use ridgepoint_core::Seconds;
use ridgepoint_core::record::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Looks at a flag before a rank sleeps for it: some 50 µs, ten times what a sleep and a wake cost.
const SPINS: u32 = 3000;
/// Ranks that are told to end do so at once; one that does not is killed after this.
const GRACE: Duration = Duration::from_millis(500);
/// When one rank is found to be gone, the others get so long to come as far as they can without it.
const SETTLE: Duration = Duration::from_millis(50);

/// What a team is made of.
pub(super) struct Plan<'a> {
    pub(super) problem: &'a CollectiveProblem,
    pub(super) cores: &'a [usize],
    /// Ranks as threads of this process.
    pub(super) threads: bool,
    /// Ranks that the processes of a job start.
    pub(super) job: Option<&'a OfJob>,
    pub(super) around_caches: bool,
    /// A rank that gets nowhere for so long has failed.
    pub(super) patience: Duration,
    pub(super) fault: Option<(Fault, usize)>,
}

/// Ranks that are up.
pub(super) struct Team {
    segment: Segment,
    ranks: Vec<Rank>,
    cores: Vec<usize>,
    /// Why it is this engine that connects the ranks of a job.
    instead_of: Option<String>,
    patience: Duration,
    /// The failure that ended it: there is no going on after one.
    broken: Option<DeviceError>,
    /// Each rank's own work in the executions that were looked at, and their number.
    working: (Vec<u64>, u64),
    /// Each rank's time of all executions, and their number.
    times: (Vec<u64>, u64),
}

impl Team {
    /// Starts the ranks and waits until each has filled its buffers.
    pub(super) fn start(plan: &Plan<'_>) -> Result<Self> {
        let n = plan.problem.ranks;
        // Where ranks share a core, one that spins keeps the other from coming.
        let spins = if n > plan.cores.len() { 0 } else { SPINS };
        let manner = Manner { spins, around_caches: plan.around_caches, fault: plan.fault };
        let segment = Segment::create(plan.problem, manner)?;
        let core = |rank: usize| plan.cores[rank % plan.cores.len()];
        let mut team = Self {
            segment,
            ranks: Vec::new(),
            cores: (0..n).map(core).collect(),
            instead_of: None,
            patience: plan.patience,
            broken: None,
            working: (vec![0; n], 0),
            times: (vec![0; n], 0),
        };
        if let Some(OfJob { elsewhere, reason, .. }) = plan.job {
            team.ranks = (0..n).map(|rank| Rank::Elsewhere(Arc::clone(elsewhere), rank)).collect();
            team.instead_of = Some(reason.clone());
            elsewhere.start(std::process::id(), team.segment.fd())?;
        }
        for rank in team.ranks.len()..n {
            team.ranks.push(match plan.threads {
                true => Rank::thread(&team.segment, rank)?,
                false => Rank::process(&team.segment, rank, core(rank))?,
            });
        }
        team.command(Command::Start, 0)?;
        Ok(team)
    }

    /// Gives all ranks a command and waits until each has done it.
    fn command(&mut self, command: Command, argument: u64) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let epoch = self.segment.post(command, argument);
        let outcome = self.wait(command, epoch);
        if let Err(error) = &outcome {
            self.segment.abort();
            self.broken = Some(error.clone());
        }
        outcome
    }

    fn wait(&mut self, command: Command, epoch: u32) -> Result<()> {
        let (mut steps, mut since, mut noticed) = (Vec::new(), Instant::now(), None);
        for rank in 0..self.ranks.len() {
            let mut failure = None;
            let Self { segment, ranks, patience, .. } = self;
            // No spinning here: the ranks need the cores.
            let done = segment.slot(rank).done.reach(epoch, 0, &mut || {
                let now: Vec<u32> = (0..ranks.len()).map(|r| segment.slot(r).steps.load(Ordering::Acquire)).collect();
                if now != steps {
                    (steps, since) = (now, Instant::now());
                }
                let gone = ranks.iter_mut().enumerate().filter(|(r, _)| segment.slot(*r).done.get() != epoch);
                let gone: Vec<(usize, String)> = gone.filter_map(|(r, rank)| Some((r, rank.gone()?))).collect();
                let settled = !gone.is_empty() && noticed.get_or_insert_with(Instant::now).elapsed() >= SETTLE;
                if settled || since.elapsed() > *patience {
                    failure = Some(describe(segment, ranks.len(), command, epoch, &gone, *patience));
                }
                failure.is_some()
            });
            if !done {
                return Err(failure.unwrap_or_else(|| DeviceError::invalid("a wait ended for no reason")));
            }
        }
        Ok(())
    }
}

/// Who is to blame: ranks that are gone, or else those that are behind the others.
fn describe(
    segment: &Segment,
    n: usize,
    command: Command,
    epoch: u32,
    gone: &[(usize, String)],
    patience: Duration,
) -> DeviceError {
    let steps = |rank: &usize| segment.slot(*rank).steps.load(Ordering::Acquire);
    let done = |rank: &usize| segment.slot(*rank).done.get() == epoch;
    let lost = |rank: &usize| gone.iter().any(|(r, _)| r == rank);
    // Steps may wrap, but never lie far apart.
    let furthest = (0..n).map(|r| steps(&r)).reduce(|a, b| if b.wrapping_sub(a) as i32 > 0 { b } else { a });
    let level = (0..n).all(|r| Some(steps(&r)) == furthest);
    let arrived = |rank: &usize| !lost(rank) && (done(rank) || (!level && Some(steps(rank)) == furthest));
    let (here, missing): (Vec<usize>, Vec<usize>) = (0..n).partition(arrived);
    let list = |ranks: &[usize]| match ranks {
        [] => "none".to_owned(),
        ranks => ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let why = if gone.is_empty() {
        format!("no rank got on for {} s", patience.as_secs_f64())
    } else {
        gone.iter().map(|(rank, how)| format!("rank {rank} is gone ({how})")).collect::<Vec<_>>().join(", ")
    };
    let code = i64::from(if gone.is_empty() { libc::ETIMEDOUT } else { libc::ECHILD });
    let message = format!("{why}; ranks that arrived: {}; that did not: {}", list(&here), list(&missing));
    DeviceError::Call { call: command.name(), code, message }
}

impl Communicator for Team {
    fn poison(&mut self) -> Result<()> {
        self.command(Command::Poison, 0)
    }

    fn run(&mut self, n: usize) -> Result<Timing> {
        self.command(Command::Run, n as u64)?;
        let slots = || (0..self.ranks.len()).map(|rank| self.segment.slot(rank));
        let times: Vec<u64> = slots().map(|slot| slot.nanoseconds.load(Ordering::Relaxed)).collect();
        let slowest = times.iter().copied().max().unwrap_or(0);
        let working: Vec<u64> = slots().map(|slot| slot.working.load(Ordering::Relaxed)).collect();
        self.working.0.iter_mut().zip(working).for_each(|(sum, x)| *sum += x);
        self.working.1 += 1;
        self.times.0.iter_mut().zip(times).for_each(|(sum, x)| *sum += x);
        self.times.1 += n as u64;
        Ok(Timing { seconds: Seconds(slowest as f64 / 1e9), clock: Clock::Host })
    }

    fn output(&mut self, rank: usize) -> Result<Vec<u8>> {
        if rank >= self.ranks.len() {
            return Err(DeviceError::invalid(format!("there is no rank {rank}")));
        }
        Ok(self.segment.received(rank).to_vec())
    }

    fn rounding(&self) -> Rounding {
        Rounding::Once
    }

    fn forget(&mut self) {
        for (sums, n) in [&mut self.times, &mut self.working] {
            sums.fill(0);
            *n = 0;
        }
    }

    fn times(&self) -> Vec<Seconds> {
        means(&self.times)
    }

    fn working(&self) -> Vec<Seconds> {
        means(&self.working)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let problem = self.segment.problem();
        let algorithm = match problem.op {
            CollectiveOp::AllReduce if one_shot(problem) => "one-shot: each rank combines everything".into(),
            CollectiveOp::AllReduce => {
                format!("reduce-scatter and all-gather, pipelined in chunks of {} KiB", CHUNK >> 10)
            }
            CollectiveOp::Reduce => "direct: the root combines everything".to_owned(),
            _ => "direct".to_owned(),
        };
        let kind = match self.ranks.first() {
            Some(Rank::Thread(_)) => "threads",
            Some(Rank::Elsewhere(..)) => "processes that a launcher started",
            _ => "processes",
        };
        let mut cores = self.cores.clone();
        let mut config = BTreeMap::from([
            ("algorithm".into(), algorithm),
            ("transport".into(), "each rank reads its peers' send buffers in shared memory".into()),
            ("stores".into(), if self.segment.manner().around_caches { "around the caches" } else { "ordinary" }.into()),
            ("ranks".into(), format!("{} {kind}", self.ranks.len())),
            ("cores".into(), cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
        ]);
        if let Some(reason) = &self.instead_of {
            config.insert("no MPI".into(), reason.clone());
            // Their processes chose them.
            config.remove("cores");
        }
        cores.sort_unstable();
        cores.dedup();
        if self.ranks.len() > cores.len() {
            config.insert("oversubscribed".into(), format!("{} ranks, cores: {}", self.ranks.len(), cores.len()));
        }
        config
    }
}

/// Sums of nanoseconds over their number.
fn means((sums, n): &(Vec<u64>, u64)) -> Vec<Seconds> {
    if *n == 0 { Vec::new() } else { sums.iter().map(|sum| Seconds(*sum as f64 / *n as f64 / 1e9)).collect() }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.segment.post(Command::Exit, 0);
        let deadline = Instant::now() + if self.broken.is_some() { Duration::ZERO } else { GRACE };
        // Not to be told by `abort`: a rank that was, ends as one that failed.
        while Instant::now() < deadline && self.ranks.iter_mut().any(|rank| rank.gone().is_none()) {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.segment.abort();
        self.ranks.iter_mut().for_each(Rank::end);
    }
}
