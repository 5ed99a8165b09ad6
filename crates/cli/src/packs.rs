//! The rule sets that are built in, and how rules are found: by a file's name, by a pack's, or by the devices in the records.

use crate::exit::{Failure, Outcome};
use ridgepoint_core::verdict::{MAX_FILE, Mistake, RuleSet};
use std::io::Read;
use std::path::Path;

/// A rule set that is built in.
pub(crate) struct Pack {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! packs {
    ($($name:literal),*) => {
        &[$(Pack { name: $name, text: include_str!(concat!("../packs/", $name, ".toml")) }),*]
    };
}

/// All packs; those of a model before the one for every device, since the first that fits says when a measurement counts.
pub(crate) const PACKS: &[Pack] = packs!["a100", "h100", "h200", "b200", "gb200", "mi300x", "mi325x", "mi355x", "cpu", "generic"];

/// Every pack, to be chosen from by device model.
pub(crate) fn all() -> Vec<RuleSet> {
    PACKS.iter().filter_map(|p| RuleSet::parse(p.text).ok()).collect()
}

/// The rule set of this name: a file where there is one, else a pack.
pub(crate) fn named(name: &str) -> Outcome<RuleSet> {
    let path = Path::new(name);
    if let Some(pack) = PACKS.iter().find(|p| p.name == name)
        && !path.exists()
    {
        return RuleSet::parse(pack.text).map_err(|m| explained(name, &m));
    }
    if !path.exists() && !name.contains(['/', '.']) {
        let names: Vec<_> = PACKS.iter().map(|p| p.name).collect();
        return Err(Failure::usage(format!(
            "no rule file and no pack is named '{}'; packs: {}",
            name.escape_debug(),
            names.join(", ")
        )));
    }
    RuleSet::parse(&read(path)?).map_err(|m| explained(name, &m))
}

/// The text of a rule file, within its limit.
pub(crate) fn read(path: &Path) -> Outcome<String> {
    let cannot = |e: std::io::Error| Failure::environment(format!("cannot read {}: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{} is no text in UTF-8", path.display())))
}

/// Mistakes as the failure of a command.
fn explained(name: &str, mistakes: &[Mistake]) -> Failure {
    let list: Vec<String> = mistakes.iter().map(|m| format!("\n  {}:{m}", name.escape_debug())).collect();
    Failure::usage(format!("these rules cannot be used:{}", list.join("")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites;
    use ridgepoint_core::specs::Specs;
    use ridgepoint_core::verdict::Check;
    use ridgepoint_harness::{Class, Profile, Scope};

    /// Ids that a pack waits for and no suite lists yet.
    const TO_COME: &[&str] = &["collectives/all_reduce/r4/*"];

    #[test]
    fn every_pack_reads_names_a_known_model_and_looks_at_cases_that_exist() {
        let lists = [Class::Gpu, Class::Cpu].map(|class| suites::all(&Scope::typical(class, Profile::Full)));
        let ids: Vec<&str> = lists.iter().flatten().map(|l| l.case.id.as_str()).collect();
        for pack in PACKS {
            let set = RuleSet::parse(pack.text).unwrap_or_else(|m| panic!("{}: {m:?}", pack.name));
            assert_eq!(set.name, pack.name);
            assert!(!set.title.is_empty());
            if !["cpu", "generic"].contains(&pack.name) {
                for model in &set.models {
                    assert!(Specs::built_in().devices.iter().any(|d| model.matches(&d.id)), "{}: {model}", pack.name);
                }
            }
            for rule in &set.rules {
                for case in rule.cases.iter().filter(|c| !TO_COME.contains(&c.as_str())) {
                    assert!(ids.iter().any(|id| case.matches(id)), "{}:{}: no case is like {case}", pack.name, rule.line);
                }
                assert!(!rule.source.is_empty());
            }
        }
    }

    /// A typing slip in a limit would pass everything or nothing: each lies between a third of the datasheet and the datasheet.
    #[test]
    fn limits_lie_under_the_datasheet() {
        let mut checked = 0;
        for pack in PACKS {
            let set = RuleSet::parse(pack.text).unwrap();
            let Some(spec) = Specs::built_in().devices.iter().find(|d| set.models.iter().any(|m| m.as_str() == d.id)) else {
                continue;
            };
            for rule in &set.rules {
                let Check::Min { limit, unit } = &rule.check else { continue };
                let roof = match (unit.as_str(), rule.id.as_str()) {
                    ("TFLOP/s", id) => match id.rsplit('-').next() {
                        Some("e4m3") => spec.peaks["fp8"].tflops,
                        _ => spec.peaks["bf16"].tflops,
                    },
                    (_, id) if id.starts_with("all-") => spec.link.as_ref().unwrap().gbps * 1.1,
                    _ => spec.memory.gbps,
                };
                assert!(*limit < roof && *limit > roof / 3.0, "{} {}: {limit} of {roof}", pack.name, rule.id);
                checked += 1;
            }
        }
        assert!(checked > 40, "{checked}");
    }
}
