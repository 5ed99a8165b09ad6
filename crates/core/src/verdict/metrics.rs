//! What each metric usually is: the cohorts of a fleet, and every device's distance from its own.

use super::cohort::{Mode, modes, nearest};
use super::judge::RuleBook;
use super::observe::{Fleet, Kind, Node, Observation};
use super::{Cohort, Deviation, MetricSummary, Reason, Validity};
use crate::Metric;
use std::collections::{BTreeMap, HashMap};

/// A metric: one case by one provider on one model.
#[derive(Debug)]
struct Known {
    case: u32,
    provider: u32,
    model: u32,
    metric: Metric,
    modes: Vec<Mode>,
}

/// The metrics of a fleet.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    known: Vec<Known>,
    models: Vec<String>,
    /// By node: the model of each device.
    model_of: Vec<Vec<u32>>,
    /// By node: the observations that count, the latest of each device, case and provider.
    current: Vec<Vec<u32>>,
    /// By node: the distances of those that are valid.
    deviations: Vec<Vec<Deviation>>,
}

impl Metrics {
    pub(super) fn of(fleet: &Fleet, book: &RuleBook) -> Self {
        let mut found = Self::default();
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut validities: Vec<Validity> = Vec::new();
        let mut index: HashMap<(u32, u32, u32), u32> = HashMap::new();
        let mut figures: Vec<Vec<f64>> = Vec::new();
        for node in &fleet.nodes {
            let models: Vec<u32> = node
                .devices
                .iter()
                .map(|device| {
                    let model = &device.shown.model;
                    *numbers.entry(model.clone()).or_insert_with(|| {
                        found.models.push(model.clone());
                        validities.push(book.validity(model, &device.name));
                        found.models.len() as u32 - 1
                    })
                })
                .collect();
            let current = latest(node);
            let mut deviations = Vec::with_capacity(current.len());
            for seen in current.iter().map(|i| &node.seen[*i as usize]) {
                let model = models[usize::from(seen.device)];
                if invalid(seen, &validities[model as usize]).is_some() || seen.kind != Kind::Measured {
                    continue;
                }
                let metric = *index.entry((seen.case, seen.provider, model)).or_insert_with(|| {
                    let known = Known { case: seen.case, provider: seen.provider, model, metric: seen.metric, modes: Vec::new() };
                    found.known.push(known);
                    figures.push(Vec::new());
                    found.known.len() as u32 - 1
                });
                figures[metric as usize].push(f64::from(seen.value));
                deviations.push(Deviation { metric, device: seen.device, pct: 0.0, value: seen.value });
            }
            found.model_of.push(models);
            found.current.push(current);
            found.deviations.push(deviations);
        }
        for (known, figures) in found.known.iter_mut().zip(&mut figures) {
            known.modes = modes(figures);
            *figures = Vec::new();
        }
        for deviation in found.deviations.iter_mut().flatten() {
            let known = &found.known[deviation.metric as usize];
            deviation.pct = known.distance(f64::from(deviation.value)) as f32;
        }
        found
    }

    /// Indices into a node's observations of those that count.
    pub(super) fn current(&self, node: usize) -> &[u32] {
        &self.current[node]
    }

    pub(super) fn deviations(&self, node: usize) -> &[Deviation] {
        &self.deviations[node]
    }

    pub(super) fn model_of(&self, node: usize, device: u16) -> u32 {
        self.model_of[node][usize::from(device)]
    }

    pub(super) fn model(&self, number: u32) -> &str {
        &self.models[number as usize]
    }

    pub(super) fn case(&self, metric: u32) -> u32 {
        self.known[metric as usize].case
    }

    pub(super) fn provider(&self, metric: u32) -> u32 {
        self.known[metric as usize].provider
    }

    /// The median of the cohort that a figure belongs to, and its unit.
    pub(super) fn usual(&self, metric: u32, figure: f64) -> (f64, &'static str) {
        let known = &self.known[metric as usize];
        (nearest(&known.modes, figure).map_or(f64::NAN, |(_, m)| m.median), unit(known.metric))
    }

    /// 1 where less is worse, −1 where more is.
    pub(super) fn worse(&self, metric: u32) -> f64 {
        if self.known[metric as usize].metric == Metric::Latency { -1.0 } else { 1.0 }
    }

