//! Cohort rules: who is unlike those it should be like. A device against its model in the whole fleet or in its node, or a node
//! against the nodes; case by case, or by the median over many cases, which a chance outlier of one does not move.

use super::checks::{Place, Table, is_for};
use super::cohort::{Mode, SMALLEST, modes, nearest};
use super::judge::{Findings, RuleBook};
use super::metrics::Metrics;
use super::observe::{Fleet, Observation};
use super::words::figure;
use super::{Against, Check, Combine, Deviation, Finding, Reason, Rule, RuleSet, Verdict};
use crate::stats::median_of_sorted;
use std::collections::BTreeMap;

/// How far one device or node lies from its like. There are as many of these as records at once, so it is kept small.
#[derive(Clone, Copy)]
struct Distance {
    node: u32,
    /// The device, or the first of a node's.
    device: u16,
    /// A node is compared, by all its devices.
    whole: bool,
    /// What it is compared within: a metric, or a model where cases are combined.
    group: u32,
    /// Percent; worse is negative.
    pct: f32,
    /// The figure, where one measurement is behind it; else NaN.
    value: f32,
    /// Measurements behind it.
    cases: u32,
}

/// Judges every cohort rule of the book.
pub(super) fn check(fleet: &Fleet, book: &RuleBook, metrics: &Metrics, table: &Table, made: &mut [Findings]) {
    for (number, set) in book.sets.iter().enumerate() {
        for (at, rule) in set.rules.iter().enumerate() {
            if let Check::MaxMadFromCohort { mads, min_gap_pct, against, combine } = rule.check {
                let view = View { fleet, book, metrics, set, rule, against, combine };
                view.judge(table.of_rule(number, at), mads, min_gap_pct, made);
            }
        }
    }
}

struct View<'v> {
    fleet: &'v Fleet,
    book: &'v RuleBook,
    metrics: &'v Metrics,
    set: &'v RuleSet,
    rule: &'v Rule,
    against: Against,
    combine: Combine,
}

