//! Collectives between ranks on this host: separate processes over shared memory, an engine of our own that is labelled so.
//!
//! Each rank is a process of this very program, started with a hidden first argument, pinned to a core. Send and receive
//! buffers of all ranks lie in one shared segment, and a rank reads its peers' buffers directly: one copy for each byte that a
//! rank receives, which is what an intra-host transport can do at best.

mod ops;
mod rank;
mod segment;

use crate::{CollectiveProblem, Collectives, Communicator, DeviceError, Result, Timing};
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Dtype, Seconds};
use segment::{Command, Segment};
use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

pub use rank::main as rank_main;

/// A command that is not answered by then has failed; each answers within milliseconds, or after the run that it was told.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 30 });
/// Most ranks of one segment.
const MOST_RANKS: usize = 64;

/// The engine on this host.
pub(crate) struct SharedMemory {
    cores: Vec<usize>,
}

impl SharedMemory {
    pub(crate) fn new(cores: &[usize]) -> Self {
        Self { cores: cores.to_vec() }
    }
}

impl Collectives for SharedMemory {
    fn provider(&self) -> &'static str {
        "shared-memory"
    }

    /// A rank a core, and two on a single core, so that the component can be measured anywhere.
    fn max_ranks(&self) -> usize {
        self.cores.len().clamp(2, MOST_RANKS)
    }

    fn communicator(&self, problem: &CollectiveProblem) -> Result<Box<dyn Communicator>> {
        if !matches!(problem.dtype, Dtype::F32 | Dtype::Bf16) {
            return Err(DeviceError::unsupported(format!("the shared-memory engine sums f32 and bf16, no {}", problem.dtype)));
        }
        if problem.ranks < 2 || problem.ranks > MOST_RANKS {
            return Err(DeviceError::unsupported(format!(
                "the shared-memory engine has 2 to {MOST_RANKS} ranks, not {}",
                problem.ranks
            )));
        }
        let mut team = Team { segment: Segment::create(problem)?, ranks: Vec::new(), cores: self.cores.clone() };
        for rank in 0..problem.ranks {
            let core = self.cores[rank % self.cores.len()];
            team.ranks.push(Rank::Process(rank::spawn(&team.segment, rank, core)?));
        }
        team.command(Command::Start, 0)?;
        Ok(Box::new(team))
    }
}

/// How a rank runs.
enum Rank {
    Process(Child),
    #[cfg(test)]
    Thread(Option<std::thread::JoinHandle<()>>),
}

impl Rank {
    /// Why it is gone, if it is.
    fn gone(&mut self) -> Option<String> {
        match self {
            Self::Process(child) => child.try_wait().ok().flatten().map(|status| status.to_string()),
            #[cfg(test)]
            Self::Thread(handle) => {
                handle.as_ref().is_none_or(std::thread::JoinHandle::is_finished).then(|| "thread ended".to_owned())
            }
        }
    }
}

/// Ranks that are up.
struct Team {
    segment: Segment,
    ranks: Vec<Rank>,
    cores: Vec<usize>,
}