    /// The metrics in words.
    pub(super) fn summaries(&self, fleet: &Fleet) -> Vec<MetricSummary> {
        let shares = self.shares(fleet);
        let summary = |(i, known): (usize, &Known)| MetricSummary {
            case: fleet.names.text(known.case).into(),
            provider: fleet.names.text(known.provider).into(),
            model: self.model(known.model).into(),
            unit: unit(known.metric).into(),
            lower_is_better: known.metric == Metric::Latency,
            cohorts: known
                .modes
                .iter()
                .enumerate()
                .map(|(m, mode)| Cohort {
                    n: mode.n as u32,
                    median: mode.median,
                    mad: mode.sigma,
                    range: (mode.low, mode.high),
                    shares: shares.get(&(i as u32, m)).cloned().unwrap_or_default(),
                })
                .collect(),
        };
        self.known.iter().enumerate().map(summary).collect()
    }

    /// What nearly all of one cohort have and next to none of the other: the first explanation to check.
    fn shares(&self, fleet: &Fleet) -> BTreeMap<(u32, usize), String> {
        let mut traits: BTreeMap<(u32, usize), (u32, BTreeMap<String, u32>)> = BTreeMap::new();
        for (node, deviations) in fleet.nodes.iter().zip(&self.deviations) {
            for d in deviations {
                let known = &self.known[d.metric as usize];
                if known.modes.len() < 2 {
                    continue;
                }
                let Some((mode, _)) = nearest(&known.modes, f64::from(d.value)) else { continue };
                let (n, counts) = traits.entry((d.metric, mode)).or_default();
                *n += 1;
                let device = &node.devices[usize::from(d.device)];
                *counts.entry(format!("driver {}", device.driver)).or_default() += 1;
                let gpu = node.inventory.iter().flat_map(|i| &i.gpus).find(|g| g.device == device.shown.id);
                for (name, version) in gpu.iter().flat_map(|g| &g.firmware) {
                    *counts.entry(format!("{name} {version}")).or_default() += 1;
                }
            }
        }
        let mut shares = BTreeMap::new();
        for ((metric, mode), (n, counts)) in &traits {
            let Some((others, other)) = traits.get(&(*metric, 1 - mode)) else { continue };
            let own = counts.iter().find(|(name, count)| {
                let elsewhere = other.get(*name).copied().unwrap_or(0);
                f64::from(**count) >= 0.9 * f64::from(*n) && f64::from(elsewhere) <= 0.1 * f64::from(*others)
            });
            if let Some((name, _)) = own {
                shares.insert((*metric, *mode), name.clone());
            }
        }
        shares
    }
}

impl Known {
    /// Distance of a figure from the median of its cohort, in percent; worse is negative.
    fn distance(&self, figure: f64) -> f64 {
        let Some((_, mode)) = nearest(&self.modes, figure) else { return 0.0 };
        let pct = (figure / mode.median - 1.0) * 100.0;
        if self.metric == Metric::Latency { -pct } else { pct }
    }
}

/// The latest observation of each device, case and provider.
fn latest(node: &Node) -> Vec<u32> {
    let mut indices: Vec<u32> = (0..node.seen.len() as u32).collect();
    let key = |i: &u32| {
        let s = &node.seen[*i as usize];
        (s.device, s.case, s.provider)
    };
    // Of two at the same second, the later in the file.
    indices.sort_by_key(|i| {
        let s = &node.seen[*i as usize];
        (key(i), std::cmp::Reverse((s.started, s.source.line)))
    });
    indices.dedup_by_key(|i| key(i));
    indices
}

/// Why a measurement does not count; None where it does, or where it is no measurement.
pub(super) fn invalid(seen: &Observation, validity: &Validity) -> Option<Reason> {
    match seen.kind {
        Kind::Unverified => Some(Reason::Unverified),
        Kind::Measured if seen.throttled(validity) * 100.0 > validity.max_throttled_pct => Some(Reason::Throttled),
        Kind::Measured if f64::from(seen.ci) * 100.0 > validity.max_ci_pct => Some(Reason::TooNoisy),
        Kind::Measured if seen.suspect => Some(Reason::AboveRoof),
        _ => None,
    }
}

/// The unit of a metric's figure.
pub(super) const fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::Bandwidth | Metric::BusBandwidth => "GB/s",
        Metric::Arithmetic => "TFLOP/s",
        Metric::Latency => "ns",
    }
}
