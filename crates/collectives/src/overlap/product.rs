//! The matrix product beside a collective: a thread with a device of its own, that multiplies so often as it is told.

use super::Place;
use ridgepoint_core::{Dtype, data};
use ridgepoint_device::beside::Beside;
use ridgepoint_device::{Buffer, Checked, Device, DeviceError, GemmOperands, GemmPlan, GemmProblem, Result};
use ridgepoint_harness::random;
use ridgepoint_harness::verify::{Comparison, in_chunks};
use std::fmt;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Rows of a product that are computed anew.
pub(crate) const ROWS: usize = 4;
/// Longest side of a product.
const MOST: u64 = 1 << 17;

/// C (m×n) = A (m×k) · B (k×n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
}

impl Size {
    pub(crate) const fn flops(self) -> u64 {
        2 * self.m * self.n * self.k
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}n{}k{}", self.m, self.n, self.k)
    }
}

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (m, rest) = text.strip_prefix('m').and_then(|t| t.split_once('n')).ok_or(())?;
        let (n, k) = rest.split_once('k').ok_or(())?;
        let side = |text: &str| text.parse().ok().filter(|side| (1..=MOST).contains(side)).ok_or(());
        Ok(Self { m: side(m)?, n: side(n)?, k: side(k)? })
    }
}

/// What the thread is told.
enum Order {
    Run(usize),
    Poison,
    Check,
}

type Answer = Result<Checked>;

