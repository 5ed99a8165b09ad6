//! Lining two sides up: which device stands beside which, and what each pair says.

use super::side::{Best, Has, Key, Taken, by_case};
use super::{Absence, Change, Choice, Comparison, Described, Pair, Ratio, Side, Single, Which, ratio};
use crate::{Component, Environment, Metric};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn compare(sides: [&Side; 2], choice: &Choice) -> Result<Comparison, String> {
    let mut warnings = Vec::new();
    let mut taken: [Vec<Taken<'_>>; 2] = Default::default();
    for (i, which) in [Which::A, Which::B].into_iter().enumerate() {
        let (found, left_out) = sides[i].taken();
        if left_out > 0 {
            warnings.push(format!("{left_out} records of {} have no environment in the file and were left out", which.name()));
        }
        taken[i] = chosen(found, which, choice)?;
    }
    let by_device = line_up(&taken)?;
    let a = by_case(&taken[0], by_device, choice.provider[0].as_deref());
    let b = by_case(&taken[1], by_device, choice.provider[1].as_deref());
    warnings.extend(unlike(sides));
    let mut made = Comparison {
        sides: [described(sides[0], &taken[0]), described(sides[1], &taken[1])],
        warnings,
        fail_below: choice.fail_below,
        ..Comparison::default()
    };
    fill(&mut made, a, b);
    Ok(made)
}

/// The records of the devices that were asked for, if there are any by the provider that was asked for.
fn chosen<'s>(all: Vec<Taken<'s>>, which: Which, choice: &Choice) -> Result<Vec<Taken<'s>>, String> {
    let side = which.name();
    let there = |of: fn(&Taken<'s>) -> &'s str, all: &[Taken<'s>]| -> String {
        let names: BTreeSet<&str> = all.iter().map(of).collect();
        if names.is_empty() { "nothing".into() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
    };
    let mut found = all.clone();
    if let Some(wanted) = &choice.device[which as usize] {
        found.retain(|t| is_device(wanted, &t.record.device));
        if found.is_empty() {
            return Err(format!(
                "{side} has no device '{}'; it has {}",
                wanted.escape_debug(),
                there(|t| &t.record.device, &all)
            ));
        }
    }
    if let Some(wanted) = &choice.provider[which as usize]
        && !found.iter().any(|t| t.record.provider == *wanted)
    {
        return Err(format!(
            "{side} has nothing by '{}'; it has {}",
            wanted.escape_debug(),
            there(|t| &t.record.provider, &found)
        ));
    }
    Ok(found)
}

/// `cuda:1` is itself, `cuda` is `cuda:0`, `cuda:*` is all of them.
fn is_device(wanted: &str, id: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => id.starts_with(start),
        None if wanted.contains(':') => wanted == id,
        None => id.strip_prefix(wanted) == Some(":0"),
    }
}

