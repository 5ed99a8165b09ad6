//! Providers of one case beside each other: which was fastest, and by how much. What ran beside other GPUs is no rival.

use super::text::clean;
use super::{Model, Row, TOGETHER};
use ridgepoint_core::compare::{Ratio, ratio};
use ridgepoint_core::{Environment, Outcome};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// How far the fastest provider of a case is ahead of the next.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lead {
    /// The next.
    over: String,
    /// The next one's time over the fastest's: 1 or more.
    ratio: Ratio,
}

impl Lead {
    /// True where the difference may be noise.
    fn level(&self) -> bool {
        self.ratio.low.is_some_and(|low| low <= 1.0)
    }

    /// `1.03 × wgmma`, `level with wgmma`.
    pub(super) fn words(&self) -> String {
        let over = clean(&self.over);
        if self.level() { format!("level with {over}") } else { format!("{:.2} × {over}", self.ratio.value) }
    }
}

/// The rows of each case on each device that had several providers, the fastest first.
fn rivals(rows: &[Row], environments: &[Environment]) -> Vec<Vec<usize>> {
    let hosts = super::hosts(environments);
    let mut cases: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let r = &row.record;
        if row.placement.is_some() && !r.provider.ends_with(TOGETHER) {
            cases.entry((hosts.get(r.environment.as_str()), &r.device, r.case.as_str())).or_default().push(index);
        }
    }
    // All of a case do the same work: what takes less time is the better figure, whatever its unit.
    let median = |i: &usize| rows[*i].placement.as_ref().map_or(f64::INFINITY, |p| p.summary.median);
    let mut rivals: Vec<Vec<usize>> = Vec::new();
    for mut all in cases.into_values() {
        all.sort_by(|a, b| median(a).total_cmp(&median(b)));
        // Of several runs by one provider the best stands for it.
        let mut seen = BTreeSet::new();
        all.retain(|i| seen.insert(&rows[*i].record.provider));
        if all.len() > 1 {
            rivals.push(all);
        }
    }
    rivals.sort_by_key(|all| all.iter().min().copied());
    rivals
}

