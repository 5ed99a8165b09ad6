//! A record line read for judging: the same [`Line`], less the parts that no rule looks at, several times faster than through
//! serde's tagged enums, which keep a copy of everything before they know what it is.

use crate::case::{Cache, CaseId, Component, Distribution, Level, Metric, Work};
use crate::record::{Clock, Line, Outcome, Range, Record, Samples, Stop, Telemetry, Verification};
use crate::{Dtype, Seconds};
use serde::Deserialize;
use serde::de::Error as _;
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Lean<'t> {
    #[serde(borrow)]
    kind: Cow<'t, str>,
    #[serde(borrow)]
    environment: Option<Cow<'t, str>>,
    #[serde(borrow)]
    device: Option<Cow<'t, str>>,
    case: Option<CaseId>,
    component: Option<Component>,
    #[serde(borrow)]
    provider: Option<Cow<'t, str>>,
    dtype: Option<Dtype>,
    metric: Option<Metric>,
    level: Option<Level>,
    work: Option<Work>,
    #[serde(default, borrow)]
    labels: Vec<Cow<'t, str>>,
    #[serde(borrow)]
    started: Option<Cow<'t, str>>,
    #[serde(borrow)]
    outcome: Option<Cow<'t, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'t, str>>,
    samples: Option<LeanSamples>,
    verification: Option<Verification>,
    telemetry: Option<LeanTelemetry>,
}

#[derive(Deserialize)]
struct LeanSamples {
    seconds: Vec<Seconds>,
    #[serde(default)]
    observed_mhz: Vec<f64>,
    #[serde(default)]
    throttled: Vec<usize>,
}

#[derive(Deserialize)]
struct LeanTelemetry {
    #[serde(default)]
    sensors: Sensors,
    #[serde(default)]
    throttle_reasons: Vec<String>,
    #[serde(default)]
    counter_deltas: BTreeMap<String, i64>,
}

/// The two sensors that a clock is read from.
#[derive(Default, Deserialize)]
struct Sensors {
    sm_clock_mhz: Option<Range>,
    clock_mhz: Option<Range>,
}

