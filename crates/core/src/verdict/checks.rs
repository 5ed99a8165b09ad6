//! Rules that look at one node: limits, shares of a roof, of a baseline, of the node's best, spread, order, counters.

use super::judge::{Findings, RuleBook};
use super::metrics::{Metrics, invalid, unit};
use super::observe::{Device, Fleet, Kind, Node, Observation};
use super::words::figure;
use super::{Check, Direction, Finding, Per, Pick, Providers, Reason, RoofOf, Rule, RuleSet, Validity, Verdict};
use crate::{Bytes, Metric};
use std::collections::BTreeMap;

/// Which cases each rule looks at, worked out once for all nodes.
pub(super) struct Table {
    /// By set, by rule, by case number.
    chosen: Vec<Vec<Vec<bool>>>,
}

impl Table {
    pub(super) fn of(fleet: &Fleet, book: &RuleBook) -> Self {
        let mut is_case = vec![false; fleet.names.len()];
        for seen in fleet.nodes.iter().flat_map(|n| &n.seen) {
            is_case[seen.case as usize] = true;
        }
        let choose = |rule: &Rule| {
            let fits = |number: usize| {
                let case = fleet.names.text(number as u32);
                rule.cases.iter().any(|p| p.matches(case)) && rule.fits_size(case)
            };
            is_case.iter().enumerate().map(|(number, is)| *is && fits(number)).collect()
        };
        Self { chosen: book.sets.iter().map(|set| set.rules.iter().map(choose).collect()).collect() }
    }

    pub(super) fn of_rule(&self, set: usize, rule: usize) -> &[bool] {
        &self.chosen[set][rule]
    }
}

/// A node under judgement and what is known around it.
#[derive(Clone, Copy)]
pub(super) struct Place<'f> {
    pub(super) fleet: &'f Fleet,
    pub(super) book: &'f RuleBook,
    pub(super) node: &'f Node,
    pub(super) metrics: &'f Metrics,
    /// The node's place in the fleet.
    pub(super) index: usize,
}

impl Place<'_> {
    pub(super) fn device(&self, device: u16) -> String {
        self.node.devices[usize::from(device)].shown.id.clone()
    }

    pub(super) fn validity(&self, device: u16) -> Validity {
        let device = &self.node.devices[usize::from(device)];
        self.book.validity(&device.shown.model, &device.name)
    }
}

/// True if a rule of `set` is for this device.
pub(super) fn is_for(set: &RuleSet, rule: &Rule, device: &Device) -> bool {
    let model = rule.models.is_empty() || rule.models.iter().any(|p| p.matches(&device.shown.model) || p.matches(&device.name));
    model && set.is_for(&device.shown.model, &device.name) && rule.driver.as_ref().is_none_or(|r| r.allows(&device.driver))
}

/// Judges one rule on one node. Cohort rules need the whole fleet and are judged in outliers.rs.
pub(super) fn check(place: &Place<'_>, set: &RuleSet, rule: &Rule, chosen: &[bool], findings: &mut Findings) {
    if matches!(rule.check, Check::MaxMadFromCohort { .. }) {
        return;
    }
    let on: Vec<u16> =
        (0..place.node.devices.len() as u16).filter(|d| is_for(set, rule, &place.node.devices[usize::from(*d)])).collect();
    let groups: Vec<(Option<u16>, Vec<u16>)> = match rule.per {
        _ if on.is_empty() && !place.book.everywhere => Vec::new(),
        Per::Gpu if !on.is_empty() => on.iter().map(|d| (Some(*d), vec![*d])).collect(),
        _ => vec![(None, on)],
    };
    for (device, members) in groups {
        let rows: Vec<&Observation> = (place.metrics.current(place.index).iter())
            .map(|i| &place.node.seen[*i as usize])
            .filter(|s| chosen[s.case as usize] && members.contains(&s.device))
            .collect();
        let judged = Judged { place, set, rule, device };
        match &rule.check {
            Check::MaxCount { counter, limit } => judged.counted(counter, *limit, chosen, &members, !rows.is_empty(), findings),
            Check::MaxThrottledPct { percent } => judged.throttled(&rows, *percent, findings),
            Check::Monotonic { direction, tolerance_pct } => judged.ordered(&rows, *direction, *tolerance_pct, findings),
            _ => judged.each(&rows, findings),
        }
    }
}

