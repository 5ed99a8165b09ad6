//! What a fleet usually shows, made into a baseline, and how that moved between dates.

use super::cohort::modes;
use super::judge::RuleBook;
use super::metrics::{Metrics, invalid, unit};
use super::observe::{Fleet, Kind};
use super::words::count;
use super::{BASELINE_SCHEMA, Baseline, BaselineEntry, Validity};
use crate::Metric;
use std::collections::BTreeMap;

/// The median of one metric on one day.
#[derive(Clone, Debug, PartialEq)]
pub struct Day {
    /// Days since 1 January 1970.
    pub day: u32,
    /// Median of that day's figures.
    pub median: f64,
    /// How many.
    pub n: u32,
}

/// How one metric moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// Host name; empty for all nodes of the model together.
    pub node: String,
    /// Device model.
    pub model: String,
    /// The case.
    pub case: String,
    /// Who did the work.
    pub provider: String,
    /// Unit of the figures.
    pub unit: &'static str,
    /// Days in order, at least two.
    pub days: Vec<Day>,
    /// From the first day to the last in percent; worse is negative.
    pub pct: f64,
}

/// A baseline of all that was measured and counts; of two cohorts the larger.
#[must_use]
pub fn baseline(fleet: &Fleet) -> Baseline {
    let metrics = Metrics::of(fleet, &RuleBook::default());
    let mut entries: Vec<BaselineEntry> = (metrics.summaries(fleet).into_iter())
        .filter_map(|m| {
            let cohort = m.cohorts.first().filter(|c| c.median > 0.0)?;
            Some(BaselineEntry {
                model: m.model,
                case: m.case,
                provider: m.provider,
                unit: m.unit,
                median: cohort.median,
                mad: cohort.mad,
                n: cohort.n,
            })
        })
        .collect();
    entries.sort_by(|a, b| a.key().cmp(&b.key()));
    let started: Vec<&str> = fleet.nodes.iter().map(|n| n.started.as_str()).filter(|s| !s.is_empty()).collect();
    let day = |s: Option<&&str>| s.and_then(|s| s.get(..10)).unwrap_or("unknown").to_owned();
    let made_from =
        format!("{}, {} to {}", count(fleet.nodes.len(), "node"), day(started.iter().min()), day(started.iter().max()));
    Baseline { schema: BASELINE_SCHEMA, made_from, entries }
}

/// How every metric moved between days, of each node and of all together, the worst first. Days are those on which cases began.
#[must_use]
pub fn drift(fleet: &Fleet) -> Vec<Drift> {
    type Days = BTreeMap<u32, Vec<f64>>;
    let validity = Validity::default();
    let mut found: BTreeMap<(String, String, u32, u32, u8), Days> = BTreeMap::new();
    for node in &fleet.nodes {
        for seen in node.seen.iter().filter(|s| s.kind == Kind::Measured && invalid(s, &validity).is_none()) {
            let model = &node.devices[usize::from(seen.device)].shown.model;
            for name in [node.name.as_str(), ""] {
                let key = (name.to_owned(), model.clone(), seen.case, seen.provider, seen.metric as u8);
                found.entry(key).or_default().entry(seen.started / 86_400).or_default().push(f64::from(seen.value));
            }
        }
    }
    const METRICS: [Metric; 4] = [Metric::Bandwidth, Metric::Arithmetic, Metric::Latency, Metric::BusBandwidth];
    let mut drifts: Vec<Drift> = found
        .into_iter()
        .filter(|(_, days)| days.len() > 1)
        .filter_map(|((node, model, case, provider, metric), days)| {
            let metric = *METRICS.iter().find(|m| **m as u8 == metric)?;
            let days: Vec<Day> = (days.into_iter())
                .filter_map(|(day, mut figures)| {
                    modes(&mut figures).first().map(|m| Day { day, median: m.median, n: m.n as u32 })
                })
                .collect();
            let change = (days.last()?.median / days.first()?.median - 1.0) * 100.0;
            Some(Drift {
                node,
                model,
                case: fleet.names.text(case).into(),
                provider: fleet.names.text(provider).into(),
                unit: unit(metric),
                pct: if metric == Metric::Latency { -change } else { change },
                days,
            })
        })
        .collect();
    drifts.sort_by(|a, b| a.pct.total_cmp(&b.pct));
    drifts
}
