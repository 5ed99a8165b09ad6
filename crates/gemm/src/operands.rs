//! What a product reads and writes, filled on the device by the counter that the reference knows.

use crate::cases::Shape;
use ridgepoint_core::data;
use ridgepoint_device::{Buffer, Device, GemmOperands, GemmProblem, Result};
use ridgepoint_harness::random;

/// One set of operands; a clone is the same memory.
#[derive(Clone)]
pub(crate) struct Operands {
    pub(crate) a: Buffer,
    pub(crate) b: Buffer,
    pub(crate) c: Buffer,
}

/// The streams of A and B of set `set`.
pub(crate) fn seeds(seed: u64, set: u64) -> [u64; 2] {
    [0, 1].map(|operand| data::operand_seed(seed, 2 * set + operand))
}

impl Operands {
    /// Set `set`, with A and B as the problem's types encode them.
    pub(crate) fn fill(device: &dyn Device, shape: Shape, problem: &GemmProblem, seed: u64, set: u64) -> Result<Self> {
        let [a, b, c] = shape.elements();
        let [seed_a, seed_b] = seeds(seed, set);
        Ok(Self {
            a: random(device, problem.a.dtype, seed_a, a)?,
            b: random(device, problem.b.dtype, seed_b, b)?,
            c: device.alloc(problem.output.bytes(c).0 as usize)?,
        })
    }

    /// These buffers, without scales.
    pub(crate) const fn new(a: Buffer, b: Buffer, c: Buffer) -> Self {
        Self { a, b, c }
    }

    /// As a plan takes them.
    pub(crate) fn of(&self) -> GemmOperands<'_> {
        GemmOperands::new(&self.a, &self.b, &self.c)
    }
}
