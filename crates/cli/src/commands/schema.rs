//! `ridgepoint schema`: the JSON Schema of one line of a record file, generated from the types that write it.

use super::print;
use crate::exit::{Exit, Failure, Outcome};
use ridgepoint_core::Line;

/// The schema as it is published in docs/record.schema.json.
pub(crate) fn text() -> Outcome<String> {
    let schema = schemars::schema_for!(Line);
    Ok(serde_json::to_string_pretty(&schema).map_err(|e| Failure::environment(e.to_string()))? + "\n")
}

pub(crate) fn run() -> Outcome {
    print(&text()?)?;
    Ok(Exit::Pass)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_published_schema_is_current() {
        let published = include_str!("../../../../docs/record.schema.json");
        assert!(published == super::text().unwrap(), "regenerate it: ridgepoint schema > docs/record.schema.json");
    }
}
