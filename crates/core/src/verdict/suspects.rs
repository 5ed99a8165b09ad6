//! What to look at first: findings gathered by device and kind of fault, the surest and worst at the top.

use super::observe::component;
use super::{Finding, Judgement, Reason, Suspect, Verdict};
use crate::Component;
use std::collections::{BTreeMap, BTreeSet};

/// Suspects listed; a fleet with more has another problem.
const MOST: usize = 1000;

/// Ranks the suspects of a judgement whose nodes and findings are filled in.
pub(super) fn rank(judgement: &Judgement) -> Vec<Suspect> {
    let mut groups: BTreeMap<(&str, &str, Option<&str>), Vec<u32>> = BTreeMap::new();
    for (index, f) in judgement.findings.iter().enumerate() {
        if matches!(f.verdict, Verdict::Fail | Verdict::Warn) {
            groups.entry((&f.node, fault(f), f.device.as_deref())).or_default().push(index as u32);
        }
    }
    let measured: BTreeMap<&str, usize> = (judgement.nodes.iter())
        .map(|n| (n.node.as_str(), n.devices.iter().filter(|d| d.verdict != Verdict::Skip).count()))
        .collect();
    // Where most of a node's devices show one fault, it is the node's: one suspect, not eight.
    let mut devices: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (node, fault, device) in groups.keys() {
        devices.entry((node, fault)).or_default().extend(*device);
    }
    let mut merged: BTreeMap<(&str, &str, Option<&str>), Vec<u32>> = BTreeMap::new();
    for ((node, fault, device), list) in groups {
        let named = devices[&(node, fault)].len();
        let of_node = named >= 3 && named * 4 >= measured.get(node).copied().unwrap_or(0) * 3;
        merged.entry((node, fault, device.filter(|_| !of_node))).or_default().extend(list);
    }
    let mut suspects: Vec<Suspect> = merged
        .into_iter()
        .map(|((node, fault, device), mut findings)| {
            let strength = |i: &u32| score(&judgement.findings[*i as usize]);
            findings.sort_by(|a, b| strength(b).total_cmp(&strength(a)).then(a.cmp(b)));
            let best = &judgement.findings[findings[0] as usize];
            let more = if findings.len() > 1 { format!(" (and {} more)", findings.len() - 1) } else { String::new() };
            Suspect {
                rank: 0,
                node: node.into(),
                device: device.map(str::to_owned),
                fault: fault.into(),
                score: score(best) + (findings.len() as f64).ln_1p() * 0.1,
                text: format!("{}: {}{more}", best.rule, best.text),
                findings,
            }
        })
        .collect();
    suspects.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| (&a.node, &a.device).cmp(&(&b.node, &b.device))));
    suspects.truncate(MOST);
    for (i, suspect) in suspects.iter_mut().enumerate() {
        suspect.rank = i as u32 + 1;
    }
    suspects
}

/// The kind of fault that a finding looks like.
fn fault(f: &Finding) -> &'static str {
    match f.reason {
        Reason::WrongResult => "wrong results",
        Reason::GpuMissing => "missing GPU",
        Reason::CaseFailed => "errors",
        Reason::Throttled => "throttled",
        Reason::CounterMoved => "error counters",
        Reason::InventoryMismatch | Reason::InventoryUnknown => "inventory",
        Reason::Missing | Reason::CaseSkipped => "not measured",
        Reason::TooNoisy | Reason::TooMuchSpread => "unsteady",
        _ => match f.case.as_deref().map(component).or_else(|| by_rule(&f.rule)) {
            Some(Component::Memory) => "slow memory",
            // Decode is bound by memory, and its figure says so.
            Some(Component::Attention) if f.unit == "GB/s" => "slow memory",
            Some(Component::Gemm | Component::Attention) => "slow compute",
            Some(Component::Collectives) => "slow links",
            Some(Component::Launch) => "slow launches",
            Some(Component::Soak) => "slow under load",
            Some(Component::Kernel) | None => "slow",
        },
    }
}

/// A rule over many cases carries its component in its name, where it has one.
fn by_rule(rule: &str) -> Option<Component> {
    Component::ALL.into_iter().find(|c| rule.starts_with(c.name()))
}

/// 1000 and up for what is certain, else percent below what is usual; a warning counts a tenth.
fn score(f: &Finding) -> f64 {
    let certain = match f.reason {
        Reason::WrongResult => Some(2000.0),
        Reason::GpuMissing => Some(1800.0),
        Reason::CaseFailed => Some(1500.0),
        Reason::CounterMoved => Some(1300.0),
        Reason::InventoryMismatch => Some(1200.0),
        Reason::Throttled => Some(1000.0),
        _ => None,
    };
    let below_limit = || Some((1.0 - f.measured? / f.limit?).abs() * 100.0);
    let degree = f.evidence.deviation_pct.map(f64::abs).or_else(below_limit).filter(|d| d.is_finite());
    let score = certain.unwrap_or_else(|| degree.unwrap_or(1.0).min(999.0));
    if f.verdict == Verdict::Warn { score / 10.0 } else { score }
}