impl Team {
    /// Gives all ranks a command and waits until each has done it.
    fn command(&mut self, command: Command, argument: u64) -> Result<()> {
        let epoch = self.segment.post(command, argument);
        let deadline = Instant::now() + PATIENCE;
        let mut looks = 0u32;
        loop {
            let waiting: Vec<usize> = (0..self.ranks.len()).filter(|rank| self.segment.done(*rank) != epoch).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            looks += 1;
            if looks.is_multiple_of(64) {
                let gone = waiting.iter().find_map(|rank| Some((*rank, self.ranks[*rank].gone()?)));
                if gone.is_some() || Instant::now() > deadline {
                    let why = gone.map_or_else(
                        || format!("no answer in {} s", PATIENCE.as_secs()),
                        |(rank, why)| format!("rank {rank} is gone ({why})"),
                    );
                    let arrived: Vec<usize> = (0..self.ranks.len()).filter(|rank| !waiting.contains(rank)).collect();
                    return Err(DeviceError::Call {
                        call: command.name(),
                        code: -1,
                        message: format!("{why}; ranks that arrived: {arrived:?}, that did not: {waiting:?}"),
                    });
                }
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Communicator for Team {
    fn poison(&mut self) -> Result<()> {
        self.command(Command::Poison, 0)
    }

    fn run(&mut self, n: usize) -> Result<Timing> {
        self.command(Command::Run, n as u64)?;
        let slowest = (0..self.ranks.len()).map(|rank| self.segment.nanoseconds(rank)).max().unwrap_or(0);
        Ok(Timing { seconds: Seconds(slowest as f64 / 1e9), clock: Clock::Host })
    }

    fn output(&mut self, rank: usize) -> Result<Vec<u8>> {
        if rank >= self.ranks.len() {
            return Err(DeviceError::invalid(format!("there is no rank {rank}")));
        }
        Ok(self.segment.received(rank).to_vec())
    }

    fn config(&self) -> BTreeMap<String, String> {
        let mut config = BTreeMap::from([
            ("algorithm".into(), "direct reads of peers' buffers".into()),
            ("ranks".into(), format!("{} processes on cores {:?}", self.ranks.len(), self.cores)),
        ]);
        if self.ranks.len() > self.cores.len() {
            config.insert("oversubscribed".into(), "more ranks than cores".into());
        }
        config
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.segment.post(Command::Exit, 0);
        let deadline = Instant::now() + Duration::from_secs(2);
        for rank in &mut self.ranks {
            while rank.gone().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            match rank {
                Rank::Process(child) => {
                    // Already ended, or it would not: either way nothing of it must stay.
                    let _ = child.kill();
                    let _ = child.wait();
                }
                #[cfg(test)]
                Rank::Thread(handle) => drop(handle.take().map(std::thread::JoinHandle::join)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CollectiveOp;
    use ridgepoint_core::{Bytes, data};

    fn team(problem: CollectiveProblem, start: bool) -> Team {
        let segment = Segment::create(&problem).unwrap();
        let ranks = (0..problem.ranks)
            .map(|rank| {
                let segment = segment.again().unwrap();
                Rank::Thread(Some(std::thread::spawn(move || rank::serve(&segment, rank))))
            })
            .collect();
        let mut team = Team { segment, ranks, cores: vec![0] };
        if start {
            team.command(Command::Start, 0).unwrap();
        }
        team
    }

    fn value(problem: &CollectiveProblem, rank: usize, i: usize) -> f64 {
        problem.dtype.round(f64::from(data::normal(data::operand_seed(problem.seed, rank as u64), i as u64)))
    }

    #[test]
    fn every_op_dtype_and_odd_size_is_right() {
        for op in CollectiveOp::ALL {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                for (ranks, count) in [(2, 1000), (3, 1000), (3, 4099), (2, 3)] {
                    let size = dtype.element_bytes().unwrap();
                    let problem = CollectiveProblem { op, ranks, bytes: Bytes((count * size) as u64), dtype, seed: 5 };
                    let mut team = team(problem, true);
                    team.poison().unwrap();
                    team.run(3).unwrap();
                    for rank in 0..ranks {
                        let out = team.output(rank).unwrap();
                        let part = |r: usize| count * r / ranks..count * (r + 1) / ranks;
                        let sum = |i: usize| (0..ranks).map(|r| value(&problem, r, i)).sum::<f64>();
                        let want: Vec<f64> = match op {
                            CollectiveOp::AllReduce => (0..count).map(sum).collect(),
                            CollectiveOp::ReduceScatter => part(rank).map(sum).collect(),
                            CollectiveOp::AllGather => (0..ranks)
                                .flat_map(|r| part(r).map(move |i| (r, i)))
                                .map(|(r, i)| value(&problem, r, i))
                                .collect(),
                            CollectiveOp::Broadcast => (0..count).map(|i| value(&problem, 0, i)).collect(),
                            CollectiveOp::AllToAll => {
                                let share = count / ranks;
                                let sent = move |r: usize| (share * rank..share * (rank + 1)).map(move |i| (r, i));
                                (0..ranks).flat_map(sent).map(|(r, i)| value(&problem, r, i)).collect()
                            }
                        };
                        assert!(out.len() >= want.len() * size, "{op:?} {dtype} rank {rank}");
                        for (i, want) in want.iter().enumerate() {
                            let got = dtype.read(&out[i * size..(i + 1) * size]);
                            assert!(
                                (got - want).abs() <= 2.0 * dtype.unit_roundoff() * 12.0,
                                "{op:?} {dtype} r{ranks} rank {rank} at {i}: {got} for {want}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_rank_that_is_gone_is_named() {
        let problem = CollectiveProblem { op: CollectiveOp::AllReduce, ranks: 2, bytes: Bytes(4096), dtype: Dtype::F32, seed: 1 };
        let mut team = team(problem, true);
        team.segment.quit(1);
        while team.ranks[1].gone().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = team.run(1).unwrap_err().to_string();
        assert!(error.contains("rank 1 is gone"), "{error}");
    }
}
