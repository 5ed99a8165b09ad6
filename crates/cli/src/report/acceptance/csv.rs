//! One row a node and one a finding, told apart by `kind`, for a spreadsheet or a data frame.

use super::{Acceptance, of_roof};
use crate::report::text::{csv_line, number};
use ridgepoint_core::verdict::{Finding, NodeVerdict};

const COLUMNS: &str = "kind,node,device,pci,verdict,reason,set,rule,required,case,provider,measured,limit,unit,of_roof,reference,\
reference_is,deviation_pct,sigmas,population,threshold,record,text,started,pass,warn,fail,skip,invalid\n";
/// Columns in all.
const N: usize = 29;

pub(super) fn render(a: &Acceptance) -> String {
    let j = &a.judgement;
    let mut text = COLUMNS.to_owned();
    for f in &j.fleet {
        text += &csv_line(finding("fleet", f, None));
    }
    for node in &j.nodes {
        text += &csv_line(whole(node));
        for f in j.findings_of(&node.node) {
            text += &csv_line(finding("finding", f, Some(node)));
        }
    }
    text
}

/// A node's own row: its verdict and how many findings have each.
fn whole(node: &NodeVerdict) -> [String; N] {
    let mut line: [String; N] = Default::default();
    (line[0], line[1], line[4]) = ("node".into(), node.node.clone(), node.verdict.to_string());
    line[23].clone_from(&node.started);
    let c = node.counts;
    for (at, n) in [c.pass, c.warn, c.fail, c.skip, c.invalid].into_iter().enumerate() {
        line[24 + at] = n.to_string();
    }
    line
}

fn finding(kind: &str, f: &Finding, node: Option<&NodeVerdict>) -> [String; N] {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let device = node.and_then(|n| n.devices.iter().find(|d| Some(&d.id) == f.device.as_ref()));
    let e = &f.evidence;
    let fields = [
        kind.into(),
        f.node.clone(),
        text(&f.device),
        device.and_then(|d| d.pci.clone()).unwrap_or_default(),
        f.verdict.to_string(),
        f.reason.to_string(),
        f.set.clone(),
        f.rule.clone(),
        f.required.to_string(),
        text(&f.case),
        text(&f.provider),
        number(f.measured),
        number(f.limit),
        f.unit.clone(),
        number(of_roof(f)),
        number(e.reference),
        e.reference_is.clone(),
        number(e.deviation_pct),
        number(e.sigmas),
        e.population.map(|n| n.to_string()).unwrap_or_default(),
        e.threshold.clone(),
        text(&e.record),
        f.text.clone(),
    ];
    let mut line: [String; N] = Default::default();
    for (to, from) in line.iter_mut().zip(fields) {
        *to = from;
    }
    line
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_header_has_a_name_for_each_field() {
        assert_eq!(super::COLUMNS.trim_end().split(',').count(), super::N);
    }
}
