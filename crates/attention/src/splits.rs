//! The second half of every split-KV decode: each split's output, unnormalised, with its maximum and sum, and the kernel that joins
//! them (kernels/attention/combine.cu).

use crate::shape::Shape;
use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, AttentionOperands, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};

/// Partial results of all output rows in `count` splits.
pub(crate) struct Splits<'d> {
    device: &'d dyn Device,
    shape: Shape,
    combine: Kernel,
    /// Splits of the keys, now.
    pub(crate) count: u64,
    /// What a trial may choose from.
    counts: Vec<u64>,
    /// f32 [rows, splits, d].
    pub(crate) partial: Buffer,
    /// Maximum and sum, f32 pairs [rows, splits].
    pub(crate) stats: Buffer,
}

impl<'d> Splits<'d> {
    /// Room for the rows of a shape whose output is of 16 bits, in any of `counts`, of which the first is used until another is chosen.
    ///
    /// # Errors
    /// `Unsupported` for more rows than the kernels count; as [`Device::compile`] and [`Device::alloc`].
    pub(crate) fn new(device: &'d dyn Device, shape: Shape, counts: Vec<u64>) -> Result<Self> {
        let rows = rows(shape);
        let most = counts.iter().copied().max().unwrap_or(1);
        if rows * most > i32::MAX as u64 {
            return Err(DeviceError::unsupported("more rows than the kernel counts"));
        }
        let number = if shape.output() == Dtype::F16 { "1" } else { "2" };
        let defines = [("RP_D", shape.dv.to_string()), ("RP_TYPE", number.to_owned())];
        let program = Program { name: "attention/combine", defines: &defines, ..Program::default() };
        Ok(Self {
            device,
            shape,
            combine: device.compile(&program, "rp_combine")?,
            count: counts.first().copied().unwrap_or(1),
            partial: device.alloc((rows * most * shape.dv * 4) as usize)?,
            stats: device.alloc((rows * most * 8) as usize)?,
            counts,
        })
    }

    /// How many numbers of splits there are to choose from.
    pub(crate) fn candidates(&self) -> usize {
        self.counts.len()
    }

    /// Uses the `index`-th of them from now on.
    ///
    /// # Errors
    /// `Invalid` past the end.
    pub(crate) fn select(&mut self, index: usize) -> Result<()> {
        let count = self.counts.get(index);
        self.count = *count.ok_or_else(|| DeviceError::invalid(format!("number {index} of {} of splits", self.counts.len())))?;
        Ok(())
    }

    /// For a record: the number in use, and where there were several the others, by the model's order.
    pub(crate) fn config(&self) -> impl Iterator<Item = (String, String)> {
        let tried: Vec<String> = self.counts.iter().map(u64::to_string).collect();
        let tried = (tried.len() > 1).then(|| ("splits tried".to_owned(), tried.join(", ")));
        std::iter::once(("splits".to_owned(), self.count.to_string())).chain(tried)
    }

    /// Enqueues the joining of the splits into `o`; nothing where there is but one, which wrote `o` itself.
    ///
    /// # Errors
    /// `Invalid` without the sinks that the shape has; as [`Device::launch`].
    pub(crate) fn join(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        if self.count == 1 {
            return Ok(());
        }
        let rows = rows(self.shape);
        let args = [
            Arg::Buffer(&self.partial, 0),
            Arg::Buffer(&self.stats, 0),
            Arg::Buffer(operands.o, 0),
            given(self.shape.sinks, operands.sinks, "sinks")?,
            Arg::I32(rows as i32),
            Arg::I32(self.count as i32),
            Arg::I32(self.shape.sq as i32),
            Arg::I32(self.shape.hq as i32),
        ];
        self.device.launch(&self.combine, Geometry::linear(rows.div_ceil(4) as u32, 128), &args)
    }
}

/// Rows of the output.
fn rows(shape: Shape) -> u64 {
    shape.b * shape.hq * shape.sq
}

/// An operand that only some shapes have: null where this one has not.
///
/// # Errors
/// `Invalid` where it is wanted and not given.
pub(crate) fn given<'a>(wanted: bool, buffer: Option<&'a Buffer>, what: &str) -> Result<Arg<'a>> {
    match (wanted, buffer) {
        (false, _) => Ok(Arg::U64(0)),
        (true, Some(buffer)) => Ok(Arg::Buffer(buffer, 0)),
        (true, None) => Err(DeviceError::invalid(format!("the attention has {what}, and none are given"))),
    }
}