/// A rule at one place of a node.
struct Judged<'p> {
    place: &'p Place<'p>,
    set: &'p RuleSet,
    rule: &'p Rule,
    device: Option<u16>,
}

impl Judged<'_> {
    fn finding(&self, verdict: Verdict, reason: Reason) -> Finding {
        let mut finding = self.place.finding(&self.set.name, &self.rule.id, verdict, reason);
        finding.required = self.rule.required;
        finding.device = self.device.map(|d| self.place.device(d));
        finding.evidence.threshold.clone_from(&self.rule.source);
        finding
    }

    /// What a rule that finds nothing to judge means.
    fn unjudged(&self, kind: Verdict) -> Verdict {
        if self.rule.required { self.rule.severity.verdict() } else { kind }
    }

    fn missing(&self, findings: &mut Findings) {
        let verdict = self.unjudged(Verdict::Skip);
        findings.add(verdict, || {
            let cases: Vec<&str> = self.rule.cases.iter().map(super::Pattern::as_str).collect();
            Finding { text: format!("no record of {}", cases.join(" or ")), ..self.finding(verdict, Reason::Missing) }
        });
    }

    /// Each case by itself: of the best provider, or of each that is named.
    fn each(&self, rows: &[&Observation], findings: &mut Findings) {
        let mut cases: BTreeMap<(u32, u16), Vec<&Observation>> = BTreeMap::new();
        for row in rows {
            cases.entry((row.case, row.device)).or_default().push(row);
        }
        if self.rule.pick == Pick::Best {
            let mut devices: BTreeMap<u16, Vec<&Observation>> = BTreeMap::new();
            for row in rows.iter().filter(|r| match &self.rule.providers {
                Providers::Best => true,
                Providers::Each(pattern) => pattern.matches(self.place.fleet.names.text(r.provider)),
            }) {
                devices.entry(row.device).or_default().push(row);
            }
            if devices.is_empty() {
                self.missing(findings);
            }
            return devices.values().for_each(|rows| self.one(self.best(rows), findings));
        }
        let mut any = false;
        for rows in cases.values() {
            match &self.rule.providers {
                Providers::Best => {
                    any = true;
                    self.one(self.best(rows), findings);
                }
                Providers::Each(pattern) => {
                    for row in rows.iter().filter(|r| pattern.matches(self.place.fleet.names.text(r.provider))) {
                        any = true;
                        self.one(row, findings);
                    }
                }
            }
        }
        if !any {
            self.missing(findings);
        }
    }

    /// The best valid measurement; without one, whatever tells most about why there is none.
    fn best<'r>(&self, rows: &[&'r Observation]) -> &'r Observation {
        let validity = self.place.validity(rows[0].device);
        let rank = |r: &Observation| match r.kind {
            Kind::Measured if invalid(r, &validity).is_none() => 4,
            Kind::Measured | Kind::Unverified => 3,
            Kind::Wrong => 2,
            Kind::Failed => 1,
            Kind::Skipped => 0,
        };
        let better = |r: &Observation| if r.metric == Metric::Latency { -r.value } else { r.value };
        let best = rows.iter().max_by(|a, b| rank(a).cmp(&rank(b)).then(better(a).total_cmp(&better(b))));
        best.copied().unwrap_or(rows[0])
    }

    fn one(&self, seen: &Observation, findings: &mut Findings) {
        let names = &self.place.fleet.names;
        let noise_is_the_point = matches!(self.rule.check, Check::MaxCv { .. });
        let invalid =
            invalid(seen, &self.place.validity(seen.device)).filter(|r| !(noise_is_the_point && *r == Reason::TooNoisy));
        let unjudged = match (seen.kind, invalid) {
            (Kind::Measured, None) => None,
            (Kind::Skipped, _) => Some((Verdict::Skip, Reason::CaseSkipped, names.text(seen.reason).to_owned())),
            (Kind::Failed, _) => Some((Verdict::Skip, Reason::CaseFailed, names.text(seen.reason).to_owned())),
            (Kind::Wrong, _) => Some((Verdict::Invalid, Reason::WrongResult, names.text(seen.reason).to_owned())),
            (_, Some(reason)) => Some((Verdict::Invalid, reason, self.why_invalid(seen, reason))),
            (Kind::Unverified, None) => None,
        };
        let device = Some(self.place.device(seen.device));
        if let Some((kind, reason, why)) = unjudged {
            let verdict = self.unjudged(kind);
            findings.add(verdict, || {
                let finding = self.place.about(seen, self.finding(verdict, reason));
                let measured = Some(f64::from(seen.value)).filter(|v| v.is_finite());
                Finding { text: why, device, measured, unit: unit(seen.metric).into(), ..finding }
            });
            return;
        }
        let outcome = self.compare(seen);
        let verdict = match outcome.held {
            Ok(true) => Verdict::Pass,
            Ok(false) => self.rule.severity.verdict(),
            Err(_) => self.unjudged(Verdict::Skip),
        };
        findings.add(verdict, || {
            let reason = match outcome.held {
                Ok(true) => Reason::WithinLimit,
                Ok(false) => outcome.violated,
                Err(reason) => reason,
            };
            let mut finding = self.place.about(seen, self.finding(verdict, reason));
            finding.text = outcome.text;
            finding.device = device;
            finding.measured = Some(outcome.measured);
            finding.limit = Some(outcome.limit).filter(|l| l.is_finite());
            finding.unit = outcome.unit.into();
            finding.evidence.reference = outcome.reference;
            finding.evidence.reference_is = outcome.reference_is;
            finding.evidence.deviation_pct = outcome.deviation_pct;
            finding
        });
    }

    fn why_invalid(&self, seen: &Observation, reason: Reason) -> String {
        let why = self.place.fleet.names.text(seen.reason);
        match reason {
            Reason::Throttled => {
                let part = seen.throttled(&self.place.validity(seen.device)) * 100.0;
                format!("{part:.0}% of its samples were taken while throttled: {why}")
            }
            Reason::TooNoisy if seen.ci.is_finite() => format!("its median is known to ± {:.1}% only", seen.ci * 100.0),
            Reason::TooNoisy => "too few samples to say how sure its median is".into(),
            Reason::AboveRoof => "it is above its roof: the number or the roof is wrong".into(),
            _ => why.to_owned(),
        }
    }

    /// The check itself, on a valid measurement.
    fn compare(&self, seen: &Observation) -> Compared {
        let value = f64::from(seen.value);
        let of_figure = Compared {
            measured: value,
            limit: f64::NAN,
            unit: unit(seen.metric),
            held: Ok(true),
            violated: Reason::BelowMinimum,
            text: String::new(),
            reference: None,
            reference_is: String::new(),
            deviation_pct: None,
        };
        let shown = format!("{} {}", figure(value), unit(seen.metric));
        match &self.rule.check {
            Check::Min { limit, unit: wanted } | Check::Max { limit, unit: wanted } if wanted != unit(seen.metric) => Compared {
                limit: *limit,
                held: Err(Reason::UnitMismatch),
                text: format!("it is measured in {}, and the rule's limit is in {wanted}", unit(seen.metric)),
                ..of_figure
            },
            Check::Min { limit, .. } => Compared {
                limit: *limit,
                held: Ok(value >= *limit),
                text: format!("{shown}, at least {} wanted", figure(*limit)),
                ..of_figure
            },
            Check::Max { limit, .. } => Compared {
                limit: *limit,
                held: Ok(value <= *limit),
                violated: Reason::AboveMaximum,
                text: format!("{shown}, at most {} wanted", figure(*limit)),
                ..of_figure
            },
            Check::MaxCv { limit } => Compared {
                measured: f64::from(seen.cv),
                limit: *limit,
                unit: "",
                held: Ok(f64::from(seen.cv) <= *limit),
                violated: Reason::TooMuchSpread,
                text: format!("coefficient of variation {:.3}, at most {limit} wanted", seen.cv),
                ..of_figure
            },
            Check::MinPctOfPeak { percent, roof } => {
                let (fraction, name) = match roof {
                    RoofOf::Datasheet => (seen.datasheet, "datasheet"),
                    RoofOf::ObservedClock => (seen.at_clock, "observed clock's"),
                    RoofOf::Empirical => (seen.empirical, "empirical"),
                };
                let peak = value / f64::from(fraction);
                share(of_figure, peak, *percent, &format!("the {name} roof"), [Reason::BelowPeakShare, Reason::NoRoof])
            }
            Check::MinPctOfBaseline { percent } => {
                let names = &self.place.fleet.names;
                let model = &self.place.node.devices[usize::from(seen.device)].shown.model;
                let entry = self
                    .place
                    .book
                    .baseline
                    .as_ref()
                    .and_then(|b| b.find(model, names.text(seen.case), names.text(seen.provider)));
                let entry = entry.filter(|e| e.unit == unit(seen.metric));
                let usual = entry.map_or(f64::NAN, |e| e.median);
                share(of_figure, usual, *percent, "the baseline", [Reason::BelowBaseline, Reason::NoBaseline])
            }
            Check::MinPctOfNodeBest { percent } => {
                let validity = self.place.validity(seen.device);
                let model = self.place.metrics.model_of(self.place.index, seen.device);
                let others = (self.place.metrics.current(self.place.index).iter()).map(|i| &self.place.node.seen[*i as usize]);
                let others = others.filter(|o| {
                    (o.case, o.provider) == (seen.case, seen.provider)
                        && o.device != seen.device
                        && self.place.metrics.model_of(self.place.index, o.device) == model
                        && o.kind == Kind::Measured
                        && invalid(o, &validity).is_none()
                });
                let lower = seen.metric == Metric::Latency;
                let best = others.map(|o| f64::from(o.value)).reduce(|a, b| if lower { a.min(b) } else { a.max(b) });
                let best = best.unwrap_or(f64::NAN);
                share(of_figure, best, *percent, "the node's best", [Reason::BelowNodeBest, Reason::CohortTooSmall])
            }
            Check::MaxMadFromCohort { .. } | Check::Monotonic { .. } | Check::MaxThrottledPct { .. } | Check::MaxCount { .. } => {
                of_figure
            }
        }
    }

    /// The figure follows the size, for each family of cases that differ in size alone.
    fn ordered(&self, rows: &[&Observation], direction: Direction, tolerance_pct: f64, findings: &mut Findings) {
        let names = &self.place.fleet.names;
        type Steps<'s> = Vec<(u64, &'s Observation)>;
        let mut families: BTreeMap<(String, u32, u16), Steps<'_>> = BTreeMap::new();
        for row in rows {
            let wanted = match &self.rule.providers {
                Providers::Best => true,
                Providers::Each(pattern) => pattern.matches(names.text(row.provider)),
            };
            let valid = row.kind == Kind::Measured && invalid(row, &self.place.validity(row.device)).is_none();
            if let (true, true, Some((family, size))) = (wanted, valid, size(names.text(row.case))) {
                families.entry((family, row.provider, row.device)).or_default().push((size.0, row));
            }
        }
        families.retain(|_, steps| steps.len() > 1);
        if families.is_empty() {
            return self.missing(findings);
        }
        for ((family, _, device), mut steps) in families {
            steps.sort_by_key(|(size, _)| *size);
            let step = |pair: &[(u64, &Observation)]| {
                let change = (f64::from(pair[1].1.value) / f64::from(pair[0].1.value) - 1.0) * 100.0;
                if direction == Direction::Rising { change } else { -change }
            };
            let worst = steps.windows(2).min_by(|a, b| step(a).total_cmp(&step(b))).unwrap_or_default();
            let (change, seen) = (step(worst), worst[1].1);
            let verdict = if change >= -tolerance_pct { Verdict::Pass } else { self.rule.severity.verdict() };
            findings.add(verdict, || {
                let reason = if verdict == Verdict::Pass { Reason::WithinLimit } else { Reason::NotMonotonic };
                let mut finding = self.place.about(seen, self.finding(verdict, reason));
                finding.text = format!(
                    "from {} to {} of {family} it goes the wrong way by {:.1}%, at most {tolerance_pct}% allowed",
                    Bytes(worst[0].0),
                    Bytes(worst[1].0),
                    (-change).max(0.0)
                );
                finding.device = Some(self.place.device(device));
                (finding.measured, finding.limit, finding.unit) = (Some(change), Some(-tolerance_pct), "%".into());
                finding
            });
        }
    }

    /// The part of the samples of each device that were taken while it held its clock back.
    fn throttled(&self, rows: &[&Observation], percent: f64, findings: &mut Findings) {
        let mut devices: BTreeMap<u16, Vec<&Observation>> = BTreeMap::new();
        for row in rows.iter().filter(|r| r.kind == Kind::Measured) {
            devices.entry(row.device).or_default().push(row);
        }
        if devices.is_empty() {
            return self.missing(findings);
        }
        for (device, rows) in devices {
            let validity = self.place.validity(device);
            let part = rows.iter().map(|r| r.throttled(&validity)).sum::<f64>() / rows.len() as f64 * 100.0;
            let worst = rows.iter().max_by(|a, b| a.throttled(&validity).total_cmp(&b.throttled(&validity)));
            let verdict = if part <= percent { Verdict::Pass } else { self.rule.severity.verdict() };
            findings.add(verdict, || {
                let reason = if verdict == Verdict::Pass { Reason::WithinLimit } else { Reason::Throttled };
                let finding = self.finding(verdict, reason);
                let mut finding = worst.map_or(finding.clone(), |w| self.place.about(w, finding));
                let why = worst.map_or("", |w| self.place.fleet.names.text(w.reason));
                let why = if verdict == Verdict::Pass { String::new() } else { format!(" ({why})") };
                finding.text = format!("throttled{why} during {part:.0}% of all samples, at most {percent}% allowed");
                finding.device = Some(self.place.device(device));
                (finding.measured, finding.limit, finding.unit) = (Some(part), Some(percent), "%".into());
                finding
            });
        }
    }

    /// A counter over all records that the rule selects, those of earlier runs too.
    fn counted(&self, counter: &str, limit: i64, chosen: &[bool], members: &[u16], any: bool, findings: &mut Findings) {
        if !any {
            return self.missing(findings);
        }
        let node = self.place.node;
        let moved = node.moved.iter().filter(|m| {
            members.contains(&m.device) && chosen[m.case as usize] && self.place.fleet.names.text(m.counter) == counter
        });
        let (mut total, mut first) = (0i64, None);
        for m in moved {
            total = total.saturating_add(m.delta.max(0));
            first = first.or(Some(m));
        }
        let verdict = if total <= limit { Verdict::Pass } else { self.rule.severity.verdict() };
        findings.add(verdict, || {
            let reason = if verdict == Verdict::Pass { Reason::WithinLimit } else { Reason::CounterMoved };
            let mut finding = self.finding(verdict, reason);
            finding.text = format!("{counter} moved by {total}, at most {limit} allowed");
            (finding.measured, finding.limit) = (Some(total as f64), Some(limit as f64));
            if let Some(m) = first {
                finding.case = Some(self.place.fleet.names.text(m.case).into());
                let file = self.place.fleet.names.text(m.source.file);
                finding.evidence.record = Some(format!("{file}:{}", m.source.line));
            }
            finding
        });
    }
}

