//! A judgement as those who decide on it see it: one model of the data, one file a format.

mod csv;
mod html;
mod json;
mod junit;
mod markdown;
mod metrics;
mod table;

use super::Format;
use super::text::{count, significant};
use ridgepoint_core::verdict::{Finding, Judgement, NodeVerdict, Verdict};
use std::collections::BTreeMap;

/// A judgement, and what its reports say beside it.
pub(crate) struct Acceptance {
    /// What was decided.
    pub(crate) judgement: Judgement,
    /// A warning is a failure.
    pub(crate) strict: bool,
    /// When it was judged, RFC 3339 UTC.
    pub(crate) judged: String,
}

/// All formats of a judgement. Adding one is a file and a line here.
pub(crate) const FORMATS: &[Format<Acceptance>] = &[
    Format { name: "table", render: table::render },
    Format { name: "json", render: json::render },
    Format { name: "csv", render: csv::render },
    Format { name: "markdown", render: markdown::render },
    Format { name: "html", render: html::render },
    Format { name: "junit", render: junit::render },
    Format { name: "prometheus", render: metrics::prometheus },
    Format { name: "openmetrics", render: metrics::openmetrics },
];

/// The files of `--report DIR`, each in the format beside it.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("acceptance.txt", "table"),
    ("acceptance.json", "json"),
    ("acceptance.csv", "csv"),
    ("acceptance.md", "markdown"),
    ("acceptance.html", "html"),
    ("acceptance.junit.xml", "junit"),
    ("acceptance.prom", "prometheus"),
];

/// `384 nodes: 380 PASS, 3 WARN, 1 FAIL`.
fn tally(j: &Judgement) -> String {
    let counts = j.counts();
    let some = Verdict::ALL.iter().filter(|v| counts.of(**v) > 0).map(|v| format!("{} {v}", counts.of(*v)));
    format!("{}: {}", count(j.nodes.len(), "node"), some.collect::<Vec<_>>().join(", "))
}

/// What was measured, with its unit; a dash where it is no figure.
fn measured(f: &Finding) -> String {
    f.measured.filter(|m| m.is_finite()).map_or_else(|| "–".into(), |m| with_unit(m, f))
}

/// What was wanted: `≥ 3000 GB/s`. On which side of the limit a figure must lie follows from where it lies and how it was judged.
fn expected(f: &Finding) -> String {
    let Some(limit) = f.limit.filter(|l| l.is_finite()) else { return "–".into() };
    let above = f.measured.is_some_and(|m| m > limit);
    let held = f.verdict == Verdict::Pass;
    let sign = match f.measured.filter(|m| m.is_finite()) {
        Some(m) if m == limit => "",
        Some(_) if above == held => "≥ ",
        Some(_) => "≤ ",
        None => "",
    };
    format!("{sign}{}", with_unit(limit, f))
}

fn with_unit(value: f64, f: &Finding) -> String {
    let number = if value < 0.0 { format!("−{}", significant(-value)) } else { significant(value) };
    if f.unit.is_empty() { number } else { format!("{number} {}", f.unit) }
}

/// The share of the roof, where the finding is about a figure that has one.
fn of_roof(f: &Finding) -> Option<f64> {
    f.evidence.of_roof.filter(|_| matches!(f.unit.as_str(), "GB/s" | "TFLOP/s"))
}

/// A finding's rule with its set: `h100 memory.read`.
fn rule(f: &Finding) -> String {
    format!("{} {}", f.set, f.rule)
}

/// A device as a person would find it: `cuda:3 at 0000:4b:00.0`.
fn device(node: &NodeVerdict, id: &str) -> String {
    let pci = node.devices.iter().find(|d| d.id == id).and_then(|d| d.pci.as_deref());
    pci.map_or_else(|| id.to_owned(), |p| format!("{id} at {p}"))
}

/// What was looked at: case, provider, or both.
fn what(f: &Finding) -> String {
    match (&f.case, &f.provider) {
        (Some(case), Some(provider)) => format!("{case} by {provider}"),
        (Some(case), None) => case.clone(),
        _ => String::new(),
    }
}

