//! Operands of a case: made on the device by the counter that the references know.

use ridgepoint_core::{Backend, Distribution, Dtype, data};
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
    let buffer = device.alloc(stored(dtype).bytes(elements).0 as usize)?;
    fill(device, &buffer, Distribution::Normal, dtype, seed, elements)?;
    Ok(buffer)
}

/// As elements lie in memory: tf32 as f32, which the matrix units round. Scales of blocks lie in a buffer of their own: see [`scales`].
const fn stored(dtype: Dtype) -> Dtype {
    if matches!(dtype, Dtype::Tf32) { Dtype::F32 } else { dtype.element() }
}

/// Fills a buffer anew, on the device, with the first `elements` of stream `seed` of a distribution (see
/// [`ridgepoint_core::data::value`]).
///
/// # Errors
/// As [`random`]; `Unsupported` for values that no kernel makes.
pub fn fill(
    device: &dyn Device,
    buffer: &Buffer,
    distribution: Distribution,
    dtype: Dtype,
    seed: u64,
    elements: u64,
) -> Result<()> {
    let number =
        distribution.number().ok_or_else(|| DeviceError::unsupported("values that a user brought cannot be made here"))?;
    let stored = stored(dtype);
    // The default is the form that was built ahead.
    let defines = if number == 0 { vec![] } else { vec![("RP_DATA", number.to_string())] };
    let program = Program { name: "common/init", defines: &defines, ..Program::default() };
    let kernel = device.compile(&program, &format!("rp_init_{stored}"))?;
    let launch = |buffer: &Buffer, seed: u64, n: u64| {
        device.launch(&kernel, Geometry::linear(1024, 256), &[Arg::Buffer(buffer, 0), Arg::U64(seed), Arg::U64(n)])
    };
    let most = device.binding_limit().unwrap_or(u64::MAX);
    if buffer.len() as u64 <= most {
        return launch(buffer, seed, elements);
    }
    // In parts, each its share of the stream.
    let each = most * 8 / stored.bits();
    for first in (0..elements).step_by(each as usize) {
        let n = each.min(elements - first);
        let part = buffer.part(stored.bytes(first).0 as usize, stored.bytes(n).0 as usize);
        let part = part.ok_or_else(|| DeviceError::unsupported("this device's buffers have no parts"))?;
        launch(&part, data::shifted(seed, first), n)?;
    }
    Ok(())
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
