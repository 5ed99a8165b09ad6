//! Soaking devices side by side: which loads, the progress that is shown meanwhile, and what is said at the end.

use crate::exit::{Failure, Outcome};
use crate::report::{Model, significant};
use crate::select;
use crate::session::Session;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use ridgepoint_core::record::Soak;
use ridgepoint_core::{Bytes, Case, Component, Metric, Outcome as Result, Record, Seconds};
use ridgepoint_device::Device;
use ridgepoint_harness::soak::{Glance, Load, Plan, soak};
use ridgepoint_harness::{Measured, Profile, Scope};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A log, which shows no bar, gets a line this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The loads of a device: the cases that `filters` name, or the largest GEMM and the largest triad of a first look; each by its
/// first provider, or by the first of those named.
pub(crate) fn loads(device: &dyn Device, filters: &[String], providers: &[String]) -> Outcome<Vec<Load>> {
    let scope = Scope::of(device.info(), Profile::Quick, 1);
    let mut cases = select::cases(&scope, filters)?;
    if filters.is_empty() {
        // Matrix units in the dtype that they are bought for; a CPU's own is f32.
        let dtype = if cases.iter().any(|l| is_gemm(&l.case, "bf16") && l.case.work.flops.0 > 1 << 38) { "bf16" } else { "f32" };
        let gemm = cases.iter().filter(|l| is_gemm(&l.case, dtype)).max_by_key(|l| l.case.work.flops.0);
        let triad = cases.iter().filter(|l| l.case.id.as_str().starts_with("memory/triad/")).max_by_key(|l| l.case.work.bytes.0);
        cases = gemm.into_iter().chain(triad).cloned().collect();
    }
    let of_device = |c: &Case| matches!(c.component, Component::Memory | Component::Gemm | Component::Attention);
    if let Some(other) = cases.iter().find(|l| !of_device(&l.case)) {
        return Err(Failure::usage(format!(
            "{} is no load of one device; burn takes memory, gemm and attention cases",
            other.case.id
        )));
    }
    let mut loads = Vec::new();
    for listed in cases {
        let all = listed.suite.providers(&listed.case, device);
        if let Some(provider) = all.into_iter().find(|p| providers.is_empty() || providers.contains(p)) {
            loads.push(Load { suite: listed.suite, case: listed.case, provider });
        }
    }
    if loads.is_empty() {
        return Err(Failure::usage(format!("{} has no load to burn with; name cases, see `ridgepoint list`", device.info().id)));
    }
    Ok(loads)
}

fn is_gemm(case: &Case, dtype: &str) -> bool {
    case.component == Component::Gemm && case.id.as_str().ends_with(&format!("/{dtype}"))
}

/// Soaks all devices of the session at once, each with its loads, and keeps a record of each load; what is there already is not
/// done again. False if it was interrupted.
pub(crate) fn all(session: &mut Session, mut loads: Vec<Vec<Load>>, plan: &Plan) -> Outcome<bool> {
    let ids: Vec<String> = session.devices.iter().map(|d| d.info().id.clone()).collect();
    for (id, loads) in ids.iter().zip(&mut loads) {
        let is_done = |l: &Load| l.soak().is_ok_and(|c| session.is_done(id, c.id.as_str(), &l.provider));
        if loads.iter().all(is_done) {
            loads.clear();
        }
    }
    let started = crate::environment::now();
    let seed = session.seed;
    let glances: Vec<Mutex<Glance>> = ids.iter().map(|_| Mutex::default()).collect();
    let interrupted = &session.interrupted;
    let results: Vec<Vec<Measured>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (session.devices.iter_mut().zip(&loads).zip(&glances))
            .map(|((device, loads), glance)| {
                scope.spawn(move || {
                    let mut watch = |now: &Glance| {
                        now.clone_into(&mut glance.lock().unwrap_or_else(PoisonError::into_inner));
                        !interrupted.load(Ordering::Relaxed)
                    };
                    if loads.is_empty() { Vec::new() } else { soak(loads, device.as_ref(), plan, seed, &mut watch) }
                })
            })
            .collect();
        follow(plan, &ids, &loads, &glances, &|| threads.iter().all(std::thread::ScopedJoinHandle::is_finished));
        threads.into_iter().map(|t| t.join().unwrap_or_default()).collect()
    });
    for (at, (loads, results)) in loads.iter().zip(results).enumerate() {
        if results.len() < loads.len() {
            return Err(Failure::environment(format!("the soak of {} ended early; please report it", ids[at])));
        }
        for (load, result) in loads.iter().zip(results) {
            let case = load.soak().map_err(Failure::usage)?;
            session.complete(at, &case, &load.provider, result, started.clone())?;
        }
    }
    Ok(!session.interrupted())
}

/// Shows how it goes, until it is over.
fn follow(plan: &Plan, ids: &[String], loads: &[Vec<Load>], glances: &[Mutex<Glance>], over: &dyn Fn() -> bool) {
    let bar = ProgressBar::new(plan.length.as_secs().max(1));
    let style = ProgressStyle::with_template("{bar:30} {elapsed} of {prefix}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(HumanDuration(plan.length).to_string());
    let mut told = Instant::now();
    while !over() {
        std::thread::sleep(Duration::from_millis(100));
        let lines: Vec<(String, u64, Duration)> = (ids.iter().zip(loads).zip(glances))
            .filter(|((_, loads), _)| !loads.is_empty())
            .map(|((id, loads), glance)| {
                let glance = glance.lock().unwrap_or_else(PoisonError::into_inner);
                (seen(id, loads, &glance), glance.wrong, glance.elapsed)
            })
            .collect();
        let elapsed = lines.iter().map(|l| l.2).max().unwrap_or_default();
        bar.set_position(elapsed.as_secs());
        // Of many devices the line shows those that compute wrong, or the first.
        let bad = lines.iter().find(|l| l.1 > 0).or(lines.first());
        bar.set_message(bad.map(|l| l.0.clone()).unwrap_or_default());
        if !std::io::stderr().is_terminal() && told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            for (line, ..) in &lines {
                let _ = writeln!(std::io::stderr(), "ridgepoint: {} of {}: {line}", whole(elapsed), whole(plan.length));
            }
        }
    }
    bar.finish_and_clear();
}

