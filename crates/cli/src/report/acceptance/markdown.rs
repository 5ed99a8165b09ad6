//! The judgement for a ticket, a wiki or a file that is signed: the whole, what to look at first, and each node with its tests.

use super::{Acceptance, device, expected, gathered, measured, of_roof, tally, times, what};
use crate::report::text::{count, markdown, markdown_table, significant};
use ridgepoint_core::verdict::{Finding, NodeVerdict, Verdict};
use std::fmt::Write;

/// Nodes written out in full; of a larger fleet those that did not pass come first.
const NODES: usize = 200;
/// Tests of one node.
const TESTS: usize = 1000;
/// Suspects.
const SUSPECTS: usize = 50;

pub(super) fn render(a: &Acceptance) -> String {
    let j = &a.judgement;
    let mut text = format!("# Acceptance: {}\n\n", j.verdict);
    let _ = writeln!(text, "{}, {}", markdown(&tally(j)), count(j.records as usize, "record"));
    let _ = writeln!(text, "\n- rules: {}", markdown(&j.rules.join(", ")));
    let strict = if a.strict { ", warnings count as failures" } else { "" };
    let _ = writeln!(text, "- judged {} by ridgepoint {}{strict}", markdown(&a.judged), env!("CARGO_PKG_VERSION"));
    for problem in &j.problems {
        let _ = writeln!(text, "- unreadable: {}:{} {}", markdown(&problem.file), problem.line, markdown(&problem.text));
    }
    for f in &j.fleet {
        let _ = writeln!(text, "- {}: {}", f.verdict, markdown(&f.text));
    }
    if j.nodes.len() > 1 && !j.suspects.is_empty() {
        let rows: Vec<[String; 5]> = (j.suspects.iter().take(SUSPECTS))
            .map(|s| {
                let device = s.device.as_deref().unwrap_or("the node");
                [s.rank.to_string(), markdown(&s.node), markdown(device), markdown(&s.fault), markdown(&s.text)]
            })
            .collect();
        let _ = writeln!(text, "\n## Look at first\n\n{}", markdown_table(["", "node", "device", "fault", "why"], &[""], &rows));
    }
    let mut nodes: Vec<&NodeVerdict> = j.nodes.iter().collect();
    nodes.sort_by_key(|n| std::cmp::Reverse(n.verdict));
    if nodes.len() > NODES {
        nodes.retain(|n| n.verdict != Verdict::Pass);
        nodes.truncate(NODES);
    }
    for n in &nodes {
        node(&mut text, n, j.findings_of(&n.node));
    }
    if nodes.len() < j.nodes.len() {
        let _ = writeln!(
            text,
            "\n{} more are not written out here; the page and the CSV have them all.",
            count(j.nodes.len() - nodes.len(), "node")
        );
    }
    text += SIGNATURES;
    text
}

/// Where those who decide put their names.
const SIGNATURES: &str = "\n## Signatures\n\n| | supplier | customer |\n|---|---|---|\n| decision | ☐ handed over | ☐ accepted ☐ accepted with reservations ☐ refused |\n\
| name | | |\n| date | | |\n| signature | | |\n";

fn node(text: &mut String, n: &NodeVerdict, findings: &[Finding]) {
    let _ = writeln!(text, "\n## {} {}\n", n.verdict, markdown(&n.node));
    let r = n.records;
    let _ = writeln!(
        text,
        "- measured {} by ridgepoint {}, method {}: {} measured, {} skipped, {} failed, {} wrong",
        markdown(&n.started),
        markdown(&n.version),
        n.method,
        r.measured,
        r.skipped,
        r.failed,
        r.wrong
    );
    let _ = writeln!(text, "- command: {}", markdown(&n.command.join(" ")));
    let facts: Vec<String> = n.facts.iter().map(|(k, v)| format!("{k} {v}")).collect();
    let _ = writeln!(text, "- environment: {}", markdown(&facts.join(", ")));
    inventory(text, n);
    let tests: Vec<[String; 9]> = (gathered(findings).into_iter().take(TESTS))
        .map(|(f, n_times)| {
            let at = f.device.as_deref().map(|id| device(n, id)).unwrap_or_default();
            [
                f.verdict.to_string(),
                markdown(&times(&f.rule, n_times)),
                markdown(&at),
                markdown(&what(f)),
                markdown(&measured(f)),
                markdown(&expected(f)),
                of_roof(f).map_or_else(|| "–".into(), |x| format!("{:.0} %", x * 100.0)),
                markdown(&f.evidence.threshold),
                markdown(&f.text),
            ]
        })
        .collect();
    if !tests.is_empty() {
        let head = ["", "test", "device", "case", "measured", "expected", "of peak", "threshold from", "why"];
        let _ = writeln!(text, "\n{}", markdown_table(head, &["measured", "expected", "of peak"], &tests));
    }
    let passed = n.counts.pass as usize;
    let shown = findings.iter().filter(|f| f.verdict == Verdict::Pass).count();
    if passed > shown {
        let _ = writeln!(text, "\n{} passed and are not listed.", count(passed - shown, "test"));
    }
}

fn inventory(text: &mut String, n: &NodeVerdict) {
    let rows: Vec<[String; 8]> = (n.devices.iter())
        .map(|d| {
            let gpu = n.inventory.iter().flat_map(|i| &i.gpus).find(|g| g.device == d.id);
            let of = |value: Option<String>| value.map_or_else(|| "–".into(), |v| markdown(&v));
            [
                d.verdict.to_string(),
                markdown(&d.id),
                markdown(&d.model),
                of(d.pci.clone()),
                of(d.uuid.clone().or_else(|| gpu.and_then(|g| g.serial.clone()))),
                of(gpu.and_then(|g| g.memory).map(|m| format!("{} GB", significant(m.0 as f64 / 1e9)))),
                of(gpu.and_then(|g| g.pcie).map(|p| p.to_string())),
                markdown(&d.driver),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = ["", "device", "model", "PCI", "serial or uuid", "memory", "PCIe", "driver"];
        let _ = writeln!(text, "\n{}", markdown_table(head, &["memory"], &rows));
    }
}
