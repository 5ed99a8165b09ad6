//! `ridgepoint rules`: rule files explained before they decide anything.

use super::print;
use crate::args::Rules;
use crate::exit::{Exit, Failure, Outcome};
use crate::packs::{self, PACKS};
use crate::suites;
use ridgepoint_core::verdict::{Pattern, RuleSet};
use ridgepoint_harness::{Class, Profile, Scope};
use std::fmt::Write;

pub(crate) fn run(command: &Rules) -> Outcome {
    match command {
        Rules::Check { files } => {
            let mut text = String::new();
            let mut exit = Exit::Pass;
            for file in files {
                let shown = file.display().to_string().escape_debug().to_string();
                match RuleSet::parse(&packs::read(file)?) {
                    Ok(set) => {
                        let _ = writeln!(
                            text,
                            "{shown}: {} rules{}",
                            set.rules.len(),
                            if set.inventory.is_some() { " and an inventory" } else { "" }
                        );
                        for (line, doubt) in doubts(&set) {
                            let _ = writeln!(text, "{shown}:{line}: {doubt}");
                        }
                    }
                    Err(mistakes) => {
                        exit = Exit::Usage;
                        for mistake in mistakes {
                            let _ = writeln!(text, "{shown}:{mistake}");
                        }
                    }
                }
            }
            print(&text)?;
            Ok(exit)
        }
        Rules::List => {
            let mut text = String::new();
            for set in packs::all() {
                let models: Vec<_> = set.models.iter().map(Pattern::as_str).collect();
                let models = if models.is_empty() { "every device".to_owned() } else { models.join(", ") };
                let _ = writeln!(text, "{:<9}{:>3} rules  {}  ({models})", set.name, set.rules.len(), set.title);
            }
            print(&text)?;
            Ok(Exit::Pass)
        }
        Rules::Show { name } => {
            let pack = PACKS.iter().find(|p| p.name == name).ok_or_else(|| {
                let names: Vec<_> = PACKS.iter().map(|p| p.name).collect();
                Failure::usage(format!("no pack is named '{}'; there are {}", name.escape_debug(), names.join(", ")))
            })?;
            print(pack.text)?;
            Ok(Exit::Pass)
        }
    }
}

/// What is no mistake and yet probably not meant: a rule that looks at no case that is listed.
fn doubts(set: &RuleSet) -> Vec<(u32, String)> {
    let lists = [Class::Gpu, Class::Cpu, Class::SoftwareGpu].map(|class| suites::all(&Scope::typical(class, Profile::Full)));
    let mut found = Vec::new();
    for rule in &set.rules {
        for case in &rule.cases {
            if !lists.iter().flatten().any(|l| case.matches(l.case.id.as_str())) {
                found.push((
                    rule.line,
                    format!("note: no listed case is like {case} (`ridgepoint list` shows them; a whole id may still be run)"),
                ));
            }
        }
    }
    found
}
