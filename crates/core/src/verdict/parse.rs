//! Reads a rule file and says everything that is wrong with it at once, each mistake with its line and what was probably meant.
//!
//! The TOML is walked by hand rather than through serde, which stops at the first mistake and names no place within an entry.

use super::{
    Against, Check, Combine, Direction, Expected, PcieLink, Per, Pick, Providers, RoofOf, Rule, RuleSet, Severity, Validity,
};
use crate::Bytes;
use crate::section::{Mistake, Section, place};
use std::collections::BTreeMap;
use toml::de::DeTable;

/// Largest rule file accepted, bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Most rules accepted.
pub const MAX_RULES: usize = 1000;
/// Units that a figure can have.
const UNITS: &[&str] = &["GB/s", "TFLOP/s", "ns"];

const SET_KEYS: &[&str] = &["name", "title", "models", "validity", "inventory", "rule"];
const VALIDITY_KEYS: &[&str] = &["max_throttled_pct", "power_cap_throttles", "max_ci_pct", "failed_case"];
const INVENTORY_KEYS: &[&str] = &[
    "gpus",
    "model",
    "memory_gb",
    "ecc",
    "links",
    "pcie",
    "nics",
    "nic_gbps",
    "driver",
    "firmware",
    "libraries",
    "required",
    "severity",
    "source",
];
const CHECK_KEYS: &[&str] = &[
    "min",
    "max",
    "min_pct_of_peak",
    "min_pct_of_baseline",
    "min_pct_of_node_best",
    "max_mad_from_cohort",
    "max_cv",
    "monotonic",
    "max_throttled_pct",
    "max_count",
];
/// Keys of a rule beside the check's, and for which checks each has a meaning (empty: all).
const RULE_KEYS: &[(&str, &[&str])] = &[
    ("id", &[]),
    ("title", &[]),
    ("case", &[]),
    ("models", &[]),
    ("provider", &[]),
    ("driver", &[]),
    ("size_min", &[]),
    ("size_max", &[]),
    ("per", &[]),
    ("required", &[]),
    ("severity", &[]),
    ("source", &[]),
    ("pick", &["min", "max", "min_pct_of_peak"]),
    ("unit", &["min", "max"]),
    ("roof", &["min_pct_of_peak"]),
    ("min_gap_pct", &["max_mad_from_cohort"]),
    ("against", &["max_mad_from_cohort"]),
    ("combine", &["max_mad_from_cohort"]),
    ("tolerance_pct", &["monotonic"]),
    ("counter", &["max_count"]),
];

impl RuleSet {
    /// Parses a rule file.
    ///
    /// # Errors
    /// Every mistake found, by line.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        if text.len() > MAX_FILE {
            return Err(vec![Mistake::new((0, 0), format!("a rule file has at most {} KiB", MAX_FILE >> 10))]);
        }
        let table = DeTable::parse(text).map_err(|e| {
            let at = place(text, e.span().map_or(0, |s| s.start));
            vec![Mistake::new(at, e.message().to_owned())]
        })?;
        let mut mistakes = Vec::new();
        let set = read_set(&mut Section::new(text, table.get_ref(), 0, &mut mistakes));
        mistakes.sort_by_key(|m| (m.line, m.column));
        if mistakes.is_empty() { Ok(set) } else { Err(mistakes) }
    }
}

fn read_set(section: &mut Section<'_, '_>) -> RuleSet {
    section.only(SET_KEYS);
    let name = section.text("name");
    if name.is_none() {
        section.missing("name", "a name that reports show: name = \"my-cluster\"");
    }
    let mut set = RuleSet {
        name: name.unwrap_or_default(),
        title: section.text("title").unwrap_or_default(),
        models: section.patterns("models"),
        ..RuleSet::default()
    };
    if let Some(validity) = section.table("validity", |s| read_validity(s)) {
        set.validity = validity;
    }
    set.inventory = section.table("inventory", |s| read_inventory(s));
    let mut first_line = BTreeMap::<String, u32>::new();
    let rules = section.tables("rule", MAX_RULES, |s| {
        let rule = read_rule(s)?;
        match first_line.get(&rule.id) {
            Some(line) => s.mistake("id", format!("the rule of line {line} has this id already; each needs its own")),
            None => {
                first_line.insert(rule.id.clone(), rule.line);
            }
        }
        Some(rule)
    });
    set.rules = rules;
    if set.rules.is_empty() && set.inventory.is_none() && section.clean() {
        section.missing("rule", "a rule file holds [[rule]] entries or an [inventory]; this one would judge nothing");
    }
    set
}

