//! Ranks on GPUs two by two, by the library's sends and receives: what each link between them carries in each direction. Not yet
//! run on more than stubs.

use super::driver::Buffer as Memory;
use super::nccl::{INT8, failed};
use super::ranks::Member;
use super::stream::{Event, elapsed_ms};
use super::sys::Ptr;
use super::team::Team;
use crate::{CollectiveOp, CollectiveProblem, DeviceError, Exchange, Result};
use ridgepoint_core::{Bytes, Dtype, Seconds};

/// How often the messages of a pair are exchanged; the best counts, since a device that was busy meanwhile is no slow link.
const REPEATS: usize = 3;

/// The collective whose buffers messages of `bytes` between `ranks` lie in.
pub(crate) fn messages(ranks: usize, bytes: Bytes) -> CollectiveProblem {
    // Elements that the device itself makes and checks, where they divide the message.
    let dtype = if bytes.0.is_multiple_of(4) { Dtype::F32 } else { Dtype::I8 };
    CollectiveProblem::new(CollectiveOp::SendRecv, ranks, bytes, dtype)
}

/// A rank of this process that has a partner.
struct Side<'t> {
    /// Which member of the team it is.
    at: usize,
    member: &'t Member,
    partner: usize,
    /// Where the word goes by which a rank says that all has come.
    word: Memory,
}

impl Side<'_> {
    /// Whether it is its turn to send: first the lower rank of a pair, then the other.
    fn sends(&self, lower_first: bool) -> bool {
        (self.member.rank < self.partner) == lower_first
    }
}

impl Team {
    /// Every rank sends what it has to its partner `times` times, all pairs at once: one way, then the other. Gives what each rank
    /// of this process that has a partner saw.
    pub(super) fn exchange(&self, partners: &[Option<usize>], times: u64) -> Result<Vec<Option<Exchange>>> {
        if self.problem.op != CollectiveOp::SendRecv || self.problem.in_place {
            return Err(DeviceError::invalid("pairs exchange what a send-recv out of place has"));
        }
        let mut sides = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            if let Some(partner) = partners.get(member.rank).copied().flatten() {
                sides.push(Side { at, member, partner, word: Memory::new(&member.ctx, 16)? });
            }
        }
        let mut best = vec![f64::MAX; sides.len()];
        for lower_first in [true, false] {
            // Connections are made at the first message.
            self.wait(&self.messages(&sides, lower_first, 1)?)?;
            for _ in 0..REPEATS {
                let events = self.messages(&sides, lower_first, times)?;
                self.wait(&events)?;
                for (side, best) in sides.iter().zip(&mut best).filter(|(side, _)| side.sends(lower_first)) {
                    let [start, end] = events[side.at].as_slice() else { continue };
                    *best = best.min(f64::from(elapsed_ms(start, end)?) / 1e3 / times.max(1) as f64);
                }
            }
        }
        let mut found = vec![None; partners.len()];
        for (side, seconds) in sides.iter().zip(best) {
            let wrong = self.wrong_from(side.member, side.partner)?;
            found[side.member.rank] = Some(Exchange { seconds: Seconds(seconds), wrong });
        }
        Ok(found)
    }

    /// Enqueues `times` messages one way, after a word by which both stand at the start, and before one that they came. Gives the
    /// events around the messages, by member.
    fn messages(&self, sides: &[Side<'_>], lower_first: bool, times: u64) -> Result<Vec<Vec<Event>>> {
        let words = |forward: bool| {
            let word = |side: &Side<'_>| (side.word.ptr, side.word.ptr, 1, INT8);
            self.step(sides, |side| side.sends(lower_first) == forward, word)
        };
        let mut events: Vec<Vec<Event>> = self.members.iter().map(|_| Vec::new()).collect();
        let mut record = || -> Result<()> {
            for side in sides {
                events[side.at].push(side.member.stream.record()?);
            }
            Ok(())
        };
        words(true)?;
        words(false)?;
        record()?;
        for _ in 0..times {
            let all = |side: &Side<'_>| {
                let (from, to) = side.member.places(&self.problem);
                (from, to, self.problem.count(), self.numbers.dtype)
            };
            self.step(sides, |side| side.sends(lower_first), all)?;
        }
        words(false)?;
        record()?;
        Ok(events)
    }

    /// One message of every pair: `sends` says of a rank whether it sends or receives, `what` from where, to where, how many and of
    /// which type.
    fn step(
        &self,
        sides: &[Side<'_>],
        sends: impl Fn(&Side<'_>) -> bool,
        what: impl Fn(&Side<'_>) -> (Ptr, Ptr, usize, i32),
    ) -> Result<()> {
        if sides.is_empty() {
            return Ok(());
        }
        let mut next = sides.iter();
        self.group_of(sides.len(), || {
            let Some(side) = next.next() else { return Ok(()) };
            let (member, peer) = (side.member, side.partner as i32);
            let (from, to, count, dtype) = what(side);
            member.ctx.api()?;
            // SAFETY: the buffers hold the elements named; communicator, stream and buffers belong to the device that was made
            // current.
            let done = unsafe {
                match sends(side) {
                    true => self.api.send(from, count, dtype, peer, member.comm, member.stream.handle),
                    false => self.api.receive(to, count, dtype, peer, member.comm, member.stream.handle),
                }
            };
            done.map_err(failed)
        })
    }

    /// Bytes that a rank received and that are not what its partner sent.
    fn wrong_from(&self, member: &Member, partner: usize) -> Result<u64> {
        let p = &self.problem;
        match self.programs.check_from(member, p, partner) {
            Ok(found) => return Ok(found.read(&member.stream)?.wrong * p.size() as u64),
            Err(DeviceError::Unsupported(_)) => {}
            Err(error) => return Err(error),
        }
        let (mut got, mut want) = (vec![0; p.count() * p.size()], vec![0; p.count() * p.size()]);
        member.stream.download((&member.received).into(), 0, &mut got)?;
        p.fill(partner, 0, &mut want);
        Ok(got.iter().zip(&want).filter(|(a, b)| a != b).count() as u64)
    }
}
