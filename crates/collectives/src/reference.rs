//! What each rank must receive, in float64: inputs are made by a counter, so that every element of every rank can be computed
//! anew, and nothing that the ranks hold is believed.

use ridgepoint_core::Dtype;
use ridgepoint_device::{CollectiveOp, CollectiveProblem, Redop, Rounding};

/// What one element must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    /// Its value.
    pub(crate) value: f64,
    /// What an error of it is relative to: the sum of magnitudes of its terms, which bounds what rounding can do.
    pub(crate) scale: f64,
}

/// The largest |got − want| / scale. Sums of n terms in any order round fewer than n times, in f32 and then once to the dtype,
/// or each time to the dtype; an average once or twice more (libraries multiply by 1/n beforehand). What is only moved or chosen
/// is exact, and so are sums of integers; an average of integers is cut off.
pub(crate) fn tolerance(problem: &CollectiveProblem, rounding: Rounding) -> f64 {
    let chosen = matches!(problem.redop, Redop::Min | Redop::Max);
    if !problem.op.reduces() || problem.ranks == 1 || chosen {
        return 0.0;
    }
    if integer(problem.dtype) {
        return if problem.redop == Redop::Avg { 1.0 - f64::EPSILON } else { 0.0 };
    }
    let terms = problem.ranks as f64 + if problem.redop == Redop::Avg { 2.0 } else { 0.0 };
    let once = problem.dtype.unit_roundoff();
    match rounding {
        Rounding::Once => terms * Dtype::F32.unit_roundoff().min(once) + once,
        Rounding::EachStep => terms * once,
    }
}

const fn integer(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::I8 | Dtype::I32)
}

/// Element `i` of what rank `rank` receives.
pub(crate) fn element(problem: &CollectiveProblem, rank: usize, i: usize) -> Expected {
    let n = problem.ranks;
    let part = problem.count() / n;
    let moved = |from: usize, i: usize| Expected { value: problem.input(from, i), scale: 1.0 };
    match problem.op {
        CollectiveOp::AllReduce | CollectiveOp::Reduce => combined(problem, i),
        CollectiveOp::ReduceScatter => combined(problem, part * rank + i),
        CollectiveOp::AllGather | CollectiveOp::Gather => moved(i / part, i % part),
        CollectiveOp::Broadcast => moved(problem.root, i),
        CollectiveOp::Scatter => moved(problem.root, part * rank + i),
        CollectiveOp::AllToAll => moved(i / part, part * rank + i % part),
        CollectiveOp::AllToAllV => {
            // What this rank sends to a peer is as long as what it gets from it, so that its own cuts are the received ones.
            let from = (0..n).find(|peer| problem.uneven(rank, *peer).contains(&i)).unwrap_or(0);
            moved(from, problem.uneven(from, rank).start + i - problem.uneven(rank, from).start)
        }
        CollectiveOp::SendRecv => moved((rank + n - 1) % n, i),
    }
}

