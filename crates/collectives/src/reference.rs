//! How far what a rank receives may be from what it must be ([`ridgepoint_device::Received`]).

use ridgepoint_core::Dtype;
use ridgepoint_device::{CollectiveProblem, Redop, Rounding};

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

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::{Bytes, data};
    use ridgepoint_device::{CollectiveOp, Received};

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
            (0..p.receives(rank)).map(|i| Received::by(&p, rank).element(i).value).collect()
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
