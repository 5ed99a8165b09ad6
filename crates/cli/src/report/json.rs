//! Record lines, as they are stored: the raw data for a tool of the reader's own.

use super::Model;
use ridgepoint_core::Line;

pub(super) fn render(model: &Model) -> String {
    let environments = model.environments.iter().map(|e| Line::Environment(Box::new(e.clone())));
    let records = model.rows.iter().map(|r| Line::Record(Box::new(r.record.clone())));
    environments.chain(records).filter_map(|line| serde_json::to_string(&line).ok()).map(|text| text + "\n").collect()
}
