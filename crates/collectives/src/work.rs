//! What a collective counts: S of nccl-tests, and the factor that makes busbw of algbw.

use crate::cases::Shape;
use ridgepoint_core::Work;
use ridgepoint_device::CollectiveOp;

/// One execution's work. S is the total buffer: the receive side for all-gather, the send side for reduce-scatter.
pub(crate) fn work(shape: Shape) -> Work {
    Work { bus_factor: Some(bus_factor(shape)), ..Work::bytes(shape.bytes) }
}

/// busbw over algbw: what a rank's link carries for each byte of S (nccl-tests, doc/PERFORMANCE.md). One rank has no link, and so
/// its busbw is 0 except where the factor does not depend on the ranks.
fn bus_factor(shape: Shape) -> f64 {
    let n = shape.ranks as f64;
    match shape.op {
        CollectiveOp::AllReduce => 2.0 * (n - 1.0) / n,
        CollectiveOp::AllGather | CollectiveOp::ReduceScatter | CollectiveOp::AllToAll => (n - 1.0) / n,
        CollectiveOp::Broadcast => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::{Bytes, Dtype};

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        let factor = |op, ranks| bus_factor(Shape { op, ranks, bytes: Bytes(1024), dtype: Dtype::F32 });
        assert_eq!(factor(CollectiveOp::AllReduce, 8), 1.75);
        assert_eq!(factor(CollectiveOp::AllGather, 8), 0.875);
        assert_eq!(factor(CollectiveOp::ReduceScatter, 8), 0.875);
        assert_eq!(factor(CollectiveOp::AllToAll, 4), 0.75);
        assert_eq!(factor(CollectiveOp::Broadcast, 8), 1.0);
        assert_eq!(factor(CollectiveOp::AllReduce, 1), 0.0);
    }
}
