//! The judgement in a page of text, for a terminal.

use super::{Acceptance, device, tally};
use crate::report::text::{clean, significant};
use ridgepoint_core::verdict::Verdict;
use std::fmt::Write;

/// Nodes and suspects listed.
const LISTED: usize = 20;

/// The judgement in a page of text.
pub(super) fn render(a: &Acceptance) -> String {
    let j = &a.judgement;
    let mut text = String::new();
    let _ = writeln!(text, "{}  {}", j.verdict, tally(j));
    let _ = writeln!(text, "{} records, rules: {}", j.records, j.rules.join(", "));
    let bad: Vec<_> = j.nodes.iter().filter(|n| n.verdict != Verdict::Pass).collect();
    for node in bad.iter().take(LISTED) {
        let _ = writeln!(text, "\n{:<8}{}", node.verdict, clean(&node.node));
        let findings = j.findings_of(&node.node).iter().filter(|f| f.verdict != Verdict::Pass);
        let same_as_node = findings.clone().filter(|f| f.verdict == node.verdict).count();
        for f in findings.filter(|f| f.verdict == node.verdict).take(6) {
            let device = f.device.as_deref().map(|id| clean(&device(node, id)) + " ").unwrap_or_default();
            let case = f.case.as_deref().map_or_else(String::new, |c| format!(" {}", clean(c)));
            let _ = writeln!(text, "  {device}{}{case}: {} [{}]", clean(&f.rule), clean(&f.text), f.reason);
        }
        if same_as_node > 6 {
            let _ = writeln!(text, "  and {} more", same_as_node - 6);
        }
    }
    if bad.len() > LISTED {
        let _ = writeln!(text, "\nand {} more nodes that did not pass", bad.len() - LISTED);
    }
    for f in &j.fleet {
        let _ = writeln!(text, "\n{:<8}fleet: {} [{}]", f.verdict, clean(&f.text), f.reason);
    }
    if j.nodes.len() > 1 && !j.suspects.is_empty() {
        let _ = writeln!(text, "\nlook at first");
        for s in j.suspects.iter().take(LISTED) {
            let device = s.device.as_deref().map(|d| format!(" {}", clean(d))).unwrap_or_default();
            let _ = writeln!(
                text,
                "  {:>3}  {}{device}  {}: {} (score {})",
                s.rank,
                clean(&s.node),
                s.fault,
                clean(&s.text),
                significant(s.score)
            );
        }
    }
    text
}
