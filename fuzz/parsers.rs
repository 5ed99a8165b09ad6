//! What each parser promises of any bytes at all: an answer, no panic, no hang, and nothing of the input that could move a reader's
//! cursor. The fuzz targets feed it bytes that a fuzzer makes; crates/core/tests/mutated.rs feeds it valid files with a few bytes
//! changed, on every run of the tests.

use ridgepoint_core::kernel::{Npy, Spec};
use ridgepoint_core::model::{Model, Phase, Use};
use ridgepoint_core::specs::Specs;
use ridgepoint_core::verdict::simulate::{Fault, Simulation};
use ridgepoint_core::verdict::{Baseline, Fleet, Judgement, RuleBook, RuleSet, Source, baseline, drift, judge, read_line};
use ridgepoint_core::{CaseId, Line};
use std::sync::LazyLock;

/// One GPU's records, to be judged by whatever rules come in.
static FLEET: LazyLock<Fleet> = LazyLock::new(|| {
    let simulation =
        Simulation { seed: 5, nodes: 1, gpus: 1, fault: Fault::None, size_pct: 0.0, every: 0, second_group: (0.0, 0.0) };
    let (environment, records) = simulation.node(0);
    let mut fleet = Fleet::default();
    let file = fleet.file("simulated");
    let _ = fleet.add_environment(&environment);
    for (line, record) in (2..).zip(&records) {
        fleet.add_record(record, Source { file, line });
    }
    fleet.finish();
    fleet
});

const GENERIC: &str = include_str!("../crates/cli/packs/generic.toml");

/// A rule file; one that is accepted judges.
pub(crate) fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match RuleSet::parse(text) {
        Ok(set) => drop(told(&judge(&FLEET, &RuleBook { sets: vec![set], everywhere: true, ..RuleBook::default() }))),
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a reason");
            mistakes.iter().for_each(|m| plain(&m.to_string()));
        }
    }
}

/// A record file: taken in, judged, made a baseline of.
pub(crate) fn records(bytes: &[u8]) {
    let mut fleet = Fleet::default();
    let file = fleet.file("input");
    for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        match read_line(line) {
            Ok(Line::Environment(environment)) => drop(fleet.add_environment(&environment)),
            Ok(Line::Record(record)) => {
                fleet.add_record(&record, Source { file, line: number });
            }
            Err(_) => {}
        }
    }
    fleet.finish();
    let set = RuleSet::parse(GENERIC).expect("a pack that ships");
    let made = baseline(&fleet);
    drop(drift(&fleet));
    drop(told(&judge(&fleet, &RuleBook { sets: vec![set], baseline: Some(made), keep_passes: true, ..RuleBook::default() })));
}

/// A baseline; one that is accepted is compared with.
pub(crate) fn a_baseline(bytes: &[u8]) {
    match Baseline::parse(bytes) {
        Ok(read) => {
            assert!(read.entries.is_sorted_by(|a, b| (&a.model, &a.case, &a.provider) <= (&b.model, &b.case, &b.provider)));
            let rule = "name='b'\n[[rule]]\nid='b'\ncase='*'\nmin_pct_of_baseline=95\nprovider='*'\nsource='s'\n";
            let set = RuleSet::parse(rule).expect("a rule");
            drop(told(&judge(&FLEET, &RuleBook { sets: vec![set], baseline: Some(read), ..RuleBook::default() })));
        }
        Err(why) => plain(&why),
    }
}

/// A case id: refused, or the same text.
pub(crate) fn case_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match CaseId::new(text) {
        Ok(id) => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "/._=+-".contains(c);
            assert!(
                id.as_str() == text
                    && text.chars().all(allowed)
                    && text.split('/').all(|s| s != "." && s != ".." && !s.is_empty())
            );
        }
        Err(why) => plain(&why),
    }
}

/// A table of datasheets.
pub(crate) fn specs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(specs) = Specs::parse(text) {
        let info =
            ridgepoint_core::DeviceInfo { name: "NVIDIA H100 80GB HBM3".into(), ..ridgepoint_core::DeviceInfo::nameless() };
        drop(specs.find(&info).map(|s| s.id.clone()));
    }
}

/// A user's kernel.
pub(crate) fn kernel(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(mistakes) = Spec::parse(text, &[]) {
        assert!(!mistakes.is_empty(), "refused without a reason");
        mistakes.iter().for_each(|m| plain(&m.to_string()));
    }
}

/// An array as numpy saves it.
pub(crate) fn npy(bytes: &[u8]) {
    match Npy::parse(bytes) {
        Ok(read) => assert!(read.data.len() <= bytes.len()),
        Err(why) => plain(&why),
    }
}

/// A model's config.json; one that is read has passes whose parts are ids.
pub(crate) fn model(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let model = match Model::parse("fuzzed", text) {
        Ok(model) => model,
        Err(why) => return plain(&why),
    };
    for (phase, batch, tp) in [(Phase::Prefill, 1, 1), (Phase::Decode, 1 << 14, 3), (Phase::Decode, 7, 0)] {
        let how = Use {
            phase,
            batch,
            context: 1 << 20,
            tokens: 1 << 20,
            queries: 3,
            tp,
            dtype: "e4m3".into(),
            attention: None,
            kv: None,
            page: Some(64),
        };
        match model.pass(&how) {
            Ok(pass) => assert!(pass.parts.iter().all(|part| CaseId::new(part.case.clone()).is_ok() && part.count > 0)),
            Err(why) => plain(&why),
        }
    }
}

/// The judgement as a script would get it.
fn told(judgement: &Judgement) -> String {
    serde_json::to_string(judgement).expect("a judgement can always be written")
}

/// What is said of an input never carries its control characters on to a terminal.
fn plain(said: &str) {
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
}