/// Reads one line. Of a record, what judging does not use is left empty: `config`, `data`, `cache`, most sensors.
///
/// # Errors
/// The parser's message.
pub fn read_line(line: &[u8]) -> Result<Line, serde_json::Error> {
    let lean: Lean<'_> = serde_json::from_slice(line)?;
    if lean.kind != "record" {
        return serde_json::from_slice(line);
    }
    let missing = |name: &'static str| move || serde_json::Error::missing_field(name);
    let samples = |s: LeanSamples| Samples {
        seconds: s.seconds,
        batch: 1,
        clock: Clock::Host,
        warmup: Seconds(0.0),
        steady: true,
        stop: Stop::Converged,
        graph: false,
        observed_mhz: s.observed_mhz,
        throttled: s.throttled,
    };
    let telemetry = |t: LeanTelemetry| {
        let named = [("sm_clock_mhz", t.sensors.sm_clock_mhz), ("clock_mhz", t.sensors.clock_mhz)];
        Telemetry {
            sensors: named.into_iter().filter_map(|(name, range)| Some((name.to_owned(), range?))).collect(),
            throttle_reasons: t.throttle_reasons,
            counter_deltas: t.counter_deltas,
            ..Telemetry::default()
        }
    };
    let outcome = match lean.outcome.ok_or_else(missing("outcome"))?.as_ref() {
        "measured" => Outcome::Measured {
            samples: samples(lean.samples.ok_or_else(missing("samples"))?),
            verification: lean.verification.ok_or_else(missing("verification"))?,
            telemetry: telemetry(lean.telemetry.ok_or_else(missing("telemetry"))?),
        },
        "wrong" => Outcome::Wrong { verification: lean.verification.ok_or_else(missing("verification"))? },
        "skipped" => Outcome::Skipped { reason: lean.reason.ok_or_else(missing("reason"))?.into_owned() },
        "failed" => Outcome::Failed { reason: lean.reason.ok_or_else(missing("reason"))?.into_owned() },
        other => return Err(serde_json::Error::unknown_variant(other, &["measured", "skipped", "failed", "wrong"])),
    };
    Ok(Line::Record(Box::new(Record {
        environment: lean.environment.ok_or_else(missing("environment"))?.into_owned(),
        device: lean.device.ok_or_else(missing("device"))?.into_owned(),
        case: lean.case.ok_or_else(missing("case"))?,
        component: lean.component.ok_or_else(missing("component"))?,
        provider: lean.provider.ok_or_else(missing("provider"))?.into_owned(),
        dtype: lean.dtype.ok_or_else(missing("dtype"))?,
        metric: lean.metric.ok_or_else(missing("metric"))?,
        level: lean.level.ok_or_else(missing("level"))?,
        work: lean.work.ok_or_else(missing("work"))?,
        cache: Cache::Cold,
        data: Distribution::None,
        config: BTreeMap::new(),
        labels: lean.labels.into_iter().map(Cow::into_owned).collect(),
        started: lean.started.ok_or_else(missing("started"))?.into_owned(),
        tuning: None,
        soak: None,
        outcome,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofline::{observed_mhz, place};
    use crate::specs::Specs;
    use crate::verdict::simulate::{Fault, Simulation};

    /// Real records and simulated ones give the same figures both ways.
    #[test]
    fn what_is_judged_is_what_a_full_reading_gives() {
        let real = include_str!("../../../../results/2026-11-24-h100/raw.jsonl");
        let faulty = Simulation {
            seed: 3,
            nodes: 1,
            gpus: 8,
            fault: Fault::Throttled,
            size_pct: 10.0,
            every: 1,
            second_group: (0.0, 0.0),
        };
        let (environment, records) = faulty.node(0);
        let lines = std::iter::once(Line::Environment(Box::new(environment)))
            .chain(records.into_iter().map(|r| Line::Record(Box::new(r))))
            .map(|l| serde_json::to_string(&l).unwrap());
        let lines: Vec<String> = real.lines().map(str::to_owned).chain(lines).collect();
        let mut environments = Vec::new();
        let (mut measured, mut other) = (0, 0);
        for line in &lines {
            match (read_line(line.as_bytes()).unwrap(), serde_json::from_str::<Line>(line).unwrap()) {
                (Line::Environment(a), Line::Environment(b)) => {
                    assert_eq!(a, b);
                    environments.push(*a);
                }
                (Line::Record(a), Line::Record(b)) => {
                    let info = environments.iter().filter(|e| e.hash == b.environment).flat_map(|e| &e.devices);
                    let info = info.clone().find(|d| d.id == b.device).unwrap();
                    assert_eq!(place(&a, info, Specs::built_in()), place(&b, info, Specs::built_in()));
                    assert_eq!(observed_mhz(&a), observed_mhz(&b));
                    assert_eq!((&a.case, &a.provider, &a.labels, &a.started), (&b.case, &b.provider, &b.labels, &b.started));
                    match (&a.outcome, &b.outcome) {
                        (
                            Outcome::Measured { samples: s, verification: v, telemetry: t },
                            Outcome::Measured { samples: x, verification: y, telemetry: z },
                        ) => {
                            measured += 1;
                            assert_eq!((&s.throttled, v, &t.counter_deltas), (&x.throttled, y, &z.counter_deltas));
                            assert_eq!(t.throttle_reasons, z.throttle_reasons);
                        }
                        (x, y) => {
                            other += 1;
                            assert_eq!(x, y);
                        }
                    }
                }
                _ => panic!("two kinds of {line}"),
            }
        }
        assert!(measured > 500 && other > 5, "{measured} {other}");
    }

    #[test]
    fn a_line_that_lacks_something_is_an_error() {
        for bad in ["{}", "{\"kind\":\"record\"}", "{\"kind\":\"dream\"}", "[]", "", "{\"kind\":\"record\",\"case\":\"a//b\"}"] {
            assert!(read_line(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
