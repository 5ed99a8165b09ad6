//! Forward passes among records: the parts of a model that were measured, each as often as a pass has it, summed. What a pass does
//! besides, no record here says: the sum is of products and attention alone, and is marked where one of them is missing.

use super::text::{clean, significant};
use super::{Model, Row, TOGETHER};
use comfy_table::{Cell, CellAlignment, Table, presets};
use ridgepoint_core::model::{Pass, Phase};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is not in the sum, said beneath each table.
const WITHOUT: &str = "count × median of each part, by its fastest provider here, operands cold: without communication, norms, activations, gaps between launches";

/// Most passes beside each other: what a terminal has room for.
const ABREAST: usize = 6;
/// Most tables of one report: files are a stranger's.
const MOST: usize = 200;

/// Passes of one model on one device that differ in batch, context or phase.
pub(super) struct Forward<'m> {
    /// Where records of several hosts are here.
    host: Option<&'m str>,
    device: &'m str,
    columns: Vec<Column<'m>>,
}

/// One pass.
struct Column<'m> {
    pass: &'m Pass,
    /// The record of each part; None where it was not measured.
    parts: Vec<Option<Measured<'m>>>,
}

/// The fastest measurement of a part.
#[derive(Clone, Copy)]
struct Measured<'m> {
    provider: &'m str,
    /// Seconds of one execution.
    median: f64,
}

impl Column<'_> {
    /// Seconds of all parts that `of` chooses by their ids.
    fn seconds(&self, of: impl Fn(&str) -> bool) -> f64 {
        let parts = self.pass.parts.iter().zip(&self.parts).filter(|(part, _)| of(&part.case));
        parts.filter_map(|(part, measured)| Some(measured.as_ref()?.median * part.count as f64)).sum()
    }

    fn missing(&self) -> usize {
        self.parts.iter().filter(|part| part.is_none()).count()
    }

    fn name(&self) -> String {
        let Pass { batch, context, tokens, .. } = self.pass;
        match self.pass.phase {
            Phase::Prefill if *batch > 1 => format!("prefill {batch} × {} of {context}", tokens / batch),
            Phase::Prefill => format!("prefill {tokens} of {context}"),
            Phase::Decode if tokens > batch => format!("decode {batch} × {} of {context}", tokens / batch.max(&1)),
            Phase::Decode => format!("decode {batch} × {context}"),
        }
    }
}

impl Forward<'_> {
    fn title(&self) -> String {
        let Pass { model, tp, dtype, attention, .. } = self.columns[0].pass;
        let shared = if *tp > 1 { format!(" shared by {tp} GPUs") } else { String::new() };
        let attention = if attention.is_empty() { String::new() } else { format!(", attention {}", clean(attention)) };
        let host = self.host.map_or_else(String::new, |host| format!(" of {}", clean(host)));
        format!("a forward pass of {}{shared}, {}{attention}, on {}{host}", clean(model), clean(dtype), clean(self.device))
    }

    /// Layers of all columns, in the order of the first that has them.
    fn layers(&self) -> Vec<&str> {
        let mut layers: Vec<&str> = Vec::new();
        for part in self.columns.iter().flat_map(|column| &column.pass.parts) {
            if !layers.contains(&part.layer.as_str()) {
                layers.push(&part.layer);
            }
        }
        // The head comes last, whatever a later column brought.
        layers.sort_by_key(|layer| *layer == "lm head");
        layers
    }
}