/// A comparison and its figures.
struct Compared {
    measured: f64,
    limit: f64,
    unit: &'static str,
    /// Whether it holds, or why that cannot be said.
    held: Result<bool, Reason>,
    violated: Reason,
    text: String,
    reference: Option<f64>,
    reference_is: String,
    deviation_pct: Option<f64>,
}

/// `compared` held against a share of `reference`, which is NaN where there is none. For a latency the share is turned over, so
/// that "at least 95 %" means the same for both.
fn share(compared: Compared, reference: f64, percent: f64, what: &str, [violated, absent]: [Reason; 2]) -> Compared {
    if !reference.is_finite() || reference <= 0.0 {
        return Compared { held: Err(absent), text: format!("{what} is not known here"), ..compared };
    }
    let lower = compared.unit == unit(Metric::Latency);
    let ratio = if lower { reference / compared.measured } else { compared.measured / reference };
    let share = ratio * 100.0;
    Compared {
        limit: if lower { reference * 100.0 / percent } else { reference * percent / 100.0 },
        held: Ok(share >= percent),
        violated,
        text: format!("{} {}, {share:.1}% of {what}; at least {percent}% wanted", figure(compared.measured), compared.unit),
        reference: Some(reference),
        reference_is: what.into(),
        deviation_pct: Some(share - 100.0),
        ..compared
    }
}

/// The size in a case id and the id without it: `collectives/all_reduce/r8/1GiB/f32` is 1 GiB of `collectives/all_reduce/r8/*/f32`.
pub(super) fn size(case: &str) -> Option<(String, Bytes)> {
    let (at, bytes) = case.split('/').enumerate().find_map(|(i, s)| Some((i, s.parse::<Bytes>().ok()?)))?;
    let family: Vec<&str> = case.split('/').enumerate().map(|(i, s)| if i == at { "*" } else { s }).collect();
    Some((family.join("/"), bytes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_size_is_the_segment_that_is_one() {
        let (family, bytes) = super::size("collectives/all_reduce/r8/1GiB/f32").unwrap();
        assert_eq!((family.as_str(), bytes.0), ("collectives/all_reduce/r8/*/f32", 1 << 30));
        assert_eq!(super::size("gemm/m1n1k1/f32"), None);
    }
}
