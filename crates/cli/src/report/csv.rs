//! One row a record with what is derived of it, for a spreadsheet.

use super::Model;
use ridgepoint_core::Outcome;
use std::fmt::Write;

const COLUMNS: &str = "device,case,component,provider,dtype,outcome,achieved,unit,tflops,gbps,roof,roof_kind,bound,fraction,\
median_s,p5_s,p95_s,cv,ci,samples,batch,clock,verified_by,error,tolerance,observed_mhz,labels,reason\n";

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
        let number = |x: Option<f64>| x.map(|x| x.to_string()).unwrap_or_default();
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
            number(summary.map(|s| s.ci).filter(|c| c.is_finite())),
            samples.map(|s| s.seconds.len().to_string()).unwrap_or_default(),
            samples.map(|s| s.batch.to_string()).unwrap_or_default(),
            samples.map(|s| format!("{:?}", s.clock).to_lowercase()).unwrap_or_default(),
            verification.map(|v| v.method.clone()).unwrap_or_default(),
            number(verification.map(|v| v.error)),
            number(verification.map(|v| v.tolerance)),
            number(ridgepoint_core::roofline::observed_mhz(r)),
            r.labels.join("; "),
            reason.into(),
        ];
        let _ = writeln!(text, "{}", fields.map(|f| field(&f)).join(","));
    }
    text
}

/// Quoted where it must be (RFC 4180). A text that a spreadsheet would take for a formula gets a leading quote mark.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '@', '\t', '\r']) || (text.starts_with('-') && text.parse::<f64>().is_err());
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_formulas_defused() {
        assert_eq!(field("a,b"), "\"a,b\"");
        assert_eq!(field("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(field("=1+1"), "'=1+1");
        assert_eq!(field("-1.5"), "-1.5");
    }

    #[test]
    fn the_header_has_a_name_for_each_field() {
        assert_eq!(COLUMNS.trim_end().split(',').count(), 28);
    }
}
