//! What a reader sees of records, of a comparison and of a judgement: one model of the data each, one file a format. Everything
//! derived is derived at every read.

pub(crate) mod acceptance;
pub(crate) mod comparison;
mod csv;
mod data;
mod forward;
mod heat;
mod html;
mod json;
mod markdown;
pub(crate) mod nccl_tests;
mod page;
mod peers;
mod providers;
mod staircase;
mod table;
mod text;

use crate::exit::{Exit, Failure, Outcome};
use ridgepoint_core::roofline::{Placement, place};
use ridgepoint_core::specs::Specs;
use ridgepoint_core::{DeviceInfo, Environment, Outcome as Result, Record};
use std::collections::BTreeMap;

pub(crate) use html::render as html;
pub(crate) use text::{clean, significant};

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
    Format { name: nccl_tests::NAME, render: nccl_tests::render },
];

/// The format of this name among `formats`.
pub(crate) fn format<M>(formats: &'static [Format<M>], name: &str) -> Outcome<&'static Format<M>> {
    formats.iter().find(|f| f.name == name).ok_or_else(|| {
        let names: Vec<_> = formats.iter().map(|f| f.name).collect();
        Failure::usage(format!("unknown format '{}'; known: {}", name.escape_debug(), names.join(", ")))
    })
}

/// Behind the provider of a record that was measured while other GPUs did the same.
pub(crate) const TOGETHER: &str = "-together";

/// One record, placed.
pub(crate) struct Row {
    pub(crate) record: Record,
    /// Where it lies; None for what was not measured.
    pub(crate) placement: Option<Placement>,
    /// What a figure that was measured beside others is of the same device's figure alone.
    of_alone: Option<f64>,
    /// How far the fastest provider of a case is ahead of the next; None for all others.
    lead: Option<providers::Lead>,
}

impl Row {
    /// What a reader must know that other rows tell, or several figures together.
    fn remarks(&self) -> Vec<String> {
        let beside_others = self.of_alone.map(|fraction| format!("{:.0}% of alone", fraction * 100.0));
        let lead = self.lead.as_ref().map(providers::Lead::words);
        let tuned = self.record.tuning.as_deref().filter(|t| t.chosen > 0).map(|tuning| match tuning.gain() {
            Some(gain) => format!("tuned {gain:.2} × its first choice"),
            None => "tuned; its first choice does not run".into(),
        });
        let per_watt = self.per_watt().map(|(value, unit)| format!("{} {unit}", significant(value)));
        [beside_others, lead, tuned, per_watt].into_iter().flatten().collect()
    }

    /// The figure over the power that was drawn, with its unit: for work that went on for a second at least, since sensors of
    /// power are slower than that. A latency is no work done.
    fn per_watt(&self) -> Option<(f64, String)> {
        let Result::Measured { samples, telemetry, .. } = &self.record.outcome else { return None };
        let placement = self.placement.as_ref().filter(|p| p.unit != "ns")?;
        let worked: f64 = samples.seconds.iter().map(|s| s.0 * samples.batch as f64).sum();
        let watched = f64::from(telemetry.readings) * heat::BETWEEN_READINGS;
        let lasted = telemetry.timeline.last().map_or(worked.max(watched), |last| last.at.0);
        let watts = heat::POWER.iter().find_map(|name| telemetry.sensors.get(*name))?.median;
        (lasted >= heat::SLOW_SENSOR && watts > 0.0).then(|| (placement.achieved / watts, format!("{}/W", placement.unit)))
    }
}

/// Records with what is derived of them.
pub(crate) struct Model {
    pub(crate) environments: Vec<Environment>,
    pub(crate) rows: Vec<Row>,
}

impl Model {
    /// Places every record under the roofs of the device it was taken on.
    pub(crate) fn new(environments: Vec<Environment>, records: Vec<Record>) -> Self {
        let mut rows: Vec<Row> = records
            .into_iter()
            .map(|mut record| {
                // A file is a stranger's: what its own check found wrong is no figure.
                if let Result::Measured { verification, .. } = &record.outcome
                    && !verification.passed()
                {
                    record.outcome = Result::Wrong { verification: verification.clone() };
                }
                let info = device(&environments, &record);
                let placement = info.and_then(|info| place(&record, info, Specs::built_in()));
                let placement = placement.filter(|p| p.achieved.is_finite() && p.achieved > 0.0);
                Row { record, placement, of_alone: None, lead: None }
            })
            .collect();
        let hosts = hosts(&environments);
        let host = |r: &Record| hosts.get(r.environment.as_str()).copied();
        let figures: BTreeMap<_, f64> = rows
            .iter()
            .filter_map(|row| {
                let r = &row.record;
                Some(((host(r), r.device.clone(), r.case.clone(), r.provider.clone()), row.placement.as_ref()?.achieved))
            })
            .collect();
        for row in &mut rows {
            let r = &row.record;
            let alone =
                r.provider.strip_suffix(TOGETHER).map(|name| (host(r), r.device.clone(), r.case.clone(), name.to_owned()));
            let alone = alone.and_then(|key| figures.get(&key)).filter(|figure| **figure > 0.0);
            row.of_alone = row.placement.as_ref().zip(alone).map(|(placement, alone)| placement.achieved / alone);
        }
        providers::mark(&mut rows, &environments);
        Self { environments, rows }
    }

    /// The exit code that these records deserve: anything wrong or failed is a failed check, and nothing measured is no pass.
    pub(crate) fn verdict(&self) -> Exit {
        // One that has no figure is shown as failed.
        let bad = |r: &Row| match r.record.outcome {
            Result::Wrong { .. } | Result::Failed { .. } => true,
            Result::Measured { .. } => r.placement.is_none(),
            Result::Skipped { .. } => false,
        };
        let measured = |r: &Row| r.placement.is_some();
        if self.rows.iter().any(bad) {
            Exit::CheckFailed
        } else if self.rows.iter().any(measured) {
            Exit::Pass
        } else {
            Exit::Environment
        }
    }
}

/// The host of each environment, by its hash: a run that was resumed has several, and another host's devices have the same names.
fn hosts(environments: &[Environment]) -> BTreeMap<&str, &str> {
    environments.iter().map(|e| (e.hash.as_str(), e.host.as_str())).collect()
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
