//! What a product reads and writes, filled on the device by the counter that the reference knows.

use crate::cases::Shape;
use ridgepoint_core::{Distribution, data};
use ridgepoint_device::{Buffer, Device, DeviceError, GemmOperands, GemmProblem, Result, ScaleOrder, Scales, Scaling};
use ridgepoint_harness::{fill, random, scales};

/// One set of operands; a clone is the same memory.
#[derive(Clone)]
pub(crate) struct Operands {
    pub(crate) a: Buffer,
    pub(crate) b: Buffer,
    pub(crate) c: Buffer,
    /// The scales of A and B, where they lie in memory.
    pub(crate) scales: Option<[Buffer; 2]>,
    pub(crate) factor: f32,
}

/// The streams of A and B of a set, and of their scales.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    pub(crate) elements: [u64; 2],
    pub(crate) scales: [u64; 2],
    pub(crate) tensors: [u64; 2],
}

impl Seeds {
    /// Those of set `set`.
    pub(crate) fn of(seed: u64, set: u64) -> Self {
        let pair = |first: u64| [0, 1].map(|operand| data::operand_seed(seed, 6 * set + first + operand));
        Self { elements: pair(0), scales: pair(2), tensors: pair(4) }
    }

    /// The product of the two scales of whole tensors.
    pub(crate) fn factor(self, scaling: Scaling) -> f32 {
        let of = |[a, b]: [u64; 2]| data::scale_f32(a, 0) * data::scale_f32(b, 0);
        match scaling {
            Scaling::Tensor => of(self.scales),
            Scaling::Nvfp4 => of(self.tensors),
            _ => 1.0,
        }
    }
}

impl Operands {
    /// A set whose A and B are as the problem's types encode them, and whose scales lie as the plan wants them.
    ///
    /// # Errors
    /// `Unsupported` where packed elements or blocks of scales do not come out even; a device error.
    pub(crate) fn fill(
        device: &dyn Device,
        shape: Shape,
        problem: &GemmProblem,
        orders: [ScaleOrder; 2],
        seeds: Seeds,
    ) -> Result<Self> {
        if let Some(scale) = shape.dtype.block_scale().filter(|scale| !shape.k.is_multiple_of(scale.block)) {
            return Err(DeviceError::unsupported(format!("{} needs a K that is a multiple of {}", shape.dtype, scale.block)));
        }
        let [a, b, c] = shape.elements();
        let of_scales = match Scales::of(problem) {
            None => None,
            Some([a, b]) => {
                Some([scales(device, a, orders[0], seeds.scales[0])?, scales(device, b, orders[1], seeds.scales[1])?])
            }
        };
        let made = |dtype, seed, elements| {
            let buffer = random(device, dtype, seed, elements)?;
            if shape.data != Distribution::Normal {
                fill(device, &buffer, shape.data, dtype, seed, elements)?;
            }
            Ok::<_, DeviceError>(buffer)
        };
        Ok(Self {
            a: made(problem.a.dtype, seeds.elements[0], a)?,
            b: made(problem.b.dtype, seeds.elements[1], b)?,
            c: device.alloc(problem.output.bytes(c).0 as usize)?,
            scales: of_scales,
            factor: seeds.factor(problem.scaling),
        })
    }

    /// A and B with other values; their scales stay.
    pub(crate) fn refill(
        &self,
        device: &dyn Device,
        shape: Shape,
        problem: &GemmProblem,
        data: Distribution,
        seeds: Seeds,
    ) -> Result<()> {
        let [a, b, _] = shape.elements();
        fill(device, &self.a, data, problem.a.dtype, seeds.elements[0], a)?;
        fill(device, &self.b, data, problem.b.dtype, seeds.elements[1], b)
    }

    /// These buffers, without scales.
    pub(crate) const fn new(a: Buffer, b: Buffer, c: Buffer) -> Self {
        Self { a, b, c, scales: None, factor: 1.0 }
    }

    /// As a plan takes them.
    pub(crate) fn of(&self) -> GemmOperands<'_> {
        let [scale_a, scale_b] = [0, 1].map(|i| self.scales.as_ref().map(|scales| &scales[i]));
        GemmOperands { scale_a, scale_b, factor: self.factor, ..GemmOperands::new(&self.a, &self.b, &self.c) }
    }
}
