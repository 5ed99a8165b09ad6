//! What one side has of each case: its runs taken together by provider, the best of them, or the reason why there is none.

use super::{Absence, Figure, Side};
use crate::record::{Outcome, Record};
use crate::roofline::{Placement, place};
use crate::specs::Specs;
use crate::stats::{Summary, median_of_sorted};
use crate::{CaseId, DeviceInfo, Metric, Seconds};
use std::collections::BTreeMap;

/// From so many runs on, their medians are the samples: what varies from run to run is then in the interval.
const RUNS: usize = 6;

/// A record with its device.
#[derive(Clone, Copy)]
pub(super) struct Taken<'s> {
    pub(super) record: &'s Record,
    pub(super) info: &'s DeviceInfo,
}

/// A case's place in the comparison: its id, and the device where several are lined up.
pub(super) type Key = (CaseId, Option<String>);

/// What a side has of a case.
pub(super) enum Has<'s> {
    /// A figure.
    Figure(Box<Best<'s>>),
    /// None, and why.
    Nothing(Absence, String),
}

/// The best provider's runs, taken together.
pub(super) struct Best<'s> {
    pub(super) first: Taken<'s>,
    pub(super) figure: Figure,
    pub(super) unit: &'static str,
    /// Seconds of one execution in rising order, what the interval is made of.
    pub(super) seconds: Vec<f64>,
    pub(super) notes: Vec<String>,
}

impl Side {
    /// Its records, each with its device; those whose environment is absent are left out and counted.
    pub(super) fn taken(&self) -> (Vec<Taken<'_>>, usize) {
        let devices: BTreeMap<(&str, &str), &DeviceInfo> =
            (self.environments.iter()).flat_map(|e| e.devices.iter().map(|d| ((e.hash.as_str(), d.id.as_str()), d))).collect();
        let found: Vec<_> = (self.records.iter())
            .filter_map(|record| {
                let info = devices.get(&(record.environment.as_str(), record.device.as_str()))?;
                Some(Taken { record, info })
            })
            .collect();
        let left_out = self.records.len() - found.len();
        (found, left_out)
    }
}

/// What there is of each case, by the provider that was asked for, or the best.
pub(super) fn by_case<'s>(taken: &[Taken<'s>], by_device: bool, provider: Option<&str>) -> BTreeMap<Key, Has<'s>> {
    let mut cases: BTreeMap<Key, BTreeMap<&str, Vec<Taken<'s>>>> = BTreeMap::new();
    for t in taken {
        let key = (t.record.case.clone(), by_device.then(|| t.record.device.clone()));
        cases.entry(key).or_default().entry(&t.record.provider).or_default().push(*t);
    }
    cases.into_iter().map(|(key, providers)| (key, best(&providers, provider))).collect()
}

fn best<'s>(providers: &BTreeMap<&str, Vec<Taken<'s>>>, wanted: Option<&str>) -> Has<'s> {
    let chosen = || providers.iter().filter(|(name, _)| wanted.is_none_or(|w| w == **name));
    let mut found: Vec<Best<'s>> = chosen().filter_map(|(_, runs)| together(runs)).collect();
    // The same case, hence the same work: the fastest is the best whatever the figure is called.
    let time = |b: &Best<'_>| median_of_sorted(&b.seconds);
    found.sort_by(|x, y| time(x).total_cmp(&time(y)));
    let mut bad: Vec<(Absence, String)> = chosen()
        .flat_map(|(_, runs)| runs)
        .filter_map(|t| why_not(t).map(|(absence, reason)| (absence, by(&t.record.provider, reason))))
        .collect();
    bad.sort();
    bad.dedup();
    if let Some(mut best) = found.into_iter().next() {
        best.notes
            .extend(bad.iter().filter(|(a, _)| *a >= Absence::Failed).map(|(a, reason)| format!("{} by {reason}", a.name())));
        return Has::Figure(Box::new(best));
    }
    match bad.pop() {
        Some((absence, reason)) => Has::Nothing(absence, reason),
        None if wanted.is_some() => {
            let there: Vec<_> = providers.keys().copied().collect();
            Has::Nothing(Absence::Unchosen, format!("not by {}; by {}", wanted.unwrap_or_default(), there.join(", ")))
        }
        None => Has::Nothing(Absence::Failed, "no sample of it is usable".into()),
    }
}

