//! `ridgepoint compare`: two sets of records side by side, case by case.

use super::deliver;
use crate::args::Compare;
use crate::exit::{Exit, Failure, Outcome};
use crate::report::{self, comparison::FORMATS};
use crate::{intake, select, store};
use ridgepoint_core::compare::{Choice, Side, compare};
use std::io::Write;
use std::path::Path;

/// Most records of a side that are held at once.
const MOST: usize = 1_000_000;

pub(crate) fn run(args: &Compare) -> Outcome {
    let format = report::format(FORMATS, &args.format)?;
    let choice = choice(args)?;
    let mut problems = Vec::new();
    let a = side(&args.files[0], args, &mut problems)?;
    let b = match args.files.get(1) {
        Some(file) => side(file, args, &mut problems)?,
        None => a.clone(),
    };
    for problem in &problems {
        let _ = writeln!(std::io::stderr(), "ridgepoint: {problem}");
    }
    let made = compare(&a, &b, &choice).map_err(Failure::usage)?;
    deliver(&(format.render)(&made), args.output.as_deref())?;
    Ok(if made.regressed() || !made.bad.is_empty() || !problems.is_empty() {
        Exit::CheckFailed
    } else if made.pairs.is_empty() {
        Exit::Environment
    } else {
        Exit::Pass
    })
}

/// What the arguments choose.
fn choice(args: &Compare) -> Outcome<Choice> {
    let [device, provider] = [&args.device, &args.provider].map(|text| text.as_deref().map_or(Ok([None, None]), two));
    let (device, provider) = (device?, provider?);
    if args.files.len() == 1 && device[0] == device[1] && provider[0] == provider[1] {
        return Err(Failure::usage(
            "a comparison needs two sides: name a second file, or two devices or providers of this one, as in --device cpu:0,vulkan:0",
        ));
    }
    if args.fail_below.is_some_and(|p| !(p > 0.0 && p.is_finite())) {
        return Err(Failure::usage("--fail-below takes a percentage above 0: 95 refuses what is surely below 95 % of A"));
    }
    Ok(Choice { device, provider, fail_below: args.fail_below })
}

/// `x` for both sides, `x,y` for one each.
fn two(text: &str) -> Outcome<[Option<String>; 2]> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    match parts[..] {
        [both] if !both.is_empty() => Ok([Some(both.into()), Some(both.into())]),
        [a, b] if !a.is_empty() && !b.is_empty() => Ok([Some(a.into()), Some(b.into())]),
        _ => Err(Failure::usage(format!("'{}' is not one name or two with a comma between", text.escape_debug()))),
    }
}

/// Reads a side: a file, the one of a run's folder, or every record file below a folder.
fn side(path: &Path, args: &Compare, problems: &mut Vec<String>) -> Outcome<Side> {
    let files = if path.is_dir() && !path.join(store::RAW).is_file() {
        let (files, unread) = intake::below(path);
        problems.extend(unread);
        if files.is_empty() {
            return Err(Failure::environment(format!("there is no .jsonl file in {}", path.display())));
        }
        files
    } else {
        vec![path.to_owned()]
    };
    let mut side = Side { name: path.display().to_string(), ..Side::default() };
    for file in files {
        let found = store::read(&file)?;
        problems.extend(found.problems);
        side.environments.extend(found.environments);
        let asked = |id: &str| args.case.is_empty() || args.case.iter().any(|filter| select::means(filter, id));
        side.records.extend(found.records.into_iter().filter(|r| asked(r.case.as_str())));
        if side.records.len() > MOST {
            problems.push(format!("{}: over {MOST} records; the rest is not compared", path.display()));
            side.records.truncate(MOST);
            break;
        }
    }
    if side.records.is_empty() {
        let asked = if args.case.is_empty() { String::new() } else { format!(" of {}", args.case.join(", ")) };
        return Err(Failure::environment(format!("{} holds no record{}", path.display(), asked.escape_debug())));
    }
    Ok(side)
}
