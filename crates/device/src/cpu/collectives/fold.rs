//! Any reduction of any dtype, by closures: a block at a time is widened, combined and rounded. What `reduce.rs` does by hand
//! for sums of the common floats, this does for the rest.

use super::reduce::BLOCK;
use crate::Redop;
use ridgepoint_core::Dtype;
use ridgepoint_core::minifloat::{E4M3, E4M3FNUZ, E5M2, E5M2FNUZ, F16, Minifloat, Overflow, bf16_bits};

/// Combines `len` elements of `ranks` inputs into `out`.
///
/// # Safety
/// As [`super::reduce::reduce`].
pub(super) unsafe fn fold(
    dtype: Dtype,
    redop: Redop,
    ranks: usize,
    input: impl Fn(usize) -> *const u8 + Copy,
    out: *mut u8,
    len: usize,
) {
    let shape = (ranks, input, out, len);
    // SAFETY: the caller's promise: each arm names the type that `dtype` lies in memory as.
    unsafe {
        match dtype {
            Dtype::F64 => floats(shape, redop, |x: f64| x, |x| x),
            Dtype::F16 => floats(shape, redop, |x: u16| F16.decode(x.into()), |x| F16.encode(x, Overflow::NonFinite) as u16),
            Dtype::Bf16 => floats(shape, redop, |x: u16| f64::from(f32::from_bits(u32::from(x) << 16)), |x| bf16_bits(x as f32)),
            Dtype::E4m3 => eight_bits(shape, redop, E4M3),
            Dtype::E5m2 => eight_bits(shape, redop, E5M2),
            Dtype::E4m3fnuz => eight_bits(shape, redop, E4M3FNUZ),
            Dtype::E5m2fnuz => eight_bits(shape, redop, E5M2FNUZ),
            Dtype::I8 => integers(shape, redop, |x: i8| x.into(), |x| x as i8),
            Dtype::I32 => integers(shape, redop, |x: i32| x.into(), |x| x as i32),
            _ => singles(shape, redop),
        }
    }
}

/// Ranks, their inputs, the output and its length.
type Shape<I> = (usize, I, *mut u8, usize);

unsafe fn singles<I: Fn(usize) -> *const u8 + Copy>(shape: Shape<I>, redop: Redop) {
    let over = shape.0 as f32;
    let same = |x: f32| x;
    // SAFETY: the caller's promise.
    unsafe {
        match redop {
            Redop::Sum => blocks(shape, same, |a, b| a + b, same),
            Redop::Avg => blocks(shape, same, |a, b| a + b, |x| x / over),
            Redop::Prod => blocks(shape, same, |a, b| a * b, same),
            Redop::Min => blocks(shape, same, f32::min, same),
            Redop::Max => blocks(shape, same, f32::max, same),
        }
    }
}

/// By way of f64, which is exact for every narrower float.
unsafe fn floats<T: Copy, I: Fn(usize) -> *const u8 + Copy>(
    shape: Shape<I>,
    redop: Redop,
    widen: impl Fn(T) -> f64,
    narrow: impl Fn(f64) -> T,
) {
    let over = shape.0 as f64;
    // SAFETY: the caller's promise.
    unsafe {
        match redop {
            Redop::Sum => blocks(shape, widen, |a, b| a + b, narrow),
            Redop::Avg => blocks(shape, widen, |a, b| a + b, |x| narrow(x / over)),
            Redop::Prod => blocks(shape, widen, |a, b| a * b, narrow),
            Redop::Min => blocks(shape, widen, f64::min, narrow),
            Redop::Max => blocks(shape, widen, f64::max, narrow),
        }
    }
}

/// FP8 decodes by a table; what is too large saturates.
unsafe fn eight_bits<I: Fn(usize) -> *const u8 + Copy>(shape: Shape<I>, redop: Redop, format: Minifloat) {
    let table: [f64; 256] = std::array::from_fn(|i| format.decode(i as u32));
    // SAFETY: the caller's promise.
    unsafe { floats(shape, redop, |x: u8| table[usize::from(x)], |x| format.encode(x, Overflow::Saturate) as u8) }
}

unsafe fn integers<T: Copy, I: Fn(usize) -> *const u8 + Copy>(
    shape: Shape<I>,
    redop: Redop,
    widen: impl Fn(T) -> i64,
    narrow: impl Fn(i64) -> T,
) {
    let over = shape.0 as i64;
    // SAFETY: the caller's promise.
    unsafe {
        match redop {
            Redop::Sum => blocks(shape, widen, i64::wrapping_add, narrow),
            Redop::Avg => blocks(shape, widen, i64::wrapping_add, |x| narrow(x / over)),
            Redop::Prod => blocks(shape, widen, i64::wrapping_mul, narrow),
            Redop::Min => blocks(shape, widen, i64::min, narrow),
            Redop::Max => blocks(shape, widen, i64::max, narrow),
        }
    }
}

