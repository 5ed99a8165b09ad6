//! The comparison as a page: each ratio drawn with its interval, its figures a click away.

use super::{LEGEND, absence, counts, gate, title};
use crate::report::page::page;
use ridgepoint_core::compare::Comparison;
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("../page/comparison.js");

pub(super) fn render(c: &Comparison) -> String {
    page("Ridgepoint comparison", &data(c).to_string(), SCRIPT)
}

fn data(c: &Comparison) -> Value {
    let single = c.single.iter().map(|s| {
        json!({ "case": s.case, "device": s.device, "only": s.only, "value": s.value, "unit": s.unit, "provider": s.provider,
            "why": absence(s) })
    });
    json!({
        "sides": [title(&c.sides[0]), title(&c.sides[1])], "facts": c.sides, "warnings": c.warnings, "bad": c.bad,
        "counts": counts(c), "gate": gate(c), "regressed": c.regressed(), "legend": LEGEND.join(" "), "neither": c.neither,
        "pairs": c.pairs, "single": single.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_reaches_for_nothing_outside_itself() {
        crate::report::page::tests::stays_inside(super::SCRIPT);
    }
}
