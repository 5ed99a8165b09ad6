//! Who comes late, of ranks on GPUs: from a common start each goes over its own buffer, and its device's clock says how long it then
//! waited for the last to come. A busy GPU, slow memory or a low clock shows in that, which the collective itself hides: all leave
//! it when the slowest does.
//!
//! Ranks meet by messages, which go with every choice of algorithm and protocol: in round k each tells the one 2^k further, and hears
//! from the one 2^k before. Not yet run on hardware.

use super::code::{Arg, Function};
use super::driver::{Buffer as Memory, Pause, Pinned};
use super::nccl::{INT8, failed};
use super::stream::{Event, Shape, elapsed_ms};
use super::sys::Ptr;
use super::team::Team;
use crate::lateness::LOOKS;
use crate::{DeviceError, Result};
use ridgepoint_core::Seconds;

/// Most bytes of its own buffer that a rank goes over before it comes.
const OWN: usize = 64 << 20;
/// Streams are held no longer than this, whatever goes wrong on the host.
const HOLD_LIMIT_NS: u64 = 2_000_000_000;
/// Bytes of a rank's words, and where in them the one lies that it hears.
const WORDS: usize = 32;
const HEARD: Ptr = 16;

/// What ranks meet by.
pub(super) struct Meeting {
    /// Each member's words.
    words: Vec<Memory>,
    /// What holds the first member's stream, and the flag that lets it go. None where nothing can compile it.
    hold: Option<(Function, Pinned)>,
}

/// Lets the streams go, whatever happened meanwhile; nothing is freed before.
struct Release<'m> {
    flag: &'m Pinned,
    _paused: Vec<Pause>,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.flag.store(0, 1);
    }
}

impl Team {
    /// Sees who is late, where all ranks are of this process: one at a time is looked at by whoever has the others.
    pub(super) fn look(&mut self) -> Result<()> {
        if self.members.len() < 2 || self.members.len() < self.problem.ranks {
            return Ok(());
        }
        // Connections are made at the first meeting, and the first of a series is the common start.
        self.meetings(1, false)?;
        for waited in self.meetings(1 + LOOKS, true)?.iter().skip(1) {
            self.lateness.saw(waited);
        }
        Ok(())
    }

    /// Meets so many times, and gives what each member waited each time. Members whose streams are held until all is enqueued do not
    /// show in which order this thread came to them.
    pub(super) fn meetings(&mut self, times: usize, held: bool) -> Result<Vec<Vec<Seconds>>> {
        let meeting = match self.meeting.take() {
            Some(meeting) => meeting,
            None => self.arrange()?,
        };
        let events = {
            let _release = if held { self.hold(&meeting)? } else { None };
            self.enqueue_meetings(&meeting, times)?
        };
        self.wait(&events)?;
        let waited = |i: usize| {
            let of = |events: &Vec<Event>| Ok(Seconds(f64::from(elapsed_ms(&events[2 * i], &events[2 * i + 1])?) / 1e3));
            events.iter().map(of).collect::<Result<Vec<_>>>()
        };
        let all = (0..times).map(waited).collect();
        self.meeting = Some(meeting);
        all
    }

    fn arrange(&self) -> Result<Meeting> {
        let words = self.members.iter().map(|member| Memory::new(&member.ctx, WORDS)).collect::<std::result::Result<_, _>>()?;
        let first = &self.members[0].ctx;
        let hold = match self.programs.function(first, "common/clock", "rp_hold") {
            Err(DeviceError::Unsupported(_)) => None,
            function => Some((function?, Pinned::new(first, 4)?)),
        };
        Ok(Meeting { words, hold })
    }

    /// Holds the first member's stream, and the others', which wait for that one.
    fn hold<'m>(&self, meeting: &'m Meeting) -> Result<Option<Release<'m>>> {
        let Some((function, flag)) = &meeting.hold else { return Ok(None) };
        flag.store(0, 0);
        let shape = Shape { grid: [1; 3], block: [1; 3], shared_bytes: 0, cluster: [1; 3] };
        let first = &self.members[0].stream;
        first.launch(function, shape, &[Arg::Ptr(flag.ptr), Arg::U64(HOLD_LIMIT_NS)])?;
        let release = Release { flag, _paused: self.members.iter().map(|member| member.ctx.pause()).collect() };
        let free = first.record()?;
        self.members.iter().skip(1).try_for_each(|member| member.stream.wait(&free))?;
        Ok(Some(release))
    }

    /// Gives the events around each meeting, by member.
    fn enqueue_meetings(&self, meeting: &Meeting, times: usize) -> Result<Vec<Vec<Event>>> {
        let p = &self.problem;
        // As much at every rank, or a root would be late by what it has to do.
        let elements = (0..p.ranks).map(|rank| p.sends(rank).min(p.receives(rank))).min().unwrap_or(0).max(1);
        let own = (elements * p.size()).min(OWN);
        let mut events: Vec<Vec<Event>> = self.members.iter().map(|_| Vec::new()).collect();
        for _ in 0..times {
            for member in &self.members {
                member.stream.copy((&member.sent).into(), 0, (&member.received).into(), 0, own)?;
            }
            self.mark(&mut events)?;
            self.barrier(meeting)?;
            self.mark(&mut events)?;
        }
        Ok(events)
    }

    fn barrier(&self, meeting: &Meeting) -> Result<()> {
        let (n, mut distance) = (self.problem.ranks, 1);
        while distance < n {
            let mut members = self.members.iter().zip(&meeting.words);
            self.group_of(self.members.len(), || {
                let Some((member, words)) = members.next() else { return Ok(()) };
                let (comm, stream) = (member.comm, member.stream.handle);
                let (to, from) = ((member.rank + distance) % n, (member.rank + n - distance) % n);
                member.ctx.api()?;
                // SAFETY: a byte each of live memory; it, communicator and stream belong to the device that was made current.
                let said = unsafe {
                    let said = self.api.send(words.ptr, 1, INT8, to as i32, comm, stream);
                    said.and_then(|()| self.api.receive(words.ptr + HEARD, 1, INT8, from as i32, comm, stream))
                };
                said.map_err(failed)
            })?;
            distance *= 2;
        }
        Ok(())
    }
}