/// All ranks' elements `i` as one, and what its rounding is relative to: the sum of magnitudes, and as many of the smallest
/// normal numbers, below which a rounding is absolute.
fn combined(problem: &CollectiveProblem, i: usize) -> Expected {
    let terms = || (0..problem.ranks).map(|rank| problem.input(rank, i));
    let n = problem.ranks as f64;
    let whole = |f: fn(f64, f64) -> f64| terms().reduce(f).unwrap_or_default();
    let (sum, magnitudes) = (whole(|a, b| a + b), terms().map(f64::abs).sum::<f64>());
    let tiny = problem.least();
    let (value, scale) = match problem.redop {
        Redop::Sum => (sum, magnitudes + tiny),
        Redop::Prod => {
            let product = whole(|a, b| a * b);
            (product, product.abs())
        }
        Redop::Min => (whole(f64::min), 1.0),
        Redop::Max => (whole(f64::max), 1.0),
        Redop::Avg => (sum / n, magnitudes / n + tiny),
    };
    // Where integers are compared, by one.
    Expected { value, scale: if integer(problem.dtype) { 1.0 } else { scale } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::{Bytes, data};

    fn problem(op: CollectiveOp) -> CollectiveProblem {
        CollectiveProblem { seed: 3, ..CollectiveProblem::new(op, 2, Bytes(16), Dtype::F32) }
    }

    #[test]
    fn each_op_takes_from_where_it_should() {
        // Two ranks with four elements each: a0 a1 a2 a3 and b0 b1 b2 b3.
        let x = |rank: u64, i: u64| f64::from(data::normal(data::operand_seed(3, rank), i));
        let (a, b) = ([x(0, 0), x(0, 1), x(0, 2), x(0, 3)], [x(1, 0), x(1, 1), x(1, 2), x(1, 3)]);
        let got = |op, rank| -> Vec<f64> {
            let p = problem(op);
            (0..p.receives(rank)).map(|i| element(&p, rank, i).value).collect()
        };
        let all: Vec<f64> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        assert_eq!(got(CollectiveOp::AllReduce, 0), all);
        assert_eq!(got(CollectiveOp::AllReduce, 1), all);
        assert_eq!(got(CollectiveOp::ReduceScatter, 0), all[..2]);
        assert_eq!(got(CollectiveOp::ReduceScatter, 1), all[2..]);
        assert_eq!(got(CollectiveOp::AllGather, 1), [a[0], a[1], b[0], b[1]]);
        assert_eq!((got(CollectiveOp::Gather, 0), got(CollectiveOp::Gather, 1)), (vec![a[0], a[1], b[0], b[1]], vec![]));
        assert_eq!((got(CollectiveOp::Reduce, 0), got(CollectiveOp::Reduce, 1)), (all.clone(), vec![]));
        assert_eq!(got(CollectiveOp::Scatter, 1), a[2..]);
        assert_eq!((got(CollectiveOp::SendRecv, 0), got(CollectiveOp::SendRecv, 1)), (b.to_vec(), a.to_vec()));
        // A third and two thirds of four elements, cut off: one to oneself and three to the other, or the other way round.
        assert_eq!(got(CollectiveOp::AllToAllV, 0), [a[0], b[0], b[1], b[2]]);
        assert_eq!(got(CollectiveOp::AllToAllV, 1), [a[1], a[2], a[3], b[3]]);
        assert_eq!(got(CollectiveOp::Broadcast, 1), a);
        assert_eq!(got(CollectiveOp::AllToAll, 0), [a[0], a[1], b[0], b[1]]);
        assert_eq!(got(CollectiveOp::AllToAll, 1), [a[2], a[3], b[2], b[3]]);
    }

    #[test]
    fn only_what_is_computed_may_round_and_the_tolerance_follows_dtype_and_ranks() {
        let once = |p: &CollectiveProblem| tolerance(p, Rounding::Once);
        let reduce = problem(CollectiveOp::AllReduce);
        assert_eq!(once(&problem(CollectiveOp::Broadcast)), 0.0);
        assert_eq!(once(&CollectiveProblem { ranks: 1, ..reduce }), 0.0);
        assert_eq!(once(&CollectiveProblem { redop: Redop::Max, ..reduce }), 0.0);
        assert_eq!(once(&CollectiveProblem { dtype: Dtype::I8, ..reduce }), 0.0);
        assert!(once(&CollectiveProblem { dtype: Dtype::I8, redop: Redop::Avg, ..reduce }) < 1.0);
        let of = |ranks, dtype| once(&CollectiveProblem { ranks, dtype, ..reduce });
        assert_eq!(of(2, Dtype::F32), 3.0 * f64::powi(0.5, 24));
        assert!(of(8, Dtype::F32) > of(2, Dtype::F32) && of(2, Dtype::Bf16) > of(2, Dtype::F16));
        assert!(of(2, Dtype::F64) < 1e-15 && of(8, Dtype::E5m2) < 0.13);
        let each = |dtype| tolerance(&CollectiveProblem { ranks: 8, dtype, ..reduce }, Rounding::EachStep);
        assert_eq!(each(Dtype::Bf16), 8.0 * f64::powi(0.5, 8));
    }
}
