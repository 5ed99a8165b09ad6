//! A driver resets a device that one submission keeps busy for seconds. A launch that would take long is cut into parts, each
//! submitted by itself; how long it takes is learnt from its own first workgroups.

use std::collections::HashMap;

/// Longest part of a launch, in seconds: Windows resets after 2 s, amdgpu after 10 s, and a desktop stutters before that.
pub(super) const LONGEST: f64 = 0.25;

/// Parts of the launches seen so far, by a hash of kernel, grid and arguments.
#[derive(Default)]
pub(super) struct Watchdog {
    known: HashMap<u64, Plan>,
}

/// How a launch runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    /// Workgroups along the axis that is cut, of each part.
    pub(super) step: u32,
    /// Seconds of the whole.
    pub(super) seconds: f64,
}

impl Watchdog {
    pub(super) fn plan(&self, key: u64) -> Option<Plan> {
        self.known.get(&key).copied()
    }

    /// Learns from `first` of `all` workgroups along the axis having taken `seconds`: first of as many as run side by side, then of
    /// the whole, which overlaps better.
    pub(super) fn learn(&mut self, key: u64, first: u32, all: u32, seconds: f64, longest: f64) -> Plan {
        let each = seconds / f64::from(first.max(1));
        let step = if each > 0.0 { (longest / each).clamp(1.0, f64::from(all)) as u32 } else { all };
        let plan = Plan { step: step.max(1), seconds: each * f64::from(all) };
        self.known.insert(key, plan);
        plan
    }
}

/// Workgroups along the axis to begin with, unknown as the launch is: as many as a device of `units` runs side by side, and no
/// less than a small part of all.
pub(super) fn beginning(grid: [u32; 3], axis: usize, units: u32) -> u32 {
    let across: u64 = (0..3).filter(|i| *i != axis).map(|i| u64::from(grid[i])).product();
    let wave = u64::from(units).div_ceil(across) as u32;
    wave.max(grid[axis].div_ceil(64)).min(grid[axis])
}

/// The axis to cut: the outermost with more than one workgroup.
pub(super) fn axis(grid: [u32; 3]) -> usize {
    (0..3).rev().find(|i| grid[*i] > 1).unwrap_or(0)
}

/// First workgroup and count of each part.
pub(super) fn parts(grid: [u32; 3], axis: usize, from: u32, step: u32) -> impl Iterator<Item = ([u32; 3], [u32; 3])> {
    (from..grid[axis]).step_by(step.max(1) as usize).map(move |at| {
        let (mut base, mut count) = ([0; 3], grid);
        base[axis] = at;
        count[axis] = step.min(grid[axis] - at);
        (base, count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_grid_once() {
        for (grid, step) in [([7, 3, 1], 2), ([5, 1, 1], 5), ([2, 2, 9], 4)] {
            let axis = axis(grid);
            let mut covered = vec![0; grid[axis] as usize];
            for (base, count) in parts(grid, axis, 0, step) {
                (0..3).filter(|i| *i != axis).for_each(|i| assert_eq!((base[i], count[i]), (0, grid[i])));
                (base[axis]..base[axis] + count[axis]).for_each(|i| covered[i as usize] += 1);
            }
            assert!(covered.iter().all(|n| *n == 1), "{grid:?} {covered:?}");
        }
    }

    #[test]
    fn a_launch_begins_with_a_wave() {
        assert_eq!(beginning([1000, 1, 1], 0, 40), 40);
        assert_eq!(beginning([65535, 1, 1], 0, 40), 1024);
        assert_eq!(beginning([4, 100, 1], 1, 40), 10);
        assert_eq!(beginning([8, 1, 1], 0, 40), 8);
    }

    #[test]
    fn a_part_takes_no_longer_than_it_may() {
        let mut watchdog = Watchdog::default();
        // 4 of 1000 in 40 ms: 10 ms each, 25 in a quarter of a second.
        assert_eq!(watchdog.learn(1, 4, 1000, 0.04, LONGEST).step, 25);
        assert_eq!(watchdog.learn(2, 4, 1000, 0.0, LONGEST).step, 1000);
        assert_eq!(watchdog.learn(3, 1, 10, 9.0, LONGEST).step, 1);
        assert_eq!(watchdog.plan(1).map(|p| p.step), Some(25));
        assert_eq!(watchdog.plan(9), None);
    }
}
