//! One row a record with what is derived of it, for a spreadsheet.

use super::Model;
use super::text::{csv_line, number};
use ridgepoint_core::Outcome;

const COLUMNS: &str = "device,case,component,provider,dtype,outcome,achieved,unit,tflops,gbps,roof,roof_kind,bound,fraction,\
median_s,p5_s,p95_s,cv,ci,samples,batch,clock,verified_by,error,tolerance,observed_mhz,per_watt,tuned,over_ranks,labels,reason\n";

pub(super) fn render(model: &Model) -> String {
    let mut text = COLUMNS.to_owned();
    for row in &model.rows {
        let r = &row.record;
        let p = row.placement.as_ref();
        let roof = p.and_then(|p| p.roofs.first());
        let (outcome, samples, verification, reason) = match &r.outcome {
            Outcome::Measured { samples, verification, .. } => ("measured", Some(samples), Some(verification), ""),
            Outcome::Wrong { verification } => ("wrong", None, Some(verification), verification.method.as_str()),
            Outcome::Skipped { reason } => ("skipped", None, None, reason.as_str()),
            Outcome::Failed { reason } => ("failed", None, None, reason.as_str()),
        };
        let summary = p.map(|p| p.summary);
        let fields = [
            r.device.clone(),
            r.case.to_string(),
            r.component.to_string(),
            r.provider.clone(),
            r.dtype.to_string(),
            outcome.into(),
            number(p.map(|p| p.achieved)),
            p.map(|p| p.unit).unwrap_or_default().into(),
            number(p.and_then(|p| p.tflops)),
            number(p.and_then(|p| p.gbps)),
            number(roof.map(|r| r.value)),
            roof.map(|r| r.kind.name()).unwrap_or_default().into(),
            roof.map(|r| r.bound.name()).unwrap_or_default().into(),
            number(p.and_then(ridgepoint_core::roofline::Placement::fraction)),
            number(summary.map(|s| s.median)),
            number(summary.map(|s| s.p5)),
            number(summary.map(|s| s.p95)),
            number(summary.map(|s| s.cv)),
            number(summary.map(|s| s.ci)),
            samples.map(|s| s.seconds.len().to_string()).unwrap_or_default(),
            samples.map(|s| s.batch.to_string()).unwrap_or_default(),
            samples.map(|s| format!("{:?}", s.clock).to_lowercase()).unwrap_or_default(),
            verification.map(|v| v.method.clone()).unwrap_or_default(),
            number(verification.map(|v| v.error)),
            number(verification.map(|v| v.tolerance)),
            number(ridgepoint_core::roofline::observed_mhz(r)),
            number(row.per_watt().map(|(value, _)| value)),
            number(r.tuning.as_deref().and_then(ridgepoint_core::record::Tuning::gain)),
            r.config.get("time of ranks").cloned().unwrap_or_default(),
            r.labels.join("; "),
            reason.into(),
        ];
        text += &csv_line(fields);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_header_has_a_name_for_each_field() {
        assert_eq!(super::COLUMNS.trim_end().split(',').count(), 31);
    }
}
