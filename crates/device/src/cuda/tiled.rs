//! Descriptors for the tensor copy engine (TMA, sm_90 and later).

use super::driver::{Context, Failure, Result};
use super::driver_sys::{Ptr, TensorMap};
use std::ffi::c_void;

/// A tiled view for the tensor copy engine. `data_type` is the driver's number (uint8 0, uint16 1, float32 7, bfloat16 9).
#[derive(Debug, Clone)]
pub(crate) struct Tiled {
    pub(crate) data_type: u32,
    pub(crate) dims: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    pub(crate) tile: Vec<u32>,
    /// 0, 32, 64 or 128 bytes.
    pub(crate) swizzle: u32,
}

pub(crate) fn encode(ctx: &Context, address: Ptr, t: &Tiled) -> Result<TensorMap> {
    let rank = t.dims.len();
    let bad = |what: String| Err(Failure::Invalid(format!("tensor map: {what}")));
    if !(1..=5).contains(&rank) || t.strides.len() + 1 != rank || t.tile.len() != rank {
        return bad(format!("{rank} dimensions, {} strides, {} tile extents", t.strides.len(), t.tile.len()));
    }
    if !address.is_multiple_of(16) || t.strides.iter().any(|s| !s.is_multiple_of(16)) {
        return bad(format!("address {address:#x} and strides {:?} must be multiples of 16 bytes", t.strides));
    }
    if t.tile.iter().any(|e| !(1..=256).contains(e)) {
        return bad(format!("tile {:?} must lie within 1 to 256 along each dimension", t.tile));
    }
    let swizzle = match t.swizzle {
        0 => 0,
        32 => 1,
        64 => 2,
        128 => 3,
        other => return bad(format!("there is no swizzle of {other} bytes")),
    };
    let ones = [1_u32; 5];
    let mut map = TensorMap([0; 16]);
    const L2_PROMOTION_256B: u32 = 3;
    // SAFETY: the arrays have `rank` (strides: `rank` − 1) elements; the map is aligned and written whole.
    unsafe {
        ctx.api()?.tensor_map(
            &mut map,
            t.data_type,
            rank as u32,
            address as *mut c_void,
            t.dims.as_ptr(),
            t.strides.as_ptr(),
            t.tile.as_ptr(),
            ones.as_ptr(),
            0,
            swizzle,
            L2_PROMOTION_256B,
            0,
        )
    }?;
    Ok(map)
}
