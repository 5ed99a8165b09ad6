//! Where in a box of sizes is the rate highest? A coarse grid first, then the neighbours of the best points at ever smaller strides,
//! each point once. Arithmetic alone: whoever hunts tries the points and tells what came of each.

pub(crate) mod trial;

use std::collections::BTreeMap;

/// Indices into the values of three axes.
pub(crate) type Point = [usize; 3];

/// Points of an axis on the coarse grid.
const COARSE: usize = 5;
/// Best points whose neighbours are tried: more than one, since the rate has steps wherever tiles fill the last wave.
const LEADERS: usize = 3;

/// A hunt under way.
#[derive(Debug)]
pub(crate) struct Hunt {
    lengths: Point,
    /// Distance to the neighbours; None before the coarse grid.
    stride: Option<Point>,
    /// Rate of each point that was tried; None for one that could not be.
    tried: BTreeMap<Point, Option<f64>>,
}

impl Hunt {
    /// Over axes with so many values, at least one each.
    pub(crate) const fn new(lengths: Point) -> Self {
        Self { lengths, stride: None, tried: BTreeMap::new() }
    }

    /// Points to try now, none twice; none at all at the end.
    pub(crate) fn round(&mut self) -> Vec<Point> {
        let Some(mut stride) = self.stride else {
            self.stride = Some(self.lengths.map(|n| (n - 1).div_ceil(COARSE - 1).max(1)));
            return self.coarse();
        };
        loop {
            let new = self.neighbours(stride);
            if !new.is_empty() {
                self.stride = Some(stride);
                return new;
            }
            if stride == [1; 3] {
                return new;
            }
            stride = stride.map(|s| (s / 2).max(1));
        }
    }

    /// What came of a point: its rate, or None where it could not be tried.
    pub(crate) fn tell(&mut self, point: Point, rate: Option<f64>) {
        self.tried.insert(point, rate.filter(|r| r.is_finite() && *r > 0.0));
    }

    /// The best points so far, best first.
    pub(crate) fn leaders(&self, most: usize) -> Vec<(Point, f64)> {
        let mut all: Vec<(Point, f64)> = self.tried.iter().filter_map(|(point, rate)| Some((*point, (*rate)?))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(most);
        all
    }

    /// How many points were tried.
    pub(crate) fn count(&self) -> usize {
        self.tried.len()
    }

    /// Points spread evenly over each axis, its ends among them, the largest sizes first: the best is more often there.
    fn coarse(&self) -> Vec<Point> {
        let axis = |n: usize| -> Vec<usize> {
            let points = COARSE.min(n);
            (0..points).rev().map(|i| if points > 1 { i * (n - 1) / (points - 1) } else { 0 }).collect()
        };
        let [x, y, z] = self.lengths.map(axis);
        x.iter().flat_map(|x| y.iter().flat_map(|y| z.iter().map(|z| [*x, *y, *z])).collect::<Vec<_>>()).collect()
    }

    /// One step from the leaders in each direction of each axis, where nobody was yet.
    fn neighbours(&self, stride: Point) -> Vec<Point> {
        let mut new = Vec::new();
        for (leader, _) in self.leaders(LEADERS) {
            for axis in 0..3 {
                let up = (leader[axis] + stride[axis]).min(self.lengths[axis] - 1);
                for index in [leader[axis].saturating_sub(stride[axis]), up] {
                    let mut point = leader;
                    point[axis] = index;
                    if !self.tried.contains_key(&point) && !new.contains(&point) {
                        new.push(point);
                    }
                }
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hunts for the top of `rate`; gives the best point and how many were tried.
    fn hunt(lengths: Point, rate: impl Fn(Point) -> Option<f64>) -> (Option<Point>, usize) {
        let mut hunt = Hunt::new(lengths);
        loop {
            let round = hunt.round();
            if round.is_empty() {
                return (hunt.leaders(1).first().map(|(point, _)| *point), hunt.count());
            }
            for point in round {
                assert!((0..3).all(|i| point[i] < lengths[i]) && !hunt.tried.contains_key(&point), "{point:?}");
                hunt.tell(point, rate(point));
            }
        }
    }

    #[test]
    fn the_top_of_a_hill_is_found_with_few_trials() {
        for top in [[3, 40, 17], [0, 0, 0], [60, 60, 60], [31, 2, 59]] {
            let hill = |p: Point| Some(1e6 - (0..3).map(|i| (p[i] as f64 - top[i] as f64).powi(2)).sum::<f64>());
            let (found, tried) = hunt([61, 61, 61], hill);
            assert!(found == Some(top) && tried < 300, "{found:?} for {top:?} after {tried}");
        }
    }

    #[test]
    fn small_boxes_are_tried_whole_and_nothing_is_asked_of_what_fails() {
        assert_eq!(hunt([1, 1, 1], |_| Some(1.0)), (Some([0; 3]), 1));
        assert_eq!(hunt([2, 3, 1], |p| Some(p[1] as f64 + 1.0)).1, 6);
        assert_eq!(hunt([9, 9, 9], |_| None), (None, 125));
        assert_eq!(hunt([9, 1, 1], |p| (p[0] != 8).then_some(p[0] as f64 + 1.0)).0, Some([7, 0, 0]));
    }
}
