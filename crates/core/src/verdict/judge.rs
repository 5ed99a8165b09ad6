//! Judging: from a [`Fleet`] and rules to a [`Judgement`]. Pure, and the same for one node and for ten thousand.

use super::checks::{self, Place};
use super::metrics::Metrics;
use super::observe::{Fleet, Kind, Node, Observation};
use super::words::count;
use super::{
    Baseline, Deviation, Evidence, Finding, Judgement, NodeDevice, NodeVerdict, Reason, RuleSet, Validity, Verdict, fleetwide,
    outliers, stock, suspects,
};
use std::collections::BTreeMap;

/// The name under which built-in checks appear.
pub(super) const BUILT_IN: &str = "built-in";

/// What a fleet is judged by.
#[derive(Clone, Debug, Default)]
pub struct RuleBook {
    /// Rule sets in order; the first that is for a device says when its measurements count.
    pub sets: Vec<RuleSet>,
    /// True where the sets were named by hand: then each applies to every node, and a node without such a device violates what
    /// is required of it. Else a set applies where there is a device that it is for.
    pub everywhere: bool,
    /// What [`super::Check::MinPctOfBaseline`] compares with.
    pub baseline: Option<Baseline>,
    /// Keep findings that passed, and every deviation; a large fleet's reports do without.
    pub keep_passes: bool,
}

impl RuleBook {
    /// When measurements of a device count.
    pub(super) fn validity(&self, model: &str, name: &str) -> Validity {
        self.sets.iter().find(|s| s.is_for(model, name)).map_or_else(Validity::default, |s| s.validity.clone())
    }

    /// True if `set` has a say on `node`.
    pub(super) fn applies(&self, set: &RuleSet, node: &Node) -> bool {
        self.everywhere || node.devices.iter().any(|d| set.is_for(&d.shown.model, &d.name))
    }
}

/// Findings of one node in the making.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    pub(super) counts: super::Counts,
    keep_passes: bool,
}

impl Findings {
    /// Adds a finding; `make` is called only if it is kept.
    pub(super) fn add(&mut self, verdict: Verdict, make: impl FnOnce() -> Finding) {
        self.counts.add(verdict);
        if verdict != Verdict::Pass || self.keep_passes {
            self.list.push(make());
        }
    }
}

/// Judges all that `fleet` holds. Call [`Fleet::finish`] before.
#[must_use]
pub fn judge(fleet: &Fleet, book: &RuleBook) -> Judgement {
    let metrics = Metrics::of(fleet, book);
    let table = checks::Table::of(fleet, book);
    let mut made: Vec<Findings> =
        fleet.nodes.iter().map(|_| Findings { keep_passes: book.keep_passes, ..Findings::default() }).collect();
    for (index, node) in fleet.nodes.iter().enumerate() {
        let place = Place { fleet, book, node, metrics: &metrics, index };
        built_in(&place, &mut made[index]);
        for (number, set) in book.sets.iter().enumerate().filter(|(_, s)| book.applies(s, node)) {
            if let Some(expected) = &set.inventory {
                stock::check(&place, set, expected, &mut made[index]);
            }
            for (at, rule) in set.rules.iter().enumerate() {
                checks::check(&place, set, rule, table.of_rule(number, at), &mut made[index]);
            }
        }
    }
    outliers::check(fleet, book, &metrics, &table, &mut made);
    fleetwide::missing_gpus(fleet, book, &mut made);

    let summaries = metrics.summaries(fleet);
    let fleet_findings = fleetwide::two_cohorts(&summaries);
    let mut judgement = Judgement {
        passes_kept: book.keep_passes,
        rules: book.sets.iter().map(|s| s.name.clone()).collect(),
        problems: fleet.problems.clone(),
        records: fleet.records,
        metrics: summaries,
        ..Judgement::default()
    };
    for (index, (node, found)) in fleet.nodes.iter().zip(made).enumerate() {
        let Findings { mut list, counts, .. } = found;
        list.sort_by(|a, b| order(a).cmp(&order(b)));
        let verdict = Verdict::of_all(Verdict::ALL.into_iter().filter(|v| counts.of(*v) > 0));
        let devices = node.devices.iter().map(|d| {
            let named = list.iter().filter(|f| f.device.as_deref() == Some(d.shown.id.as_str()));
            let worst = Verdict::of_all(named.map(|f| f.verdict));
            // Where passes are not kept, a device of which nothing bad is said passed with its node.
            let verdict = if worst == Verdict::Skip && !book.keep_passes && counts.pass > 0 { Verdict::Pass } else { worst };
            NodeDevice { verdict, ..d.shown.clone() }
        });
        judgement.nodes.push(NodeVerdict {
            node: node.name.clone(),
            verdict,
            counts,
            devices: devices.collect(),
            inventory: node.inventory.clone(),
            started: node.started.clone(),
            command: node.command.clone(),
            facts: node.facts.clone(),
            version: node.version.clone(),
            method: node.method,
            records: node.outcomes,
            deviations: deviations(&metrics, index, book.keep_passes),
        });
        judgement.findings.append(&mut list);
    }
    judgement.fleet = fleet_findings;
    let parts = judgement.nodes.iter().map(|n| n.verdict).chain(judgement.fleet.iter().map(|f| f.verdict));
    judgement.verdict = Verdict::of_all(parts);
    judgement.suspects = suspects::rank(&judgement);
    judgement
}

