//! Two sets of records side by side: two nodes, two dates, two vendors, a device and its emulation. Cases join on their ids,
//! each side by its best provider, and every ratio has an interval. Arithmetic alone, made anew at every read.
//!
//! There is no total: a ratio over unlike cases is a number about the choice of cases.

mod pair;
mod ratio;
mod side;

pub use ratio::{Ratio, ratio};

use crate::{Component, Environment, Record};
use serde::Serialize;

/// The records of one side, and where they were taken.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// What the reader calls it: the file or folder.
    pub name: String,
    /// Environments, in the order found.
    pub environments: Vec<Environment>,
    /// Records, in the order found.
    pub records: Vec<Record>,
}

/// What to put side by side. The first of each pair is for A, the second for B.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Device id, or a pattern with `*`; None for all.
    pub device: [Option<String>; 2],
    /// Provider; None for the best of each case.
    pub provider: [Option<String>; 2],
    /// B is refused where it is surely below so many percent of A.
    pub fail_below: Option<f64>,
}

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The first.
    A,
    /// The second.
    B,
}

impl Which {
    /// As it is written in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// Two sides, compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// What A and B are.
    pub sides: [Described; 2],
    /// Cases that both have measured, by component, case and device.
    pub pairs: Vec<Pair>,
    /// Cases that one side has measured and the other has not.
    pub single: Vec<Single>,
    /// Cases that were asked for on both sides and measured on neither.
    pub neither: u32,
    /// What bears on the whole comparison, a sentence each.
    pub warnings: Vec<String>,
    /// [`Choice::fail_below`].
    pub fail_below: Option<f64>,
    /// Results that are wrong or failed, on either side, a sentence each.
    pub bad: Vec<String>,
}

/// One side in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Described {
    /// The file or folder.
    pub name: String,
    /// Host names.
    pub hosts: Vec<String>,
    /// Devices: id and name.
    pub devices: Vec<String>,
    /// Start of the first and of the last run, RFC 3339 UTC.
    pub started: (String, String),
    /// Versions of Ridgepoint and of the measuring method.
    pub versions: Vec<String>,
    /// Records taken in.
    pub records: u32,
}

/// One case on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The case.
    pub case: String,
    /// Its suite.
    pub component: Component,
    /// The device, where several are lined up by their ids.
    pub device: Option<String>,
    /// Unit of the figures: GB/s, TFLOP/s, ns.
    pub unit: &'static str,
    /// True where less is better.
    pub lower_is_better: bool,
    /// A's figure.
    pub a: Figure,
    /// B's.
    pub b: Figure,
    /// How many times as good B is: B over A, or A over B where less is better.
    pub ratio: Ratio,
    /// The same per watt, where both sides have read their power.
    pub ratio_per_watt: Option<f64>,
    /// What the interval says.
    pub change: Change,
    /// Below [`Comparison::fail_below`].
    pub regressed: bool,
    /// What a reader must know beside the figures, a sentence each.
    pub notes: Vec<String>,
}

/// One side's figure of a case.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figure {
    /// Who did the work.
    pub provider: String,
    /// The median, in the pair's unit.
    pub value: f64,
    /// Half its 95 % interval over the value; None for too few samples.
    pub ci: Option<f64>,
    /// The roof that it stands under, in the same unit.
    pub roof: Option<f64>,
    /// Where that comes from: `datasheet`, `empirical`.
    pub roof_kind: Option<&'static str>,
    /// Value over roof; never clamped.
    pub fraction: Option<f64>,
    /// Median power while it was measured, watts.
    pub watts: Option<f64>,
    /// Value per watt.
    pub per_watt: Option<f64>,
    /// Runs that were taken together.
    pub runs: u32,
    /// Samples behind the median.
    pub samples: u32,
}

/// What the interval of a ratio says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// All of it above 1.
    Better,
    /// All of it below 1.
    Worse,
    /// It holds 1.
    Same,
    /// There is none: too few samples.
    Unsure,
}

impl Change {
    /// As it is written in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
            Self::Unsure => "unsure",
        }
    }
}

/// A case that one side has measured alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Single {
    /// The case.
    pub case: String,
    /// The device, where several are lined up by their ids.
    pub device: Option<String>,
    /// Who has it.
    pub only: Which,
    /// Its figure there.
    pub value: f64,
    /// The figure's unit.
    pub unit: &'static str,
    /// Who measured it there.
    pub provider: String,
    /// Why the other side has not.
    pub absence: Absence,
    /// The same in a sentence.
    pub reason: String,
}

