//! The judgement as one page: the fleet as a heat map, the outliers first, and behind each node a sheet that can be printed and
//! signed. The script only draws what is decided here.

use super::{Acceptance, expected, measured, of_roof};
use crate::report::page::page;
use ridgepoint_core::Component;
use ridgepoint_core::verdict::{Finding, Judgement, NodeVerdict, Verdict};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

const SCRIPT: &str =
    concat!(include_str!("../page/acceptance.js"), include_str!("../page/node.js"), include_str!("../page/fleet.js"));

/// Up to so many nodes the page holds each one's inventory; of a larger fleet only those that did not pass have a full sheet.
const FULL: usize = 1000;

pub(super) fn render(a: &Acceptance) -> String {
    page("Ridgepoint acceptance", &data(a), SCRIPT)
}

/// The data as JSON. Nodes and findings are written one by one: as one tree they would be several times their size.
fn data(a: &Acceptance) -> String {
    let j = &a.judgement;
    let mut thresholds = Thresholds::default();
    let nodes = list(j.nodes.iter().map(|n| node(n, j)));
    let findings = list(j.findings.iter().map(|f| finding(f, &mut thresholds)));
    let fleet: Vec<Value> = j.fleet.iter().map(|f| finding(f, &mut thresholds)).collect();
    let rest = json!({
        "verdict": j.verdict.name(), "verdicts": Verdict::ALL.map(Verdict::name), "components": Component::ALL.map(Component::name),
        "strict": a.strict, "judged": a.judged, "version": env!("CARGO_PKG_VERSION"), "records": j.records, "rules": j.rules,
        "passesKept": j.passes_kept, "metrics": j.metrics, "problems": j.problems, "fleet": fleet, "suspects": j.suspects,
        "thresholds": thresholds.texts,
    });
    format!("{{\"nodes\":[{nodes}],\"findings\":[{findings}],{}", &rest.to_string()[1..])
}

fn list(all: impl Iterator<Item = Value>) -> String {
    let mut text = String::new();
    for value in all {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{value}");
    }
    text
}

/// Where limits come from, each text once: thousands of findings share a few dozen.
#[derive(Default)]
struct Thresholds<'j> {
    texts: Vec<&'j str>,
    numbers: BTreeMap<&'j str, usize>,
}

impl<'j> Thresholds<'j> {
    fn number(&mut self, text: &'j str) -> usize {
        *self.numbers.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() - 1
        })
    }
}

fn node(n: &NodeVerdict, j: &Judgement) -> Value {
    // Sixteen bytes a cell would be most of a large page: percent to two digits, figures to five.
    let cells = n.deviations.iter().map(|d| json!([d.metric, d.device, round(f64::from(d.pct), 2), digits(f64::from(d.value))]));
    let c = n.counts;
    let mut value = json!({
        "name": n.node, "verdict": n.verdict.name(), "counts": [c.pass, c.warn, c.fail, c.skip, c.invalid], "started": n.started,
        "cells": cells.collect::<Vec<_>>(),
    });
    if j.nodes.len() <= FULL || n.verdict != Verdict::Pass {
        let sheet = json!({
            "devices": n.devices, "inventory": n.inventory, "command": n.command.join(" "), "facts": n.facts, "version": n.version,
            "method": n.method, "records": n.records,
        });
        value["sheet"] = sheet;
    }
    value
}

fn finding<'j>(f: &'j Finding, thresholds: &mut Thresholds<'j>) -> Value {
    let e = &f.evidence;
    json!({
        "verdict": f.verdict.name(), "set": f.set, "rule": f.rule, "reason": f.reason.code(), "text": f.text, "required": f.required,
        "node": f.node, "device": f.device, "case": f.case, "provider": f.provider, "measured": measured(f), "expected": expected(f),
        "value": f.measured.map(digits), "ofRoof": of_roof(f).map(digits),
        "e": [e.reference.map(digits), e.reference_is, e.deviation_pct.map(|p| round(p, 3)), e.sigmas.map(|s| round(s, 2)), e.population,
            thresholds.number(&e.threshold), e.record],
    })
}

fn round(x: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (x * scale).round() / scale
}

/// Five significant digits.
fn digits(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() { x } else { round(x, 4 - x.abs().log10().floor() as i32) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HOSTILE, hostile};
    use super::*;

    #[test]
    fn the_page_reaches_for_nothing_outside_itself_and_no_name_leaves_the_data() {
        crate::report::page::tests::stays_inside(SCRIPT);
        let page = render(&hostile());
        assert_eq!(page.matches("<script").count(), 2);
        // It is all there: the data reads back as JSON with the name in it.
        let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
        let end = start + page[start..].find("</script>").unwrap();
        let read: Value = serde_json::from_str(&page[start..end]).unwrap();
        assert!(read["nodes"].as_array().unwrap().iter().any(|n| n["name"] == HOSTILE));
    }

    #[test]
    fn figures_are_shortened_and_not_changed() {
        assert_eq!([digits(3131.4567), digits(0.012_345_67), digits(0.0)], [3131.5, 0.012346, 0.0]);
        assert_eq!(round(-12.3456, 2), -12.35);
    }
}
