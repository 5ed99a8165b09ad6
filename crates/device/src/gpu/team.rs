//! The ranks of this process at work.
//!
//! All ranks' calls of an execution are one group, each in its rank's stream. Time is taken by events, and is the slowest
//! rank's. Who waits looks at the streams and gives up after a while: a hang is an error that names the ranks that arrived,
//! and the communicators are aborted.

use super::check::Programs;
use super::guard::Pulse;
use super::meeting::Meeting;
use super::nccl::{self, Nccl, failed};
use super::ranks::{Member, Numbers};
use super::stream::{Event, elapsed_ms};
use super::sys::status;
use crate::lateness::Lateness;
use crate::{Checked, CollectiveProblem, Communicator, DeviceError, Exchange, Registration, Result, Timing};
use ridgepoint_core::Seconds;
use ridgepoint_core::record::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The ranks of this process, up.
pub(super) struct Team {
    pub(super) api: Arc<Nccl>,
    pub(super) programs: Arc<Programs>,
    pub(super) problem: CollectiveProblem,
    pub(super) numbers: Numbers,
    pub(super) members: Vec<Member>,
    /// The failure that ended it: there is no going on after one.
    pub(super) broken: Option<DeviceError>,
    /// Each member's seconds, and the executions they are of.
    pub(super) times: (Vec<f64>, usize),
    pub(super) config: BTreeMap<String, String>,
    pub(super) patience: Duration,
    /// By which a thread that hangs is told from one that waits.
    pub(super) pulse: Arc<Pulse>,
    /// Seconds of an execution, as the last ones took.
    pub(super) single: Option<f64>,
    pub(super) lateness: Lateness,
    /// What the ranks meet by, once they have.
    pub(super) meeting: Option<Meeting>,
}

/// Executions are enqueued for no more than this part of the patience at a time: each batch shows that the ranks get on.
const SHARE: f64 = 0.125;

impl Team {
    /// `calls` of all members as one.
    fn group(&self, mut calls: impl FnMut(&Member) -> Result<()>) -> Result<()> {
        let mut members = self.members.iter();
        self.group_of(self.members.len(), || members.next().map_or(Ok(()), &mut calls))
    }

    /// So many calls as one, so that no thread waits for a rank that the same thread has yet to call for.
    pub(super) fn group_of(&self, n: usize, mut call: impl FnMut() -> Result<()>) -> Result<()> {
        // SAFETY: takes nothing.
        unsafe { self.api.group_start() }.map_err(failed)?;
        let outcome = (0..n).try_for_each(|_| call());
        self.pulse.at("ncclGroupEnd");
        // SAFETY: takes nothing; a group that was begun is ended whatever came of it.
        let ended = unsafe { self.api.group_end() }.map_err(failed);
        self.pulse.beat();
        outcome.and(ended)
    }

    pub(super) fn register(&mut self) -> Result<()> {
        let api = Arc::clone(&self.api);
        let symmetric = match self.problem.registration {
            Registration::None => return Ok(()),
            Registration::Local => false,
            Registration::Symmetric => true,
        };
        for which in [false, true] {
            let mut handles = vec![std::ptr::null_mut(); self.members.len()];
            let mut next = handles.iter_mut();
            self.group(|member| {
                let buffer = if which { &member.received } else { &member.sent };
                let Some(handle) = next.next() else { return Ok(()) };
                member.ctx.api()?;
                // SAFETY: a live communicator and the whole of a live buffer; the handle is written by the end of the group.
                let registered = unsafe {
                    match symmetric {
                        true => api.window(member.comm, buffer.ptr, buffer.len, handle, nccl::SYMMETRIC),
                        false => api.register(member.comm, buffer.ptr, buffer.len, handle),
                    }
                };
                registered.map_err(failed)
            })?;
            if symmetric && handles.iter().any(|handle| handle.is_null()) {
                return Err(DeviceError::unsupported("the library makes no symmetric windows between these devices"));
            }
            self.members.iter_mut().zip(handles).for_each(|(member, handle)| member.registered.push(handle));
        }
        Ok(())
    }

    /// An event in every rank's stream.
    pub(super) fn mark(&self, events: &mut [Vec<Event>]) -> Result<()> {
        for (member, events) in self.members.iter().zip(events) {
            events.push(member.stream.record()?);
        }
        Ok(())
    }