fn read_validity(section: &mut Section<'_, '_>) -> Validity {
    section.only(VALIDITY_KEYS);
    let default = Validity::default();
    Validity {
        max_throttled_pct: section.percent("max_throttled_pct").unwrap_or(default.max_throttled_pct),
        power_cap_throttles: section.bool("power_cap_throttles").unwrap_or(default.power_cap_throttles),
        max_ci_pct: section.percent("max_ci_pct").unwrap_or(default.max_ci_pct),
        failed_case: severity(section, "failed_case").unwrap_or(default.failed_case),
    }
}

fn read_inventory(section: &mut Section<'_, '_>) -> Expected {
    section.only(INVENTORY_KEYS);
    let pcie = section.text("pcie").and_then(|text| {
        let link = PcieLink::parse(&text);
        if link.is_none() {
            section.mistake("pcie", format!("'{}' is no PCIe link; write 5.0x16", text.escape_debug()));
        }
        link
    });
    let expected = Expected {
        gpus: section.count("gpus"),
        model: section.pattern("model"),
        memory_gb: section.number("memory_gb", 0.0, 1e6),
        ecc: section.bool("ecc"),
        links: section.count("links"),
        pcie,
        nics: section.count("nics"),
        nic_gbps: section.number("nic_gbps", 0.0, 1e6),
        driver: section.requirement("driver"),
        firmware: section.requirements("firmware"),
        libraries: section.requirements("libraries"),
        required: section.bool("required").unwrap_or(true),
        severity: severity(section, "severity").unwrap_or(Severity::Fail),
        source: section.text("source").unwrap_or_default(),
        line: section.line(),
    };
    if expected.nic_gbps.is_some() && expected.nics.is_none() {
        section.mistake("nic_gbps", "it says how fast the ports must be; say how many with nics = 8".into());
    }
    expected
}

fn read_rule(section: &mut Section<'_, '_>) -> Option<Rule> {
    let known: Vec<&str> = RULE_KEYS.iter().map(|(key, _)| *key).chain(CHECK_KEYS.iter().copied()).collect();
    section.only(&known);
    let id = section.text("id").filter(|id| {
        let fine = !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !fine {
            section.mistake("id", "an id is made of letters, digits, '-', '_' and '.', at most 64 of them".into());
        }
        fine
    });
    if id.is_none() && !section.has("id") {
        section.missing("id", "a name of its own: id = \"hbm-read\"");
    }
    let cases = section.patterns("case");
    if cases.is_empty() && !section.has("case") {
        section.missing("case", "what it looks at: case = \"memory/read/*/f32\" (`ridgepoint list` shows all)");
    }
    let check = read_check(section);
    let sizes = [size(section, "size_min"), size(section, "size_max")];
    if let [Some(low), Some(high)] = sizes
        && low > high
    {
        section.mistake("size_max", "it is below size_min: no case has such a size".into());
    }
    let collective = cases.iter().all(|c| c.as_str().starts_with("collectives/"));
    let per = section.choice("per", &[("gpu", Per::Gpu), ("node", Per::Node)]);
    let rule = Rule {
        title: section.text("title").unwrap_or_default(),
        models: section.patterns("models"),
        providers: match section.pattern("provider") {
            Some(p) if p.as_str() != "best" => Providers::Each(p),
            _ => Providers::Best,
        },
        driver: section.requirement("driver"),
        size_min: sizes[0],
        size_max: sizes[1],
        pick: section.choice("pick", &[("each", Pick::Each), ("best", Pick::Best)]).unwrap_or(Pick::Each),
        per: per.unwrap_or(if collective { Per::Node } else { Per::Gpu }),
        required: section.bool("required").unwrap_or(false),
        severity: severity(section, "severity").unwrap_or(Severity::Fail),
        source: section.text("source").unwrap_or_default(),
        line: section.line(),
        id: id?,
        cases,
        check: check?,
    };
    if rule.source.is_empty() && !section.has("source") {
        section.missing("source", "where the threshold comes from, so that the one who signs can look it up: source = \"…\"");
    }
    Some(rule)
}

