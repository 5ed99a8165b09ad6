//! `ridgepoint accept`: judges records, of this node measured now or of files, and names what is to be refused.

use super::{deliver, print};
use crate::args::Accept;
use crate::exit::{Exit, Failure, Outcome};
use crate::report::acceptance::{Acceptance, FILES, FORMATS};
use crate::{intake, node, packs, report, store};
use ridgepoint_core::verdict::{
    Baseline, Check, Expected, MAX_BASELINE, Pattern, Per, Pick, Providers, Rule, RuleBook, RuleSet, Severity, judge,
};
use std::io::{Read, Write as _};
use std::path::Path;

/// Up to so many nodes, findings that passed are kept for the report.
const DETAILED: usize = 64;
/// Problems listed on a terminal.
const LISTED: usize = 20;

pub(crate) fn run(args: &Accept) -> Outcome {
    let format = report::format(FORMATS, &args.format)?;
    let mut book = book(args)?;
    let mut files = args.files.clone();
    let mut reports = args.report.clone();
    if files.is_empty() {
        let measured = node::measure(&args.here)?;
        // For a person, what was measured comes before what is thought of it.
        if args.format == "table" && args.output.is_none() {
            print(&measured.tables)?;
        }
        // A node that was measured for it leaves its sheet beside its records.
        reports = reports.or_else(|| measured.records.parent().map(Path::to_owned));
        files.push(measured.records);
    }
    let fleet = intake::take_in(&files)?;
    book.keep_passes = fleet.node_count() <= DETAILED;
    let judgement = judge(&fleet, &book);
    for problem in judgement.problems.iter().take(LISTED) {
        let _ = writeln!(std::io::stderr(), "ridgepoint: {}:{}: {}", problem.file, problem.line, problem.text);
    }
    if judgement.problems.len() > LISTED {
        let _ = writeln!(std::io::stderr(), "ridgepoint: and {} more problems", judgement.problems.len() - LISTED);
    }
    let accepted = Acceptance {
        judgement,
        strict: args.strict,
        judged: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
    };
    if let Some(folder) = &reports {
        write_all(&accepted, folder)?;
        let _ = writeln!(std::io::stderr(), "sheet to sign: {}", folder.join("acceptance.html").display());
    }
    deliver(&(format.render)(&accepted), args.output.as_deref())?;
    let judgement = &accepted.judgement;
    Ok(Exit::of(judgement.verdict, args.strict, !judgement.problems.is_empty()))
}

/// Every report there is, side by side.
fn write_all(accepted: &Acceptance, folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder).map_err(|e| store::cannot_write(folder, &e))?;
    for (file, name) in FILES {
        let text = (report::format(FORMATS, name)?.render)(accepted);
        deliver(&text, Some(&folder.join(file)))?;
    }
    Ok(())
}

/// The rules that the arguments ask for.
fn book(args: &Accept) -> Outcome<RuleBook> {
    let everywhere = !args.rules.is_empty();
    let mut sets =
        if everywhere { args.rules.iter().map(|name| packs::named(name)).collect::<Outcome<Vec<_>>>()? } else { packs::all() };
    if let Some(n) = args.gpus {
        sets.push(RuleSet { name: "command-line".into(), inventory: Some(gpus(n)), ..RuleSet::default() });
    }
    let baseline = args.baseline.as_deref().map(read_baseline).transpose()?;
    let spoken_for = sets.iter().flat_map(|s| &s.rules).any(|r| matches!(r.check, Check::MinPctOfBaseline { .. }));
    if baseline.is_some() && !spoken_for {
        sets.push(RuleSet { name: "command-line".into(), rules: vec![near_baseline()?], ..RuleSet::default() });
    }
    Ok(RuleBook { sets, everywhere, baseline, keep_passes: false })
}

/// `--gpus N` as an expectation.
fn gpus(n: u32) -> Expected {
    Expected {
        gpus: Some(n),
        model: None,
        memory_gb: None,
        ecc: None,
        links: None,
        pcie: None,
        nics: None,
        nic_gbps: None,
        driver: None,
        firmware: Default::default(),
        libraries: Default::default(),
        required: true,
        severity: Severity::Fail,
        source: "--gpus".into(),
        line: 0,
    }
}

/// What `--baseline` asks for where no rule does.
fn near_baseline() -> Outcome<Rule> {
    Ok(Rule {
        id: "baseline".into(),
        title: "Within 5 % of the baseline".into(),
        cases: vec![Pattern::any()],
        models: Vec::new(),
        providers: Providers::Each(Pattern::any()),
        driver: None,
        size_min: None,
        size_max: None,
        pick: Pick::Each,
        per: Per::Gpu,
        check: Check::MinPctOfBaseline { percent: 95.0 },
        required: false,
        severity: Severity::Fail,
        source: "--baseline; 5 % is SuperBench's tolerance for a node".into(),
        line: 0,
    })
}

fn read_baseline(path: &Path) -> Outcome<Baseline> {
    let cannot = |e: std::io::Error| Failure::environment(format!("cannot read {}: {e}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(MAX_BASELINE as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    Baseline::parse(&bytes).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
}
