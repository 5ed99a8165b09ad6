//! What each rank must receive, in float64: inputs are made by a counter, so that every element of every rank can be computed
//! anew, and nothing that the ranks hold is believed.

use ridgepoint_core::{Dtype, data};
use ridgepoint_device::{CollectiveOp, CollectiveProblem};

/// What one element must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    /// Its value.
    pub(crate) value: f64,
    /// What an error of it is relative to: the sum of magnitudes of its terms, which bounds what rounding can do.
    pub(crate) scale: f64,
}

/// Whether `op` adds.
pub(crate) const fn reduces(op: CollectiveOp) -> bool {
    matches!(op, CollectiveOp::AllReduce | CollectiveOp::ReduceScatter)
}

/// The largest |got − want| / scale: n terms added in f32 in any order round fewer than n times, and storing rounds once to the
/// dtype. What is only moved is exact.
pub(crate) fn tolerance(problem: &CollectiveProblem) -> f64 {
    if !reduces(problem.op) || problem.ranks == 1 {
        return 0.0;
    }
    problem.ranks as f64 * Dtype::F32.unit_roundoff() + problem.dtype.unit_roundoff()
}

/// Elements of a rank's buffer.
fn count(problem: &CollectiveProblem) -> usize {
    problem.bytes.0 as usize / problem.dtype.element_bytes().unwrap_or(1)
}

/// Elements that each rank receives.
pub(crate) fn received(problem: &CollectiveProblem) -> usize {
    match problem.op {
        CollectiveOp::ReduceScatter => count(problem) / problem.ranks,
        _ => count(problem),
    }
}

/// Element `i` of what rank `rank` receives.
pub(crate) fn element(problem: &CollectiveProblem, rank: usize, i: usize) -> Expected {
    let part = count(problem) / problem.ranks;
    let moved = |from: usize, i: usize| Expected { value: input(problem, from, i), scale: 1.0 };
    match problem.op {
        CollectiveOp::AllReduce => sum(problem, i),
        CollectiveOp::ReduceScatter => sum(problem, part * rank + i),
        CollectiveOp::AllGather => moved(i / part, i),
        CollectiveOp::Broadcast => moved(0, i),
        CollectiveOp::AllToAll => moved(i / part, part * rank + i % part),
    }
}

/// Element `i` of rank `rank`'s send buffer.
fn input(problem: &CollectiveProblem, rank: usize, i: usize) -> f64 {
    let x = data::normal(data::operand_seed(problem.seed, rank as u64), i as u64);
    problem.dtype.round(f64::from(x))
}

fn sum(problem: &CollectiveProblem, i: usize) -> Expected {
    let terms = (0..problem.ranks).map(|rank| input(problem, rank, i));
    terms.fold(Expected { value: 0.0, scale: f64::MIN_POSITIVE }, |sum, x| Expected {
        value: sum.value + x,
        scale: sum.scale + x.abs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::Bytes;

    fn problem(op: CollectiveOp) -> CollectiveProblem {
        CollectiveProblem { op, ranks: 2, bytes: Bytes(16), dtype: Dtype::F32, seed: 3 }
    }

    #[test]
    fn each_op_takes_from_where_it_should() {
        // Two ranks with four elements each: a0 a1 a2 a3 and b0 b1 b2 b3.
        let x = |rank: u64, i: u64| f64::from(data::normal(data::operand_seed(3, rank), i));
        let (a, b) = ([x(0, 0), x(0, 1), x(0, 2), x(0, 3)], [x(1, 0), x(1, 1), x(1, 2), x(1, 3)]);
        let got = |op, rank| -> Vec<f64> {
            let p = problem(op);
            (0..received(&p)).map(|i| element(&p, rank, i).value).collect()
        };
        let all: Vec<f64> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        assert_eq!(got(CollectiveOp::AllReduce, 0), all);
        assert_eq!(got(CollectiveOp::AllReduce, 1), all);
        assert_eq!(got(CollectiveOp::ReduceScatter, 0), all[..2]);
        assert_eq!(got(CollectiveOp::ReduceScatter, 1), all[2..]);
        assert_eq!(got(CollectiveOp::AllGather, 1), [a[0], a[1], b[2], b[3]]);
        assert_eq!(got(CollectiveOp::Broadcast, 1), a);
        assert_eq!(got(CollectiveOp::AllToAll, 0), [a[0], a[1], b[0], b[1]]);
        assert_eq!(got(CollectiveOp::AllToAll, 1), [a[2], a[3], b[2], b[3]]);
    }

    #[test]
    fn only_sums_may_round_and_the_tolerance_follows_dtype_and_ranks() {
        assert_eq!(tolerance(&problem(CollectiveOp::Broadcast)), 0.0);
        assert_eq!(tolerance(&CollectiveProblem { ranks: 1, ..problem(CollectiveOp::AllReduce) }), 0.0);
        let of = |ranks, dtype| tolerance(&CollectiveProblem { ranks, dtype, ..problem(CollectiveOp::AllReduce) });
        assert_eq!(of(2, Dtype::F32), 3.0 * f64::powi(0.5, 24));
        assert!(of(8, Dtype::F32) > of(2, Dtype::F32) && of(2, Dtype::Bf16) > of(2, Dtype::F16));
    }
}
