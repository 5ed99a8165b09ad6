//! The whole comparison for a script.

use ridgepoint_core::compare::Comparison;

pub(super) fn render(c: &Comparison) -> String {
    serde_json::to_string(c).unwrap_or_default() + "\n"
}
