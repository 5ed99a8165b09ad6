//! What a collective counts: S of nccl-tests, and the factor that makes busbw of algbw.

use crate::cases::Shape;
use ridgepoint_core::Work;
use ridgepoint_device::CollectiveOp;

/// One execution's work. S is the total buffer: the receive side for all-gather, the send side for reduce-scatter.
pub(crate) fn work(shape: Shape) -> Work {
    Work { bus_factor: Some(bus_factor(shape)), ..Work::bytes(shape.bytes) }
}

/// busbw over algbw: what a rank's link carries for each byte of S (nccl-tests, doc/PERFORMANCE.md), for uneven parts as for
/// even ones. One rank has no link, so that its busbw is 0 whatever the op; nccl-tests gives broadcast, reduce and send-recv
/// their factor of 1 even then.
fn bus_factor(shape: Shape) -> f64 {
    let n = shape.ranks as f64;
    if shape.ranks == 1 {
        return 0.0;
    }
    match shape.op {
        CollectiveOp::AllReduce => 2.0 * (n - 1.0) / n,
        CollectiveOp::AllGather
        | CollectiveOp::ReduceScatter
        | CollectiveOp::AllToAll
        | CollectiveOp::AllToAllV
        | CollectiveOp::Gather
        | CollectiveOp::Scatter => (n - 1.0) / n,
        CollectiveOp::Broadcast | CollectiveOp::Reduce | CollectiveOp::SendRecv => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::{Bytes, Dtype};

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        let factor = |op, ranks| bus_factor(Shape { ranks, ..Shape::new(op, 2, Bytes(1024), Dtype::F32) });
        assert_eq!(factor(CollectiveOp::AllReduce, 8), 1.75);
        assert_eq!(factor(CollectiveOp::AllGather, 8), 0.875);
        assert_eq!(factor(CollectiveOp::ReduceScatter, 8), 0.875);
        assert_eq!(factor(CollectiveOp::AllToAll, 4), 0.75);
        for op in [CollectiveOp::Gather, CollectiveOp::Scatter, CollectiveOp::AllToAllV] {
            assert_eq!(factor(op, 8), 0.875);
        }
        for op in [CollectiveOp::Broadcast, CollectiveOp::Reduce, CollectiveOp::SendRecv] {
            assert_eq!((factor(op, 8), factor(op, 1)), (1.0, 0.0));
        }
        assert_eq!(factor(CollectiveOp::AllReduce, 1), 0.0);
    }
}
