//! A collective made ready: ranks up, outputs of every rank checked to the last element.

use crate::cases::Shape;
use ridgepoint_core::{Dtype, Verification, data};
use ridgepoint_device::{CollectiveOp, CollectiveProblem, Communicator, Device, DeviceError, Result, Timing};
use ridgepoint_harness::verify::{Comparison, in_chunks};
use ridgepoint_harness::{Prepared, Ready};

pub(crate) fn prepare<'d>(shape: Shape, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let Some(collectives) = device.collectives() else {
        return Err(DeviceError::unsupported(format!(
            "{} has no other rank to talk to that this version can drive",
            device.info().id
        )));
    };
    let ranks = shape.ranks as usize;
    if ranks > collectives.max_ranks() {
        return Err(DeviceError::unsupported(format!("{ranks} ranks asked for, {} can take part here", collectives.max_ranks())));
    }
    let problem = CollectiveProblem { op: shape.op, ranks, bytes: shape.bytes, dtype: shape.dtype, seed };
    let communicator = collectives.communicator(&problem)?;
    let config = communicator.config();
    let labels = if collectives.provider() == "shared-memory" { vec!["shared-memory engine".into()] } else { vec![] };
    let ready = Run { communicator, problem };
    Ok(Prepared { ready: Box::new(ready), config, labels, dtype: shape.dtype })
}

struct Run {
    communicator: Box<dyn Communicator>,
    problem: CollectiveProblem,
}

impl Ready for Run {
    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        self.communicator.run(1).map(drop)
    }

    fn poison(&mut self) -> Result<()> {
        self.communicator.poison()
    }

    fn run_timed(&mut self, _first: usize, n: u64) -> Option<Result<Timing>> {
        Some(self.communicator.run(n as usize))
    }

    fn check(&mut self) -> Result<Verification> {
        let p = self.problem;
        let size = p.dtype.element_bytes().unwrap_or(4);
        let count = p.bytes.0 as usize / size;
        let part = count / p.ranks;
        let reduces = matches!(p.op, CollectiveOp::AllReduce | CollectiveOp::ReduceScatter);
        // Each addition in f32 rounds once, and so does the result's own type; a copy is exact.
        let tolerance = if reduces { p.ranks as f64 * Dtype::F32.unit_roundoff() + p.dtype.unit_roundoff() } else { 0.0 };
        let input =
            |rank: usize, i: usize| p.dtype.round(f64::from(data::normal(data::operand_seed(p.seed, rank as u64), i as u64)));
        let mut total = Comparison::new(tolerance);
        for rank in 0..p.ranks {
            let out = self.communicator.output(rank)?;
            let elements = if p.op == CollectiveOp::ReduceScatter { part } else { count };
            let parts = in_chunks(elements as u64, |range| {
                let mut comparison = Comparison::new(tolerance);
                for i in range.start as usize..range.end as usize {
                    let got = p.dtype.read(&out[i * size..(i + 1) * size]);
                    let (want, scale) = match p.op {
                        CollectiveOp::AllReduce => sum(p.ranks, |r| input(r, i)),
                        CollectiveOp::ReduceScatter => sum(p.ranks, |r| input(r, part * rank + i)),
                        CollectiveOp::AllGather => (input(i / part, i), 1.0),
                        CollectiveOp::Broadcast => (input(0, i), 1.0),
                        CollectiveOp::AllToAll => (input(i / part, part * rank + i % part), 1.0),
                    };
                    comparison.push(got, want, scale);
                }
                comparison
            });
            parts.into_iter().for_each(|part| total.merge(part));
        }
        Ok(total.finish(if reduces {
            "every element of every rank against f64, relative to Σ|x|"
        } else {
            "every element of every rank, exact"
        }))
    }
}

/// A sum over ranks, and the sum of magnitudes that its error is relative to.
fn sum(ranks: usize, value: impl Fn(usize) -> f64) -> (f64, f64) {
    (0..ranks).map(value).fold((0.0, f64::MIN_POSITIVE), |(sum, scale), x| (sum + x, scale + x.abs()))
}
