//! Every collective on ranks that are threads, and what is said when one fails. Real processes: `tests/ranks.rs`.

use super::*;
use crate::CollectiveOp;
use crate::collectives::expected;
use ridgepoint_core::Dtype;
use std::time::Instant;

fn engine(patience: u64) -> SharedMemory {
    SharedMemory::new(&[0], Bytes::mib(1)).as_threads().with_patience(Duration::from_millis(patience))
}

/// Elements that are wrong at any rank.
fn wrong(p: &CollectiveProblem, communicator: &mut dyn Communicator) -> Vec<(usize, usize)> {
    let size = p.dtype.element_bytes().unwrap();
    let mut wrong = Vec::new();
    for rank in 0..p.ranks {
        let out = communicator.output(rank).unwrap();
        let expected = expected(p, rank);
        assert_eq!(expected.len(), p.receives(rank), "{p:?}");
        for (i, terms) in expected.iter().enumerate() {
            let got = p.dtype.read(&out[i * size..(i + 1) * size]);
            let scale: f64 = terms.iter().map(|x| x.abs()).sum();
            let sum = terms.len() as f64 * Dtype::F32.unit_roundoff() + p.dtype.unit_roundoff();
            let limit = if terms.len() > 1 { scale * sum } else { 0.0 };
            let error = (got - terms.iter().sum::<f64>()).abs();
            if error.is_nan() || error > limit {
                wrong.push((rank, i));
            }
        }
        // Nothing beyond its result is touched; in place the rest is input.
        assert!(
            p.in_place || out[expected.len() * size..].iter().all(|b| *b == 0xff),
            "{p:?}: rank {rank} wrote past its result"
        );
    }
    wrong
}

#[test]
fn every_op_dtype_rank_count_and_odd_size_is_right() {
    // One-shot, an element a rank or less, a chunk exactly, one more, and several that no rank count divides.
    let chunk = ops::CHUNK / 4;
    for op in CollectiveOp::ALL {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::I8] {
            for ranks in [1, 2, 3] {
                for count in [1, 3, 1000, 4099, ranks * chunk, ranks * chunk + 1, 5 * chunk + 7] {
                    let bytes = Bytes((count * dtype.element_bytes().unwrap()) as u64);
                    for in_place in [false, true].into_iter().filter(|i| !i || op.in_place()) {
                        let root = ranks - 1;
                        let p = CollectiveProblem { root, in_place, seed: 5, ..CollectiveProblem::new(op, ranks, bytes, dtype) };
                        let mut communicator = engine(10_000).communicator(&p).unwrap();
                        communicator.poison().unwrap();
                        communicator.run(3).unwrap();
                        assert_eq!(wrong(&p, communicator.as_mut()), [], "{p:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn results_are_made_anew_by_each_run() {
    let p = problem(2, CollectiveOp::AllReduce);
    let mut communicator = engine(10_000).communicator(&p).unwrap();
    for n in [1, 0, 5] {
        communicator.poison().unwrap();
        let timing = communicator.run(n).unwrap();
        assert!(timing.seconds.0 > 0.0);
        let expected = if n == 0 { 2 * p.bytes.0 as usize / 4 } else { 0 };
        assert_eq!(wrong(&p, communicator.as_mut()).len(), expected, "{n} executions");
    }
    assert_eq!(communicator.working().len(), 2);
    assert!(communicator.working().iter().all(|s| s.0 >= 0.0 && s.0 < 1.0));
}

fn problem(ranks: usize, op: CollectiveOp) -> CollectiveProblem {
    CollectiveProblem::new(op, ranks, Bytes::kib(256), Dtype::F32)
}

#[test]
fn a_corrupted_result_is_found_where_it_is() {
    for op in CollectiveOp::ALL {
        // Where it is the root alone that receives.
        let p =
            CollectiveProblem { root: usize::from(matches!(op, CollectiveOp::Reduce | CollectiveOp::Gather)), ..problem(3, op) };
        for fault in [Fault::Corrupt, Fault::Unwritten] {
            let mut communicator = engine(10_000).with_fault(fault, 1).communicator(&p).unwrap();
            communicator.poison().unwrap();
            communicator.run(3).unwrap();
            let expected = if fault == Fault::Corrupt { vec![(1, 0)] } else { vec![(1, 0), (1, 1)] };
            assert_eq!(wrong(&p, communicator.as_mut()), expected, "{op:?} {fault:?}");
        }
    }
}

#[test]
fn a_rank_that_ends_or_hangs_is_named_in_bounded_time() {
    for op in CollectiveOp::ALL {
        for (fault, patience, words) in
            [(Fault::Die, 20_000, "rank 1 is gone (its thread ended)"), (Fault::Hang, 700, "no rank got on for 0.7 s")]
        {
            let mut communicator = engine(patience).with_fault(fault, 1).communicator(&problem(3, op)).unwrap();
            communicator.poison().unwrap();
            let started = Instant::now();
            let error = communicator.run(1000).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("that arrived: 0, 2; that did not: 1"), "{op:?} {fault:?}: {error}");
            // There is no going on, and nothing that would look like a result.
            assert_eq!(communicator.run(1).unwrap_err().to_string(), error);
            assert_eq!(communicator.poison().unwrap_err().to_string(), error);
            drop(communicator);
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
    }
}

#[test]
fn what_it_cannot_do_is_said() {
    let p = problem(2, CollectiveOp::AllReduce);
    let refusal = |p| engine(1000).communicator(&p).err().map(|e| e.to_string()).unwrap();
    assert!(refusal(CollectiveProblem { dtype: Dtype::Tf32, ..p }).contains("i8, i32, not tf32"));
    assert!(refusal(CollectiveProblem { root: 2, ..p }).contains("no rank 2 to be the root of 2"));
    let exchange = CollectiveProblem { in_place: true, ..problem(2, CollectiveOp::AllToAll) };
    assert!(refusal(exchange).contains("alltoall has no in-place form"));
    assert!(refusal(CollectiveProblem { ranks: 0, ..p }).contains("1 to 64 ranks, not 0"));
    assert!(refusal(CollectiveProblem { ranks: 65, ..p }).contains("not 65"));
    assert!(refusal(CollectiveProblem { bytes: Bytes(3), ..p }).contains("no element"));
    for bytes in [1 << 50, u64::MAX] {
        assert!(refusal(CollectiveProblem { bytes: Bytes(bytes), ..p }).contains("out of device memory"));
    }
}

#[test]
fn how_it_was_done_is_kept() {
    let config = engine(1000).communicator(&problem(2, CollectiveOp::AllReduce)).unwrap().config();
    assert_eq!((config["ranks"].as_str(), config["oversubscribed"].as_str()), ("2 threads", "2 ranks, cores: 1"));
    assert!(config["algorithm"].contains("pipelined"));
    let small = CollectiveProblem { bytes: Bytes::kib(4), ..problem(2, CollectiveOp::AllReduce) };
    let wide = SharedMemory::new(&[0, 0], Bytes::mib(64)).as_threads().communicator(&small).unwrap().config();
    assert!(wide["algorithm"].contains("one-shot") && wide["stores"] == "ordinary");
}
