//! `cargo bench`: the cases of `ridgepoint run` in criterion, on the device's own clock, each proved right before and after it is
//! timed. A criterion id is the case's id and the provider: `gemm/m4096n4096k4096/bf16/cublaslt`.
//!
//! `RIDGEPOINT_DEVICE` names the device (default: the best one), `RIDGEPOINT_PROFILE` the list of cases (default: quick). Filters
//! are criterion's regular expressions; a whole id runs even if it is not listed.

mod clock;
mod hand;

use clock::{DeviceClock, throughput};
use criterion::{Criterion, PlottingBackend, SamplingMode};
use hand::Hand;
use ridgepoint::exit::{Exit, Failure, Outcome};
use ridgepoint::select;
use ridgepoint::suites::{self, Listed, SUITES};
use ridgepoint_device::{Device, DeviceError, open};
use ridgepoint_harness::{Bench, Policy, Profile, Refused, Scope};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

/// Seed of the inputs, as `ridgepoint run` has it by default.
const SEED: u64 = 1;

pub(crate) fn main() -> ExitCode {
    if ridgepoint_device::cpu::rank_main(Some(ridgepoint_collectives::beside)) {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "ridgepoint: {failure}");
            failure.exit.into()
        }
    }
}

fn run() -> Outcome {
    // Short, so that the default list ends in minutes; criterion's own flags say otherwise.
    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(600))
        .nresamples(10_000)
        .plotting_backend(PlottingBackend::Plotters)
        .configure_from_args();
    let device = device()?;
    let device = device.as_ref();
    let hand = Rc::new(Hand::empty());
    let mut criterion = criterion.with_measurement(DeviceClock(Rc::clone(&hand)));
    let scope = Scope::on(device, profile()?);
    let mut bad = 0;
    let seen = Cell::new(false);
    for listed in cases(&scope) {
        let case = &listed.case;
        let mut group = criterion.benchmark_group(case.id.as_str());
        group.throughput(throughput(case)).sampling_mode(SamplingMode::Flat);
        for provider in listed.suite.providers(case, device) {
            hand.clear(case.metric);
            let prove = || {
                seen.set(true);
                let prepared = listed.suite.prepare(case, &provider, device, SEED)?;
                Bench::prove(prepared, case.cache, device, &Policy::of(Profile::Quick))
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                group.bench_function(&provider, |bencher| {
                    hand.hold(prove);
                    bencher.iter_custom(|executions| hand.time(executions));
                });
                // A test run asks for no format and so for no check.
                hand.check();
            }));
            let Err(reason) = outcome else { continue };
            match reason.downcast::<Refused>() {
                Ok(refused) => bad += usize::from(tell(&format!("{}/{provider}", case.id), *refused)?),
                Err(panic) => resume_unwind(panic),
            }
        }
        group.finish();
    }
    hand.clear(hand.metric());
    criterion.final_summary();
    // Listing and loading prove nothing, and a filter of `run` is no filter of criterion's.
    let asked = filters().find(|f| f.contains('*') && !f.contains(".*"));
    if let (false, Some(filter)) = (seen.get(), asked) {
        let meant = filter.replace('*', ".*");
        return Err(Failure::usage(format!(
            "nothing matches '{filter}': here a filter is a regular expression, as in '{meant}'"
        )));
    }
    Ok(if bad > 0 { Exit::CheckFailed } else { Exit::Pass })
}

/// What the command line says that is no flag.
fn filters() -> impl Iterator<Item = String> {
    std::env::args().skip(1).filter(|argument| !argument.starts_with('-'))
}

/// The cases of the scope, and those that the command line names by a whole id though they are not listed.
fn cases(scope: &Scope) -> Vec<Listed> {
    let mut cases = suites::all(scope);
    let ids: BTreeSet<String> = cases.iter().map(|l| l.case.id.as_str().to_owned()).collect();
    for argument in filters() {
        // With the provider at its end, or without.
        let without = argument.rsplit_once('/').map_or("", |(id, _)| id);
        let parsed = [argument.as_str(), without]
            .into_iter()
            .find_map(|id| SUITES.iter().find_map(|suite| Some(Listed { suite: *suite, case: suite.parse(id)? })));
        cases.extend(parsed.filter(|l| !ids.contains(l.case.id.as_str())));
    }
    cases
}

/// Says why a case has no number; true if that is a fault and no lack.
fn tell(id: &str, refused: Refused) -> Outcome<bool> {
    use ridgepoint_core::Outcome as O;
    if let Refused::Error(DeviceError::Lost(reason)) = &refused {
        return Err(Failure::environment(format!("{id}: the device is lost: {reason}")));
    }
    let (word, reason) = match O::from(refused) {
        O::Skipped { reason } => ("skipped", reason),
        O::Failed { reason } => ("failed", reason),
        O::Wrong { verification: v } => (
            "wrong",
            format!("{} of {} elements, error {:.1e} over {:.1e} ({})", v.wrong, v.checked, v.error, v.tolerance, v.method),
        ),
        O::Measured { .. } => return Ok(false),
    };
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(std::io::stdout(), "{id:<48} {word}: {reason}");
    Ok(word != "skipped")
}

fn device() -> Outcome<Box<dyn Device>> {
    let wanted = std::env::var("RIDGEPOINT_DEVICE").unwrap_or_else(|_| "best".into());
    let ids = select::devices(&wanted)?;
    let [id] = ids.as_slice() else {
        return Err(Failure::usage(format!("RIDGEPOINT_DEVICE must name one device: {}", ids.join(", "))));
    };
    let device = open(id).map_err(|e| Failure::environment(format!("cannot open {id}: {e}")))?;
    let _ = writeln!(std::io::stderr(), "{id}  {}", device.info().name);
    Ok(device)
}

fn profile() -> Outcome<Profile> {
    let wanted = std::env::var("RIDGEPOINT_PROFILE").unwrap_or_else(|_| "quick".into());
    let all = [Profile::Quick, Profile::Standard, Profile::Full];
    all.into_iter().find(|p| p.name() == wanted).ok_or_else(|| {
        Failure::usage(format!("RIDGEPOINT_PROFILE is '{}'; it can be quick, standard or full", wanted.escape_debug()))
    })
}