/// True if devices are compared each with the one of its id.
fn line_up(taken: &[Vec<Taken<'_>>; 2]) -> Result<bool, String> {
    let ids = |i: usize| taken[i].iter().map(|t| t.record.device.as_str()).collect::<BTreeSet<_>>();
    let (a, b) = (ids(0), ids(1));
    if a.len() <= 1 && b.len() <= 1 {
        return Ok(false);
    }
    if a.intersection(&b).next().is_some() {
        return Ok(true);
    }
    for (of, which, ids) in [(&taken[0], "A", &a), (&taken[1], "B", &b)] {
        let models: BTreeSet<&str> = of.iter().map(|t| t.info.name.as_str()).collect();
        if models.len() > 1 {
            let ids: Vec<_> = ids.iter().copied().collect();
            return Err(format!(
                "{which} holds unlike devices ({}): name one of each side, as in --device cpu:0,vulkan:0",
                ids.join(", ")
            ));
        }
    }
    Ok(false)
}

/// What is different in how the sides were measured, where that may be mistaken for a difference of the devices.
fn unlike(sides: [&Side; 2]) -> Vec<String> {
    type Question = fn(&Environment) -> String;
    let questions: [(&str, Question); 3] = [
        ("methods of measuring", |e| e.method.to_string()),
        ("profiles", |e| e.profile.clone()),
        ("seeds of the inputs", |e| e.seed.to_string()),
    ];
    let of = |side: &Side, what: Question| side.environments.iter().map(what).collect::<BTreeSet<_>>();
    let list = |s: BTreeSet<String>| s.into_iter().collect::<Vec<_>>().join(", ");
    let answers = questions.map(|(name, what)| (name, of(sides[0], what), of(sides[1], what)));
    let differ = answers.into_iter().filter(|(_, a, b)| a != b && !a.is_empty() && !b.is_empty());
    differ.map(|(name, a, b)| format!("the {name} differ: {} in A, {} in B", list(a), list(b))).collect()
}

fn described(side: &Side, taken: &[Taken<'_>]) -> Described {
    let used: BTreeSet<&str> = taken.iter().map(|t| t.record.environment.as_str()).collect();
    let environments: Vec<_> = side.environments.iter().filter(|e| used.contains(e.hash.as_str())).collect();
    let unique = |all: Vec<String>| all.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    let starts = unique(environments.iter().map(|e| e.started.clone()).collect());
    Described {
        name: side.name.clone(),
        hosts: unique(environments.iter().map(|e| e.host.clone()).collect()),
        devices: unique(taken.iter().map(|t| format!("{} {}", t.info.id, t.info.name)).collect()),
        started: (starts.first().cloned().unwrap_or_default(), starts.last().cloned().unwrap_or_default()),
        versions: unique(environments.iter().map(|e| format!("{}, method {}", e.version, e.method)).collect()),
        records: taken.len() as u32,
    }
}

fn fill(made: &mut Comparison, mut a: BTreeMap<Key, Has<'_>>, mut b: BTreeMap<Key, Has<'_>>) {
    let keys: BTreeSet<Key> = a.keys().chain(b.keys()).cloned().collect();
    for key in keys {
        let both = [a.remove(&key), b.remove(&key)];
        for (which, has) in [Which::A, Which::B].into_iter().zip(&both) {
            if let Some(Has::Nothing(absence @ (Absence::Failed | Absence::Wrong), reason)) = has {
                made.bad.push(format!("{} of {}: {}, {reason}", key.0, which.name(), absence.name()));
            }
        }
        match both {
            [Some(Has::Figure(a)), Some(Has::Figure(b))] => match pair(&key, *a, *b, made.fail_below) {
                Some(pair) => made.pairs.push(pair),
                // Figures so far apart that no number holds their ratio are bad figures.
                None => made.bad.push(format!("{}: its figures have no ratio", key.0)),
            },
            [Some(Has::Figure(a)), other] => made.single.push(single(&key, Which::A, &a, other)),
            [other, Some(Has::Figure(b))] => made.single.push(single(&key, Which::B, &b, other)),
            _ => made.neither += 1,
        }
    }
    let order = |c: Component| Component::ALL.iter().position(|x| *x == c);
    made.pairs.sort_by_key(|p| order(p.component));
}

fn single(key: &Key, only: Which, best: &Best<'_>, other: Option<Has<'_>>) -> Single {
    let (absence, reason) = match other {
        Some(Has::Nothing(absence, reason)) => (absence, reason),
        _ => (Absence::Missing, "there is no record of it".into()),
    };
    Single {
        case: key.0.to_string(),
        device: key.1.clone(),
        only,
        value: best.figure.value,
        unit: best.unit,
        provider: best.figure.provider.clone(),
        absence,
        reason,
    }
}

fn pair(key: &Key, a: Best<'_>, b: Best<'_>, fail_below: Option<f64>) -> Option<Pair> {
    // Seconds of A over seconds of B: how many times as fast B is.
    let times = ratio(&a.seconds, &b.seconds)?;
    let (x, y) = (a.first.record, b.first.record);
    let lower_is_better = x.metric == Metric::Latency;
    let mut notes: Vec<String> = Vec::new();
    for (which, best) in [("A", &a), ("B", &b)] {
        notes.extend(best.notes.iter().map(|n| format!("{which}: {n}")));
    }
    if x.dtype != y.dtype {
        notes.push(format!("A computes in {}, B in {}", x.dtype, y.dtype));
    }
    // The figures' own ratio, so that work that was counted otherwise shows and is told of.
    let value = if lower_is_better { a.figure.value / b.figure.value } else { b.figure.value / a.figure.value };
    let scale = value / times.value;
    if (scale - 1.0).abs() > 1e-6 {
        notes.push("the sides count different work for this id".into());
    }
    let ratio = Ratio { value, low: times.low.map(|l| l * scale), high: times.high.map(|h| h * scale) };
    let change = match (ratio.low, ratio.high) {
        (Some(low), _) if low > 1.0 => Change::Better,
        (_, Some(high)) if high < 1.0 => Change::Worse,
        (Some(_), Some(_)) => Change::Same,
        _ => Change::Unsure,
    };
    Some(Pair {
        case: key.0.to_string(),
        component: x.component,
        device: key.1.clone(),
        unit: a.unit,
        lower_is_better,
        ratio_per_watt: a.figure.per_watt.zip(b.figure.per_watt).map(|(a, b)| b / a),
        regressed: fail_below.is_some_and(|limit| ratio.high.unwrap_or(ratio.value) * 100.0 < limit),
        a: a.figure,
        b: b.figure,
        ratio,
        change,
        notes,
    })
}