fn read_check(section: &mut Section<'_, '_>) -> Option<Check> {
    let present: Vec<&str> = CHECK_KEYS.iter().copied().filter(|key| section.has(key)).collect();
    let key = match present.as_slice() {
        [key] => *key,
        [] => {
            section.missing("min", &format!("a limit; one of {}", CHECK_KEYS.join(", ")));
            return None;
        }
        [first, second, ..] => {
            section.mistake(second, format!("a rule has one limit, and this one has {first} too; write two rules"));
            return None;
        }
    };
    for (other, checks) in RULE_KEYS {
        if !checks.is_empty() && !checks.contains(&key) && section.has(other) {
            section.mistake(other, format!("it means nothing beside {key}; it goes with {}", checks.join(", ")));
        }
    }
    let percent = |section: &mut Section<'_, '_>| section.number(key, 0.0, 1000.0);
    Some(match key {
        "min" | "max" => {
            let limit = section.number(key, 0.0, 1e12);
            let unit = section.text("unit");
            match &unit {
                None => section.missing("unit", "the unit of the limit: GB/s, TFLOP/s or ns"),
                Some(u) if !UNITS.contains(&u.as_str()) => {
                    section.mistake(
                        "unit",
                        format!("'{}' is no unit of a figure; known: {}{}", u.escape_debug(), UNITS.join(", "), binary(u)),
                    );
                }
                Some(_) => {}
            }
            let (limit, unit) = (limit?, unit?);
            if key == "min" { Check::Min { limit, unit } } else { Check::Max { limit, unit } }
        }
        "min_pct_of_peak" => {
            let roofs =
                [("datasheet", RoofOf::Datasheet), ("observed-clock", RoofOf::ObservedClock), ("empirical", RoofOf::Empirical)];
            let roof = section.choice("roof", &roofs).unwrap_or(RoofOf::Datasheet);
            Check::MinPctOfPeak { percent: percent(section)?, roof }
        }
        "min_pct_of_baseline" => Check::MinPctOfBaseline { percent: percent(section)? },
        "min_pct_of_node_best" => Check::MinPctOfNodeBest { percent: percent(section)? },
        "max_mad_from_cohort" => {
            let against =
                section.choice("against", &[("fleet", Against::Fleet), ("node", Against::Node), ("nodes", Against::Nodes)]);
            let combine = section.choice("combine", &[("each", Combine::Each), ("median", Combine::Median)]);
            let min_gap_pct = section.percent("min_gap_pct").unwrap_or(3.0);
            Check::MaxMadFromCohort {
                mads: section.number(key, 1.0, 1e6)?,
                min_gap_pct,
                against: against.unwrap_or(Against::Fleet),
                combine: combine.unwrap_or(Combine::Each),
            }
        }
        "max_cv" => Check::MaxCv { limit: section.number(key, 0.0, 10.0)? },
        "monotonic" => Check::Monotonic {
            direction: section.choice(key, &[("rising", Direction::Rising), ("falling", Direction::Falling)])?,
            tolerance_pct: section.percent("tolerance_pct").unwrap_or(5.0),
        },
        "max_throttled_pct" => Check::MaxThrottledPct { percent: section.percent(key)? },
        _ => {
            let counter = section.text("counter");
            if counter.is_none() {
                section.missing("counter", "which counter: counter = \"ecc_uncorrected\"");
            }
            Check::MaxCount { limit: i64::from(section.count(key)?), counter: counter? }
        }
    })
}

/// A word on units that look right and are not.
fn binary(unit: &str) -> &'static str {
    match unit {
        "GiB/s" => " (figures are decimal: 1 GB = 1e9 bytes)",
        "Gb/s" | "Gbit/s" | "gbps" => " (bytes, not bits: divide by 8)",
        "TFLOPS" | "TFLOPs" | "TFLOP" | "tflops" => " (write TFLOP/s)",
        "us" | "µs" => " (latencies are in ns)",
        _ => "",
    }
}

fn severity(section: &mut Section<'_, '_>, key: &str) -> Option<Severity> {
    section.choice(key, &[("fail", Severity::Fail), ("warn", Severity::Warn)])
}

