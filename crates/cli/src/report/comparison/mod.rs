//! A comparison of two sides as a reader sees it; the figures are made in `core::compare`.

mod csv;
mod html;
mod json;
mod markdown;
mod table;

use super::Format;
use super::text::{clean, count, significant};
use ridgepoint_core::compare::{Change, Comparison, Described, Figure, Pair, Single};

/// All formats of comparisons. Adding one is a file and a line here.
pub(crate) const FORMATS: &[Format<Comparison>] = &[
    Format { name: "table", render: table::render },
    Format { name: "csv", render: csv::render },
    Format { name: "json", render: json::render },
    Format { name: "markdown", render: markdown::render },
    Format { name: "html", render: html::render },
];

/// What every form of the comparison says beneath its tables.
const LEGEND: [&str; 3] = [
    "ratio: how many times as good B is (B over A; A over B for a latency): 1 is equal, more is better. %: of the side's own roof.",
    "The 95 % interval is made of the samples. What drifts from run to run is in it only where a side has six runs or more:",
    "for a difference of a few percent, run A B A B … and compare the two folders.",
];

/// A side in one line: its name, hosts, devices and dates.
fn title(side: &Described) -> String {
    let some = |all: &[String], what: &str| match all.len() {
        0..=3 => all.join(", "),
        n => format!("{n} {what}"),
    };
    let (first, last) = &side.started;
    let date = if first == last { first.clone() } else { format!("{first} to {last}") };
    [side.name.clone(), some(&side.hosts, "hosts"), some(&side.devices, "devices"), date, count(side.records as usize, "record")]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(" · ")
}

/// `24 cases on both sides; B is better in 3, worse in 1, the same within the interval in 20`.
fn counts(c: &Comparison) -> String {
    let words = [
        (Change::Better, "better"),
        (Change::Worse, "worse"),
        (Change::Same, "the same within the interval"),
        (Change::Unsure, "not known (too few samples)"),
    ];
    let counted = words.iter().map(|(change, word)| (c.count(*change), word)).filter(|(n, _)| *n > 0);
    let some: Vec<String> = counted.map(|(n, word)| format!("{word} in {n}")).collect();
    let pairs = count(c.pairs.len(), "case");
    if some.is_empty() { format!("{pairs} on both sides") } else { format!("{pairs} on both sides; B is {}", some.join(", ")) }
}

/// What `--fail-below` found, one sentence; None where it was not asked for.
fn gate(c: &Comparison) -> Option<String> {
    let limit = c.fail_below?;
    let below = c.pairs.iter().filter(|p| p.regressed).count();
    Some(if c.regressed() {
        let lost = c.single.iter().filter(|s| s.lost()).count();
        format!("REGRESSION: {} surely below {limit} % of A, {lost} measured by A and lost by B", count(below, "case"))
    } else {
        format!("no case is surely below {limit} % of A")
    })
}

/// The interval of a ratio: `1.98–2.02`.
fn interval(p: &Pair) -> String {
    match (p.ratio.low, p.ratio.high) {
        (Some(low), Some(high)) => format!("{low:.3}–{high:.3}"),
        _ => "–".into(),
    }
}

fn percent(f: &Figure) -> String {
    f.fraction.map_or_else(|| "–".into(), |f| format!("{:.0}", f * 100.0))
}

/// What stands beside the figures.
fn notes(p: &Pair) -> String {
    let mut notes: Vec<String> = p.notes.iter().map(|n| clean(n)).collect();
    if p.regressed {
        notes.insert(0, "REGRESSION".into());
    }
    if p.a.runs > 1 || p.b.runs > 1 {
        notes.push(format!("{} against {} runs", p.a.runs, p.b.runs));
    }
    notes.join("; ")
}

/// Value per watt and its unit: `5.1 GB/s/W`.
fn per_watt(f: &Figure) -> String {
    f.per_watt.map_or_else(|| "–".into(), significant)
}

/// Why the other side has no figure: `skipped in B: …`.
fn absence(s: &Single) -> String {
    format!("{} in {}: {}", s.absence.name(), s.other().name(), s.reason)
}