/// `cuda:0 612 TFLOP/s, 2900 GB/s, 698 W, 71 °C; 3 wrong`.
fn seen(id: &str, loads: &[Load], glance: &Glance) -> String {
    let mut parts: Vec<String> =
        loads.iter().zip(&glance.executions).filter_map(|(load, execution)| Some(figure(&load.case, (*execution)?))).collect();
    let sensors = glance.reading.iter().flat_map(|r| &r.sensors);
    let shown = |name: &str| SENSORS.iter().find(|s| s.0 == name).map(|s| s.1);
    parts.extend(sensors.filter_map(|(name, value)| Some(format!("{value:.0} {}", shown(name)?))));
    let wrong = if glance.wrong > 0 { format!("; {} WRONG", glance.wrong) } else { String::new() };
    format!("{id} {}{wrong}", parts.join(", "))
}

/// Sensors that are shown, with their units.
const SENSORS: &[(&str, &str)] = &[
    ("sm_clock_mhz", "MHz"),
    ("clock_mhz", "MHz"),
    ("power_w", "W"),
    ("temperature_c", "°C"),
    ("memory_temperature_c", "°C memory"),
];

/// What a load achieves at so long an execution.
fn figure(case: &Case, execution: Seconds) -> String {
    match case.metric {
        Metric::Arithmetic => format!("{} TFLOP/s", significant(case.work.flops.tflop_per_s(execution))),
        Metric::Latency => format!("{} ns", significant(execution.0 * 1e9 / case.work.steps.max(1) as f64)),
        _ => format!("{} GB/s", significant(case.work.bytes.gb_per_s(execution))),
    }
}

/// What the soaks of these records saw, for a terminal; empty where there is none.
pub(crate) fn summary(model: &Model) -> String {
    let mut text = String::new();
    let mut device = "";
    for row in &model.rows {
        let Some(soak) = &row.record.soak else { continue };
        if device != row.record.device {
            device = &row.record.device;
            let _ = writeln!(text, "\nsoak of {device}, {}", whole(Duration::from_secs_f64(soak.seconds.0.max(0.0))));
            of_device(&mut text, &row.record, soak);
        }
        of_load(&mut text, &row.record, soak);
    }
    text
}

/// What holds for all loads of a device.
fn of_device(text: &mut String, record: &Record, soak: &Soak) {
    let held: Vec<String> = soak.throttled.iter().map(|(why, s)| format!("{} {:.0} s", clean(why), s.0)).collect();
    let _ = writeln!(text, "  throttled  {}", if held.is_empty() { "not seen".into() } else { held.join(", ") });
    let Result::Measured { telemetry, .. } = &record.outcome else { return };
    for (name, unit) in SENSORS {
        if let Some(r) = telemetry.sensors.get(*name) {
            let course: Vec<f64> = soak.timeline.iter().filter_map(|m| m.sensors.get(*name).copied()).collect();
            let ends = match course.as_slice() {
                [first, .., last] => format!(", at first {first:.0}, at last {last:.0}"),
                _ => String::new(),
            };
            let _ = writeln!(text, "  {name:<9}  {:.0} {unit} (from {:.0} to {:.0}{ends})", r.median, r.min, r.max);
        }
    }
    let moved: Vec<String> = telemetry.counter_deltas.iter().map(|(n, d)| format!("{} {d:+}", clean(n))).collect();
    let _ = writeln!(text, "  counters   {}", if moved.is_empty() { "none moved".into() } else { moved.join(", ") });
}

fn of_load(text: &mut String, record: &Record, soak: &Soak) {
    let id = record.case.as_str().trim_start_matches("soak/");
    let case = |execution| {
        let work = record.work;
        if record.metric == Metric::Arithmetic {
            format!("{} TFLOP/s", significant(work.flops.tflop_per_s(execution)))
        } else {
            format!("{} GB/s", significant(Bytes(work.bytes.0).gb_per_s(execution)))
        }
    };
    let course: Vec<Seconds> = soak.timeline.iter().filter_map(|m| m.execution).collect();
    let ends = match course.as_slice() {
        [] => String::new(),
        [one] => case(*one),
        [first, .., last] => format!("at first {}, at last {}", case(*first), case(*last)),
    };
    let _ = writeln!(text, "  {id} {}: {ends}", clean(&record.provider));
    let compared = match soak.compared {
        0 => "none compared on the device".into(),
        n if n == soak.executions => "each compared with a verified one".into(),
        n => format!("{n} of them compared with a verified one"),
    };
    let verdict = match (&record.outcome, soak.different, soak.wrong_checks) {
        (Result::Failed { reason } | Result::Skipped { reason }, ..) => clean(reason),
        (_, 0, 0) => "all right".into(),
        (_, words, checks) => format!("WRONG: {words} words differed, {checks} checks failed"),
    };
    let _ = writeln!(
        text,
        "    {} results in {:.0} s of work, {compared}, {} checked by the host: {verdict}",
        soak.executions, soak.busy.0, soak.checks
    );
}

/// A duration in whole seconds: `10m`.
fn whole(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs_f64().round() as u64)).to_string()
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
