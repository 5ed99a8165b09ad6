//! One self-contained page: data, style and script in one file, no network, readable on a phone and in print. The script only
//! draws; every figure in it was derived here.

use super::Model;
use ridgepoint_core::record::{Outcome, Record};
use ridgepoint_core::roofline::{Placement, RoofKind, measured_gbps, measured_tflops, observed_mhz};
use ridgepoint_core::specs::Specs;
use ridgepoint_core::{Component, DeviceInfo, Dtype, Level};
use serde_json::{Value, json};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

pub(crate) fn render(model: &Model) -> String {
    // `<` never appears raw in the data, so no string of a record can close the element.
    let data = data(model).to_string().replace('<', "\\u003c");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>Ridgepoint report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <main id=\"page\"><noscript>This page draws its tables with a script that it carries; please allow it.</noscript></main>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
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
    let rows = model.rows.iter().map(|row| record(&row.record, row.placement.as_ref()));
    json!({
        "runs": runs.collect::<Vec<_>>(),
        "devices": devices.map(device).collect::<Vec<_>>(),
        "components": Component::ALL.map(Component::name),
        "rows": rows.collect::<Vec<_>>(),
    })
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
    let (Some(p), Outcome::Measured { samples, verification, telemetry }) = (placement, &record.outcome) else { return value };
    let roof = p.roofs.first();
    let measured = json!({
        "achieved": p.achieved, "unit": p.unit, "tflops": p.tflops, "gbps": p.gbps, "intensity": p.intensity,
        "roof": roof.map(|r| r.value), "roofSource": roof.map(|r| format!("{}: {}", r.kind.name(), r.source)), "bound": roof.map(|r| r.bound.name()),
        "fraction": p.fraction(), "atClock": p.fraction_of(RoofKind::ObservedClock).filter(|_| p.roofs.len() > 1),
        "noRoof": p.unknown, "suspect": p.suspect(),
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
    use super::*;

    #[test]
    fn the_page_reaches_for_nothing_outside_itself() {
        for word in ["http://", "https://", "//cdn", "@import", "url("] {
            let allowed = SCRIPT.replace("http://www.w3.org/2000/svg", "");
            assert!(!STYLE.contains(word) && !allowed.contains(word), "{word}");
        }
        assert!(!SCRIPT.contains("innerHTML"), "text from a record must never be parsed as markup");
    }

    #[test]
    fn a_hostile_name_cannot_leave_the_data() {
        let environment = serde_json::from_value(json!({
            "schema": 1, "hash": "x", "version": "0", "method": 1, "host": "</script><script>alert(1)</script>", "os": "", "cpu": "",
            "command": [], "profile": "", "seed": 1, "started": "", "devices": [],
        }));
        let page = render(&Model::new(vec![environment.unwrap()], vec![]));
        assert_eq!(page.matches("<script").count(), 2);
    }
}
