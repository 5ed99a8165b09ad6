//! `ridgepoint accept`: judges records, of this node measured now or of files, and names what is to be refused.

use super::print;
use crate::args::Accept;
use crate::exit::{Exit, Failure, Outcome};
use crate::report::{clean, significant};
use crate::{intake, node, packs, store};
use ridgepoint_core::verdict::{
    Baseline, Check, Expected, Judgement, MAX_BASELINE, Pattern, Per, Pick, Providers, Rule, RuleBook, RuleSet, Severity,
    Verdict, judge,
};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::Path;

/// Up to so many nodes, findings that passed are kept for the report.
const DETAILED: usize = 64;
/// Nodes and suspects listed on a terminal.
const LISTED: usize = 20;

pub(crate) fn run(args: &Accept) -> Outcome {
    if !["table", "json"].contains(&args.format.as_str()) {
        return Err(Failure::usage(format!("unknown format '{}'; known: table, json", args.format.escape_debug())));
    }
    let mut book = book(args)?;
    let mut files = args.files.clone();
    if files.is_empty() {
        let measured = node::measure(&args.here)?;
        // For a person, what was measured comes before what is thought of it.
        if args.format == "table" && args.output.is_none() {
            print(&measured.tables)?;
        }
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
    let text = match args.format.as_str() {
        "json" => serde_json::to_string(&judgement).map_err(|e| Failure::environment(format!("cannot encode: {e}")))? + "\n",
        _ => summary(&judgement),
    };
    match &args.output {
        Some(path) => std::fs::write(path, text).map_err(|e| store::cannot_write(path, &e))?,
        None => print(&text)?,
    }
    Ok(Exit::of(judgement.verdict, args.strict, !judgement.problems.is_empty()))
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

/// The judgement in a page of text.
fn summary(j: &Judgement) -> String {
    let mut text = String::new();
    let counts = j.counts();
    let by_verdict: Vec<String> =
        Verdict::ALL.iter().filter(|v| counts.of(**v) > 0).map(|v| format!("{} {v}", counts.of(*v))).collect();
    let nodes = j.nodes.len();
    let _ = writeln!(text, "{}  {nodes} node{}: {}", j.verdict, if nodes == 1 { "" } else { "s" }, by_verdict.join(", "));
    let _ = writeln!(text, "{} records, rules: {}", j.records, j.rules.join(", "));
    let bad: Vec<_> = j.nodes.iter().filter(|n| n.verdict != Verdict::Pass).collect();
    for node in bad.iter().take(LISTED) {
        let _ = writeln!(text, "\n{:<8}{}", node.verdict, clean(&node.node));
        let findings = j.findings_of(&node.node).iter().filter(|f| f.verdict != Verdict::Pass);
        let same_as_node = findings.clone().filter(|f| f.verdict == node.verdict).count();
        for f in findings.filter(|f| f.verdict == node.verdict).take(6) {
            let device = f.device.as_deref().map_or_else(String::new, |id| {
                let pci = node.devices.iter().find(|d| d.id == id).and_then(|d| d.pci.as_deref());
                format!("{}{} ", clean(id), pci.map_or_else(String::new, |p| format!(" at {}", clean(p))))
            });
            let case = f.case.as_deref().map_or_else(String::new, |c| format!(" {}", clean(c)));
            let _ = writeln!(text, "  {device}{}{case}: {} [{}]", clean(&f.rule), clean(&f.text), f.reason);
        }
        if same_as_node > 6 {
            let _ = writeln!(text, "  and {} more", same_as_node - 6);
        }
    }
    if bad.len() > LISTED {
        let _ = writeln!(text, "\nand {} more nodes that did not pass", bad.len() - LISTED);
    }
    for f in &j.fleet {
        let _ = writeln!(text, "\n{:<8}fleet: {} [{}]", f.verdict, clean(&f.text), f.reason);
    }
    if nodes > 1 && !j.suspects.is_empty() {
        let _ = writeln!(text, "\nlook at first");
        for s in j.suspects.iter().take(LISTED) {
            let device = s.device.as_deref().map(|d| format!(" {}", clean(d))).unwrap_or_default();
            let _ = writeln!(
                text,
                "  {:>3}  {}{device}  {}: {} (score {})",
                s.rank,
                clean(&s.node),
                s.fault,
                clean(&s.text),
                significant(s.score)
            );
        }
    }
    text
}
