//! The tables a person reads: one a component, and beneath them what one side lacks, with its reason.

use super::{LEGEND, absence, counts, gate, interval, notes, per_watt, percent, title};
use crate::report::text::{clean, significant};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use ridgepoint_core::Component;
use ridgepoint_core::compare::{Comparison, Pair};
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) fn render(c: &Comparison) -> String {
    let mut text = format!("A  {}\nB  {}\n", clean(&title(&c.sides[0])), clean(&title(&c.sides[1])));
    for warning in &c.warnings {
        let _ = writeln!(text, "note: {}", clean(warning));
    }
    for component in Component::ALL {
        let pairs: Vec<&Pair> = c.pairs.iter().filter(|p| p.component == component).collect();
        if !pairs.is_empty() {
            let _ = writeln!(text, "\n{component}\n{}", table(&pairs));
        }
    }
    // Cases that lack for the same reason stand together.
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for s in &c.single {
        let device = s.device.as_deref().map(|d| format!("{d} ")).unwrap_or_default();
        groups.entry(absence(s)).or_default().push(format!(
            "{device}{} ({} {} by {})",
            s.case,
            significant(s.value),
            s.unit,
            s.provider
        ));
    }
    for (reason, cases) in groups {
        let more = if cases.len() > 6 { format!("\n  and {} more", cases.len() - 6) } else { String::new() };
        let shown: Vec<String> = cases.iter().take(6).map(|c| clean(c)).collect();
        let _ = writeln!(text, "\n{}\n  {}{more}", clean(&reason), shown.join("\n  "));
    }
    for bad in &c.bad {
        let _ = writeln!(text, "\n{}", clean(bad));
    }
    if c.neither > 0 {
        let _ = writeln!(text, "\n{} more were measured on neither side", c.neither);
    }
    let _ = writeln!(text, "\n{}\n{}", counts(c), LEGEND.join("\n"));
    if let Some(gate) = gate(c) {
        let _ = writeln!(text, "{gate}");
    }
    text
}

fn table(pairs: &[&Pair]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let devices = pairs.iter().any(|p| p.device.is_some());
    let watts = pairs.iter().any(|p| p.a.per_watt.is_some() || p.b.per_watt.is_some());
    // (name, to the right, shown)
    let columns = [
        ("device", false, devices),
        ("case", false, true),
        ("A by", false, true),
        ("A", true, true),
        ("%", true, true),
        ("B by", false, true),
        ("B", true, true),
        ("%", true, true),
        ("", false, true),
        ("ratio", true, true),
        ("95 %", true, true),
        ("A/W", true, watts),
        ("B/W", true, watts),
        ("notes", false, true),
    ];
    table.set_header(columns.iter().filter(|c| c.2).map(|c| c.0));
    for p in pairs {
        let short = p.case.strip_prefix(p.component.name()).map_or(p.case.as_str(), |s| s.trim_start_matches('/'));
        let cells = [
            p.device.as_deref().map(clean).unwrap_or_default(),
            short.to_owned(),
            clean(&p.a.provider),
            significant(p.a.value),
            percent(&p.a),
            clean(&p.b.provider),
            significant(p.b.value),
            percent(&p.b),
            p.unit.to_owned(),
            format!("{:.3}", p.ratio.value),
            interval(p),
            per_watt(&p.a),
            per_watt(&p.b),
            notes(p),
        ];
        let shown = cells.into_iter().zip(columns).filter(|(_, column)| column.2);
        table.add_row(shown.map(|(cell, (_, right, _))| {
            Cell::new(cell).set_alignment(if right { CellAlignment::Right } else { CellAlignment::Left })
        }));
    }
    table
}