/// Findings with how often each is there: what was skipped for one reason, of no case in particular, is one line and not fifty.
fn gathered(findings: &[Finding]) -> Vec<(&Finding, u32)> {
    let mut all: Vec<(&Finding, u32)> = Vec::with_capacity(findings.len());
    let mut places: BTreeMap<(&str, &str, &Option<String>, &str), usize> = BTreeMap::new();
    for f in findings {
        if f.verdict != Verdict::Skip || f.case.is_some() {
            all.push((f, 1));
            continue;
        }
        let at = *places.entry((&f.set, &f.rule, &f.device, &f.text)).or_insert(all.len());
        match all.get_mut(at) {
            Some((_, n)) => *n += 1,
            None => all.push((f, 1)),
        }
    }
    all
}

/// `one-case`, `one-case × 48`.
fn times(name: &str, n: u32) -> String {
    if n == 1 { name.to_owned() } else { format!("{name} × {n}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ridgepoint_core::verdict::simulate::{Fault, Simulation};
    use ridgepoint_core::verdict::{Fleet, Reason, RuleBook, Source, judge};

    /// Markup, a formula, an escape sequence and what XML has no character for, in one name.
    pub(crate) const HOSTILE: &str = "=<script>alert(1)</script>]]>&\"'`|\u{1b}[2J\u{ffff}\n\\";

    /// A judged fleet of two nodes, the second with wrong results and a name that would speak.
    pub(crate) fn hostile() -> Acceptance {
        let simulation = Simulation {
            seed: 3,
            nodes: 2,
            gpus: 2,
            fault: Fault::WrongResults,
            size_pct: 10.0,
            every: 2,
            second_group: (0.0, 0.0),
        };
        let mut fleet = Fleet::default();
        for n in 0..2 {
            let (mut environment, records) = simulation.node(n);
            if n == 1 {
                environment.host = HOSTILE.into();
                environment.command = vec![HOSTILE.into()];
                environment.devices[0].pci = Some(HOSTILE.into());
            }
            fleet.add_environment(&environment).unwrap();
            let file = fleet.file(HOSTILE);
            for (line, mut record) in records.into_iter().enumerate() {
                record.provider = if n == 1 { HOSTILE.into() } else { record.provider };
                fleet.add_record(&record, Source { file, line: line as u32 + 2 });
            }
        }
        fleet.problem(HOSTILE, 7, HOSTILE);
        fleet.finish();
        let judgement = judge(&fleet, &RuleBook { sets: crate::packs::all(), keep_passes: true, ..RuleBook::default() });
        Acceptance { judgement, strict: false, judged: "2026-11-25T00:00:00Z".into() }
    }

    #[test]
    fn every_file_has_a_format_and_no_format_lets_a_terminal_sequence_through() {
        let made = hostile();
        for (file, name) in FILES {
            assert!(FORMATS.iter().any(|f| f.name == *name), "{file}");
        }
        for format in FORMATS {
            let text = (format.render)(&made);
            assert!(text.len() > 100 && !text.contains('\u{1b}'), "{}", format.name);
        }
    }

    #[test]
    fn what_was_skipped_for_one_reason_is_one_line() {
        let mut all = hostile().judgement.findings;
        all.truncate(4);
        for f in &mut all[1..] {
            (f.verdict, f.case, f.text, f.rule, f.device) = (Verdict::Skip, None, "few".into(), "r".into(), None);
        }
        all[3].case = Some("gemm/m1n1k1/f32".into());
        let counts: Vec<u32> = gathered(&all).iter().map(|(_, n)| *n).collect();
        assert_eq!(counts, [1, 2, 1]);
        assert_eq!((times("r", 1), times("r", 2)), ("r".to_owned(), "r × 2".to_owned()));
    }

    #[test]
    fn the_wanted_side_of_a_limit_follows_from_the_verdict() {
        let finding = |measured: f64, verdict| {
            let mut f = hostile().judgement.findings.remove(0);
            (f.measured, f.limit, f.unit, f.verdict, f.reason) =
                (Some(measured), Some(100.0), "GB/s".into(), verdict, Reason::WithinLimit);
            expected(&f)
        };
        assert_eq!(finding(110.0, Verdict::Pass), "≥ 100 GB/s");
        assert_eq!(finding(90.0, Verdict::Fail), "≥ 100 GB/s");
        assert_eq!(finding(90.0, Verdict::Pass), "≤ 100 GB/s");
        assert_eq!(finding(110.0, Verdict::Warn), "≤ 100 GB/s");
        assert_eq!(finding(100.0, Verdict::Pass), "100 GB/s");
    }
}