/// The forward passes of a model's records: a table for each model, degree, dtype and device.
pub(super) fn passes(model: &Model) -> Vec<Forward<'_>> {
    let hosts = super::hosts(&model.environments);
    let mut best: BTreeMap<(&str, &str, &str), Measured<'_>> = BTreeMap::new();
    for Row { record, placement, .. } in &model.rows {
        let Some(placement) = placement.as_ref().filter(|_| !record.provider.ends_with(TOGETHER)) else { continue };
        let host = hosts.get(record.environment.as_str()).copied().unwrap_or_default();
        let here = Measured { provider: &record.provider, median: placement.summary.median };
        let slot = best.entry((host, &record.device, record.case.as_str())).or_insert(here);
        if here.median < slot.median {
            *slot = here;
        }
    }
    let mut found: Vec<Forward<'_>> = Vec::new();
    // A run that was resumed has its passes once in each environment.
    let mut seen: BTreeSet<(&str, &str, &Pass)> = BTreeSet::new();
    let several = hosts.values().collect::<BTreeSet<_>>().len() > 1;
    for environment in &model.environments {
        let host = environment.host.as_str();
        for (device, pass) in environment.devices.iter().flat_map(|d| environment.passes.iter().map(|p| (d.id.as_str(), p))) {
            if !seen.insert((host, device, pass)) {
                continue;
            }
            let parts = pass.parts.iter().map(|part| best.get(&(host, device, part.case.as_str())).copied()).collect::<Vec<_>>();
            if parts.iter().all(Option::is_none) {
                continue;
            }
            let column = Column { pass, parts };
            let named = several.then_some(host);
            let same = |f: &Forward<'_>| {
                let other = f.columns[0].pass;
                f.columns.len() < ABREAST
                    && (f.host, f.device, &other.model, other.tp) == (named, device, &pass.model, pass.tp)
                    && (&other.dtype, &other.attention) == (&pass.dtype, &pass.attention)
            };
            match found.iter().position(same) {
                Some(at) => found[at].columns.push(column),
                None if found.len() < MOST => found.push(Forward { host: named, device, columns: vec![column] }),
                None => return found,
            }
        }
    }
    found
}

/// A table a model, for a terminal.
pub(super) fn text(model: &Model) -> String {
    passes(model).iter().map(|forward| format!("\n{}, in ms\n{}\n {WITHOUT}\n", forward.title(), table(forward))).collect()
}

fn table(forward: &Forward<'_>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    table.set_header(std::iter::once(Cell::new("")).chain(forward.columns.iter().map(|c| right(c.name()))));
    for layer in forward.layers() {
        let cells = forward.columns.iter().map(|column| {
            let all = column.seconds(|_| true);
            let part = column.pass.parts.iter().zip(&column.parts).find(|(part, _)| part.layer == layer);
            right(match part {
                None => String::new(),
                Some((part, None)) => format!("{} × not measured", part.count),
                Some((part, Some(measured))) => {
                    let seconds = measured.median * part.count as f64;
                    format!("{} × {}  {:.0} %", part.count, milliseconds(measured.median), seconds / all * 100.0)
                }
            })
        });
        table.add_row(std::iter::once(Cell::new(layer)).chain(cells));
    }
    for (name, of) in sums() {
        let cells = forward.columns.iter().map(|column| {
            let least = if name == "total" && column.missing() > 0 { "at least " } else { "" };
            right(format!("{least}{}", milliseconds(column.seconds(of))))
        });
        table.add_row(std::iter::once(Cell::new(name)).chain(cells));
    }
    table
}

/// Whether an id is part of a sum.
type Takes = fn(&str) -> bool;

/// What is summed, and which ids that takes.
fn sums() -> [(&'static str, Takes); 3] {
    [("all products", |id| id.starts_with("gemm/")), ("all attention", |id| id.starts_with("attention/")), ("total", |_| true)]
}

fn milliseconds(seconds: f64) -> String {
    significant(seconds * 1e3)
}

/// The same for the page.
pub(super) fn data(model: &Model) -> Value {
    let forwards = passes(model);
    let tables = forwards.iter().map(|forward| {
        let columns = forward.columns.iter().map(|column| {
            let parts = column.pass.parts.iter().zip(&column.parts).map(|(part, measured)| {
                json!({
                    "layer": part.layer, "case": part.case, "count": part.count,
                    "seconds": measured.map(|m| m.median), "provider": measured.map(|m| m.provider),
                })
            });
            let sums = sums().map(|(name, of)| json!({ "name": name, "seconds": column.seconds(of) }));
            json!({ "name": column.name(), "parts": parts.collect::<Vec<_>>(), "sums": sums, "missing": column.missing() })
        });
        json!({
            "title": forward.title(), "layers": forward.layers(), "columns": columns.collect::<Vec<_>>(), "without": WITHOUT,
        })
    });
    tables.collect()
}
