//! The softmax of the materialised form: one row of scores, all of it in memory.

use super::unit::Unit;

/// The softmax of a row in memory.
///
/// # Safety
/// As of [`super::engine::Softmax`].
#[inline(always)]
pub(super) unsafe fn softmax<U: Unit>(row: *mut f32, seen: usize, n: usize, scale: f32, sink: f32) {
    // SAFETY: the caller's promise; whole vectors stay below `seen`, the tail goes element by element.
    unsafe {
        let whole = seen / U::LANES * U::LANES;
        let mut lanes = [f32::NEG_INFINITY; 16];
        let mut top = U::splat(f32::NEG_INFINITY);
        for j in (0..whole).step_by(U::LANES) {
            top = U::max(top, U::load(row.add(j)));
        }
        U::store(lanes.as_mut_ptr(), top);
        for j in whole..seen {
            lanes[0] = lanes[0].max(*row.add(j));
        }
        let max = (lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max) * scale).max(sink);
        // The tail is padded with −∞, whose weight is 0, to a vector of its own.
        let mut tail = [f32::NEG_INFINITY; 16];
        for j in whole..seen {
            tail[j - whole] = *row.add(j);
        }
        let (factor, minus_max) = (U::splat(scale), U::splat(-max));
        let mut sum = U::splat(0.0);
        for j in (0..whole).step_by(U::LANES) {
            let weight = U::exp2(U::fma(U::load(row.add(j)), factor, minus_max));
            sum = U::add(sum, weight);
            U::store(row.add(j), weight);
        }
        let weight = U::exp2(U::fma(U::load(tail.as_ptr()), factor, minus_max));
        U::store(tail.as_mut_ptr(), weight);
        let mut lanes = [0.0; 16];
        U::store(lanes.as_mut_ptr(), sum);
        let rest: f32 = tail[..seen - whole].iter().sum();
        // No sink is one of −∞, which adds nothing.
        let norm = 1.0 / (lanes.iter().sum::<f32>() + rest + (sink - max).exp2());
        let factor = U::splat(norm);
        for j in (0..whole).step_by(U::LANES) {
            U::store(row.add(j), U::mul(U::load(row.add(j)), factor));
        }
        for j in whole..seen {
            *row.add(j) = tail[j - whole] * norm;
        }
        for j in seen..n {
            *row.add(j) = 0.0;
        }
    }
}
