//! What only the whole fleet tells: a node with fewer GPUs than its like, and a fleet that has fallen into two groups.

use super::judge::{BUILT_IN, Findings, RuleBook};
use super::observe::{Fleet, Node};
use super::words::figure;
use super::{Cohort, Evidence, Finding, MetricSummary, Reason, Verdict};
use crate::Backend;
use std::collections::{BTreeMap, BTreeSet};

/// Fewer nodes do not say how many GPUs are usual.
const SMALLEST_FLEET: usize = 8;
/// The part of the nodes that must agree on it.
const AGREEMENT: f64 = 0.9;

/// Nodes that have fewer GPUs than nine in ten of their like, where no rule says how many there should be.
pub(super) fn missing_gpus(fleet: &Fleet, book: &RuleBook, made: &mut [Findings]) {
    if book.sets.iter().any(|s| s.inventory.as_ref().is_some_and(|i| i.gpus.is_some())) {
        return;
    }
    let mut by_model: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, node) in fleet.nodes.iter().enumerate() {
        if let Some(model) = gpus(node).next().map(|d| d.shown.model.as_str()) {
            by_model.entry(model).or_default().push(index);
        }
    }
    for (model, nodes) in by_model {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        let mut addresses: BTreeMap<&str, usize> = BTreeMap::new();
        for index in &nodes {
            *counts.entry(gpus(&fleet.nodes[*index]).count()).or_default() += 1;
            for pci in gpus(&fleet.nodes[*index]).filter_map(|d| d.shown.pci.as_deref()).collect::<BTreeSet<_>>() {
                *addresses.entry(pci).or_default() += 1;
            }
        }
        let enough = (AGREEMENT * nodes.len() as f64).ceil() as usize;
        let Some((usual, _)) = counts.iter().find(|(_, n)| **n >= enough && nodes.len() >= SMALLEST_FLEET) else { continue };
        for index in &nodes {
            let node = &fleet.nodes[*index];
            let here: BTreeSet<&str> = gpus(node).filter_map(|d| d.shown.pci.as_deref()).collect();
            let n = gpus(node).count();
            if n >= *usual {
                continue;
            }
            let gone: Vec<&str> =
                addresses.iter().filter(|(pci, n)| **n >= enough && !here.contains(**pci)).map(|(p, _)| *p).collect();
            made[*index].add(Verdict::Fail, || {
                let mut text = format!("{n} {model}, where the other nodes have {usual}");
                if !gone.is_empty() {
                    text += &format!("; none at {}", gone.join(", "));
                }
                Finding {
                    set: BUILT_IN.into(),
                    rule: "gpu-count".into(),
                    verdict: Verdict::Fail,
                    reason: Reason::GpuMissing,
                    text,
                    required: true,
                    node: node.name.clone(),
                    device: None,
                    case: None,
                    provider: None,
                    measured: Some(n as f64),
                    limit: Some(*usual as f64),
                    unit: String::new(),
                    evidence: Evidence {
                        reference: Some(*usual as f64),
                        reference_is: format!("GPUs of {} of {} nodes", counts[usual], nodes.len()),
                        ..Evidence::default()
                    },
                }
            });
        }
    }
}

fn gpus(node: &Node) -> impl Iterator<Item = &super::observe::Device> {
    node.devices.iter().filter(|d| !matches!(d.backend, Backend::Cpu | Backend::Fake))
}

/// One finding for each way in which a model's devices fall into two cohorts. The slower one's members are no outliers, and
/// they are no riddle to be left lying either.
pub(super) fn two_cohorts(metrics: &[MetricSummary]) -> Vec<Finding> {
    type Split<'m> = (&'m MetricSummary, &'m Cohort, &'m Cohort);
    let mut splits: BTreeMap<(&str, &str, String), Vec<Split<'_>>> = BTreeMap::new();
    for metric in metrics {
        let [a, b] = metric.cohorts.as_slice() else { continue };
        let first_is_better = (a.median > b.median) != metric.lower_is_better;
        let (better, worse) = if first_is_better { (a, b) } else { (b, a) };
        let why = [("slower", worse), ("faster", better)].into_iter().find(|(_, c)| !c.shares.is_empty());
        let why = why.map_or_else(String::new, |(which, c)| format!("; nearly all of the {which} have {}", c.shares));
        let component = metric.case.split('/').next().unwrap_or_default();
        splits.entry((&metric.model, component, why)).or_default().push((metric, better, worse));
    }
    let findings = splits.into_iter().map(|((model, component, why), list)| {
        let gap = |s: &Split<'_>| (s.2.median / s.1.median - 1.0).abs() * 100.0;
        let (metric, better, worse) = *list.iter().max_by(|a, b| gap(a).total_cmp(&gap(b))).unwrap_or(&list[0]);
        let text = format!(
            "{model} falls into two cohorts in {} {component} metrics, {} and {} of them; most in {} by {}: {} against {} {}{why}",
            list.len(), better.n, worse.n, metric.case, metric.provider, figure(better.median), figure(worse.median), metric.unit,
        );
        Finding {
            set: BUILT_IN.into(),
            rule: "two-cohorts".into(),
            verdict: Verdict::Warn,
            reason: Reason::TwoCohorts,
            text,
            required: false,
            node: String::new(),
            device: None,
            case: Some(metric.case.clone()),
            provider: Some(metric.provider.clone()),
            measured: Some(worse.median),
            limit: Some(better.median),
            unit: metric.unit.clone(),
            evidence: Evidence {
                reference: Some(better.median),
                reference_is: format!("median of the faster {}", better.n),
                deviation_pct: Some(-gap(&(metric, better, worse))),
                population: Some(better.n + worse.n),
                ..Evidence::default()
            },
        }
    });
    findings.collect()
}
