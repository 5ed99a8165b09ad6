//! The second half of every split-KV decode: each split's output, unnormalised, with its maximum and sum, and the kernel that joins
//! them (`rp_decode_combine_*` of kernels/attention/decode_splitkv.cu).

use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};

/// Partial results of `rows` output rows in `count` splits.
pub(crate) struct Splits<'d> {
    device: &'d dyn Device,
    combine: Kernel,
    rows: u64,
    /// Splits of the keys.
    pub(crate) count: u64,
    /// f32 [rows, splits, d].
    pub(crate) partial: Buffer,
    /// Maximum and sum, f32 pairs [rows, splits].
    pub(crate) stats: Buffer,
}

impl<'d> Splits<'d> {
    /// Room for rows of `d` columns.
    ///
    /// # Errors
    /// `Unsupported` for more rows than the kernels count; as [`Device::compile`] and [`Device::alloc`].
    pub(crate) fn new(device: &'d dyn Device, dtype: Dtype, d: u64, rows: u64, count: u64) -> Result<Self> {
        if rows * count > i32::MAX as u64 {
            return Err(DeviceError::unsupported("more rows than the kernel counts"));
        }
        let program = Program { name: "attention/decode_splitkv", ..Program::default() };
        Ok(Self {
            device,
            combine: device.compile(&program, &format!("rp_decode_combine_{dtype}_d{d}"))?,
            rows,
            count,
            partial: device.alloc((rows * count * d * 4) as usize)?,
            stats: device.alloc((rows * count * 8) as usize)?,
        })
    }

    /// Enqueues the joining of the splits into `o`; nothing where there is but one, which wrote `o` itself.
    ///
    /// # Errors
    /// As [`Device::launch`].
    pub(crate) fn join(&self, o: &Buffer) -> Result<()> {
        if self.count == 1 {
            return Ok(());
        }
        let args = [
            Arg::Buffer(&self.partial, 0),
            Arg::Buffer(&self.stats, 0),
            Arg::Buffer(o, 0),
            Arg::I32(self.rows as i32),
            Arg::I32(self.count as i32),
        ];
        self.device.launch(&self.combine, Geometry::linear(self.rows.div_ceil(4) as u32, 128), &args)
    }
}
