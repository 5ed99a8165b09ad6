//! The whole judgement for a script.

use super::Acceptance;

pub(super) fn render(a: &Acceptance) -> String {
    serde_json::to_string(&a.judgement).unwrap_or_default() + "\n"
}
