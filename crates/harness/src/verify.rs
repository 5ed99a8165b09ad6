//! Comparing a result with its reference, and saying which kind of check was made.

use ridgepoint_core::Verification;

/// A running comparison: feed it pairs, then close it.
#[derive(Clone, Debug)]
pub struct Comparison {
    tolerance: f64,
    error: f64,
    checked: u64,
    wrong: u64,
}

impl Comparison {
    /// `tolerance` is the largest |got − want| / scale that passes.
    #[must_use]
    pub const fn new(tolerance: f64) -> Self {
        Self { tolerance, error: 0.0, checked: 0, wrong: 0 }
    }

    /// Compares one element. `scale` is what the error is relative to: the root mean square of the reference, or the bound
    /// that rounding analysis gives for this element. A result that is not finite where the reference is finite is wrong.
    pub fn push(&mut self, got: f64, want: f64, scale: f64) {
        self.checked += 1;
        let error = if got == want { 0.0 } else { (got - want).abs() / scale };
        if error > self.tolerance || !error.is_finite() {
            self.wrong += 1;
        }
        // f64::max would drop a NaN; it must survive into the record.
        if error > self.error || error.is_nan() {
            self.error = error;
        }
    }

    /// Adds elements that were only looked at for poison.
    pub const fn scanned(&mut self, elements: u64, poisoned: u64) {
        self.checked += elements;
        self.wrong += poisoned;
    }

    /// Adds what another part of the same result gave.
    pub fn merge(&mut self, part: Self) {
        self.checked += part.checked;
        self.wrong += part.wrong;
        if part.error > self.error || part.error.is_nan() {
            self.error = part.error;
        }
    }

    /// The verdict.
    #[must_use]
    pub fn finish(self, method: impl Into<String>) -> Verification {
        // JSON has no infinity or NaN; the largest number keeps a failed check readable.
        let error = if self.error.is_finite() { self.error } else { f64::MAX };
        Verification { method: method.into(), error, tolerance: self.tolerance, checked: self.checked, wrong: self.wrong }
    }
}

/// Runs `work` on contiguous parts of `0..n`, one a core of the host, and returns the results in order.
pub fn in_chunks<T: Send>(n: u64, work: impl Fn(std::ops::Range<u64>) -> T + Sync) -> Vec<T> {
    let parts = std::thread::available_parallelism().map_or(1, |p| p.get() as u64).clamp(1, n.div_ceil(4096).max(1));
    if parts == 1 {
        return vec![work(0..n)];
    }
    std::thread::scope(|scope| {
        let spawn = |part: u64| {
            let work = &work;
            scope.spawn(move || work(n * part / parts..n * (part + 1) / parts))
        };
        let threads: Vec<_> = (0..parts).map(spawn).collect();
        // A part that was lost would count as right.
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Root mean square, the scale of a whole tensor's error.
#[must_use]
pub fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_and_nan_are_wrong() {
        let mut c = Comparison::new(1e-3);
        c.push(1.0, 1.0, 1.0);
        assert!(c.clone().finish("m").passed());
        c.push(f64::NAN, 1.0, 1.0);
        let v = c.finish("m");
        assert!(!v.passed() && v.wrong == 1 && v.error == f64::MAX);
    }

    #[test]
    fn an_infinity_passes_only_where_the_reference_has_it() {
        let mut c = Comparison::new(1e-3);
        c.push(f64::INFINITY, f64::INFINITY, 1.0);
        assert!(c.clone().finish("m").passed());
        c.push(f64::INFINITY, 1e30, 1.0);
        assert!(!c.finish("m").passed());
    }

    #[test]
    fn a_scan_counts() {
        let mut c = Comparison::new(0.0);
        c.scanned(100, 1);
        assert_eq!(c.finish("m").wrong, 1);
    }
}