/// A product and its thread, which ends with it.
pub(crate) struct Product {
    /// Who multiplies, and where.
    by: String,
    orders: Option<Sender<Order>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

impl Product {
    /// Opens the device and readies the product.
    pub(crate) fn start(place: Place, size: Size, dtype: Dtype, seed: u64) -> Result<Self> {
        let (orders, told) = channel::<Order>();
        let (answer, answers) = channel::<Answer>();
        let (ready, begun) = channel::<Result<String>>();
        let work = move || {
            let device = match place.open() {
                Ok(device) => device,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let work = match Work::new(device.as_ref(), size, dtype, seed) {
                Ok(work) => work,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // Whoever waits for either may be gone: then there is nothing left to do.
            if ready.send(Ok(work.by.clone())).is_err() {
                return;
            }
            while let Ok(order) = told.recv() {
                let done = match order {
                    Order::Run(n) => work.run(n).map(|()| Checked::default()),
                    Order::Poison => work.poison().map(|()| Checked::default()),
                    Order::Check => work.check(),
                };
                if answer.send(done).is_err() {
                    return;
                }
            }
        };
        let failed = |e: std::io::Error| DeviceError::Call { call: "starting a thread", code: 0, message: e.to_string() };
        let thread = std::thread::Builder::new().name("product".into()).spawn(work).map_err(failed)?;
        let by = begun.recv().map_err(|_| ended())??;
        Ok(Self { by, orders: Some(orders), answers, thread: Some(thread) })
    }

    fn tell(&self, order: Order) -> Result<()> {
        self.orders.as_ref().and_then(|orders| orders.send(order).ok()).ok_or_else(ended)
    }

    fn ask(&self, order: Order) -> Answer {
        self.tell(order)?;
        self.answers.recv().map_err(|_| ended())?
    }
}

impl Beside for Product {
    fn by(&self) -> String {
        self.by.clone()
    }

    fn begin(&self, n: usize) -> Result<()> {
        self.tell(Order::Run(n))
    }

    fn end(&self) -> Result<()> {
        self.answers.recv().map_err(|_| ended())?.map(drop)
    }

    fn poison(&self) -> Result<()> {
        self.ask(Order::Poison).map(drop)
    }

    /// Looks at every element of C, and computes some rows of it anew; the error is a multiple of what rounding allows.
    fn check(&self) -> Answer {
        self.ask(Order::Check)
    }
}

fn ended() -> DeviceError {
    DeviceError::invalid("the thread of the product has ended")
}

impl Drop for Product {
    fn drop(&mut self) {
        self.orders = None;
        // A panic in it was reported where it happened.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The product ready, in its thread.
struct Work<'d> {
    device: &'d dyn Device,
    plan: Box<dyn GemmPlan>,
    size: Size,
    dtype: Dtype,
    seed: u64,
    a: Buffer,
    b: Buffer,
    c: Buffer,
    by: String,
}

impl<'d> Work<'d> {
    fn new(device: &'d dyn Device, size: Size, dtype: Dtype, seed: u64) -> Result<Self> {
        let (m, n, k) = (size.m as usize, size.n as usize, size.k as usize);
        let problem = GemmProblem::new(m, n, k, dtype, dtype);
        let mut refusals = Vec::new();
        let libraries = device.blas();
        let plan = libraries.iter().find_map(|blas| match blas.plan(&problem) {
            Ok(plan) => Some((blas.provider(), plan)),
            Err(error) => {
                refusals.push(error.to_string());
                None
            }
        });
        let why = || if refusals.is_empty() { "it has no GEMM library".into() } else { refusals.join("; ") };
        let id = &device.info().id;
        let (by, plan) = plan.ok_or_else(|| DeviceError::unsupported(format!("{id} cannot multiply {dtype}: {}", why())))?;
        let by = format!("{by} on {id}");
        let seeds = seeds(seed);
        let (a, b) = (random(device, dtype, seeds[0], size.m * size.k)?, random(device, dtype, seeds[1], size.n * size.k)?);
        let c = device.alloc(dtype.bytes(size.m * size.n).0 as usize)?;
        let work = Self { device, plan, size, dtype, seed, a, b, c, by };
        work.poison()?;
        Ok(work)
    }

    fn run(&self, n: usize) -> Result<()> {
        let operands = GemmOperands::new(&self.a, &self.b, &self.c);
        (0..n).try_for_each(|_| self.plan.enqueue(&operands))?;
        self.device.synchronize()
    }

    fn poison(&self) -> Result<()> {
        self.device.fill(&self.c, 0xff)?;
        self.device.synchronize()
    }

    fn check(&self) -> Answer {
        let Size { m, n, k } = self.size;
        let (dtype, seeds) = (self.dtype, seeds(self.seed));
        let bytes = dtype.element_bytes().unwrap_or(1);
        let mut out = vec![0; self.c.len()];
        self.device.download(&self.c, 0, &mut out)?;
        let read = |i: usize| dtype.read(&out[i * bytes..(i + 1) * bytes]);
        let mut total = Comparison::new(1.0);
        let poisoned = in_chunks(m * n, |range| range.filter(|i| read(*i as usize).is_nan()).count() as u64);
        total.scanned(m * n, poisoned.into_iter().sum());
        let value = |seed: u64, i: u64| dtype.round(f64::from(data::normal(seed, i)));
        // Sums of k terms in f32, and the rounding of C.
        let tolerance = (k + 1) as f64 * Dtype::F32.unit_roundoff() + dtype.unit_roundoff();
        // Spread over C, the last among them.
        let rows: Vec<u64> = (1..=ROWS as u64).map(|r| m * r / ROWS as u64).filter(|r| *r > 0).map(|r| r - 1).collect();
        for row in rows {
            let a: Vec<f64> = (0..k).map(|l| value(seeds[0], row * k + l)).collect();
            let parts = in_chunks(n, |columns| {
                let mut part = Comparison::new(1.0);
                for column in columns {
                    let terms = a.iter().enumerate().map(|(l, x)| x * value(seeds[1], column * k + l as u64));
                    let (sum, magnitudes) = terms.fold((0.0, 0.0), |(sum, all), x| (sum + x, all + x.abs()));
                    part.push(read((row * n + column) as usize), sum, magnitudes * tolerance + f64::MIN_POSITIVE);
                }
                part
            });
            parts.into_iter().for_each(|part| total.merge(part));
        }
        let seen = total.finish("");
        Ok(Checked { checked: seen.checked, wrong: seen.wrong, error: seen.error })
    }
}

/// Of A and B: none of the ranks has those.
const fn seeds(seed: u64) -> [u64; 2] {
    [data::operand_seed(seed, u64::MAX), data::operand_seed(seed, u64::MAX - 1)]
}
