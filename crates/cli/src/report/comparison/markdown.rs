//! The comparison for a ticket or a wiki.

use super::{LEGEND, absence, counts, gate, interval, notes, per_watt, percent, title};
use crate::report::text::{markdown, markdown_table, significant};
use ridgepoint_core::Component;
use ridgepoint_core::compare::Comparison;
use std::fmt::Write;

const HEAD: [&str; 12] = ["case", "A by", "A", "A %", "B by", "B", "B %", "unit", "ratio", "95 %", "A / B per W", "notes"];

pub(super) fn render(c: &Comparison) -> String {
    let mut text =
        format!("# Ridgepoint comparison\n\n- A: {}\n- B: {}\n", markdown(&title(&c.sides[0])), markdown(&title(&c.sides[1])));
    for warning in &c.warnings {
        let _ = writeln!(text, "- note: {}", markdown(warning));
    }
    let _ = writeln!(text, "\n**{}**", markdown(&counts(c)));
    if let Some(gate) = gate(c) {
        let _ = writeln!(text, "\n**{}**", markdown(&gate));
    }
    for component in Component::ALL {
        let rows: Vec<[String; 12]> = (c.pairs.iter().filter(|p| p.component == component))
            .map(|p| {
                [
                    format!("{}{}", p.device.as_deref().map(|d| format!("{d} ")).unwrap_or_default(), p.case),
                    p.a.provider.clone(),
                    significant(p.a.value),
                    percent(&p.a),
                    p.b.provider.clone(),
                    significant(p.b.value),
                    percent(&p.b),
                    p.unit.into(),
                    format!("{:.3}", p.ratio.value),
                    interval(p),
                    format!("{} / {}", per_watt(&p.a), per_watt(&p.b)),
                    notes(p),
                ]
                .map(|cell| markdown(&cell))
            })
            .collect();
        if !rows.is_empty() {
            let right = ["A", "A %", "B", "B %", "ratio", "95 %", "A / B per W"];
            let _ = writeln!(text, "\n## {component}\n\n{}", markdown_table(HEAD, &right, &rows));
        }
    }
    if !c.single.is_empty() {
        let rows: Vec<[String; 4]> = (c.single.iter())
            .map(|s| {
                [
                    markdown(&s.case),
                    markdown(s.device.as_deref().unwrap_or_default()),
                    format!("{} {}", significant(s.value), s.unit),
                    markdown(&absence(s)),
                ]
            })
            .collect();
        let _ = writeln!(
            text,
            "\n## On one side only\n\n{}",
            markdown_table(["case", "device", "figure", "why"], &["figure"], &rows)
        );
    }
    let _ = writeln!(text, "\n{}", markdown(&LEGEND.join(" ")));
    text
}
