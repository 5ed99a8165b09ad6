//! What is usual: medians and their spread over those who are alike, and the two groups that a fleet sometimes falls into.

use crate::stats::median_of_sorted;

/// Fewer figures than this say nothing of what is usual.
pub(super) const SMALLEST: usize = 5;
/// Fewer are never taken for two groups.
const SMALLEST_SPLIT: usize = 24;
/// A group smaller than this part of the whole is not a group but a number of outliers: a bad batch must not make itself normal.
const SMALLEST_SHARE: f64 = 0.15;
/// How far apart two groups must be, in σ of the wider: Ashman's D above 2 separates two normal distributions
/// (Ashman, Bird & Zepf, 1994); a much larger one here, since to split a cohort is to stop comparing across the split.
const SEPARATION: f64 = 5.0;
/// And in parts of the larger group's median, so that a very quiet metric is not cut into slices.
const LEAST_DISTANCE: f64 = 0.02;
/// Consistency of the median absolute deviation with σ of a normal distribution.
const MAD_TO_SIGMA: f64 = 1.4826;

/// One group of figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mode {
    pub(super) n: usize,
    pub(super) median: f64,
    /// MAD scaled to σ.
    pub(super) sigma: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Mode {
    /// Of finite figures in rising order, at least one.
    fn of(sorted: &[f64]) -> Self {
        let median = median_of_sorted(sorted);
        let mut deviations: Vec<f64> = sorted.iter().map(|x| (x - median).abs()).collect();
        deviations.sort_by(f64::total_cmp);
        let sigma = median_of_sorted(&deviations) * MAD_TO_SIGMA;
        Self { n: sorted.len(), median, sigma, low: sorted[0], high: sorted[sorted.len() - 1] }
    }

    fn distance(&self, x: f64) -> f64 {
        (x - self.median).abs()
    }
}

/// The group or the two groups of some figures, the larger first. Empty for no figures.
pub(super) fn modes(figures: &mut Vec<f64>) -> Vec<Mode> {
    figures.retain(|x| x.is_finite());
    figures.sort_by(f64::total_cmp);
    if figures.is_empty() {
        return Vec::new();
    }
    if let Some(at) = split(figures) {
        let (low, high) = figures.split_at(at);
        let (low, high) = (Mode::of(low), Mode::of(high));
        return if high.n >= low.n { vec![high, low] } else { vec![low, high] };
    }
    vec![Mode::of(figures)]
}

/// The mode that a figure belongs to: the nearer.
pub(super) fn nearest(modes: &[Mode], x: f64) -> Option<(usize, &Mode)> {
    modes.iter().enumerate().min_by(|(_, a), (_, b)| a.distance(x).total_cmp(&b.distance(x)))
}

/// Where two groups meet, if there are two: the cut that leaves the least spread within both (Otsu, 1979), kept only if both
/// are large enough and lie far apart.
fn split(sorted: &[f64]) -> Option<usize> {
    let n = sorted.len();
    if n < SMALLEST_SPLIT {
        return None;
    }
    let smallest = ((n as f64 * SMALLEST_SHARE).ceil() as usize).max(SMALLEST);
    // Shifted to the middle, so that sums of squares keep their digits.
    let center = median_of_sorted(sorted);
    let total: f64 = sorted.iter().map(|x| x - center).sum();
    let mut below = 0.0;
    let mut best = (0.0, 0);
    for (i, x) in sorted.iter().enumerate().take(n - smallest) {
        below += x - center;
        let k = i + 1;
        if k < smallest {
            continue;
        }
        let (a, b) = (k as f64, (n - k) as f64);
        let between = a * b * (below / a - (total - below) / b).powi(2);
        if between > best.0 {
            best = (between, k);
        }
    }
    let (_, at) = best;
    if at == 0 {
        return None;
    }
    let (low, high) = (Mode::of(&sorted[..at]), Mode::of(&sorted[at..]));
    let distance = high.median - low.median;
    let wider = low.sigma.max(high.sigma);
    let far = distance > SEPARATION * wider && distance > LEAST_DISTANCE * low.median.abs().max(high.median.abs());
    // Between two groups there is a valley: the middle third between the medians holds next to none, and the cut lies in it.
    let within = |from: f64, to: f64| sorted.partition_point(|x| *x < to) - sorted.partition_point(|x| *x < from);
    let (from, middle, to) = (low.median + distance / 3.0, low.median + distance / 2.0, low.median + distance * 2.0 / 3.0);
    let misplaced = sorted.partition_point(|x| *x < middle).abs_diff(at);
    let empty = (within(from, to) as f64) < 0.02 * n as f64 && (misplaced as f64) < 0.05 * smallest as f64;
    (far && empty).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Figures around `center`, spread evenly over ± 2 %.
    fn around(center: f64, n: usize) -> Vec<f64> {
        (0..n).map(|i| center * (0.98 + 0.04 * i as f64 / n as f64)).collect()
    }

    #[test]
    fn two_groups_are_two_and_a_few_outliers_are_not() {
        let mut two = [around(100.0, 60), around(80.0, 40)].concat();
        let found = modes(&mut two);
        assert_eq!(found.iter().map(|m| m.n).collect::<Vec<_>>(), [60, 40]);
        assert!((found[0].median - 100.0).abs() < 0.5 && (found[1].median - 80.0).abs() < 0.5);

        let mut outliers = [around(100.0, 90), around(80.0, 10)].concat();
        assert_eq!(modes(&mut outliers).len(), 1, "a tenth of the fleet is outliers, not a group");
        assert_eq!(modes(&mut around(100.0, 500)).len(), 1);
        assert_eq!(modes(&mut vec![1.0; 100]).len(), 1);
        assert_eq!(modes(&mut vec![]).len(), 0);
        assert_eq!(modes(&mut vec![f64::NAN, f64::INFINITY, 3.0])[0].n, 1);
    }

    #[test]
    fn a_figure_belongs_to_the_nearer_group() {
        let found = modes(&mut [around(100.0, 60), around(80.0, 40)].concat());
        assert_eq!(nearest(&found, 84.0).unwrap().0, 1);
        assert_eq!(nearest(&found, 97.0).unwrap().0, 0);
        assert!(nearest(&[], 1.0).is_none());
    }

    proptest! {
        #[test]
        fn each_figure_is_counted_once(figures in prop::collection::vec(0.1f64..1e6, 0..300)) {
            let n = figures.len();
            let found = modes(&mut figures.clone());
            prop_assert_eq!(found.iter().map(|m| m.n).sum::<usize>(), n);
            for m in &found {
                prop_assert!(m.low <= m.median && m.median <= m.high && m.sigma >= 0.0);
            }
        }
    }
}
