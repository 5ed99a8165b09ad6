//! A rank whose buffers lie in the host's memory: what it does around each execution is the same for all that can connect it.

use super::message::Connected;
use super::planted::Planted;
use super::rank::{Progress, Worker};
use crate::cpu::collectives::Fault;
use crate::host_memory::Mapping;
use crate::{Checked, CollectiveOp as Op, CollectiveProblem, DeviceError, Received, Registration, Result};
use ridgepoint_core::{Bytes, Dtype};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the messages of a pair are exchanged.
const REPEATS: u32 = 3;
/// Most bytes of its own buffer that a rank goes over where it is to be seen how soon it comes.
const OWN: usize = 4 << 20;
/// Elements that are made or checked between two signs of life.
const STEP: usize = 1 << 18;

/// What connects ranks. All buffers are as long as S; what a rank sends and receives of them is its problem's to say.
pub(super) trait Fabric {
    /// Who this is among the others.
    fn connected(&self) -> Connected;

    /// Makes ready for a collective.
    fn ready(&mut self, problem: &CollectiveProblem) -> Result<()>;

    /// Waits for all ranks.
    fn meet(&mut self) -> Result<()>;

    /// What is done once before a run, and not timed.
    fn before(&self, _problem: &CollectiveProblem, _send: &[u8], _receive: &mut [u8]) {}

    /// One execution. In place `send` holds nothing of it.
    fn execute(&mut self, problem: &CollectiveProblem, send: &mut [u8], receive: &mut [u8]) -> Result<()>;

    /// Sends bytes to another rank; none are a word too.
    fn say(&mut self, bytes: &[u8], peer: usize) -> Result<()>;

    /// Receives bytes from another rank.
    fn hear(&mut self, bytes: &mut [u8], peer: usize) -> Result<()>;

    /// Element at which what a rank receives begins, where it is not where its problem says.
    fn leaves_at(&self, problem: &CollectiveProblem, rank: usize) -> usize {
        problem.receives_from(rank)
    }

    /// Takes leave of the others.
    fn leave(&mut self) {}
}

/// A rank at work.
pub(super) struct Buffers<F> {
    fabric: F,
    rank: usize,
    size: usize,
    progress: Arc<Progress>,
    planted: Planted,
    work: Option<Work>,
}

/// A collective made ready.
struct Work {
    problem: CollectiveProblem,
    /// Mapped anew for each, so that a case does not depend on what one before it gave back.
    send: Mapping,
    receive: Mapping,
}

impl<F: Fabric> Buffers<F> {
    pub(super) fn new(fabric: F, progress: &Arc<Progress>) -> Self {
        let Connected { rank, size, .. } = fabric.connected();
        Self { fabric, rank, size, progress: Arc::clone(progress), planted: Planted::at(rank), work: None }
    }

    fn work(&mut self) -> Result<&mut Work> {
        self.work.as_mut().ok_or_else(|| DeviceError::invalid("no collective was made ready"))
    }

    /// Where what this rank received lies, in bytes.
    fn range(&self, p: &CollectiveProblem) -> std::ops::Range<usize> {
        let start = self.fabric.leaves_at(p, self.rank) * p.size();
        start..start + p.receives(self.rank) * p.size()
    }
}

impl Work {
    /// In place: gives a rank its input anew.
    fn refill(&mut self, rank: usize, progress: &Progress) {
        let p = self.problem;
        let start = p.sends_from(rank) * p.size();
        fill(&p, rank, &mut self.receive.bytes()[start..start + p.sends(rank) * p.size()], progress);
    }
}

/// Makes what a rank sends, with signs of life.
fn fill(p: &CollectiveProblem, rank: usize, out: &mut [u8], progress: &Progress) {
    for (part, first) in out.chunks_mut(STEP * p.size()).zip((0..).step_by(STEP)) {
        p.fill(rank, first, part);
        progress.step();
    }
}

