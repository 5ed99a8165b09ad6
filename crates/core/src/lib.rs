//! What Ridgepoint's numbers are made of: dtypes, cases, work, samples, records, device specifications and the
//! roofline. Pure: no I/O beyond parsing text it is handed, no `unsafe`, no GPU, no clock. Everything above depends on
//! this crate and it depends on nothing of ours, so a record can be read, judged and rendered anywhere.

pub mod block;
pub mod case;
pub mod compare;
pub mod data;
pub mod device;
pub mod dtype;
pub mod kernel;
pub mod minifloat;
pub mod model;
mod network;
pub mod record;
pub mod roofline;
mod section;
pub mod specs;
pub mod staircase;
pub mod stats;
pub mod units;
pub mod verdict;

pub use case::{Cache, Case, CaseId, Component, Distribution, Level, Metric, Work};
pub use device::{Backend, CacheLevel, DeviceInfo, Library, MeasuredRoof};
pub use dtype::Dtype;
pub use record::{Environment, Line, Outcome, Record, Samples, Stop, Telemetry, Verification};
pub use units::{Bytes, Flops, Seconds};
