//! The tables a person reads: one a component, and beneath them whatever was not measured, with its reason.

use super::text::{clean, significant};
use super::{Model, Row};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use ridgepoint_core::record::{Clock, Stop};
use ridgepoint_core::roofline::{Bound, Placement, RoofKind, negotiated, observed_mhz};
use ridgepoint_core::{Component, Level, Metric, Outcome};
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) fn render(model: &Model) -> String {
    let mut text = String::new();
    for environment in &model.environments {
        for device in &environment.devices {
            let _ = writeln!(text, "{}  {}  {}", device.id, clean(&device.name), clean(&environment.host));
            for roof in &device.measured {
                let (value, unit) = if roof.unit == "B/s" { (roof.value / 1e9, "GB/s") } else { (roof.value / 1e12, "TFLOP/s") };
                let _ = writeln!(
                    text,
                    "  empirical roof  {:<16} {:>8} {unit}  ({})",
                    clean(&roof.what),
                    significant(value),
                    clean(&roof.method)
                );
            }
        }
    }
    for component in Component::ALL {
        let rows: Vec<&Row> = model.rows.iter().filter(|r| r.record.component == component).collect();
        if rows.iter().any(|r| r.placement.is_some()) {
            let _ = writeln!(text, "\n{component}\n{}", table(&rows));
            text += &super::providers::tally(&rows);
        }
    }
    text += &super::staircase::text(model);
    text += &super::peers::text(model);
    text += &super::forward::text(model);
    text += &super::heat::text(model);
    text += &super::data::text(model);
    text += &not_measured(model);
    text += &legend(model);
    text
}

/// A terminal narrower than this is none.
const NARROW: u16 = 40;

