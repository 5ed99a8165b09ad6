//! The page of a run: an interactive roofline, staircases, and every sample behind a row.

use super::page::page;
use super::peers::{Matrix, matrices};
use super::staircase::{Staircase, staircases};
use super::{Model, data as kinds, forward, heat, providers};
use ridgepoint_core::record::{Outcome, Record};
use ridgepoint_core::roofline::{Placement, RoofKind, measured_gbps, measured_tflops, observed_mhz};
use ridgepoint_core::specs::Specs;
use ridgepoint_core::{Component, DeviceInfo, Dtype, Level};
use serde_json::{Value, json};

const SCRIPT: &str = concat!(include_str!("page/products.js"), include_str!("page/attention.js"), include_str!("page/script.js"));

pub(crate) fn render(model: &Model) -> String {
    page("Ridgepoint report", &data(model).to_string(), SCRIPT)
}

fn data(model: &Model) -> Value {
    let runs = model.environments.iter().map(|e| {
        json!({
            "host": e.host, "os": e.os, "cpu": e.cpu, "version": e.version, "method": e.method, "profile": e.profile,
            "started": e.started, "seed": e.seed, "command": e.command.join(" "), "facts": e.facts,
        })
    });
    let mut seen = std::collections::BTreeSet::new();
    let devices = model.environments.iter().flat_map(|e| &e.devices).filter(|d| seen.insert(d.id.clone()));
    let rows = model.rows.iter().map(|row| {
        let mut value = record(&row.record, row.placement.as_ref());
        let remarks = row.remarks().into_iter().map(Value::from);
        value["labels"].as_array_mut().into_iter().for_each(|labels| drop(labels.splice(0..0, remarks.clone())));
        value["heat"] = heat::curves(row);
        value
    });
    json!({
        "runs": runs.collect::<Vec<_>>(),
        "devices": devices.map(device).collect::<Vec<_>>(),
        "components": Component::ALL.map(Component::name),
        "rows": rows.collect::<Vec<_>>(),
        "forward": forward::data(model),
        "peers": matrices(model).iter().map(matrix).collect::<Vec<_>>(),
        "sideBySide": providers::side_by_side(model),
        "dataSweeps": kinds::sweeps(model),
        "staircases": staircases(model).iter().map(staircase).collect::<Vec<_>>(),
    })
}

fn matrix(m: &Matrix) -> Value {
    json!({ "bytes": m.bytes, "provider": m.provider, "both": m.both, "devices": m.devices, "cells": m.cells })
}

fn staircase(s: &Staircase) -> Value {
    let plateaus = s.plateaus.iter().map(|p| json!({ "name": p.name, "from": p.from.0, "to": p.to.0, "value": p.value }));
    json!({ "device": s.device, "op": s.op, "provider": s.provider, "unit": s.unit, "plateaus": plateaus.collect::<Vec<_>>() })
}

/// A device with its ceilings: the slope of its memory and a flat roof for each dtype.
fn device(info: &DeviceInfo) -> Value {
    let spec = Specs::built_in().find(info);
    let memory = spec.map(|s| (s.memory.gbps, format!("{} datasheet", s.id))).or_else(|| measured_gbps(info, Level::Dram));
    let peaks: Vec<Value> = Dtype::ALL
        .iter()
        .filter_map(|dtype| {
            let peak = spec.and_then(|s| s.peak(*dtype)).map(|p| (p.tflops, "datasheet".to_owned()));
            let (tflops, source) = peak.or_else(|| measured_tflops(info, *dtype))?;
            Some(json!({ "dtype": dtype.name(), "tflops": tflops, "source": source }))
        })
        .collect();
    json!({
        "id": info.id, "name": info.name, "vendor": info.vendor, "arch": info.arch, "units": info.units, "driver": info.driver,
        "memory": info.memory.0, "caches": info.caches.iter().map(|c| json!({ "name": c.name, "bytes": c.bytes.0 * u64::from(c.instances) })).collect::<Vec<_>>(),
        "model": spec.map(|s| s.id.clone()),
        "bandwidth": memory.map(|(gbps, source)| json!({ "gbps": gbps, "source": source })),
        "peaks": peaks,
        "libraries": info.libraries.iter().map(|l| format!("{} {}", l.name, l.version)).collect::<Vec<_>>(),
    })
}

fn record(record: &Record, placement: Option<&Placement>) -> Value {
    let (outcome, reason) = match &record.outcome {
        Outcome::Measured { .. } => ("measured", String::new()),
        Outcome::Skipped { reason } => ("skipped", reason.clone()),
        Outcome::Failed { reason } => ("failed", reason.clone()),
        Outcome::Wrong { verification: v } => {
            ("wrong", format!("{} of {} elements, error {:e} over {:e}", v.wrong, v.checked, v.error, v.tolerance))
        }
    };
    let mut value = json!({
        "device": record.device, "case": record.case.as_str(), "component": record.component.name(), "provider": record.provider,
        "dtype": record.dtype.name(), "outcome": outcome, "reason": reason, "labels": record.labels, "config": record.config,
        "level": record.level, "metric": record.metric, "bytes": record.work.bytes.0,
    });
    if let Some(tuning) = record.tuning.as_deref() {
        value["tuning"] =
            json!({ "offered": tuning.offered, "tried": tuning.tried, "chosen": tuning.chosen, "gain": tuning.gain() });
    }
    let (Some(p), Outcome::Measured { samples, verification, telemetry }) = (placement, &record.outcome) else { return value };
    let roof = p.roofs.first();
    let measured = json!({
        "achieved": p.achieved, "unit": p.unit, "tflops": p.tflops, "gbps": p.gbps, "intensity": p.intensity,
        "roof": roof.map(|r| r.value), "roofSource": roof.map(|r| format!("{}: {}", r.kind.name(), r.source)), "bound": roof.map(|r| r.bound.name()),
        "fraction": p.fraction(), "atClock": p.fraction_of(RoofKind::ObservedClock).filter(|_| p.roofs.len() > 1),
        "noRoof": p.unknown, "suspect": p.suspect(), "perClock": p.bytes_per_clock, "clocks": p.clocks,
        "median": p.summary.median, "p5": p.summary.p5, "p95": p.summary.p95, "cv": p.summary.cv, "n": p.summary.n,
        "samples": samples.seconds.iter().take(400).map(|s| s.0).collect::<Vec<_>>(), "clock": samples.clock, "batch": samples.batch,
        "stop": samples.stop, "mhz": observed_mhz(record),
        "check": verification.method, "error": verification.error, "tolerance": verification.tolerance, "checked": verification.checked,
        "sensors": telemetry.sensors, "throttle": telemetry.throttle_reasons,
    });
    if let (Value::Object(value), Value::Object(measured)) = (&mut value, measured) {
        value.extend(measured);
    }
    value
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_reaches_for_nothing_outside_itself() {
        crate::report::page::tests::stays_inside(super::SCRIPT);
    }
}
