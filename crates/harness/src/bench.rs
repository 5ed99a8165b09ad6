//! A case that was proved right and may be timed: until the median is known, as `ridgepoint run` does, or batch by batch for a
//! tool with a stopping rule of its own, as `cargo bench` does. Warm-up, batches, eviction and both checks are the same.

use crate::sample::sample;
use crate::timer::Timer;
use crate::{Policy, Prepared, Window};
use ridgepoint_core::{Cache, Outcome, Samples, Seconds, Telemetry, Verification};
use ridgepoint_device::{Device, DeviceError, Result, Timing};
use std::collections::BTreeMap;

/// Why a case is not timed.
#[derive(Clone, Debug)]
pub enum Refused {
    /// It cannot be done here (`Unsupported`), or was not for another reason.
    Error(DeviceError),
    /// It computed a wrong result.
    Wrong(Verification),
}

impl From<DeviceError> for Refused {
    fn from(error: DeviceError) -> Self {
        Self::Error(error)
    }
}

impl From<Refused> for Outcome {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wrong(verification) => Self::Wrong { verification },
            Refused::Error(DeviceError::Unsupported(reason)) => Self::Skipped { reason },
            Refused::Error(error) => Self::Failed { reason: error.to_string() },
        }
    }
}

/// A case that is ready, whose results were right, and that has not been timed or has been since.
pub struct Bench<'d> {
    prepared: Prepared<'d>,
    cache: Cache,
    device: &'d dyn Device,
    policy: Policy,
    timer: Option<Timer<'d>>,
}

impl<'d> Bench<'d> {
    /// Runs every operand set once over poisoned outputs and checks them: nothing that is wrong can be timed. Leaves the outputs
    /// poisoned, so that the timed runs must make them right again.
    ///
    /// # Errors
    /// A wrong result, or a device error.
    pub fn prove(
        mut prepared: Prepared<'d>,
        cache: Cache,
        device: &'d dyn Device,
        policy: &Policy,
    ) -> std::result::Result<Self, Refused> {
        let ready = prepared.ready.as_mut();
        ready.poison()?;
        for turn in 0..ready.turns() {
            ready.enqueue(turn)?;
        }
        device.synchronize()?;
        let verification = ready.check()?;
        if !verification.passed() {
            return Err(Refused::Wrong(verification));
        }
        ready.poison()?;
        Ok(Self { prepared, cache, device, policy: *policy, timer: None })
    }

    /// Runs until the case is warm, if it was not yet. [`Bench::time`] does so by itself, untimed.
    ///
    /// # Errors
    /// A device error.
    pub fn warm_up(&mut self) -> Result<()> {
        if self.timer.is_none() {
            let timer = Timer::start(self.prepared.ready.as_mut(), self.cache, self.device, &self.policy)?;
            self.timer = Some(timer);
        }
        Ok(())
    }

    /// The time of `executions` executions of the case, by the device's clock. Whole batches are run, of the size that the policy
    /// gives them, and their mean is taken so many times: a part of a batch would be launched, and so take, otherwise.
    ///
    /// # Errors
    /// A device error.
    pub fn time(&mut self, executions: u64) -> Result<Timing> {
        let (timer, ready) = self.warm()?;
        let each = timer.executions(ready);
        let batches = executions.div_ceil(each).max(1);
        let mut total = timer.batch(ready)?;
        for _ in 1..batches {
            total.seconds.0 += timer.batch(ready)?.seconds.0;
        }
        let seconds = Seconds(total.seconds.0 / (batches * each) as f64 * executions as f64);
        Ok(Timing { seconds, clock: total.clock })
    }

    /// Samples by the policy's own stopping rule, with the device's sensors beside it.
    ///
    /// # Errors
    /// A device error.
    pub fn sample(&mut self) -> Result<(Samples, Telemetry)> {
        let window = Window::open(self.device.sensors());
        let (timer, ready) = self.warm()?;
        let samples = sample(timer, ready, &window)?;
        Ok((samples, window.close()))
    }

    /// Checks what the timed runs left behind. Without this, a time is of something else.
    ///
    /// # Errors
    /// A device error; a wrong result is no error but a [`Verification`] that did not pass.
    pub fn verify(&mut self) -> Result<Verification> {
        let (timer, ready) = self.warm()?;
        timer.run_the_rest(ready)?;
        ready.check()
    }

    /// What only the timed runs could tell ([`crate::Ready::observed`]).
    #[must_use]
    pub fn observed(&self) -> BTreeMap<String, String> {
        self.prepared.ready.observed()
    }

    /// What a reader must see of it beside the number ([`crate::Ready::remarks`]).
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        self.prepared.ready.remarks()
    }

    fn warm(&mut self) -> Result<(&mut Timer<'d>, &mut (dyn crate::Ready + 'd))> {
        self.warm_up()?;
        match &mut self.timer {
            Some(timer) => Ok((timer, self.prepared.ready.as_mut())),
            None => Err(DeviceError::invalid("a timer that did not start")),
        }
    }
}