fn seconds(row: &Row) -> Vec<f64> {
    let Outcome::Measured { samples, .. } = &row.record.outcome else { return Vec::new() };
    let mut seconds: Vec<f64> = samples.seconds.iter().map(|s| s.0).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// Marks the fastest row of each case.
pub(super) fn mark(rows: &mut [Row], environments: &[Environment]) {
    for all in rivals(rows, environments) {
        let (first, second) = (&rows[all[0]], &rows[all[1]]);
        let lead = ratio(&seconds(second), &seconds(first)).map(|ratio| Lead { over: second.record.provider.clone(), ratio });
        rows[all[0]].lead = lead;
    }
}

/// `fastest: cublaslt in 12 cases, wgmma in 3`: beneath a component's table; empty without rivals.
pub(super) fn tally(rows: &[&Row]) -> String {
    let mut won: BTreeMap<&str, usize> = BTreeMap::new();
    let mut level = 0;
    for row in rows {
        match &row.lead {
            Some(lead) if lead.level() => level += 1,
            Some(_) => *won.entry(&row.record.provider).or_default() += 1,
            None => {}
        }
    }
    let mut won: Vec<_> = won.into_iter().collect();
    won.sort_by_key(|(provider, n)| (std::cmp::Reverse(*n), *provider));
    let mut words: Vec<String> = won.iter().map(|(provider, n)| format!("{} in {n}", clean(provider))).collect();
    if level > 0 {
        words.push(format!("level in {level}"));
    }
    let mut text = String::new();
    if !words.is_empty() {
        let _ = writeln!(text, "fastest where several did the same: {}", words.join(", "));
    }
    text
}

/// The same for the page: a line a case, each provider's figure, the fastest first.
pub(super) fn side_by_side(model: &Model) -> Value {
    let rows = &model.rows;
    let cases = rivals(rows, &model.environments).into_iter().filter_map(|all| {
        let best = &rows[all[0]];
        let of = |i: usize| {
            let row = &rows[i];
            Some(json!({ "provider": row.record.provider, "achieved": row.placement.as_ref()?.achieved }))
        };
        let lead = best.lead.as_ref()?;
        Some(json!({
            "device": best.record.device, "case": best.record.case.as_str(), "unit": best.placement.as_ref()?.unit,
            "providers": all.iter().filter_map(|i| of(*i)).collect::<Vec<_>>(), "lead": lead.words(), "level": lead.level(),
            "low": lead.ratio.low, "high": lead.ratio.high,
        }))
    });
    Value::Array(cases.collect())
}

#[cfg(test)]
mod tests {
    use super::super::significant;
    use super::*;
    use ridgepoint_core::Line;
    use serde_json::json;

    /// A run of one case by two providers, a second and ten samples each, with what they drew.
    fn run(times: &[(&str, f64)]) -> Model {
        let device = json!({ "id": "fake:0", "backend": "fake", "vendor": "", "name": "", "arch": "fake", "units": 1, "memory": 1, "caches": [],
            "driver": "", "software": false });
        let environment = json!({ "kind": "environment", "schema": 1, "hash": "e", "version": "1", "method": 1, "host": "h", "os": "", "cpu": "",
            "command": [], "profile": "quick", "seed": 1, "started": "", "devices": [device] });
        let record = |(provider, time): &(&str, f64)| {
            let seconds: Vec<f64> = (0..10).map(|i| time * (1.0 + f64::from(i) * 1e-4)).collect();
            json!({ "kind": "record", "environment": "e", "device": "fake:0", "case": "gemm/m1n1k1/f32", "component": "gemm", "provider": provider,
                "dtype": "f32", "metric": "arithmetic", "level": "dram", "work": { "flops": 2_000_000_000_000u64, "bytes": 12 }, "cache": "cold",
                "data": "normal", "started": "", "outcome": "measured",
                "samples": { "seconds": seconds, "batch": 1, "clock": "device", "warmup": 0.0, "steady": true, "stop": "converged" },
                "verification": { "method": "m", "error": 0.0, "tolerance": 1.0, "checked": 1, "wrong": 0 },
                "telemetry": { "readings": 3, "sensors": { "power_w": { "min": 1.0, "median": 4.0, "max": 5.0 } } } })
        };
        let (mut environments, mut records) = (vec![], vec![]);
        for line in std::iter::once(environment).chain(times.iter().map(record)) {
            match serde_json::from_value(line).unwrap() {
                Line::Environment(e) => environments.push(*e),
                Line::Record(r) => records.push(*r),
            }
        }
        Model::new(environments, records)
    }

    fn words(model: &Model) -> Vec<Option<String>> {
        model.rows.iter().map(|r| r.lead.as_ref().map(Lead::words)).collect()
    }

    #[test]
    fn the_fastest_provider_of_a_case_is_told_by_how_much() {
        let model = run(&[("wgmma", 2.1), ("cublaslt", 2.0), ("tile", 9.0), ("cublaslt-together", 1.0)]);
        assert_eq!(words(&model), [None, Some("1.05 × wgmma".into()), None, None]);
        let rows: Vec<&Row> = model.rows.iter().collect();
        assert_eq!(tally(&rows), "fastest where several did the same: cublaslt in 1\n");
        let page = side_by_side(&model);
        assert_eq!(page[0]["providers"][0]["provider"], "cublaslt");
        assert_eq!((page.as_array().unwrap().len(), page[0]["providers"].as_array().unwrap().len()), (1, 3));
        // What is within the noise is no victory, and who was alone has won nothing.
        assert_eq!(words(&run(&[("a", 2.0), ("b", 2.000_1)])), [Some("level with b".into()), None]);
        assert_eq!(words(&run(&[("a", 2.0), ("a", 3.0)])), [None, None]);
    }

    #[test]
    fn power_is_set_against_work_that_lasted() {
        let watts = |seconds| run(&[("a", seconds)]).rows[0].per_watt().map(|(value, unit)| (significant(value), unit));
        assert_eq!(watts(1.0), Some(("0.500".into(), "TFLOP/s/W".into())));
        assert_eq!(watts(0.01), None);
    }
}