    /// Enqueues `n` executions on every rank, and gives the events around what counts.
    fn enqueue(&self, n: usize) -> Result<Vec<Vec<Event>>> {
        let p = &self.problem;
        let mut events: Vec<Vec<Event>> = self.members.iter().map(|_| Vec::new()).collect();
        if !p.consumes() {
            self.mark(&mut events)?;
        }
        for _ in 0..n {
            if p.consumes() {
                self.members.iter().try_for_each(|member| member.restore(p))?;
                self.mark(&mut events)?;
            }
            self.group(|member| member.enqueue(&self.api, p, self.numbers))?;
            if p.consumes() {
                self.mark(&mut events)?;
            }
        }
        if !p.consumes() {
            self.mark(&mut events)?;
        }
        Ok(events)
    }

    /// Waits for every rank's stream, and not for ever.
    pub(super) fn wait(&self, events: &[Vec<Event>]) -> Result<()> {
        let since = Instant::now();
        loop {
            let mut pending = Vec::new();
            for member in &self.members {
                // SAFETY: a live stream of the device made current.
                match unsafe { member.ctx.api()?.stream_query(member.stream.handle) } {
                    Ok(()) => {}
                    Err(error) if error.status() == Some(status::NOT_READY) => pending.push(member.rank),
                    // A driver without the function is waited for in its own way.
                    Err(error) if error.status().is_none() => member.stream.synchronize()?,
                    Err(error) => return Err(error.into()),
                }
            }
            if pending.is_empty() {
                return Ok(());
            }
            self.pulse.at("waiting for the ranks");
            self.async_errors()?;
            if since.elapsed() > self.patience {
                return Err(self.hung(events));
            }
            if since.elapsed() > Duration::from_millis(1) {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// What a communicator found out by itself meanwhile.
    fn async_errors(&self) -> Result<()> {
        /// `ncclSuccess`, `ncclInProgress`.
        const GOING_ON: [i32; 2] = [0, 7];
        for member in &self.members {
            let mut code = 0;
            // SAFETY: a live communicator; writes one int.
            let asked = unsafe { self.api.async_error(member.comm, &mut code) };
            if asked.is_ok() && !GOING_ON.contains(&code) {
                let message = format!("rank {}: {}", member.rank, self.api.words(code));
                return Err(DeviceError::Call { call: self.problem.op.name(), code: code.into(), message });
            }
        }
        Ok(())
    }

    /// Ranks whose streams came to the collective, and those that did not.
    fn hung(&self, events: &[Vec<Event>]) -> DeviceError {
        let passed = |(member, events): &(&Member, &Vec<Event>), at: usize| {
            let Some(event) = events.get(at) else { return false };
            // SAFETY: a live event of the device made current.
            member.ctx.api().is_ok_and(|api| unsafe { api.event_query(event.handle) }.is_ok())
        };
        // One without events had nothing to do.
        let awaited: Vec<_> = self.members.iter().zip(events).filter(|(_, events)| !events.is_empty()).collect();
        // The first that not all came out of; each has an event before it and one behind.
        let pairs = events.iter().map(|events| events.len() / 2).max().unwrap_or(0);
        let at = (0..pairs).find(|i| !awaited.iter().all(|of| passed(of, 2 * i + 1))).unwrap_or(0);
        let (here, missing): (Vec<_>, Vec<_>) = awaited.into_iter().partition(|of| passed(of, 2 * at));
        let list = |of: &[(&Member, &Vec<Event>)]| match of {
            [] => "none".to_owned(),
            of => of.iter().map(|(m, _)| format!("{} (device {})", m.rank, m.ctx.device)).collect::<Vec<_>>().join(", "),
        };
        let message = format!(
            "no rank got on for {} s; ranks that arrived: {}; that did not: {}",
            self.patience.as_secs_f64(),
            list(&here),
            list(&missing)
        );
        DeviceError::Call { call: self.problem.op.name(), code: libc::ETIMEDOUT.into(), message }
    }

    /// There is no going on after an error.
    fn give_up(&mut self, error: &DeviceError) {
        self.broken = Some(error.clone());
        for member in &mut self.members {
            // SAFETY: a live communicator, not used again. Kernels that still wait for peers are ended by this.
            let _ = unsafe { self.api.abort(member.comm) };
            member.comm = std::ptr::null_mut();
        }
    }

    fn attempt(&mut self, n: usize) -> Result<Timing> {
        let events = self.enqueue(n)?;
        self.wait(&events)?;
        let mut slowest = 0.0_f64;
        for (events, total) in events.iter().zip(&mut self.times.0) {
            let mut seconds = 0.0;
            for pair in events.chunks_exact(2) {
                seconds += f64::from(elapsed_ms(&pair[0], &pair[1])?) / 1e3;
            }
            *total += seconds;
            slowest = slowest.max(seconds);
        }
        self.times.1 += n;
        self.single = (n > 0).then(|| slowest / n as f64);
        Ok(Timing { seconds: Seconds(slowest), clock: Clock::Device })
    }
}

impl Communicator for Team {
    fn poison(&mut self) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if self.single.is_some() {
            self.pulse.at("looking who is late");
            self.look().inspect_err(|error| self.give_up(error))?;
        }
        self.pulse.at("poisoning the outputs");
        for member in &self.members {
            member.stream.fill((&member.received).into(), 0xff)?;
            if self.problem.in_place {
                member.restore(&self.problem)?;
            }
        }
        self.members.iter().try_for_each(|member| member.stream.synchronize())?;
        Ok(())
    }

    fn run(&mut self, n: usize) -> Result<Timing> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let mut timing = Timing { seconds: Seconds(0.0), clock: Clock::Device };
        let mut left = n;
        while left > 0 {
            let most = self.single.map_or(1.0, |single| self.patience.as_secs_f64() * SHARE / single.max(1e-9));
            let batch = left.min(most.max(1.0) as usize);
            let took = self.attempt(batch).inspect_err(|error| self.give_up(error))?;
            timing.seconds.0 += took.seconds.0;
            left -= batch;
        }
        Ok(timing)
    }

    fn pair(&mut self, partners: &[Option<usize>], times: u64) -> Result<Vec<Option<Exchange>>> {
        self.poison()?;
        self.exchange(partners, times).inspect_err(|error| self.give_up(error))
    }

    fn output(&mut self, rank: usize) -> Result<Vec<u8>> {
        self.pulse.at("fetching an output");
        let p = &self.problem;
        let member = self.members.iter().find(|member| member.rank == rank);
        let member = member.ok_or_else(|| DeviceError::invalid(format!("rank {rank} is not of this process")))?;
        let mut out = vec![0; p.receives(rank) * p.size()];
        member.stream.download((&member.received).into(), p.receives_from(rank) * p.size(), &mut out)?;
        Ok(out)
    }

    fn check(&mut self, tolerance: f64) -> Result<Option<Checked>> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.pulse.at("checking the outputs");
        // All ranks' devices at once.
        let mut found = Vec::new();
        for member in &self.members {
            self.pulse.beat();
            match self.programs.check(member, &self.problem, tolerance) {
                Ok(answer) => found.push(answer),
                Err(DeviceError::Unsupported(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let mut total = Checked::default();
        for (member, found) in self.members.iter().zip(found) {
            self.pulse.beat();
            total.merge(found.read(&member.stream)?);
        }
        Ok(Some(total))
    }

    fn meet(&mut self) -> Result<Vec<Seconds>> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let waited = self.meetings(1, false).inspect_err(|error| self.give_up(error))?;
        Ok(waited.into_iter().next().unwrap_or_default())
    }

    fn forget(&mut self) {
        self.times.0.fill(0.0);
        self.times.1 = 0;
    }

    fn times(&self) -> Vec<Seconds> {
        let (sums, n) = &self.times;
        if *n == 0 { Vec::new() } else { sums.iter().map(|sum| Seconds(sum / *n as f64)).collect() }
    }

    fn lateness(&self) -> Vec<Seconds> {
        self.lateness.medians()
    }

    fn config(&self) -> BTreeMap<String, String> {
        self.config.clone()
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let symmetric = self.problem.registration == Registration::Symmetric;
        for member in self.members.iter().filter(|member| !member.comm.is_null()) {
            let _ = member.ctx.api();
            for handle in &member.registered {
                // SAFETY: registered with this communicator, once.
                let _ = unsafe {
                    if symmetric {
                        self.api.close_window(member.comm, *handle)
                    } else {
                        self.api.deregister(member.comm, *handle)
                    }
                };
            }
        }
        for member in self.members.iter().filter(|member| !member.comm.is_null()) {
            let _ = member.ctx.api();
            // SAFETY: live, and not used again.
            let _ = unsafe { self.api.destroy(member.comm) };
        }
    }
}
