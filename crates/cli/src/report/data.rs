//! What values do to a GEMM: its figure, clock and power with each kind of data, beside those with normally distributed values.

use super::text::{clean, significant};
use super::{Model, Row, heat};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use ridgepoint_core::roofline::observed_mhz;
use ridgepoint_core::{Distribution, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A case with one kind of data.
struct Kind<'m> {
    row: &'m Row,
    achieved: f64,
    /// Its figure over that with normal values, where that was measured.
    of_normal: Option<f64>,
    watts: Option<f64>,
}

/// The case without its kind of data.
fn plain(row: &Row) -> String {
    row.record.case.as_str().split('/').filter(|segment| !segment.starts_with("data=")).collect::<Vec<_>>().join("/")
}

fn watts(row: &Row) -> Option<f64> {
    let Outcome::Measured { telemetry, .. } = &row.record.outcome else { return None };
    // What was measured for less than a sensor's own time says nothing of power.
    row.per_watt()?;
    heat::POWER.iter().find_map(|name| telemetry.sensors.get(*name)).map(|range| range.median)
}

/// Cases that were measured with more than one kind, with their kinds in the order of [`Distribution::GENERATED`].
fn groups(model: &Model) -> Vec<(String, Vec<Kind<'_>>)> {
    let mut cases: BTreeMap<(&str, &str, &str, String), Vec<&Row>> = BTreeMap::new();
    for row in model.rows.iter().filter(|r| r.placement.is_some() && r.record.data.number().is_some()) {
        let r = &row.record;
        // Turns are of one run: what other runs measured is no comparison.
        cases.entry((&r.environment, &r.device, &r.provider, plain(row))).or_default().push(row);
    }
    let several = |rows: &Vec<&Row>| rows.iter().any(|row| row.record.data != rows[0].record.data);
    let groups = cases.into_iter().filter(|(_, rows)| several(rows)).map(|((_, device, provider, case), mut rows)| {
        rows.sort_by_key(|row| row.record.data.number());
        let achieved = |row: &Row| row.placement.as_ref().map_or(0.0, |p| p.achieved);
        let normal =
            rows.iter().find(|row| row.record.data == Distribution::Normal).map(|row| achieved(row)).filter(|x| *x > 0.0);
        let kind = |row| Kind { row, achieved: achieved(row), of_normal: normal.map(|n| achieved(row) / n), watts: watts(row) };
        (format!("{} {case} {}", clean(device), clean(provider)), rows.into_iter().map(kind).collect())
    });
    groups.collect()
}

/// A table a case, for people.
pub(super) fn text(model: &Model) -> String {
    let mut text = String::new();
    for (title, kinds) in groups(model) {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["data", "achieved", "", "of normal", "clock", "W", "a watt"]);
        for kind in &kinds {
            let unit = kind.row.placement.as_ref().map_or("", |p| p.unit);
            let dash = || "–".to_owned();
            let cells = [
                kind.row.record.data.word().to_owned(),
                significant(kind.achieved),
                unit.to_owned(),
                kind.of_normal.map_or_else(dash, |x| format!("{x:.3} ×")),
                observed_mhz(&kind.row.record).map_or_else(dash, |mhz| format!("{mhz:.0}")),
                kind.watts.map_or_else(dash, |w| format!("{w:.0}")),
                kind.row.per_watt().map_or_else(dash, |(value, unit)| format!("{} {unit}", significant(value))),
            ];
            let right = |i: usize| if i == 0 || i == 2 { CellAlignment::Left } else { CellAlignment::Right };
            table.add_row(cells.into_iter().enumerate().map(|(i, cell)| Cell::new(cell).set_alignment(right(i))));
        }
        let _ = writeln!(text, "\nwhat data do to {title}\n{table}");
    }
    text
}

/// The same for the page.
pub(super) fn sweeps(model: &Model) -> Value {
    let sweep = |(title, kinds): (String, Vec<Kind<'_>>)| {
        let kinds = kinds.iter().map(|kind| {
            json!({ "data": kind.row.record.data.word(), "achieved": kind.achieved, "unit": kind.row.placement.as_ref().map(|p| p.unit),
                "ofNormal": kind.of_normal, "mhz": observed_mhz(&kind.row.record), "watts": kind.watts,
                "perWatt": kind.row.per_watt().map(|(value, _)| value) })
        });
        json!({ "title": title, "kinds": kinds.collect::<Vec<_>>() })
    };
    Value::Array(groups(model).into_iter().map(sweep).collect())
}
