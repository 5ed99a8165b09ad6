//! The staircases among records: cached bandwidth and latency against working set, with their plateaus found and named.

use super::text::{clean, significant};
use super::{Model, Row};
use ridgepoint_core::specs::Specs;
use ridgepoint_core::staircase::{Capacity, Figure, Plateau, Point, plateaus};
use ridgepoint_core::{Backend, Cache, Component, DeviceInfo, Metric};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One staircase of one device.
pub(super) struct Staircase {
    pub(super) device: String,
    /// `read`, `latency`.
    pub(super) op: String,
    pub(super) provider: String,
    pub(super) unit: &'static str,
    pub(super) plateaus: Vec<Plateau>,
}

/// Device, op, provider.
type Key<'a> = (&'a str, &'a str, &'a str);

/// The staircases of a model, in the order of their first records.
pub(super) fn staircases(model: &Model) -> Vec<Staircase> {
    let mut groups: Vec<(Key<'_>, Vec<&Row>)> = Vec::new();
    for row in &model.rows {
        let Some(op) = step(row) else { continue };
        let key = (row.record.device.as_str(), op, row.record.provider.as_str());
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    let found = groups.into_iter().filter_map(|((device, op, provider), rows)| {
        let info = super::device(&model.environments, &rows[0].record)?;
        // What goes straight to memory is the last step; without steps before it there is no staircase.
        let hot = rows.iter().filter(|r| r.record.cache == Cache::Hot).count();
        let plateaus = of(&rows, info);
        let unit = rows[0].placement.as_ref()?.unit;
        (hot > 2 && plateaus.len() > 1).then(|| Staircase {
            device: device.into(),
            op: op.into(),
            provider: provider.into(),
            unit,
            plateaus,
        })
    });
    found.collect()
}

/// The op of a record that is a step of a staircase: a cached or cold stream, or a chase over neighbouring lines.
fn step(row: &Row) -> Option<&str> {
    let r = &row.record;
    let segments: Vec<&str> = r.case.as_str().split('/').collect();
    let latency = r.metric == Metric::Latency;
    let step = match segments.as_slice() {
        ["memory", op, _] if latency => *op,
        ["memory", op, _, "f32"] | ["memory", op, _, "f32", "hot"] if r.metric == Metric::Bandwidth => *op,
        _ => return None,
    };
    (r.component == Component::Memory && row.placement.is_some()).then_some(step)
}

fn of(rows: &[&Row], info: &DeviceInfo) -> Vec<Plateau> {
    let first = &rows[0].record;
    let figure = if first.metric == Metric::Latency { Figure::Latency } else { Figure::Bandwidth };
    // One thread, or units that all read the same set, have one unit's first caches; units with a part each have all of them.
    let shared = rows.iter().any(|r| r.record.config.contains_key("set"));
    let alone = figure == Figure::Latency || shared;
    let levels = info.caches.iter().map(|cache| {
        let instances = if alone { 1 } else { u64::from(cache.instances.max(1)) };
        Capacity { name: clean(&cache.name), bytes: cache.bytes * instances }
    });
    let mut levels: Vec<Capacity> = levels.collect();
    levels.sort_by_key(|level| level.bytes);
    let memory = match Specs::built_in().find(info) {
        Some(spec) => spec.memory.r#type.clone(),
        None if info.backend == Backend::Cpu || info.software => "DRAM".into(),
        None => "memory".into(),
    };
    // Two runs of one case, or two providers' halves of a file joined, are one point: its best is the least disturbed.
    let mut best: BTreeMap<u64, f64> = BTreeMap::new();
    for row in rows {
        let Some(placement) = &row.placement else { continue };
        // Of a point's samples those tell of the hierarchy that no neighbour disturbed: on a shared machine the median may be of
        // another's cache misses. On one's own machine the two are the same.
        let less = placement.summary.p5 / placement.summary.median;
        let value = if figure == Figure::Latency { placement.achieved * less } else { placement.achieved / less };
        let slot = best.entry(row.record.work.bytes.0).or_insert(value);
        *slot = if figure == Figure::Latency { slot.min(value) } else { slot.max(value) };
    }
    let points: Vec<Point> = best.into_iter().map(|(set, value)| Point { set: ridgepoint_core::Bytes(set), value }).collect();
    plateaus(&points, figure, &levels, &memory)
}

/// A line a staircase, for people.
pub(super) fn text(model: &Model) -> String {
    let mut text = String::new();
    let found = staircases(model);
    let many = found.windows(2).any(|w| w[0].device != w[1].device);
    for s in &found {
        let device = if many { format!("{} ", clean(&s.device)) } else { String::new() };
        let steps: Vec<String> = s.plateaus.iter().map(|p| describe(p, s.unit)).collect();
        let _ = writeln!(text, " {device}{} {}: {}", clean(&s.op), clean(&s.provider), steps.join(", "));
    }
    if text.is_empty() { text } else { format!("\nplateaus, by working set\n{text}") }
}

fn describe(p: &Plateau, unit: &str) -> String {
    let sets = if p.from == p.to { p.from.to_string() } else { format!("{} to {}", p.from, p.to) };
    format!("{} {} {unit} ({sets})", p.name, significant(p.value))
}