/// The worst first, then by rule, device, case.
fn order(f: &Finding) -> (std::cmp::Reverse<Verdict>, &str, &Option<String>, &Option<String>, &Option<String>) {
    (std::cmp::Reverse(f.verdict), &f.rule, &f.device, &f.case, &f.provider)
}

/// All deviations of a node, or the worst device's of each metric.
fn deviations(metrics: &Metrics, node: usize, all: bool) -> Vec<Deviation> {
    let mut found: Vec<Deviation> = metrics.deviations(node).to_vec();
    found.sort_by(|a, b| a.metric.cmp(&b.metric).then(a.pct.total_cmp(&b.pct)));
    if !all {
        found.dedup_by_key(|d| d.metric);
    }
    found.shrink_to_fit();
    found
}

/// What is checked without any rule: nothing computed wrong, at any time, and nothing that should have run ended in an error.
fn built_in(place: &Place<'_>, findings: &mut Findings) {
    let Place { fleet, node, metrics, .. } = *place;
    // A wrong result is not made good by a right one later: a device that computes wrong now and then is broken.
    let mut wrong: BTreeMap<u16, Vec<&Observation>> = BTreeMap::new();
    for seen in node.seen.iter().filter(|s| s.kind == Kind::Wrong) {
        wrong.entry(seen.device).or_default().push(seen);
    }
    // That nothing is wrong is no PASS: it says nothing of how good the node is.
    for (device, list) in wrong {
        let first = list[0];
        findings.add(Verdict::Fail, || Finding {
            text: format!("computed wrong in {}; first: {}", count(list.len(), "case"), fleet.names.text(first.reason)),
            device: Some(place.device(device)),
            ..place.about(first, place.finding(BUILT_IN, "wrong-result", Verdict::Fail, Reason::WrongResult))
        });
    }
    let mut failed: BTreeMap<(u16, u32), Vec<&Observation>> = BTreeMap::new();
    for seen in metrics.current(place.index).iter().map(|i| &node.seen[*i as usize]).filter(|s| s.kind == Kind::Failed) {
        failed.entry((seen.device, seen.reason)).or_default().push(seen);
    }
    for ((device, reason), list) in failed {
        let verdict = place.validity(device).failed_case.verdict();
        findings.add(verdict, || Finding {
            text: format!("{} ended in an error: {}", count(list.len(), "case"), fleet.names.text(reason)),
            device: Some(place.device(device)),
            ..place.about(list[0], place.finding(BUILT_IN, "failed-case", verdict, Reason::CaseFailed))
        });
    }
}

impl Place<'_> {
    /// A finding of this node with nothing filled in but what it is.
    pub(super) fn finding(&self, set: &str, rule: &str, verdict: Verdict, reason: Reason) -> Finding {
        Finding {
            set: set.into(),
            rule: rule.into(),
            verdict,
            reason,
            text: String::new(),
            required: false,
            node: self.node.name.clone(),
            device: None,
            case: None,
            provider: None,
            measured: None,
            limit: None,
            unit: String::new(),
            evidence: Evidence::default(),
        }
    }

    /// The finding with its case, provider and record filled in.
    pub(super) fn about(&self, seen: &Observation, finding: Finding) -> Finding {
        let names = &self.fleet.names;
        let record = format!("{}:{}", names.text(seen.source.file), seen.source.line);
        let roof = [seen.datasheet, seen.empirical].into_iter().find(|f| f.is_finite());
        Finding {
            case: Some(names.text(seen.case).into()),
            provider: Some(names.text(seen.provider).into()),
            evidence: Evidence { record: Some(record), of_roof: roof.map(f64::from), ..finding.evidence },
            ..finding
        }
    }
}
