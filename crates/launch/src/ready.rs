//! Launches made ready: a kernel, its counter, and how many launches that must have seen.

use crate::Way;
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Dtype, Seconds, Verification};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Event, Geometry, Graph, Kernel, Program, Result, Timing};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{Prepared, Ready};
use std::collections::BTreeMap;
use std::time::Instant;

/// What the counter begins with: that its first step carries through all four bytes is part of the test.
const START: u32 = u32::MAX;

pub(crate) fn prepare(way: Way, device: &dyn Device) -> Result<Prepared<'_>> {
    let kernel = device.compile(&Program { name: "launch/count", ..Program::default() }, "rp_count")?;
    let counter = device.alloc(4)?;
    let ready = Launches { way, device, kernel, counter, graph: None, expected: 0 };
    Ok(Prepared { ready: Box::new(ready), config: BTreeMap::new(), labels: vec![], dtype: Dtype::I32 })
}

struct Launches<'d> {
    way: Way,
    device: &'d dyn Device,
    kernel: Kernel,
    counter: Buffer,
    /// So many launches, captured.
    graph: Option<(u64, Graph)>,
    /// Launches since the counter was set.
    expected: u64,
}

impl Launches<'_> {
    fn launch(&self) -> Result<()> {
        self.device.launch(&self.kernel, Geometry::linear(1, 1), &[Arg::Buffer(&self.counter, 0)])
    }

    fn between(&self, start: &Event, end: &Event) -> Result<Timing> {
        Ok(Timing { seconds: self.device.elapsed(start, end)?, clock: self.device.clock() })
    }

    fn in_stream(&mut self, n: u64) -> Result<Timing> {
        self.device.synchronize()?;
        let start = self.device.record()?;
        (0..n).try_for_each(|_| self.launch())?;
        let end = self.device.record()?;
        self.expected += n;
        self.between(&start, &end)
    }

    fn in_graph(&mut self, n: u64) -> Result<Timing> {
        let graph = match self.graph.take().filter(|(length, _)| *length == n) {
            Some((_, graph)) => graph,
            None => {
                let graph = self.device.capture(&mut || (0..n).try_for_each(|_| self.launch()))?;
                graph.ok_or_else(|| DeviceError::unsupported("this device has no graphs"))?
            }
        };
        self.device.synchronize()?;
        let start = self.device.record()?;
        self.device.replay(&graph)?;
        let end = self.device.record()?;
        self.graph = Some((n, graph));
        self.expected += n;
        self.between(&start, &end)
    }

    fn in_turn(&mut self, n: u64) -> Result<Timing> {
        self.device.synchronize()?;
        let start = Instant::now();
        for _ in 0..n {
            self.launch()?;
            self.device.synchronize()?;
        }
        let seconds = Seconds(start.elapsed().as_secs_f64());
        self.expected += n;
        Ok(Timing { seconds, clock: Clock::Host })
    }
}

impl Ready for Launches<'_> {
    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        self.expected += 1;
        self.launch()
    }

    fn run_timed(&mut self, _first: usize, n: u64) -> Option<Result<Timing>> {
        Some(match self.way {
            Way::Stream => self.in_stream(n),
            Way::Graph => self.in_graph(n),
            Way::Sync => self.in_turn(n),
        })
    }

    fn replays(&self) -> bool {
        self.way == Way::Graph
    }

    fn poison(&mut self) -> Result<()> {
        self.expected = 0;
        self.device.upload(&self.counter, 0, &START.to_le_bytes())
    }

    fn check(&mut self) -> Result<Verification> {
        let mut count = [0; 4];
        self.device.download(&self.counter, 0, &mut count)?;
        let counted = u32::from_le_bytes(count).wrapping_sub(START);
        let mut comparison = Comparison::new(0.0);
        comparison.push(f64::from(counted), f64::from(self.expected as u32), 1.0);
        Ok(comparison.finish("launches counted by the kernel, exact"))
    }
}
