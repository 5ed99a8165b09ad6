//! The launch suite: what it costs to start a kernel that does nothing, since that bounds how fine work can be cut.
//!
//! `launch/stream` enqueues kernels one after the other with nothing to hold the queue back: the time of one is what the slower of
//! host and device takes. `launch/graph` replays them as one captured graph. `launch/sync` waits for each before the next: the
//! round trip, by the host's clock. On a CPU a launch is a parallel region of all its threads.
//!
//! Each launch adds one to a counter, and the counter must have the number of launches that were made: one that never happened
//! is a wrong result and not a fast one. Nothing bounds these times, so they have no roof.

mod ready;

use ridgepoint_core::{Cache, Case, CaseId, Component, Distribution, Dtype, Level, Metric, Work};
use ridgepoint_device::{Device, DeviceError, Result};
use ridgepoint_harness::{Class, Prepared, Scope, Suite};

/// The suite.
pub struct Launch;

/// How kernels are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stream,
    Graph,
    Sync,
}

impl Way {
    const ALL: [Self; 3] = [Self::Stream, Self::Graph, Self::Sync];

    const fn id(self) -> &'static str {
        match self {
            Self::Stream => "launch/stream",
            Self::Graph => "launch/graph",
            Self::Sync => "launch/sync",
        }
    }

    fn parse(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.id() == id)
    }

    fn case(self) -> Option<Case> {
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Launch,
            dtype: Dtype::I32,
            metric: Metric::Latency,
            level: Level::Dram,
            work: Work { steps: 1, ..Work::bytes(ridgepoint_core::Bytes(0)) },
            cache: Cache::Hot,
            data: Distribution::None,
        })
    }
}

impl Suite for Launch {
    fn component(&self) -> Component {
        Component::Launch
    }

    fn cases(&self, scope: &Scope) -> Vec<Case> {
        let ways: &[Way] = match scope.class {
            // Work starts at once and is over when the call returns: there is nothing to capture or to wait for.
            Class::Cpu => &[Way::Stream],
            Class::SoftwareGpu => &[Way::Stream, Way::Sync],
            Class::Gpu => &Way::ALL,
        };
        ways.iter().filter_map(|way| way.case()).collect()
    }

    fn parse(&self, id: &str) -> Option<Case> {
        Way::parse(id)?.case()
    }

    fn providers(&self, _case: &Case, device: &dyn Device) -> Vec<String> {
        vec![device.info().backend.name().to_owned()]
    }

    fn prepare<'d>(&self, case: &Case, _provider: &str, device: &'d dyn Device, _seed: u64) -> Result<Prepared<'d>> {
        let way = Way::parse(case.id.as_str());
        ready::prepare(way.ok_or_else(|| DeviceError::invalid(format!("{} is no launch case", case.id)))?, device)
    }
}