impl<F: Fabric> Worker for Buffers<F> {
    fn connected(&self) -> Connected {
        self.fabric.connected()
    }

    fn prepare(&mut self, problem: &CollectiveProblem, _token: &[u8]) -> Result<()> {
        if self.work.take().is_some() {
            self.planted.spare();
        }
        if problem.ranks != self.size {
            return Err(DeviceError::unsupported(format!("{} ranks were launched, not {}", self.size, problem.ranks)));
        }
        if problem.registration != Registration::None {
            return Err(DeviceError::unsupported("buffers in the host's memory are registered with no one"));
        }
        if problem.in_place && !problem.op.in_place() {
            return Err(DeviceError::unsupported(format!("{} has no in-place form", problem.op.name())));
        }
        let free = crate::cpu::available_memory();
        if free.is_some_and(|free| problem.bytes.0.saturating_mul(2) > free.0) {
            return Err(DeviceError::OutOfMemory { requested: problem.bytes * 2, free });
        }
        self.fabric.ready(problem)?;
        let len = problem.count() * problem.size();
        let mut send = Mapping::new(if problem.in_place { 0 } else { len }, None)?;
        if !problem.in_place {
            fill(problem, self.rank, &mut send.bytes()[..problem.sends(self.rank) * problem.size()], &self.progress);
        }
        self.work = Some(Work { problem: *problem, send, receive: Mapping::new(len, None)? });
        self.poison()
    }

    fn poison(&mut self) -> Result<()> {
        let (rank, progress) = (self.rank, Arc::clone(&self.progress));
        let work = self.work()?;
        work.receive.bytes().fill(0xff);
        if work.problem.in_place {
            work.refill(rank, &progress);
        }
        Ok(())
    }

    fn run(&mut self, times: u64) -> Result<u64> {
        let mut work = self.work.take().ok_or_else(|| DeviceError::invalid("no collective was made ready"))?;
        let outcome = self.repeat(&mut work, times);
        self.work = Some(work);
        outcome
    }

    /// What a rank does by itself before it comes is to go over its own buffer: a busy core or slow memory shows in that.
    fn look(&mut self, times: u64) -> Result<Vec<u64>> {
        let mut waited = Vec::new();
        for _ in 0..times {
            self.fabric.meet()?;
            self.planted.dawdle();
            if let Some(work) = &mut self.work {
                let own = if work.problem.in_place { work.receive.bytes() } else { work.send.bytes() };
                let sum: u64 = own[..own.len().min(OWN)].iter().map(|byte| u64::from(*byte)).sum();
                std::hint::black_box(sum);
            }
            self.progress.begin(1);
            let came = Instant::now();
            self.fabric.meet()?;
            waited.push(came.elapsed().as_nanos() as u64);
        }
        Ok(waited)
    }

    fn check(&mut self, tolerance: f64) -> Result<Option<Checked>> {
        let p = self.work()?.problem;
        let (range, progress) = (self.range(&p), Arc::clone(&self.progress));
        let (received, elements) = (Received::by(&p, self.rank), p.receives(self.rank));
        let output = &self.work()?.receive.bytes()[range];
        let mut total = Checked::default();
        for start in (0..elements).step_by(STEP) {
            total.merge(received.check(output, start..elements.min(start + STEP), tolerance));
            progress.step();
        }
        Ok(Some(total))
    }

    fn output(&mut self) -> Result<Vec<u8>> {
        let range = self.range(&self.work.as_ref().ok_or_else(|| DeviceError::invalid("nothing was received"))?.problem);
        Ok(self.work()?.receive.bytes()[range].to_vec())
    }

