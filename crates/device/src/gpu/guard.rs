//! Ranks behind a thread of their own: a call of the library's that does not come back (connecting ranks, ending a group) is an
//! error that names it, and no standstill. The thread is left to itself then, since nothing can end it.

use super::team::Team;
use crate::{Checked, Communicator, DeviceError, Exchange, Result, Timing};
use ridgepoint_core::Seconds;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the pulse is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// By which a thread shows that it gets on, and where it is.
#[derive(Debug)]
pub(super) struct Pulse {
    beats: AtomicU64,
    at: Mutex<&'static str>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { beats: AtomicU64::new(0), at: Mutex::new("opening the devices") }
    }
}

impl Pulse {
    /// A step was made.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// A call that may take long begins.
    pub(super) fn at(&self, call: &'static str) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = call;
        self.beat();
    }
}

type Order = Box<dyn FnOnce(&mut Team) + Send>;

/// Ranks that are asked, and not waited for longer than their patience without a beat.
pub(super) struct Guarded {
    orders: Option<Sender<Order>>,
    /// Closed when the thread has ended.
    end: Receiver<()>,
    watch: Watch,
}

/// What tells that a thread hangs.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) pulse: Arc<Pulse>,
    pub(super) patience: Duration,
    /// `ranks 0 to 7 (devices 0, 1, …)`.
    pub(super) who: String,
    /// The call that did not come back, for all that would be started after it.
    pub(super) stuck: Arc<Mutex<Option<DeviceError>>>,
}

impl Watch {
    /// Waits for an answer as long as there are beats.
    fn answer<T>(&self, from: &Receiver<T>) -> Result<T> {
        let (mut seen, mut since) = (self.pulse.beats.load(Ordering::Relaxed), Instant::now());
        loop {
            match from.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(DeviceError::invalid("the thread of the ranks has ended")),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let beats = self.pulse.beats.load(Ordering::Relaxed);
            if beats != seen {
                (seen, since) = (beats, Instant::now());
            } else if since.elapsed() > self.patience {
                let call = *self.pulse.at.lock().unwrap_or_else(PoisonError::into_inner);
                let message = format!("it did not come back for {} s; waiting in it: {}", self.patience.as_secs_f64(), self.who);
                let error = DeviceError::Call { call, code: libc::ETIMEDOUT.into(), message };
                *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                return Err(error);
            }
        }
    }

    /// The call that hangs, if one does.
    fn hangs(&self) -> Result<()> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}

impl Guarded {
    /// Starts ranks by `start`, on their own thread.
    pub(super) fn start(watch: Watch, start: impl FnOnce() -> Result<Team> + Send + 'static) -> Result<Self> {
        watch.hangs()?;
        let (orders, taken) = channel::<Order>();
        let (ended, end) = channel::<()>();
        let (up, started) = channel();
        let thread = std::thread::Builder::new().name("ranks".into()).spawn(move || {
            let _ended = ended;
            match start() {
                Ok(mut team) => {
                    // Whoever asked may have given up.
                    let _ = up.send(Ok(()));
                    while let Ok(order) = taken.recv() {
                        order(&mut team);
                    }
                    team.pulse.at("ncclCommDestroy");
                }
                Err(error) => drop(up.send(Err(error))),
            }
        });
        thread.map_err(|e| DeviceError::invalid(format!("cannot start a thread for the ranks: {e}")))?;
        watch.answer(&started)??;
        Ok(Self { orders: Some(orders), end, watch })
    }

    fn ask<T: Send + 'static>(&self, what: impl FnOnce(&mut Team) -> T + Send + 'static) -> Result<T> {
        self.watch.hangs()?;
        let (to, from) = channel();
        let order: Order = Box::new(move |team| drop(to.send(what(team))));
        // One that has ended is heard to have.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
        self.watch.answer(&from)
    }
}

impl Communicator for Guarded {
    fn poison(&mut self) -> Result<()> {
        self.ask(Team::poison)?
    }

    fn run(&mut self, n: usize) -> Result<Timing> {
        self.ask(move |team| team.run(n))?
    }

    fn output(&mut self, rank: usize) -> Result<Vec<u8>> {
        self.ask(move |team| team.output(rank))?
    }

    fn check(&mut self, tolerance: f64) -> Result<Option<Checked>> {
        self.ask(move |team| team.check(tolerance))?
    }

    fn pair(&mut self, partners: &[Option<usize>], times: u64) -> Result<Vec<Option<Exchange>>> {
        let partners = partners.to_vec();
        self.ask(move |team| team.pair(&partners, times))?
    }

    fn meet(&mut self) -> Result<Vec<Seconds>> {
        self.ask(Team::meet)?
    }

    fn forget(&mut self) {
        // What hangs is told by whatever is asked next.
        let _ = self.ask(Team::forget);
    }

    fn times(&self) -> Vec<Seconds> {
        self.ask(|team| team.times()).unwrap_or_default()
    }

    fn lateness(&self) -> Vec<Seconds> {
        self.ask(|team| team.lateness()).unwrap_or_default()
    }

    fn config(&self) -> BTreeMap<String, String> {
        self.ask(|team| team.config()).unwrap_or_default()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.orders = None;
        // Memory of ranks that are given up must be free before others are made; one that hangs is not waited for.
        if self.watch.hangs().is_ok() {
            let _ = self.watch.answer(&self.end);
        }
    }
}
