//! Criterion on the device's clock: a measurement whose values are seconds between two of the device's own events, told in GB/s
//! and TFLOP/s.

use super::hand::Hand;
use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};
use ridgepoint_core::{Case, Metric, Seconds};
use std::rc::Rc;

/// The clock of the device whose case is in hand.
pub(crate) struct DeviceClock<'d>(pub(crate) Rc<Hand<'d>>);

/// What criterion is told that one execution does. Operations are its elements.
pub(crate) fn throughput(case: &Case) -> Throughput {
    let (bytes, flops) = (case.work.bytes.0, case.work.flops.0);
    match case.metric {
        Metric::Latency => Throughput::Elements(case.work.steps.max(1)),
        Metric::BusBandwidth => Throughput::Bytes((bytes as f64 * case.work.bus_factor.unwrap_or(1.0)).round() as u64),
        _ if flops > 0 && bytes > 0 => Throughput::ElementsAndBytes { elements: flops, bytes },
        _ if flops > 0 => Throughput::Elements(flops),
        _ => Throughput::Bytes(bytes),
    }
}

impl Measurement for DeviceClock<'_> {
    type Intermediate = ();
    type Value = Seconds;

    // Never asked: every benchmark times itself, by `iter_custom`.
    fn start(&self) {}

    fn end(&self, (): ()) -> Seconds {
        Seconds(0.0)
    }

    fn add(&self, a: &Seconds, b: &Seconds) -> Seconds {
        Seconds(a.0 + b.0)
    }

    fn zero(&self) -> Seconds {
        Seconds(0.0)
    }

    /// Nanoseconds: what tools that read criterion's files take its numbers for.
    fn to_f64(&self, value: &Seconds) -> f64 {
        value.0 * 1e9
    }

    /// Criterion asks for this when all samples are taken and before it shows, compares or keeps any. What the timed runs left
    /// behind is checked here, so that no number of a wrong result is seen.
    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.check();
        self
    }
}

impl ValueFormatter for DeviceClock<'_> {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        let (scale, unit) = match typical {
            t if t < 1e3 => (1.0, "ns"),
            t if t < 1e6 => (1e3, "µs"),
            t if t < 1e9 => (1e6, "ms"),
            _ => (1e9, "s"),
        };
        values.iter_mut().for_each(|v| *v /= scale);
        unit
    }

    fn scale_throughputs(&self, _typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        let (each, unit): (&dyn Fn(f64) -> f64, _) = match *throughput {
            Throughput::Elements(steps) if self.0.metric() == Metric::Latency => (&move |ns| ns / steps as f64, "ns"),
            Throughput::Elements(flops) | Throughput::ElementsAndBytes { elements: flops, .. } => {
                (&move |ns| flops as f64 / ns / 1e3, "TFLOP/s")
            }
            Throughput::Bytes(bytes) | Throughput::BytesDecimal(bytes) => (&move |ns| bytes as f64 / ns, "GB/s"),
            Throughput::Bits(bits) => (&move |ns| bits as f64 / ns, "Gbit/s"),
        };
        values.iter_mut().for_each(|v| *v = each(*v));
        unit
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "ns"
    }
}