    fn pair(&mut self, partner: Option<usize>, bytes: u64, times: u64, _token: &[u8]) -> Result<(u64, u64)> {
        self.work = None;
        let (len, free) = (usize::try_from(bytes).unwrap_or(usize::MAX), crate::cpu::available_memory());
        if free.is_some_and(|free| bytes.saturating_mul(2) > free.0) {
            return Err(DeviceError::OutOfMemory { requested: Bytes(bytes.saturating_mul(2)), free });
        }
        let stream = CollectiveProblem::new(Op::SendRecv, self.size, Bytes(bytes), Dtype::F32);
        let (mut send, mut receive) = (vec![0u8; len], vec![0u8; len]);
        stream.fill(self.rank, 0, &mut send);
        // Connections are made at the first message.
        self.both_ways(partner, &send, &mut receive, 1)?;
        receive.fill(0xff);
        self.fabric.meet()?;
        // The best of a few, since a host that was busy meanwhile is no slow link.
        let mut best = Duration::MAX;
        for _ in 0..REPEATS {
            best = best.min(self.both_ways(partner, &send, &mut receive, times)?);
        }
        self.fabric.meet()?;
        let Some(partner) = partner else { return Ok((0, 0)) };
        if self.planted.fault() == Some(Fault::Corrupt) && len > 0 {
            receive[0] ^= 1;
        }
        // What is no whole element at the end is zero in both.
        send.fill(0);
        stream.fill(partner, 0, &mut send);
        let wrong = send.iter().zip(&receive).filter(|(a, b)| a != b).count();
        Ok((best.as_nanos() as u64, wrong as u64))
    }

    fn leave(&mut self) {
        self.fabric.leave();
    }
}

impl<F: Fabric> Buffers<F> {
    fn repeat(&mut self, work: &mut Work, times: u64) -> Result<u64> {
        let (p, rank) = (work.problem, self.rank);
        let consumes = p.consumes();
        let fault = self.planted.fault();
        self.fabric.before(&p, work.send.bytes(), work.receive.bytes());
        self.fabric.meet()?;
        self.fabric.meet()?;
        let start = Instant::now();
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            if consumes {
                work.refill(rank, &self.progress);
                self.fabric.meet()?;
            }
            match fault {
                Some(Fault::Die) => std::process::abort(),
                Some(Fault::Hang) => std::thread::sleep(Duration::from_secs(3600)),
                _ => {}
            }
            self.progress.begin(1);
            // A look at the clock takes as long as a small collective.
            let looked = consumes.then(Instant::now);
            self.planted.dawdle();
            self.fabric.execute(&p, work.send.bytes(), work.receive.bytes())?;
            spent += looked.map_or(Duration::ZERO, |looked| looked.elapsed());
        }
        let took = if consumes { spent } else { start.elapsed() };
        self.fabric.meet()?;
        let range = self.range(&p);
        match fault {
            // As from a flaky link: a power of two away, whatever the dtype.
            Some(Fault::Corrupt) if !range.is_empty() => work.receive.bytes()[range.start + p.size() - 1] ^= 1,
            Some(Fault::Unwritten) => work.receive.bytes()[range.start..range.end.min(range.start + 8)].fill(0xff),
            _ => {}
        }
        Ok(took.as_nanos() as u64)
    }

    /// One way, then the other, so that a link that is slow in one direction is seen: all messages, then a word that they came.
    /// The time is that of this rank's own.
    fn both_ways(&mut self, partner: Option<usize>, send: &[u8], receive: &mut [u8], times: u64) -> Result<Duration> {
        let Some(partner) = partner else { return Ok(Duration::ZERO) };
        let mut took = Duration::ZERO;
        for sending in if self.rank < partner { [true, false] } else { [false, true] } {
            let start = Instant::now();
            for _ in 0..times {
                self.progress.begin(1);
                if sending { self.fabric.say(send, partner)? } else { self.fabric.hear(receive, partner)? }
            }
            if sending {
                self.fabric.hear(&mut [], partner)?;
                took = start.elapsed();
            } else {
                self.fabric.say(&[], partner)?;
            }
        }
        Ok(took)
    }
}