fn size(section: &mut Section<'_, '_>, key: &str) -> Option<u64> {
    let text = section.text(key)?;
    text.parse::<Bytes>().map_err(|e| section.mistake(key, e)).ok().map(|b| b.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = r#"
name = "mine"
models = ["H100-SXM"]

[validity]
max_ci_pct = 3

[inventory]
gpus = 8
ecc = true
pcie = "5.0x16"
driver = ">=570"
libraries = { NCCL = ">=2.20" }
source = "purchase order"

[[rule]]
id = "hbm-read"
case = "memory/read/*/f32"
size_min = "256MiB"
min = 2900
unit = "GB/s"
required = true
source = "measured"

[[rule]]
id = "cohort"
case = ["gemm/*", "attention/*"]
max_mad_from_cohort = 6
min_gap_pct = 5
combine = "median"
severity = "warn"
source = "measured"
"#;

    #[test]
    fn a_good_file_reads() {
        let set = RuleSet::parse(GOOD).unwrap();
        assert_eq!((set.name.as_str(), set.rules.len(), set.validity.max_ci_pct), ("mine", 2, 3.0));
        assert_eq!(set.rules[0].size_min, Some(256 << 20));
        assert_eq!(set.rules[0].line, 16);
        assert!(set.rules[0].required && set.rules[0].providers == Providers::Best);
        assert!(matches!(set.rules[1].check, Check::MaxMadFromCohort { combine: Combine::Median, against: Against::Fleet, .. }));
        assert_eq!(set.inventory.unwrap().libraries["NCCL"].as_str(), ">=2.20");
    }

    /// All that a file's author could have got wrong is told in one go, with the lines.
    #[test]
    fn every_mistake_has_its_line_and_a_remedy() {
        let text = r#"name = "x"
[[rule]]
id = "a"
case = "memory/read/*/f32"
mim = 2900
source = "s"
[[rule]]
id = "a"
case = "gemm/*"
min = nan
unit = "TFLOPS"
source = "s"
[[rule]]
id = "b b"
case = 7
min_pct_of_peak = 90
max_cv = 0.1
roof = "ceiling"
source = "s"
[[rule]]
id = "c"
case = "collectives/*"
monotonic = "rising"
unit = "GB/s"
size_min = "4MB"
severity = "fatal"
[inventory]
pcie = "fast"
driver = ">="
"#;
        let shown: Vec<String> = RuleSet::parse(text).unwrap_err().iter().map(ToString::to_string).collect();
        let shown = shown.join("\n");
        for (line, words) in [
            (5, "unknown key 'mim'; did you mean 'min'?"),
            (2, "a limit; one of min"),
            (10, "a finite number"),
            (11, "(write TFLOP/s)"),
            (14, "an id is made of"),
            (15, "a text, or a list of texts"),
            (17, "a rule has one limit"),
            (24, "it means nothing beside monotonic"),
            (25, "'4MB' is no size"),
            (26, "did you mean 'fail'?"),
            (20, "source"),
            (28, "is no PCIe link"),
            (29, "names no version"),
        ] {
            assert!(shown.lines().any(|l| l.starts_with(&format!("{line}:")) && l.contains(words)), "{line} {words}\n{shown}");
        }
    }

    #[test]
    fn an_id_belongs_to_one_rule_and_an_empty_file_judges_nothing() {
        let twice = "[[rule]]\nid=\"a\"\ncase=\"x\"\nmax_cv=1\nsource=\"s\"\n";
        let mistakes = RuleSet::parse(&format!("name=\"x\"\n{twice}{twice}")).unwrap_err();
        assert!(mistakes[0].text.contains("the rule of line 2 has this id"), "{mistakes:?}");
        assert!(RuleSet::parse("name=\"x\"").unwrap_err()[0].text.contains("judge nothing"));
    }

    #[test]
    fn syntax_errors_and_abuse_are_mistakes_and_never_panics() {
        let deep = format!("name = {}1{}", "[".repeat(5000), "]".repeat(5000));
        let dotted = format!("{}a = 1", "a.".repeat(5000));
        let many = format!("name=\"x\"\n{}", "[[rule]]\n".repeat(3000));
        for text in [
            "name = ",
            "a = 1\na = 2",
            "\0",
            &deep,
            &dotted,
            &many,
            &"x".repeat(2 << 20),
            "rule = 3",
            "[[inventory]]",
            "validity = 1",
        ] {
            let mistakes = RuleSet::parse(text).unwrap_err();
            assert!(!mistakes.is_empty() && mistakes.len() < 10_000);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "[a-z_=\\[\\]\"0-9.\n{},# ]{0,200}") {
            let _ = RuleSet::parse(&text);
        }

        #[test]
        fn a_damaged_file_is_a_mistake_or_a_set(at in 0usize..GOOD.len(), with in any::<char>()) {
            let mut text: Vec<char> = GOOD.chars().collect();
            text[at] = with;
            let _ = RuleSet::parse(&text.into_iter().collect::<String>());
        }
    }
}