/// A reason with who gave it. A case that nobody can do has been skipped by `none`.
fn by(provider: &str, reason: String) -> String {
    if provider == "none" { reason } else { format!("{provider}: {reason}") }
}

/// Why a record holds no figure.
fn why_not(t: &Taken<'_>) -> Option<(Absence, String)> {
    match &t.record.outcome {
        Outcome::Measured { .. } if usable(t) => None,
        Outcome::Measured { .. } => Some((Absence::Failed, "no sample of it is usable".into())),
        Outcome::Skipped { reason } => Some((Absence::Skipped, reason.clone())),
        Outcome::Failed { reason } => Some((Absence::Failed, reason.clone())),
        Outcome::Wrong { verification: v } => Some((Absence::Wrong, v.fault())),
    }
}

fn usable(t: &Taken<'_>) -> bool {
    place(t.record, t.info, Specs::built_in()).is_some_and(|p| p.achieved.is_finite() && p.achieved > 0.0)
}

/// The runs of one case by one provider as one figure; None if none was measured.
fn together<'s>(runs: &[Taken<'s>]) -> Option<Best<'s>> {
    let runs: Vec<Taken<'s>> = runs.iter().copied().filter(usable).collect();
    let first = *runs.first()?;
    let mut seconds = Vec::new();
    let mut watts = Vec::new();
    let mut notes = Vec::new();
    let mut throttled = false;
    for run in &runs {
        let Outcome::Measured { samples, telemetry, .. } = &run.record.outcome else { continue };
        let of_run: Vec<f64> = samples.seconds.iter().map(|s| s.0).collect();
        if runs.len() >= RUNS {
            seconds.extend(Summary::of(&of_run).map(|s| s.median));
        } else {
            seconds.extend(of_run);
        }
        watts.extend(telemetry.sensors.get("power_w").map(|r| r.median).filter(|w| w.is_finite() && *w > 0.0));
        throttled |= !samples.throttled.is_empty();
    }
    seconds.sort_by(f64::total_cmp);
    watts.sort_by(f64::total_cmp);
    let placement = pooled(first, &seconds)?;
    notes.extend(first.record.labels.iter().cloned());
    if throttled {
        notes.push("throttled".into());
    }
    if placement.suspect() {
        notes.push("above its roof".into());
    }
    let watts = (watts.len() == runs.len()).then(|| median_of_sorted(&watts));
    let roof = placement.roofs.first();
    let figure = Figure {
        provider: first.record.provider.clone(),
        value: placement.achieved,
        ci: Some(placement.summary.ci).filter(|c| c.is_finite()),
        roof: roof.map(|r| r.value),
        roof_kind: roof.map(|r| r.kind.name()),
        fraction: placement.fraction(),
        watts,
        // A latency is no work done: it has no figure per watt.
        per_watt: watts.filter(|_| first.record.metric != Metric::Latency).map(|w| placement.achieved / w),
        runs: runs.len() as u32,
        samples: seconds.len() as u32,
    };
    Some(Best { first, figure, unit: placement.unit, seconds, notes })
}

/// The first run with the samples of all.
fn pooled(first: Taken<'_>, seconds: &[f64]) -> Option<Placement> {
    let mut record = first.record.clone();
    if let Outcome::Measured { samples, .. } = &mut record.outcome {
        samples.seconds = seconds.iter().copied().map(Seconds).collect();
    }
    place(&record, first.info, Specs::built_in())
}
