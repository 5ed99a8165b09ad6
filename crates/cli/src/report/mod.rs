//! What a reader sees of records, of a comparison and of a judgement: one model of the data each, one file a format. Everything
//! derived is derived at every read.

pub(crate) mod acceptance;
pub(crate) mod comparison;
mod csv;
mod html;
mod json;
mod markdown;
mod page;
mod table;
mod text;

use crate::exit::{Exit, Failure, Outcome};
use ridgepoint_core::roofline::{Placement, place};
use ridgepoint_core::specs::Specs;
use ridgepoint_core::{DeviceInfo, Environment, Outcome as Result, Record};

pub(crate) use html::render as html;
pub(crate) use text::significant;

/// A way to render a model of the data.
pub(crate) struct Format<M> {
    /// What `--format` takes.
    pub(crate) name: &'static str,
    /// Renders it.
    pub(crate) render: fn(&M) -> String,
}

/// All formats of records. Adding one is a file and a line here.
pub(crate) const FORMATS: &[Format<Model>] = &[
    Format { name: "table", render: table::render },
    Format { name: "csv", render: csv::render },
    Format { name: "json", render: json::render },
    Format { name: "markdown", render: markdown::render },
    Format { name: "html", render: html::render },
];

/// The format of this name among `formats`.
pub(crate) fn format<M>(formats: &'static [Format<M>], name: &str) -> Outcome<&'static Format<M>> {
    formats.iter().find(|f| f.name == name).ok_or_else(|| {
        let names: Vec<_> = formats.iter().map(|f| f.name).collect();
        Failure::usage(format!("unknown format '{}'; known: {}", name.escape_debug(), names.join(", ")))
    })
}

/// One record, placed.
pub(crate) struct Row {
    pub(crate) record: Record,
    /// Where it lies; None for what was not measured.
    pub(crate) placement: Option<Placement>,
}

/// Records with what is derived of them.
pub(crate) struct Model {
    pub(crate) environments: Vec<Environment>,
    pub(crate) rows: Vec<Row>,
}

impl Model {
    /// Places every record under the roofs of the device it was taken on.
    pub(crate) fn new(environments: Vec<Environment>, records: Vec<Record>) -> Self {
        let rows = records
            .into_iter()
            .map(|record| {
                let info = device(&environments, &record);
                let placement = info.and_then(|info| place(&record, info, Specs::built_in()));
                Row { record, placement }
            })
            .collect();
        Self { environments, rows }
    }

    /// The exit code that these records deserve: anything wrong or failed is a failed check, and nothing measured is no pass.
    pub(crate) fn verdict(&self) -> Exit {
        let bad = |r: &Row| matches!(r.record.outcome, Result::Wrong { .. } | Result::Failed { .. });
        let measured = |r: &Row| matches!(r.record.outcome, Result::Measured { .. });
        if self.rows.iter().any(bad) {
            Exit::CheckFailed
        } else if self.rows.iter().any(measured) {
            Exit::Pass
        } else {
            Exit::Environment
        }
    }
}

fn device<'e>(environments: &'e [Environment], record: &Record) -> Option<&'e DeviceInfo> {
    let environment = environments.iter().find(|e| e.hash == record.environment)?;
    environment.devices.iter().find(|d| d.id == record.device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_no_pass() {
        assert_eq!(Model::new(vec![], vec![]).verdict(), Exit::Environment);
    }
}
