//! All GPUs of a node at once: each case that each of them measured alone is measured again by all at the same moment, so that what
//! they share (power, cooling, the host's links and memory) shows as less than each has alone.
//!
//! A thread drives each device. They wait for each other before the timed runs, warm up for one time and sample for one time, so
//! that their windows lie on each other. The records carry the provider's name with [`TOGETHER`] behind it and stand beside those
//! of each alone; what one is of the other is worked out where it is shown.

use super::{Job, Session, progress};
use crate::environment::now;
use crate::exit::{Failure, Outcome};
use crate::report::TOGETHER;
use ridgepoint_core::{Backend, DeviceInfo, Outcome as Result, Seconds};
use ridgepoint_device::{Device, open};
use ridgepoint_harness::{Policy, measure_after};
use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// How long all sample at the least: what differs at both ends must be little of it.
const LEAST: Seconds = Seconds(1.0);

/// True for a device that shares a node's power and links with others of its kind.
fn is_gpu(info: &DeviceInfo) -> bool {
    !matches!(info.backend, Backend::Cpu | Backend::Fake) && !info.software
}

/// Refuses what is no two GPUs.
pub(crate) fn possible(devices: &[Box<dyn Device>]) -> Outcome<()> {
    let gpus: Vec<&str> = devices.iter().map(|d| d.info()).filter(|info| is_gpu(info)).map(|info| info.id.as_str()).collect();
    if gpus.len() < 2 {
        let here = if gpus.is_empty() { "none".to_owned() } else { gpus.join(", ") };
        return Err(Failure::usage(format!("--together needs at least two GPUs; of those chosen, {here}: choose --device all")));
    }
    Ok(())
}

/// The same case for all: no one stops early because its own figure is known.
fn policy(alone: &Policy) -> Policy {
    Policy {
        warmup: alone.warmup_limit,
        target_ci: 0.0,
        time_limit: Seconds(alone.time_limit.0.max(LEAST.0)),
        max_samples: 20_000,
        ..*alone
    }
}

impl Session {
    /// Measures again, by all GPUs at once, what at least two of them measured; false if it was interrupted before the end.
    pub(crate) fn measure_together(&mut self, jobs: &[Job]) -> Outcome<bool> {
        let groups = self.groups(jobs);
        let (progress, policy) = (progress(groups.len()), policy(&self.policy));
        for group in groups {
            if self.interrupted() {
                progress.abandon();
                return Ok(false);
            }
            let case = &group[0].listed.case;
            progress.set_message(format!("{} GPUs together {} {}", group.len(), case.id, group[0].provider));
            self.at_once(&group, &policy)?;
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(true)
    }

    /// The jobs that are of one case and provider on several GPUs, and are not done.
    fn groups<'j>(&self, jobs: &'j [Job]) -> Vec<Vec<&'j Job>> {
        let id = |job: &Job| self.devices[job.device].info().id.clone();
        let alone = |job: &Job| {
            let of =
                |r: &&ridgepoint_core::Record| r.device == id(job) && r.case == job.listed.case.id && r.provider == job.provider;
            self.found.records.iter().find(of).is_some_and(|r| matches!(r.outcome, Result::Measured { .. }))
        };
        let mut groups: Vec<Vec<&Job>> = Vec::new();
        for job in jobs.iter().filter(|job| is_gpu(self.devices[job.device].info()) && alone(job)) {
            let same = |g: &&mut Vec<&Job>| g[0].listed.case.id == job.listed.case.id && g[0].provider == job.provider;
            match groups.iter_mut().find(same) {
                Some(group) => group.push(job),
                None => groups.push(vec![job]),
            }
        }
        let done = |job: &&Job| self.is_done(&id(job), job.listed.case.id.as_str(), &format!("{}{TOGETHER}", job.provider));
        groups.retain(|group| group.len() > 1 && !group.iter().all(done));
        groups
    }

    fn at_once(&mut self, group: &[&Job], policy: &Policy) -> Outcome<()> {
        let (seed, started) = (self.seed, now());
        let meeting = Meeting { state: Mutex::new((group.len(), 0)), changed: Condvar::new() };
        let measured: Vec<_> = std::thread::scope(|scope| {
            let mine = |index: usize| group.iter().find(|job| job.device == index).copied();
            let devices = self.devices.iter_mut().enumerate().filter_map(|(index, device)| Some((device, mine(index)?)));
            let threads: Vec<_> = devices
                .map(|(device, job)| {
                    let seat = Seat { meeting: &meeting, waited: Cell::new(false) };
                    scope.spawn(move || {
                        let (suite, case) = (job.listed.suite, &job.listed.case);
                        measure_after(&|| seat.wait(), suite, case, &job.provider, device.as_ref(), (policy, seed))
                    })
                })
                .collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        let mut jobs: Vec<&Job> = group.to_vec();
        jobs.sort_by_key(|job| job.device);
        let ids: Vec<String> = jobs.iter().map(|job| self.devices[job.device].info().id.clone()).collect();
        for ((job, measured), id) in jobs.iter().zip(measured).zip(&ids) {
            let measured = measured.map_err(|_| Failure::environment(format!("the thread of {id} ended in the middle")))?;
            let (lost, provider) = (measured.lost, format!("{}{TOGETHER}", job.provider));
            let info = self.devices[job.device].info();
            let mut record = measured.record(&job.listed.case, &provider, info, &self.environment.hash, started.clone());
            let others: Vec<&str> = ids.iter().filter(|other| *other != id).map(String::as_str).collect();
            record.config.insert("together with".into(), others.join(" "));
            self.keep(record)?;
            if lost {
                self.devices[job.device] =
                    open(id).map_err(|e| Failure::environment(format!("{id} was lost and cannot be opened again: {e}")))?;
            }
        }
        Ok(())
    }
}

/// Where threads wait for each other, once. One that will not come says so by leaving its seat.
struct Meeting {
    /// How many are expected, and how many are there.
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

struct Seat<'m> {
    meeting: &'m Meeting,
    waited: Cell<bool>,
}

impl Seat<'_> {
    fn wait(&self) {
        self.waited.set(true);
        let mut state = self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        self.meeting.changed.notify_all();
        while state.1 < state.0 {
            state = self.meeting.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if !self.waited.get() {
            self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
            self.meeting.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_wait_for_the_last_and_nobody_for_one_that_left() {
        let meeting = Meeting { state: Mutex::new((4, 0)), changed: Condvar::new() };
        let arrived = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for i in 0..4 {
                let seat = Seat { meeting: &meeting, waited: Cell::new(false) };
                let arrived = &arrived;
                scope.spawn(move || {
                    if i == 3 {
                        return drop(seat);
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10 * i));
                    arrived.fetch_add(1, Ordering::SeqCst);
                    seat.wait();
                    assert_eq!(arrived.load(Ordering::SeqCst), 3);
                });
            }
        });
    }
}
