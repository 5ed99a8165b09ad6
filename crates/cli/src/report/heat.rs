//! Sustained cases: how bandwidth or TFLOP/s, clock, power and temperature went from the first to the last tenth of the time.

use super::text::{clean, significant};
use super::{Model, Row};
use ridgepoint_core::record::{Moment, Outcome};
use ridgepoint_core::stats::Summary;
use serde_json::{Value, json};
use std::fmt::Write;

/// What backends call the power drawn now.
pub(super) const POWER: [&str; 2] = ["power_w", "power_instant_w"];

/// Seconds of work that a sensor of power must see: NVML's is a mean over the last one.
pub(super) const SLOW_SENSOR: f64 = 1.0;

/// Seconds between two readings, at the least.
pub(super) const BETWEEN_READINGS: f64 = 0.05;

/// The sensors that are shown, with the words for them: the first of a group that a device has.
const SENSORS: [(&[&str], &str); 4] = [
    (&["observed_mhz", "sm_clock_mhz", "clock_mhz"], "MHz"),
    (&POWER, "W"),
    (&["temperature_c"], "°C"),
    (&["memory_temperature_c"], "°C memory"),
];

fn timeline(row: &Row) -> &[Moment] {
    match &row.record.outcome {
        Outcome::Measured { telemetry, .. } => &telemetry.timeline,
        _ => &[],
    }
}

/// The figure of a record in each moment: the headline's, scaled by the time of an execution.
fn figures(row: &Row) -> Vec<f64> {
    let Some(placement) = &row.placement else { return Vec::new() };
    let latency = placement.unit == "ns";
    let figure = |moment: &Moment| {
        let ratio = moment.execution.0 / placement.summary.median;
        if latency { placement.achieved * ratio } else { placement.achieved / ratio }
    };
    timeline(row).iter().map(figure).collect()
}

fn sensor(moment: &Moment, names: &[&str]) -> Option<f64> {
    names.iter().find_map(|name| moment.sensors.get(*name)).copied().filter(|x| x.is_finite())
}

/// The figure over the power in each moment, and its unit; empty for a latency, or without a sensor of power.
fn per_watt(row: &Row) -> (Vec<Option<f64>>, String) {
    let unit = row.placement.as_ref().map_or("", |p| p.unit);
    let watts = |moment: &Moment| sensor(moment, &POWER).filter(|w| *w > 0.0);
    let values = timeline(row).iter().zip(figures(row)).map(|(moment, figure)| Some(figure / watts(moment)?));
    (if unit == "ns" { Vec::new() } else { values.collect() }, format!("{unit}/W"))
}

/// Medians of the first and of the last tenth.
fn ends(values: &[f64]) -> Option<(f64, f64)> {
    let tenth = values.len().div_ceil(10);
    let median = |part: &[f64]| Some(Summary::of(part)?.median);
    Some((median(values.get(..tenth)?)?, median(&values[values.len() - tenth..])?))
}

/// A line a sustained case, for people.
pub(super) fn text(model: &Model) -> String {
    let mut text = String::new();
    for row in &model.rows {
        let (moments, figures) = (timeline(row), figures(row));
        let (Some(last), Some((from, to)), Some(placement)) = (moments.last(), ends(&figures), &row.placement) else { continue };
        let _ = write!(
            text,
            " {} {} over {:.0} s: {} to {} {} ({:+.1}%)",
            row.record.case,
            clean(&row.record.provider),
            last.at.0,
            significant(from),
            significant(to),
            placement.unit,
            (to / from - 1.0) * 100.0
        );
        for (names, unit) in SENSORS {
            let values: Vec<f64> = moments.iter().filter_map(|m| sensor(m, names)).collect();
            if let Some((from, to)) = ends(&values) {
                let _ = write!(text, ", {} to {} {unit}", significant(from), significant(to));
            }
        }
        let (values, unit) = per_watt(row);
        if let Some((from, to)) = ends(&values.into_iter().flatten().collect::<Vec<_>>()) {
            let _ = write!(text, ", {} to {} {unit}", significant(from), significant(to));
        }
        text.push('\n');
    }
    if text.is_empty() { text } else { format!("\nsustained, the first tenth of the time to the last\n{text}") }
}

/// The curves of a record for the page; null where it was not sustained.
pub(super) fn curves(row: &Row) -> Value {
    let moments = timeline(row);
    if moments.is_empty() {
        return Value::Null;
    }
    let mut sensors: Vec<Value> = SENSORS
        .iter()
        .map(|(names, unit)| json!({ "unit": unit, "values": moments.iter().map(|m| sensor(m, names)).collect::<Vec<_>>() }))
        .collect();
    let (values, unit) = per_watt(row);
    sensors.push(json!({ "unit": unit, "values": values }));
    json!({ "at": moments.iter().map(|m| m.at.0).collect::<Vec<_>>(), "figure": figures(row), "sensors": sensors })
}
