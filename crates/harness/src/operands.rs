//! Operands of a case: made on the device by the counter that the references know.

use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, Buffer, Device, Geometry, Program, Result};

/// A buffer of `elements` elements of stream `seed`, filled on the device (see [`ridgepoint_core::data::normal`]).
///
/// # Errors
/// `Unsupported` where the device cannot make this dtype; a device error.
pub fn random(device: &dyn Device, dtype: Dtype, seed: u64, elements: u64) -> Result<Buffer> {
    let buffer = device.alloc(dtype.bytes(elements).0 as usize)?;
    // tf32 lies in memory as f32; the matrix units round it.
    let stored = if dtype == Dtype::Tf32 { Dtype::F32 } else { dtype };
    let kernel = device.compile(&Program { name: "common/init", ..Program::default() }, &format!("rp_init_{stored}"))?;
    device.launch(&kernel, Geometry::linear(1024, 256), &[Arg::Buffer(&buffer, 0), Arg::U64(seed), Arg::U64(elements)])?;
    Ok(buffer)
}
