//! `ridgepoint baseline`: what a fleet usually shows, kept and compared between dates.

use super::print;
use crate::args::Baseline;
use crate::exit::{Exit, Failure, Outcome};
use crate::report::significant;
use crate::{intake, store};
use ridgepoint_core::verdict::{Drift, Fleet, baseline, drift};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

/// Movements listed.
const LISTED: usize = 40;

pub(crate) fn run(command: &Baseline) -> Outcome {
    match command {
        Baseline::Make { files, output } => {
            let fleet = intake::take_in(files)?;
            let problems = told(&fleet);
            let made = baseline(&fleet);
            if made.entries.is_empty() {
                return Err(Failure::environment("nothing in these records is measured and valid; no baseline was written"));
            }
            let text = serde_json::to_string_pretty(&made).map_err(|e| Failure::environment(format!("cannot encode: {e}")))?;
            std::fs::write(output, text + "\n").map_err(|e| store::cannot_write(output, &e))?;
            print(&format!("{}: {} metrics of {}\n", output.display(), made.entries.len(), made.made_from))?;
            Ok(if problems { Exit::CheckFailed } else { Exit::Pass })
        }
        Baseline::Drift { files, above } => {
            let fleet = intake::take_in(files)?;
            let problems = told(&fleet);
            print(&moved(&drift(&fleet), *above))?;
            Ok(if problems { Exit::CheckFailed } else { Exit::Pass })
        }
    }
}

/// Tells of problems in the files; true if there were any.
fn told(fleet: &Fleet) -> bool {
    for p in fleet.problems() {
        let _ = writeln!(std::io::stderr(), "ridgepoint: {}:{}: {}", p.file, p.line, p.text);
    }
    !fleet.problems().is_empty()
}

fn moved(all: &[Drift], above: f64) -> String {
    if all.is_empty() {
        return "no metric was measured on two days; there is no drift to show\n".into();
    }
    let mut text = String::new();
    for (title, of_nodes) in [("all nodes of a model", false), ("single nodes", true)] {
        let far: Vec<&Drift> = all.iter().filter(|d| d.node.is_empty() != of_nodes && d.pct.abs() >= above).collect();
        let _ = writeln!(text, "{title}: {} moved by {above}% or more", far.len());
        for d in far.iter().take(LISTED) {
            let days: Vec<String> = d.days.iter().map(|day| format!("{} {}", date(day.day), significant(day.median))).collect();
            let node = d.node.replace(char::is_control, "\u{fffd}");
            let who = if of_nodes { node } else { d.model.replace(char::is_control, "\u{fffd}") };
            let _ = writeln!(text, "  {:+6.1}%  {who}  {} {}  {} {}", d.pct, d.case, d.provider, days.join(" → "), d.unit);
        }
        if far.len() > LISTED {
            let _ = writeln!(text, "  and {} more", far.len() - LISTED);
        }
    }
    text
}

/// `2026-11-24`.
fn date(day: u32) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(day) * 86_400);
    humantime::format_rfc3339_seconds(time).to_string().chars().take(10).collect()
}