impl View<'_> {
    fn judge(&self, chosen: &[bool], mads: f64, min_gap_pct: f64, made: &mut [Findings]) {
        let mut distances = Vec::new();
        for (index, node) in self.fleet.nodes.iter().enumerate() {
            if !self.book.applies(self.set, node) {
                continue;
            }
            let own = self.of_node(index, chosen);
            if own.is_empty() {
                self.nothing(index, &mut made[index]);
            }
            distances.extend(own);
        }
        // No two have the same key, so nothing is lost by a sort that needs no room of its own.
        distances.sort_unstable_by_key(|d| (d.group, d.node, d.device));
        for group in distances.chunk_by(|a, b| a.group == b.group) {
            let found = modes(&mut group.iter().map(|d| f64::from(d.pct)).collect());
            for distance in group {
                self.one(distance, &found, group.len(), mads, min_gap_pct, made);
            }
        }
    }

    /// The distances on one node, as the rule compares.
    fn of_node(&self, index: usize, chosen: &[bool]) -> Vec<Distance> {
        let node = &self.fleet.nodes[index];
        let fits = |d: &&Deviation| {
            chosen[self.metrics.case(d.metric) as usize] && is_for(self.set, self.rule, &node.devices[usize::from(d.device)])
        };
        let mut groups: BTreeMap<(u32, u16), Vec<Deviation>> = BTreeMap::new();
        for d in self.metrics.deviations(index).iter().filter(fits) {
            let group = match self.combine {
                Combine::Each => d.metric,
                Combine::Median => self.metrics.model_of(index, d.device),
            };
            groups.entry((group, d.device)).or_default().push(*d);
        }
        let mut own: Vec<Distance> = groups
            .into_iter()
            .map(|((group, device), list)| Distance {
                node: index as u32,
                device,
                whole: false,
                group,
                pct: median(list.iter().map(|d| d.pct)),
                value: if self.combine == Combine::Each { list[0].value } else { f32::NAN },
                cases: list.len() as u32,
            })
            .collect();
        match self.against {
            Against::Fleet => {}
            Against::Node => {
                own = own
                    .iter()
                    .filter_map(|d| {
                        let others = own.iter().filter(|o| o.group == d.group && o.device != d.device).map(|o| o.pct);
                        // With one other there is no telling which of the two is odd.
                        (others.clone().count() >= 2).then(|| Distance { pct: d.pct - median(others), ..*d })
                    })
                    .collect();
            }
            Against::Nodes => {
                let nodes = own.chunk_by(|a, b| a.group == b.group).map(|list| Distance {
                    whole: true,
                    pct: median(list.iter().map(|d| d.pct)),
                    ..list[0]
                });
                own = nodes.collect();
            }
        }
        own
    }

    fn place(&self, index: usize) -> Place<'_> {
        Place { fleet: self.fleet, book: self.book, node: &self.fleet.nodes[index], metrics: self.metrics, index }
    }

    fn finding(&self, index: usize, verdict: Verdict, reason: Reason) -> Finding {
        let mut finding = self.place(index).finding(&self.set.name, &self.rule.id, verdict, reason);
        finding.required = self.rule.required;
        finding.evidence.threshold.clone_from(&self.rule.source);
        finding
    }

    fn unjudged(&self) -> Verdict {
        if self.rule.required { self.rule.severity.verdict() } else { Verdict::Skip }
    }

    fn nothing(&self, index: usize, findings: &mut Findings) {
        findings.add(self.unjudged(), || Finding {
            text: "nothing valid to compare".into(),
            ..self.finding(index, self.unjudged(), Reason::Missing)
        });
    }

    fn one(&self, d: &Distance, found: &[Mode], n: usize, mads: f64, min_gap_pct: f64, made: &mut [Findings]) {
        let index = d.node as usize;
        let Some((_, mode)) = nearest(found, f64::from(d.pct)) else { return };
        let device = (!d.whole).then(|| self.place(index).device(d.device));
        if mode.n < SMALLEST {
            made[index].add(self.unjudged(), || Finding {
                text: format!("only {n} to compare, at least {SMALLEST} wanted"),
                device,
                ..self.finding(index, self.unjudged(), Reason::CohortTooSmall)
            });
            return;
        }
        let gap = f64::from(d.pct) - mode.median;
        let sigmas = if mode.sigma > 0.0 {
            gap / mode.sigma
        } else if gap == 0.0 {
            0.0
        } else {
            gap.signum() * f64::INFINITY
        };
        let outside = gap < -min_gap_pct && sigmas < -mads;
        let verdict = if outside { self.rule.severity.verdict() } else { Verdict::Pass };
        made[index].add(verdict, || {
            let reason = if outside { Reason::CohortOutlier } else { Reason::WithinLimit };
            let mut finding = self.finding(index, verdict, reason);
            let devices = &self.fleet.nodes[index].devices;
            let model = if d.whole { "" } else { devices[usize::from(d.device)].shown.model.as_str() };
            let (members, who) = match self.against {
                Against::Fleet => (format!("median of {} {model}", mode.n), "the fleet's"),
                Against::Node => ("median of the node's other devices".to_owned(), "its node's"),
                Against::Nodes => (format!("median of {} nodes", mode.n), "the nodes'"),
            };
            let side = if gap < 0.0 { "worse than" } else { "better than" };
            let far = if sigmas.is_finite() { format!(", {:.1} σ", sigmas.abs()) } else { String::new() };
            finding.text = match self.combine {
                Combine::Each => format!("{:.1}% {side} {who} median{far}", gap.abs()),
                Combine::Median => format!("{:.1}% {side} {who} median over {} cases{far}", gap.abs(), d.cases),
            };
            finding.device = device;
            (finding.measured, finding.limit, finding.unit) = (Some(gap), Some(-min_gap_pct.max(mads * mode.sigma)), "%".into());
            if let Combine::Each = self.combine {
                let (node, metric, value) = (&self.fleet.nodes[index], d.group, f64::from(d.value));
                let is_it = |s: &&Observation| {
                    (s.device, s.case, s.provider) == (d.device, self.metrics.case(metric), self.metrics.provider(metric))
                };
                let mut current = self.metrics.current(index).iter().map(|i| &node.seen[*i as usize]);
                if let Some(seen) = current.find(is_it) {
                    finding = self.place(index).about(seen, finding);
                }
                let (usual, unit) = self.metrics.usual(metric, value);
                finding.text = format!("{} {unit}, {}", figure(value), finding.text);
                finding.evidence.reference = Some(usual);
                (finding.measured, finding.limit) =
                    (Some(value), Some(usual * (1.0 - self.metrics.worse(metric) * min_gap_pct.max(mads * mode.sigma) / 100.0)));
                finding.unit = unit.into();
            }
            finding.evidence.reference_is = members;
            finding.evidence.deviation_pct = Some(gap);
            finding.evidence.sigmas = Some(sigmas).filter(|s| s.is_finite());
            finding.evidence.population = Some(mode.n as u32);
            finding
        });
    }
}

/// The median of at least one figure; NaN of none.
fn median(figures: impl Iterator<Item = f32>) -> f32 {
    let mut sorted: Vec<f64> = figures.map(f64::from).collect();
    if sorted.is_empty() {
        return f32::NAN;
    }
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted) as f32
}
