//! Descriptors for the tensor copy engine (TMA, sm_90 and later).

use crate::gpu::driver::{Context, Failure, Result};
use crate::gpu::sys::{Ptr, TensorMap};
use std::ffi::c_void;

/// A tiled view for the tensor copy engine. `data_type` is the driver's number (uint8 0, float16 6, float32 7, bfloat16 9).
#[derive(Debug, Clone)]
pub(crate) struct Tiled {
    pub(crate) data_type: u32,
    pub(crate) dims: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    pub(crate) tile: Vec<u32>,
    /// 0, 32, 64 or 128 bytes.
    pub(crate) swizzle: u32,
}

impl Tiled {
    /// Bytes from the first element to past the last; none where that is more than an address can say.
    fn span(&self) -> Option<u64> {
        let element = match self.data_type {
            0 => 1,
            6 | 9 => 2,
            _ => 4,
        };
        let row = self.dims.first()?.checked_mul(element)?;
        self.dims
            .iter()
            .skip(1)
            .zip(&self.strides)
            .try_fold(row, |sum, (extent, stride)| sum.checked_add(extent.checked_sub(1)?.checked_mul(*stride)?))
    }
}

/// A descriptor for `len` bytes at `address`.
pub(crate) fn encode(ctx: &Context, address: Ptr, len: usize, t: &Tiled) -> Result<TensorMap> {
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
    if t.dims.contains(&0) || t.span().is_none_or(|span| span > len as u64) {
        return bad(format!("extents {:?} with strides {:?} do not lie within a buffer of {len} bytes", t.dims, t.strides));
    }
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

#[cfg(test)]
mod tests {
    use super::Tiled;

    #[test]
    fn a_view_spans_from_its_first_byte_to_its_last() {
        let t = |data_type, dims: &[u64], strides: &[u64]| {
            Tiled { data_type, dims: dims.into(), strides: strides.into(), tile: vec![], swizzle: 0 }.span()
        };
        assert_eq!(t(0, &[48], &[]), Some(48));
        assert_eq!(t(9, &[64, 10], &[256]), Some(9 * 256 + 128));
        // Columns in groups of 64, the third dimension inside the second's stride.
        assert_eq!(t(6, &[64, 10, 2], &[256, 128]), Some(9 * 256 + 128 + 128));
        assert_eq!(t(7, &[u64::MAX], &[]), None);
        assert_eq!(t(7, &[4, 3], &[u64::MAX]), None);
        assert_eq!(t(7, &[4, 0], &[16]), None);
    }
}
