//! How late ranks come to the others, by how long each waited for the last: whoever comes first waits longest.

use ridgepoint_core::Seconds;
use ridgepoint_core::stats::median_of_sorted;

/// How often it is looked who is late, at a time.
pub(crate) const LOOKS: usize = 9;

/// What was seen so far, by rank.
pub(crate) struct Lateness(Vec<Vec<f64>>);

impl Lateness {
    /// Nothing yet, of so many ranks.
    pub(crate) fn of(ranks: usize) -> Self {
        Self(vec![Vec::new(); ranks])
    }

    /// All met once: how long each rank waited.
    pub(crate) fn saw(&mut self, waited: &[Seconds]) {
        let longest = waited.iter().map(|waited| waited.0).fold(0.0, f64::max);
        self.0.iter_mut().zip(waited).for_each(|(late, waited)| late.push(longest - waited.0));
    }

    /// How much later than the first each rank came, the median. Empty if nothing was seen.
    pub(crate) fn medians(&self) -> Vec<Seconds> {
        let median = |late: &Vec<f64>| {
            let mut late = late.clone();
            late.sort_by(f64::total_cmp);
            (!late.is_empty()).then(|| Seconds(median_of_sorted(&late)))
        };
        self.0.iter().filter_map(median).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_least_is_latest_and_one_odd_meeting_changes_nothing() {
        let mut late = Lateness::of(3);
        assert_eq!(late.medians(), []);
        for waited in [[4.0, 1.0, 5.0], [0.0, 90.0, 0.0], [4.0, 1.0, 5.0]] {
            late.saw(&waited.map(Seconds));
        }
        assert_eq!(late.medians(), [1.0, 4.0, 0.0].map(Seconds));
    }
}
