//! Metrics for Prometheus: a file for node_exporter's textfile collector, or OpenMetrics. Figures are in base units, and those of
//! single devices are left out where the fleet is too large for them to be worth a series each.

use super::Acceptance;
use crate::report::text::clean;
use ridgepoint_core::verdict::{Judgement, NodeVerdict, Verdict};
use std::fmt::Write;

/// For node_exporter's textfile collector.
pub(super) fn prometheus(a: &Acceptance) -> String {
    families(a).iter().map(Family::text).collect()
}

/// The same as OpenMetrics 1.0.
pub(super) fn openmetrics(a: &Acceptance) -> String {
    prometheus(a) + "# EOF\n"
}

/// All series of one name. Every one is a gauge: a state of things, not a count that grows.
struct Family {
    name: &'static str,
    help: &'static str,
    series: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, series: Vec::new() }
    }

    fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        if value.is_finite() {
            self.series.push((labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(), value));
        }
    }

    fn text(&self) -> String {
        if self.series.is_empty() {
            return String::new();
        }
        let mut text = format!("# HELP {0} {1}\n# TYPE {0} gauge\n", self.name, self.help);
        for (labels, value) in &self.series {
            let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", label(v))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(text, "{}{labels} {value}", self.name);
        }
        text
    }
}

/// A label's value, escaped.
fn label(text: &str) -> String {
    clean(text).replace('\\', "\\\\").replace('"', "\\\"")
}

fn families(a: &Acceptance) -> Vec<Family> {
    let j = &a.judgement;
    let mut all = fleet(j);
    all.extend(nodes(j));
    all.extend(devices(j));
    all
}

fn fleet(j: &Judgement) -> Vec<Family> {
    let counts = j.counts();
    let mut nodes = Family::new("ridgepoint_nodes", "Nodes judged, by verdict.");
    let mut verdict = Family::new("ridgepoint_verdict", "1 for the verdict of the whole, 0 for the others.");
    for v in Verdict::ALL {
        nodes.add(&[("verdict", v.name())], f64::from(counts.of(v)));
        verdict.add(&[("verdict", v.name())], f64::from(u8::from(v == j.verdict)));
    }
    let mut problems = Family::new("ridgepoint_unreadable", "Files and lines that could not be read or used.");
    problems.add(&[], j.problems.len() as f64);
    let mut suspects = Family::new("ridgepoint_suspect_score", "How sure and how bad a suspect is: 1000 and up is certain.");
    for s in &j.suspects {
        suspects.add(&[("node", &s.node), ("device", s.device.as_deref().unwrap_or_default()), ("fault", &s.fault)], s.score);
    }
    vec![verdict, nodes, problems, suspects]
}

fn nodes(j: &Judgement) -> Vec<Family> {
    let mut verdict = Family::new("ridgepoint_node_verdict", "1, with the verdict of the node as a label.");
    let mut findings = Family::new("ridgepoint_node_findings", "Findings of the node, by verdict.");
    let mut records = Family::new("ridgepoint_node_records", "Records of the node, by how they came out.");
    let mut started = Family::new("ridgepoint_node_run_start_timestamp_seconds", "Start of the latest run on the node.");
    for n in &j.nodes {
        verdict.add(&[("node", &n.node), ("verdict", n.verdict.name())], 1.0);
        for v in Verdict::ALL {
            findings.add(&[("node", &n.node), ("verdict", v.name())], f64::from(n.counts.of(v)));
        }
        let r = n.records;
        for (outcome, count) in [("measured", r.measured), ("skipped", r.skipped), ("failed", r.failed), ("wrong", r.wrong)] {
            records.add(&[("node", &n.node), ("outcome", outcome)], f64::from(count));
        }
        if let Some(since) = humantime::parse_rfc3339(&n.started).ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        {
            started.add(&[("node", &n.node)], since.as_secs_f64());
        }
    }
    vec![verdict, findings, records, started]
}

fn devices(j: &Judgement) -> Vec<Family> {
    let mut verdict = Family::new("ridgepoint_device_verdict", "1, with the verdict of the device as a label.");
    let mut away =
        Family::new("ridgepoint_device_deviation_ratio", "Distance from what is usual for the model; worse is negative.");
    let mut bytes = Family::new("ridgepoint_device_bandwidth_bytes_per_second", "Bandwidth that was measured.");
    let mut flops = Family::new("ridgepoint_device_arithmetic_flops_per_second", "Arithmetic that was measured.");
    let mut latency = Family::new("ridgepoint_device_latency_seconds", "Latency that was measured.");
    for n in j.nodes.iter().filter(|_| j.passes_kept) {
        for d in &n.devices {
            let pci = d.pci.as_deref().unwrap_or_default();
            let labels =
                [("node", n.node.as_str()), ("device", &d.id), ("pci", pci), ("model", &d.model), ("verdict", d.verdict.name())];
            verdict.add(&labels, 1.0);
        }
        for (d, m, device) in figures(j, n) {
            let labels = [
                ("node", n.node.as_str()),
                ("device", device),
                ("case", &m.case),
                ("provider", &m.provider),
                ("model", &m.model),
            ];
            away.add(&labels, f64::from(d.pct) / 100.0);
            let value = f64::from(d.value);
            match m.unit.as_str() {
                "GB/s" => bytes.add(&labels, value * 1e9),
                "TFLOP/s" => flops.add(&labels, value * 1e12),
                "ns" => latency.add(&labels, value / 1e9),
                _ => {}
            }
        }
    }
    vec![verdict, away, bytes, flops, latency]
}

/// A node's figures with their metrics and devices.
fn figures<'j>(
    j: &'j Judgement,
    node: &'j NodeVerdict,
) -> impl Iterator<Item = (&'j ridgepoint_core::verdict::Deviation, &'j ridgepoint_core::verdict::MetricSummary, &'j str)> {
    node.deviations.iter().filter_map(|d| {
        let device = node.devices.get(usize::from(d.device))?;
        Some((d, j.metrics.get(d.metric as usize)?, device.id.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::hostile;
    use super::*;

    #[test]
    fn each_line_is_a_comment_or_a_sample_and_no_series_is_there_twice() {
        let text = openmetrics(&hostile());
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok() && series.starts_with("ridgepoint_"), "{line}");
            assert!(seen.insert(series.to_owned()), "twice: {line}");
        }
        assert!(text.ends_with("# EOF\n") && seen.len() > 50);
        assert!(text.contains("ridgepoint_verdict{verdict=\"FAIL\"} 1\n"), "{text}");
        assert_eq!(label("a\"b\\c\n"), "a\\\"b\\\\c\u{fffd}");
    }
}