fn table(rows: &[&Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // A launcher gives its processes a terminal without a size.
    if table.width().is_some_and(|width| width < NARROW) {
        table.set_width(NARROW * 3);
    }
    let many_devices = rows.windows(2).any(|w| w[0].record.device != w[1].record.device);
    let mut header = vec!["case", "by", "achieved", "", "roof", "%", "spread", "error", "clock", "notes"];
    if many_devices {
        header.insert(0, "device");
    }
    table.set_header(header);
    for row in rows {
        let Some(placement) = &row.placement else { continue };
        let mut cells = if many_devices { vec![clean(&row.record.device)] } else { vec![] };
        cells.extend(line(row, placement));
        let first_number = cells.len() - 8;
        table.add_row(cells.into_iter().enumerate().map(|(i, c)| {
            let right = i >= first_number && i != first_number + 1 && i < first_number + 7;
            Cell::new(c).set_alignment(if right { CellAlignment::Right } else { CellAlignment::Left })
        }));
    }
    table
}

/// The ten cells of a measured record.
pub(super) fn line(row: &Row, placement: &Placement) -> [String; 10] {
    let record = &row.record;
    let roof = placement.roofs.first();
    let percent = placement.fraction().map(|f| format!("{:.0}", f * 100.0));
    let spread = (placement.summary.p95 - placement.summary.p5) / placement.summary.median * 100.0;
    let id = record.case.as_str();
    let short = id.strip_prefix(record.component.name()).map_or(id, |s| s.trim_start_matches('/'));
    let Outcome::Measured { verification, .. } = &record.outcome else { return Default::default() };
    [
        short.to_owned(),
        clean(&record.provider),
        significant(placement.achieved),
        placement.unit.into(),
        roof.map_or_else(|| "–".into(), |r| significant(r.value)),
        percent.unwrap_or_else(|| "–".into()),
        format!("{spread:.1}%"),
        if verification.error == 0.0 { "exact".into() } else { format!("{:.0e}", verification.error) },
        observed_mhz(record).map_or_else(|| "–".into(), |m| format!("{m:.0}")),
        notes(row, placement),
    ]
}

/// Bytes up to which a collective's time is shown.
const SMALL: u64 = 64 << 10;

/// What a reader must know beside the number.
fn notes(row: &Row, placement: &Placement) -> String {
    let record = &row.record;
    let Outcome::Measured { samples, telemetry, .. } = &record.outcome else { return String::new() };
    let mut notes = row.remarks();
    notes.extend(record.labels.iter().map(|l| clean(l)));
    // On which side of the ridge point it sits is half of what an attention's number says.
    if let (Component::Attention, Some(roof)) = (record.component, placement.roofs.first()) {
        notes.push(format!("{}-bound", roof.bound.name()));
    }
    if record.component == Component::Collectives && record.metric == Metric::Bandwidth {
        notes.push("algbw: one rank has no wire".into());
    }
    // What is so small is about latency, whatever the figure is about.
    if record.component == Component::Collectives && record.work.bytes.0 <= SMALL {
        notes.push(format!("{} µs", significant(placement.summary.median * 1e6)));
    }
    if placement.suspect() {
        notes.push("suspect: above its roof".into());
    }
    if placement.above_the_wire() {
        notes.push("above the wire: the switch reduces or copies (NVLS, SHARP)".into());
    }
    if let Some(f) = placement.fraction_of(RoofKind::ObservedClock).filter(|_| placement.roofs.len() > 1) {
        let what = match negotiated(record) {
            Some(link) if matches!(record.level, Level::Host | Level::Peer) => format!("of PCIe {link}"),
            _ => "at clock".into(),
        };
        notes.push(format!("{:.0}% {what}", f * 100.0));
    }
    // Left of the ridge point what counts is how fast the operands come, whatever the figure is about.
    let left = placement.roofs.first().is_some_and(|roof| roof.bound == Bound::Memory) && record.metric == Metric::Arithmetic;
    notes.extend(placement.gbps.filter(|_| left).map(|gbps| format!("{} GB/s", significant(gbps))));
    notes.extend(placement.bytes_per_clock.map(|bytes| format!("{} B/clk/unit", significant(bytes))));
    notes.extend(placement.clocks.map(|clocks| format!("{} cycles", significant(clocks))));
    notes.extend(record.config.get("overlap").map(|overlap| clean(overlap)));
    if !samples.throttled.is_empty() {
        notes.push(format!("throttled: {}", telemetry.throttle_reasons.iter().map(|r| clean(r)).collect::<Vec<_>>().join(", ")));
    }
    if samples.stop == Stop::TimeLimit && placement.summary.ci > 0.02 {
        notes.push(format!("noisy: ±{:.0}%", placement.summary.ci * 100.0));
    }
    if samples.clock == Clock::Host && placement.summary.median * (samples.batch as f64) < 1e-4 {
        notes.push("short for the host's clock".into());
    }
    notes.join("; ")
}

/// Skipped, failed and wrong, grouped by outcome and reason: none is silently dropped.
pub(super) fn unmeasured(model: &Model) -> BTreeMap<(&'static str, String), Vec<String>> {
    let mut groups: BTreeMap<(&'static str, String), Vec<String>> = BTreeMap::new();
    for row in &model.rows {
        let r = &row.record;
        let (kind, reason) = match &r.outcome {
            Outcome::Measured { .. } if row.placement.is_some() => continue,
            Outcome::Measured { .. } => {
                ("failed", "its device is missing from the file, or no sample of it is usable".to_owned())
            }
            Outcome::Wrong { verification: v } => ("wrong", format!("{} ({})", v.fault(), clean(&v.method))),
            Outcome::Failed { reason } => ("failed", clean(reason)),
            Outcome::Skipped { reason } => ("skipped", clean(reason)),
        };
        groups.entry((kind, reason)).or_default().push(format!("{} by {}", r.case, clean(&r.provider)));
    }
    groups
}

fn not_measured(model: &Model) -> String {
    let mut text = String::new();
    for ((kind, reason), cases) in unmeasured(model) {
        let shown = cases.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let more = if cases.len() > 4 { format!(" and {} more", cases.len() - 4) } else { String::new() };
        let _ = writeln!(text, "\n{kind}: {reason}\n  {shown}{more}");
    }
    text
}

fn legend(model: &Model) -> String {
    let measured = model.rows.iter().filter(|r| r.placement.is_some()).count();
    if measured == 0 {
        return "\nnothing was measured\n".into();
    }
    format!(
        "\n{measured} results, each verified before and after it was timed. achieved: median; spread: p5 to p95; error: against \
         a float64 reference;\n%: of the roof (datasheet where the model is known, else empirical); clock in MHz. Never clamped.\n"
    )
}
