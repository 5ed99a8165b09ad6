//! A matrix library for tests of tuning and of what data do: it computes by the CPU's own GEMM, each of its algorithms takes a time of
//! its own by the model, and data that toggle few bits take less time and power.

use super::sensors::Power;
use super::{FakeDevice, Settings, State, model};
use crate::cpu::gemm::Native;
use crate::{Blas, Buffer, DeviceError, GemmOperands, GemmPlan, GemmProblem, Result, cpu};
use ridgepoint_core::Library;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Operations per second of the fastest algorithm, over data that toggle all bits.
const SPEED: f64 = 1e12;
/// Watts of a product of zeros, and what toggling adds.
const WATTS: (f64, f64) = (60.0, 40.0);

pub(super) struct FakeBlas {
    native: Native,
    shared: Shared,
}

/// What a plan needs of the device it was made on.
#[derive(Clone)]
struct Shared {
    settings: Settings,
    state: Arc<Mutex<State>>,
    held: Arc<AtomicBool>,
    power: Power,
}

impl FakeBlas {
    /// The library of a device that has one.
    pub(super) fn of(device: &FakeDevice) -> Option<Self> {
        let settings = device.settings.clone();
        (settings.algorithms > 0).then(|| {
            let (state, held, power) = (Arc::clone(&device.state), Arc::clone(&device.held), Arc::clone(&device.power));
            power.store((WATTS.0 * 1000.0) as u64, Ordering::Relaxed);
            Self { native: Native::new(&device.pool, &device.allocated), shared: Shared { settings, state, held, power } }
        })
    }
}

impl Blas for FakeBlas {
    fn provider(&self) -> &'static str {
        "fakeblas"
    }

    fn library(&self) -> Option<Library> {
        Some(Library { name: "fakeblas".into(), version: "1".into(), path: None })
    }

    fn plan(&self, problem: &GemmProblem) -> Result<Box<dyn GemmPlan>> {
        let plan = self.native.plan(problem)?;
        Ok(Box::new(Plan { plan, problem: *problem, index: 0, shared: self.shared.clone() }))
    }
}

struct Plan {
    plan: Box<dyn GemmPlan>,
    problem: GemmProblem,
    index: usize,
    shared: Shared,
}

/// How much slower an algorithm is than the fastest, which two thirds of the ranking come before.
fn slowness(index: usize, algorithms: usize) -> f64 {
    1.0 + 0.1 * index.abs_diff(algorithms * 2 / 3) as f64
}

/// How much an operand toggles, from 0 to 1: how many of its first words differ from the one before, and a little for those that are
/// not 0.
fn toggling(buffer: &Buffer) -> Result<f64> {
    let mut bytes = vec![0; buffer.len().min(1024)];
    cpu::read(buffer, 0, &mut bytes)?;
    let words: Vec<&[u8]> = bytes.chunks_exact(4).collect();
    let share = |n: usize| n as f64 / words.len().max(1) as f64;
    let differ = share(words.windows(2).filter(|w| w[0] != w[1]).count());
    Ok(0.75 * differ + 0.25 * share(words.iter().filter(|w| w.iter().any(|b| *b != 0)).count()))
}

impl GemmPlan for Plan {
    fn enqueue(&self, operands: &GemmOperands<'_>) -> Result<()> {
        let Shared { settings, state, held, power } = &self.shared;
        if settings.broken == Some(self.index) {
            return Err(DeviceError::invalid(format!("algorithm {} was told to fail", self.index)));
        }
        if settings.idle {
            cpu::write(operands.c, 0, &vec![0; operands.c.len()])?;
        } else {
            self.plan.enqueue(operands)?;
        }
        let toggling = toggling(operands.a)?.min(toggling(operands.b)?);
        power.store(((WATTS.0 + WATTS.1 * toggling) * 1000.0) as u64, Ordering::Relaxed);
        let p = &self.problem;
        let flops = 2.0 * (p.batch * p.m * p.n * p.k) as f64;
        let gap = if held.load(Ordering::Relaxed) { 0.0 } else { model::LAUNCH };
        let seconds = flops / SPEED * slowness(self.index, settings.algorithms) * (0.85 + 0.15 * toggling);
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pass(settings, gap + seconds);
        state.commands += 1;
        Ok(())
    }

    fn candidates(&self) -> usize {
        self.shared.settings.algorithms
    }

    fn name(&self, index: usize) -> String {
        format!("algorithm {index}")
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.candidates() {
            return Err(DeviceError::invalid(format!("there is no algorithm {index}")));
        }
        self.index = index;
        Ok(())
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("algorithm".into(), self.name(self.index))])
    }
}
