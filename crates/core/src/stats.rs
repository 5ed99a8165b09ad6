//! Statistics of samples: order statistics, since timing samples are skewed and their mean follows the outliers.

/// What is reported of a set of samples. All fields have the samples' unit, but `cv` and `n`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of samples.
    pub n: usize,
    /// Smallest.
    pub min: f64,
    /// 5th percentile.
    pub p5: f64,
    /// Median.
    pub median: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Largest.
    pub max: f64,
    /// Coefficient of variation: standard deviation (n − 1) over mean; 0 for fewer than two samples.
    pub cv: f64,
    /// Half the width of the 95 % confidence interval of the median, over the median; infinite for fewer than 6 samples.
    pub ci: f64,
}

impl Summary {
    /// Summarises `samples`; None when empty or when any is not finite.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let squares: f64 = sorted.iter().map(|x| (x - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        let median = median_of_sorted(&sorted);
        let ci = median_interval(&sorted).map_or(f64::INFINITY, |(low, high)| (high - low) / 2.0 / median.abs());
        Some(Self {
            n,
            min: sorted[0],
            p5: quantile_of_sorted(&sorted, 0.05),
            median,
            mean,
            p95: quantile_of_sorted(&sorted, 0.95),
            max: sorted[n - 1],
            cv: if mean == 0.0 { 0.0 } else { deviation / mean.abs() },
            ci,
        })
    }
}

/// The median; of an even number, the mean of the two in the middle. `sorted` must not be empty.
#[must_use]
pub fn median_of_sorted(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n % 2 == 1 { sorted[n / 2] } else { f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]) }
}

/// The `q`-quantile by linear interpolation between order statistics (type 7 of Hyndman and Fan, 1996).
#[must_use]
pub fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let position = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let low = position.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}

/// The 95 % confidence interval of the median from the binomial distribution of ranks: no assumption about the shape of
/// the noise. None for fewer than 6 samples, where no pair of ranks covers 95 %.
#[must_use]
pub fn median_interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let n = sorted.len();
    // Largest k with P(Binomial(n, ½) < k) ≤ 2.5 %: the interval is [x_k, x_(n+1−k)], counting from 1.
    let mut term = f64::powi(0.5, n.min(1000) as i32);
    let mut below = 0.0;
    let mut k = 0;
    if n > 1000 {
        k = (n as f64 / 2.0 - 0.98 * (n as f64).sqrt()).floor() as usize;
    } else {
        while below + term <= 0.025 {
            below += term;
            term *= (n - k) as f64 / (k + 1) as f64;
            k += 1;
        }
    }
    (k > 0).then(|| (sorted[k - 1], sorted[n - k]))
}

/// Median absolute deviation from the median, times 1.4826 so that it estimates σ of a normal distribution.
#[must_use]
pub fn mad(samples: &[f64]) -> Option<f64> {
    let center = Summary::of(samples)?.median;
    let deviations: Vec<f64> = samples.iter().map(|x| (x - center).abs()).collect();
    Some(Summary::of(&deviations)?.median * 1.4826)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_even_count_takes_the_middle_pair() {
        assert_eq!(Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of(&[1.0]).unwrap().cv, 0.0);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn the_interval_uses_the_tabulated_ranks() {
        // Ranks of the 95 % sign-test interval for n = 10 are 2 and 9, for n = 20 they are 6 and 15 (Conover, 1999).
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(median_interval(&ten), Some((2.0, 9.0)));
        assert_eq!(median_interval(&twenty), Some((6.0, 15.0)));
        assert_eq!(median_interval(&ten[..5]), None);
    }

    proptest! {
        #[test]
        fn order_holds_and_scale_carries_over(samples in prop::collection::vec(1e-9f64..1e3, 1..200), scale in 1e-3f64..1e3) {
            let s = Summary::of(&samples).unwrap();
            prop_assert!(s.min <= s.p5 && s.p5 <= s.median && s.median <= s.p95 && s.p95 <= s.max);
            prop_assert!(s.min <= s.mean * (1.0 + 1e-12) && s.mean <= s.max * (1.0 + 1e-12));
            let scaled: Vec<f64> = samples.iter().map(|x| x * scale).collect();
            let t = Summary::of(&scaled).unwrap();
            prop_assert!((t.median - s.median * scale).abs() <= 1e-9 * t.median);
            prop_assert!((t.cv - s.cv).abs() < 1e-6);
        }

        #[test]
        fn the_order_of_samples_does_not_matter(mut samples in prop::collection::vec(0.1f64..10.0, 6..50)) {
            let before = Summary::of(&samples).unwrap();
            samples.reverse();
            let after = Summary::of(&samples).unwrap();
            prop_assert_eq!(before.median, after.median);
            prop_assert_eq!(before.ci, after.ci);
            let (low, high) = { samples.sort_by(f64::total_cmp); median_interval(&samples).unwrap() };
            prop_assert!(low <= before.median && before.median <= high);
        }
    }
}