#[inline(always)]
unsafe fn blocks<T: Copy, W: Copy + Default, I: Fn(usize) -> *const u8 + Copy>(
    (ranks, input, out, len): Shape<I>,
    widen: impl Fn(T) -> W,
    combine: impl Fn(W, W) -> W,
    narrow: impl Fn(W) -> T,
) {
    let mut values = [W::default(); BLOCK];
    for start in (0..len).step_by(BLOCK) {
        let n = BLOCK.min(len - start);
        let values = &mut values[..n];
        // SAFETY: the block lies within `len`, which the caller vouches for.
        let block = |r: usize| unsafe { std::slice::from_raw_parts(input(r).cast::<T>().add(start), n) };
        values.iter_mut().zip(block(0)).for_each(|(z, x)| *z = widen(*x));
        for r in 1..ranks {
            values.iter_mut().zip(block(r)).for_each(|(z, x)| *z = combine(*z, widen(*x)));
        }
        // SAFETY: as above; no slice of an input is alive any more.
        let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<T>().add(start), n) };
        out.iter_mut().zip(&*values).for_each(|(z, x)| *z = narrow(*x));
    }
}

#[cfg(test)]
mod tests {
    use super::super::reduce::{DTYPES, reduce};
    use super::*;
    use crate::{CollectiveOp, CollectiveProblem};
    use ridgepoint_core::Bytes;

    #[test]
    fn every_reduction_of_every_dtype_is_that_of_its_terms_in_place_too() {
        for dtype in DTYPES {
            for redop in Redop::ALL {
                for ranks in [1, 2, 3] {
                    let p = CollectiveProblem { redop, ..CollectiveProblem::new(CollectiveOp::Reduce, ranks, Bytes(0), dtype) };
                    let n = BLOCK + 5;
                    let mut inputs: Vec<Vec<u64>> = (0..ranks).map(|_| vec![0; n]).collect();
                    let bytes = |words: &mut Vec<u64>| {
                        // SAFETY: the same memory, as bytes.
                        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), n * p.size()) }
                    };
                    inputs.iter_mut().enumerate().for_each(|(r, words)| p.fill(r, 0, bytes(words)));
                    let mut out = vec![0_u64; n];
                    let own = inputs[ranks - 1].clone();
                    for place in [false, true] {
                        let at: Vec<*const u8> = inputs.iter().map(|x| x.as_ptr().cast()).collect();
                        let to = if place { inputs[ranks - 1].as_mut_ptr() } else { out.as_mut_ptr() };
                        // SAFETY: all hold n elements.
                        unsafe { reduce(dtype, redop, ranks, |r| at[r], to.cast(), n) };
                    }
                    let moved = std::mem::replace(&mut inputs[ranks - 1], own);
                    assert_eq!(bytes(&mut out.clone()), bytes(&mut moved.clone()), "{dtype} {redop:?} in place");
                    for (i, got) in bytes(&mut out).chunks_exact(p.size()).enumerate() {
                        let terms: Vec<f64> = (0..ranks).map(|r| p.input(r, i)).collect();
                        let whole = |f: fn(f64, f64) -> f64| terms.iter().copied().reduce(f).unwrap();
                        let want = match redop {
                            Redop::Sum => whole(|a, b| a + b),
                            Redop::Prod => whole(|a, b| a * b),
                            Redop::Min => whole(f64::min),
                            Redop::Max => whole(f64::max),
                            Redop::Avg => whole(|a, b| a + b) / ranks as f64,
                        };
                        let want = if matches!(dtype, Dtype::I8 | Dtype::I32) { want.trunc() } else { want };
                        let scale: f64 = terms.iter().map(|x| x.abs()).sum::<f64>().max(want.abs());
                        let limit = scale * 1.1 * (dtype.unit_roundoff() + 4.0 * Dtype::F32.unit_roundoff());
                        // Below the normal numbers of FP8 the error is absolute.
                        let limit = limit.max(f64::powi(0.5, if p.size() == 1 { 10 } else { 60 }));
                        let got = dtype.read(got);
                        assert!((got - want).abs() <= limit, "{dtype} {redop:?} r{ranks} at {i}: {got} for {want}");
                    }
                }
            }
        }
    }
}