/// Why a side has no figure of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Absence {
    /// There is no record of it.
    Missing,
    /// It was measured, but by no provider that was asked for.
    Unchosen,
    /// It cannot be done there.
    Skipped,
    /// An error.
    Failed,
    /// It computed a wrong result.
    Wrong,
}

impl Absence {
    /// As it is written in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unchosen => "not chosen",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Wrong => "wrong",
        }
    }
}

impl Single {
    /// The side that has it not.
    #[must_use]
    pub const fn other(&self) -> Which {
        match self.only {
            Which::A => Which::B,
            Which::B => Which::A,
        }
    }

    /// A has measured it, and B was asked for it and could not.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.only == Which::A && matches!(self.absence, Absence::Skipped | Absence::Failed | Absence::Wrong)
    }
}

impl Comparison {
    /// How many pairs changed like this.
    #[must_use]
    pub fn count(&self, change: Change) -> usize {
        self.pairs.iter().filter(|p| p.change == change).count()
    }

    /// True where [`Choice::fail_below`] refuses B: a case is surely below it, or lost.
    #[must_use]
    pub fn regressed(&self) -> bool {
        self.fail_below.is_some() && (self.pairs.iter().any(|p| p.regressed) || self.single.iter().any(Single::lost))
    }
}

/// Puts two sides next to each other.
///
/// Devices: where the sides have ids in common, each id is compared with itself; else all devices of a side are taken together,
/// which must be of one model. Records of one case by one provider on such devices are runs of the same thing.
///
/// # Errors
/// One sentence: a choice that names no device or provider there is, or a side with several unlike devices and no choice.
pub fn compare(a: &Side, b: &Side, choice: &Choice) -> Result<Comparison, String> {
    pair::compare([a, b], choice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Cache, CaseId, Distribution, Level, Metric, Work};
    use crate::record::{Clock, Outcome, Range, Samples, Stop, Telemetry, Verification};
    use crate::{Bytes, DeviceInfo, Dtype, Seconds};

    fn record(device: &str, case: &str, provider: &str, seconds: &[f64]) -> Record {
        let latency = case.contains("latency");
        Record {
            environment: "e".into(),
            device: device.into(),
            case: CaseId::new(case).unwrap(),
            component: Component::Memory,
            provider: provider.into(),
            dtype: Dtype::F32,
            metric: if latency { Metric::Latency } else { Metric::Bandwidth },
            level: Level::Dram,
            work: Work { steps: u64::from(latency) * 1000, ..Work::bytes(Bytes(1_000_000_000)) },
            cache: Cache::Cold,
            data: Distribution::Normal,
            config: Default::default(),
            labels: vec![],
            started: String::new(),
            tuning: None,
            soak: None,
            outcome: Outcome::Measured {
                samples: Samples {
                    seconds: seconds.iter().copied().map(Seconds).collect(),
                    batch: 1,
                    clock: Clock::Device,
                    warmup: Seconds(0.1),
                    steady: true,
                    stop: Stop::Converged,
                    graph: false,
                    observed_mhz: vec![],
                    throttled: vec![],
                },
                verification: Verification { method: "m".into(), error: 0.0, tolerance: 1.0, checked: 1, wrong: 0 },
                telemetry: Telemetry::default(),
            },
        }
    }

    fn side(devices: &[(&str, &str)], records: Vec<Record>) -> Side {
        let devices = (devices.iter())
            .map(|(id, name)| DeviceInfo { id: (*id).into(), name: (*name).into(), ..DeviceInfo::nameless() })
            .collect();
        let environment = Environment {
            schema: 1,
            hash: "e".into(),
            version: "0".into(),
            method: 1,
            host: "h".into(),
            os: String::new(),
            cpu: String::new(),
            governor: None,
            command: vec![],
            profile: "quick".into(),
            seed: 1,
            started: "2026-11-25T00:00:00Z".into(),
            devices,
            facts: Default::default(),
            inventory: None,
            passes: Vec::new(),
        };
        Side { name: "x".into(), environments: vec![environment], records }
    }

    /// Ten samples around `t`, within a tenth of a percent.
    fn around(t: f64) -> Vec<f64> {
        (0..10).map(|i| t * (0.9995 + 0.0001 * f64::from(i))).collect()
    }

    const H100: &str = "NVIDIA H100 80GB HBM3";

    #[test]
    fn two_vendors_join_on_ids_each_by_its_best() {
        let read = "memory/read/1GiB/f32";
        let latency = "memory/latency/1GiB";
        let watts = |mut r: Record, w: f64| {
            if let Outcome::Measured { telemetry, .. } = &mut r.outcome {
                telemetry.sensors.insert("power_w".into(), Range { min: w, median: w, max: w });
            }
            r
        };
        let a = side(
            &[("cuda:0", H100)],
            vec![
                record("cuda:0", read, "slow", &around(1e-3)),
                watts(record("cuda:0", read, "fast", &around(0.4e-3)), 500.0),
                record("cuda:0", latency, "chase", &around(1e-3)),
            ],
        );
        let b = side(
            &[("hip:0", "AMD Instinct MI300X")],
            vec![
                watts(record("hip:0", read, "kernel", &around(0.2e-3)), 1000.0),
                record("hip:0", latency, "chase", &around(2e-3)),
            ],
        );
        let made = compare(&a, &b, &Choice::default()).unwrap();
        let [slow, fast] = &made.pairs[..] else { panic!("{:?}", made.pairs) };
        assert_eq!((slow.case.as_str(), fast.case.as_str()), (latency, read));
        // 2500 GB/s of 3350, 5000 of 5300.
        assert_eq!((fast.a.provider.as_str(), fast.b.provider.as_str()), ("fast", "kernel"));
        assert!((fast.ratio.value - 2.0).abs() < 1e-9 && fast.ratio.low.unwrap() > 1.99 && fast.change == Change::Better);
        assert!(
            (fast.a.fraction.unwrap() - 2500.0 / 3350.0).abs() < 1e-3
                && (fast.b.fraction.unwrap() - 5000.0 / 5300.0).abs() < 1e-3
        );
        // Five GB/s a watt on both.
        assert!((fast.ratio_per_watt.unwrap() - 1.0).abs() < 1e-9);
        // Twice the latency is half as good.
        assert!((slow.ratio.value - 0.5).abs() < 1e-9 && slow.change == Change::Worse && slow.lower_is_better);
        assert_eq!(slow.a.per_watt, None);

        let by_slow = Choice { provider: [Some("slow".into()), None], ..Choice::default() };
        let made = compare(&a, &b, &by_slow).unwrap();
        assert_eq!(made.pairs.len(), 1);
        assert!((made.pairs[0].ratio.value - 5.0).abs() < 1e-9);
        assert_eq!((made.single[0].only, made.single[0].absence), (Which::B, Absence::Unchosen));
        let nobody = Choice { provider: [Some("nobody".into()), None], ..Choice::default() };
        assert!(compare(&a, &b, &nobody).unwrap_err().contains("it has chase, fast, slow"));
    }

    #[test]
    fn what_one_side_lacks_has_its_reason_and_can_refuse() {
        let mut skipped = record("cuda:0", "memory/copy/1GiB/f32", "k", &[]);
        skipped.outcome = Outcome::Skipped { reason: "no such library".into() };
        let mut wrong = record("cuda:0", "memory/read/1GiB/f32", "other", &[]);
        wrong.outcome = Outcome::Wrong {
            verification: Verification { method: "m".into(), error: 2.0, tolerance: 1.0, checked: 9, wrong: 3 },
        };
        let full = |t: f64| {
            ["read", "copy", "triad"].map(|op| record("cuda:0", &format!("memory/{op}/1GiB/f32"), "k", &around(t))).to_vec()
        };
        let a = side(&[("cuda:0", H100)], full(1e-3));
        let b = side(&[("cuda:0", H100)], vec![full(1.06e-3)[0].clone(), wrong, skipped]);
        let gate = |limit: f64| Choice { fail_below: Some(limit), ..Choice::default() };
        let made = compare(&a, &b, &gate(90.0)).unwrap();
        let reasons: Vec<_> = made.single.iter().map(|s| (s.case.as_str(), s.absence, s.reason.as_str())).collect();
        assert_eq!(
            reasons,
            [
                ("memory/copy/1GiB/f32", Absence::Skipped, "k: no such library"),
                ("memory/triad/1GiB/f32", Absence::Missing, "there is no record of it")
            ]
        );
        // Another provider's wrong result does not vanish behind the right one.
        assert!(made.pairs[0].notes.iter().any(|n| n.contains("wrong by other")), "{:?}", made.pairs[0].notes);
        assert!(!made.pairs[0].regressed && made.regressed(), "a case that was lost is a regression");

        let whole = side(&[("cuda:0", H100)], full(1.06e-3));
        assert!(!compare(&a, &whole, &gate(90.0)).unwrap().regressed());
        assert!(compare(&a, &whole, &gate(97.0)).unwrap().regressed());
        assert!(!compare(&a, &whole, &Choice::default()).unwrap().regressed());
        // Below the limit, but not surely: the interval reaches above it.
        let noisy: Vec<f64> = (0..10).map(|i| 1e-3 * (0.9 + 0.04 * f64::from(i))).collect();
        let unsure = side(&[("cuda:0", H100)], vec![record("cuda:0", "memory/read/1GiB/f32", "k", &noisy)]);
        let made = compare(&a, &unsure, &gate(97.0)).unwrap();
        assert!(made.pairs[0].ratio.value < 0.97 && !made.pairs[0].regressed, "{:?}", made.pairs[0].ratio);
    }

    #[test]
    fn devices_are_lined_up_by_id_or_taken_together() {
        let read = |device: &str, t: f64| record(device, "memory/read/1GiB/f32", "k", &around(t));
        let two = |t: f64| side(&[("cuda:0", H100), ("cuda:1", H100)], vec![read("cuda:0", t), read("cuda:1", 2.0 * t)]);
        // The same ids: the slow one is compared with itself.
        let made = compare(&two(1e-3), &two(1e-3), &Choice::default()).unwrap();
        assert_eq!(
            made.pairs.iter().map(|p| (p.device.as_deref(), p.change)).collect::<Vec<_>>(),
            [(Some("cuda:0"), Change::Same), (Some("cuda:1"), Change::Same)]
        );
        // One file, two devices of it.
        let each = Choice { device: [Some("cuda:0".into()), Some("cuda:1".into())], ..Choice::default() };
        let made = compare(&two(1e-3), &two(1e-3), &each).unwrap();
        assert!((made.pairs[0].ratio.value - 0.5).abs() < 1e-9 && made.pairs[0].device.is_none());
        // No id in common: all of a model together.
        let amd = side(&[("hip:0", "AMD Instinct MI300X")], vec![read("hip:0", 1.5e-3)]);
        let made = compare(&two(1e-3), &amd, &Choice::default()).unwrap();
        assert_eq!((made.pairs.len(), made.pairs[0].a.runs), (1, 2));
        // Unlike devices are not mixed in silence.
        let mixed = side(&[("cpu:0", "CPU"), ("vulkan:0", "llvmpipe")], vec![read("cpu:0", 1.0), read("vulkan:0", 1.0)]);
        assert!(compare(&mixed, &amd, &Choice::default()).unwrap_err().contains("--device cpu:0,vulkan:0"));
        let none = Choice { device: [Some("cuda:7".into()), None], ..Choice::default() };
        assert!(compare(&two(1.0), &amd, &none).unwrap_err().contains("it has cuda:0, cuda:1"));
    }

    #[test]
    fn many_runs_bring_what_varies_from_run_to_run() {
        // Each run is quiet in itself and they lie 4 % apart: one run against one sees a difference, eight against eight do not.
        let runs = |n: usize, shift: usize| {
            let all = (0..n)
                .map(|i| record("cuda:0", "memory/read/1GiB/f32", "k", &around(1e-3 * (1.0 + 0.01 * ((i + shift) % 5) as f64))));
            side(&[("cuda:0", H100)], all.collect())
        };
        let one = compare(&runs(1, 0), &runs(1, 3), &Choice::default()).unwrap();
        assert_eq!(one.pairs[0].change, Change::Worse);
        let many = compare(&runs(10, 0), &runs(10, 3), &Choice::default()).unwrap();
        assert_eq!((many.pairs[0].change, many.pairs[0].a.runs, many.pairs[0].a.samples), (Change::Same, 10, 10));
    }

    #[test]
    fn samples_that_are_none_and_different_methods_are_told_of() {
        let mut zero = side(&[("cuda:0", H100)], vec![record("cuda:0", "memory/read/1GiB/f32", "k", &[0.0, f64::NAN])]);
        zero.environments[0].method += 1;
        zero.records.push(Record { environment: "gone".into(), ..record("cuda:0", "memory/copy/1GiB/f32", "k", &around(1.0)) });
        let good = side(&[("cuda:0", H100)], vec![record("cuda:0", "memory/read/1GiB/f32", "k", &around(1.0))]);
        let made = compare(&good, &zero, &Choice::default()).unwrap();
        assert_eq!((made.pairs.len(), made.single[0].absence, made.bad.len()), (0, Absence::Failed, 1));
        assert_eq!(made.warnings.len(), 2, "{:?}", made.warnings);
        assert!(serde_json::to_string(&made).is_ok());
        // Figures so far apart that a number cannot hold their ratio do not vanish.
        let of = |t: f64| side(&[("cuda:0", H100)], vec![record("cuda:0", "memory/read/1GiB/f32", "k", &around(t))]);
        let made = compare(&of(1e-290), &of(1e290), &Choice::default()).unwrap();
        assert!(made.pairs.is_empty() && made.bad[0].contains("no ratio"), "{made:?}");
    }
}
