//! Operands of a case: made on the device by the counter that the references know.

use ridgepoint_core::{Backend, Dtype, data};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Program, Result, ScaleOrder, Scales};

/// The dtype of a class as this device encodes it: FNUZ on CDNA3, OCP elsewhere.
pub fn encoding(dtype: Dtype, device: &dyn Device) -> Dtype {
    let fnuz = device.info().backend == Backend::Hip && device.info().arch.starts_with("gfx94");
    match dtype {
        Dtype::E4m3 if fnuz => Dtype::E4m3fnuz,
        Dtype::E5m2 if fnuz => Dtype::E5m2fnuz,
        other => other,
    }
}

/// A buffer of `elements` elements of stream `seed`, filled on the device (see [`ridgepoint_core::data::normal`]).
///
/// # Errors
/// `Unsupported` where the device cannot make this dtype; a device error.
pub fn random(device: &dyn Device, dtype: Dtype, seed: u64, elements: u64) -> Result<Buffer> {
    // tf32 lies in memory as f32; the matrix units round it. Scales of blocks lie in a buffer of their own: see `scales`.
    let stored = if dtype == Dtype::Tf32 { Dtype::F32 } else { dtype.element() };
    let buffer = device.alloc(stored.bytes(elements).0 as usize)?;
    let kernel = device.compile(&Program { name: "common/init", ..Program::default() }, &format!("rp_init_{stored}"))?;
    let fill = |buffer: &Buffer, seed: u64, n: u64| {
        device.launch(&kernel, Geometry::linear(1024, 256), &[Arg::Buffer(buffer, 0), Arg::U64(seed), Arg::U64(n)])
    };
    let most = device.binding_limit().unwrap_or(u64::MAX);
    if buffer.len() as u64 <= most {
        fill(&buffer, seed, elements)?;
        return Ok(buffer);
    }
    // In parts, each its share of the stream.
    let each = most * 8 / stored.bits();
    for first in (0..elements).step_by(each as usize) {
        let n = each.min(elements - first);
        let part = buffer.part(stored.bytes(first).0 as usize, stored.bytes(n).0 as usize);
        let part = part.ok_or_else(|| DeviceError::unsupported("this device's buffers have no parts"))?;
        fill(&part, data::shifted(seed, first), n)?;
    }
    Ok(buffer)
}

/// The scales of a matrix, each the number of stream `seed` at its place in memory, padding included; filled on the device.
///
/// # Errors
/// `Unsupported` where the device cannot make them; a device error.
pub fn scales(device: &dyn Device, scales: Scales, order: ScaleOrder, seed: u64) -> Result<Buffer> {
    let n = scales.len(order);
    let buffer = device.alloc(n as usize * scales.of.bytes())?;
    let kernel =
        device.compile(&Program { name: "common/init", ..Program::default() }, &format!("rp_init_scale_{}", scales.of.name()))?;
    device.launch(&kernel, Geometry::linear(1024, 256), &[Arg::Buffer(&buffer, 0), Arg::U64(seed), Arg::U64(n)])?;
    Ok(buffer)
}
