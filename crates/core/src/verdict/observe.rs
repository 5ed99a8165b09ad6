//! What judging keeps of records: sixty bytes each, so that ten thousand nodes fit in memory. Texts are kept once and numbered.

use super::judgement::{Outcomes, Problem};
use super::{Inventory, NodeDevice, Validity};
use crate::case::{Component, Metric};
use crate::record::{Environment, Outcome, Record};
use crate::roofline::{RoofKind, place};
use crate::specs::Specs;
use crate::{Backend, DeviceInfo};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Problems kept as sentences; more are counted.
const MAX_PROBLEMS: usize = 1000;
/// Longest text of a record that is kept.
const MAX_TEXT: usize = 300;
/// Most facts of an environment that are kept.
const MAX_FACTS: usize = 64;
/// Most different reasons that are kept; a fleet has a few dozen.
const MAX_REASONS: usize = 100_000;
/// Counters that always move and say nothing of health.
const IGNORED_COUNTERS: &[&str] = &["energy_mj"];

/// What backends call the power limit that a device is sold with.
const POWER_LIMITS: &[&str] = &["power cap", "sw power cap"];

/// Texts by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Names {
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if let Some(n) = self.numbers.get(text) {
            return *n;
        }
        let n = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, n);
        n
    }

    pub(super) fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", |t| t)
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file's number, from [`Fleet::file`].
    pub file: u32,
    /// The line, from 1.
    pub line: u32,
}

/// How a record came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Measured,
    /// Measured, and its check looked at nothing or its samples are no durations.
    Unverified,
    Skipped,
    Failed,
    Wrong,
}

impl Observation {
    /// The part of its samples that were taken while throttled, as `validity` counts.
    pub(super) fn throttled(&self, validity: &Validity) -> f64 {
        if self.power_capped && !validity.power_cap_throttles { 0.0 } else { f64::from(self.throttled) }
    }
}

/// One record, as far as it is judged. Fractions are NaN where there is no such roof.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    pub(super) device: u16,
    pub(super) kind: Kind,
    pub(super) metric: Metric,
    pub(super) suspect: bool,
    /// Nothing but the power limit held its clock back.
    pub(super) power_capped: bool,
    pub(super) case: u32,
    pub(super) provider: u32,
    /// Reason of a skip or failure, or what was wrong.
    pub(super) reason: u32,
    /// Seconds since 1970.
    pub(super) started: u32,
    pub(super) value: f32,
    pub(super) cv: f32,
    pub(super) ci: f32,
    throttled: f32,
    pub(super) datasheet: f32,
    pub(super) at_clock: f32,
    pub(super) empirical: f32,
    pub(super) source: Source,
}

/// A counter that moved while a record was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) device: u16,
    pub(super) case: u32,
    pub(super) counter: u32,
    pub(super) delta: i64,
    pub(super) source: Source,
}

/// A device as judging needs it.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) shown: NodeDevice,
    /// The driver's name for it.
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) backend: Backend,
}

impl Device {
    /// The same device met again: another that was put in its place has its id, and no record of its.
    fn is(&self, other: &Self) -> bool {
        let uuids = self.shown.uuid.as_ref().zip(other.shown.uuid.as_ref());
        self.shown.id == other.shown.id && self.name == other.name && uuids.is_none_or(|(a, b)| a == b)
    }
}

/// A node.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) devices: Vec<Device>,
    pub(super) inventory: Option<Inventory>,
    /// The inventory was taken of the node, not gathered from the devices that were measured.
    pub(super) whole: bool,
    pub(super) started: String,
    pub(super) command: Vec<String>,
    pub(super) facts: BTreeMap<String, String>,
    pub(super) version: String,
    pub(super) method: u32,
    pub(super) outcomes: Outcomes,
    pub(super) seen: Vec<Observation>,
    pub(super) moved: Vec<Moved>,
}

/// A run, as its records need it: its node, and its devices with what their roofs follow from.
#[derive(Debug)]
struct Run {
    node: u32,
    host: String,
    devices: Vec<(u16, DeviceInfo)>,
}

/// Records taken in, ready to be judged. Several can be filled side by side and merged.
#[derive(Debug, Default)]
pub struct Fleet {
    pub(super) names: Names,
    pub(super) nodes: Vec<Node>,
    by_name: HashMap<String, u32>,
    runs: HashMap<String, Run>,
    reasons: usize,
    pub(super) problems: Vec<Problem>,
    problems_left_out: u64,
    pub(super) records: u64,
}

impl Fleet {
    /// The number of a file, for [`Source`].
    pub fn file(&mut self, shown: &str) -> u32 {
        self.names.number(shown)
    }

    /// Takes note of something that could not be read or used.
    pub fn problem(&mut self, file: &str, line: u64, text: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { file: file.into(), line, text: text.into() });
        } else {
            self.problems_left_out += 1;
        }
    }

    /// Records taken in so far.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// What could not be read or used.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Nodes seen so far.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Takes in a run's environment. Its records may follow at any time.
    ///
    /// # Errors
    /// One sentence when an environment of another host has the same hash.
    pub fn add_environment(&mut self, environment: &Environment) -> Result<(), String> {
        let host: String = cut(&environment.host).to_owned();
        if let Some(run) = self.runs.get(&environment.hash) {
            let same = run.host == host;
            return if same { Ok(()) } else { Err(format!("two hosts have an environment of hash {}", cut(&environment.hash))) };
        }
        let number = self.node(&host);
        let node = &mut self.nodes[number as usize];
        let later = environment.started >= node.started;
        let mut devices = Vec::new();
        for info in environment.devices.iter().take(usize::from(u16::MAX) / 2) {
            let Some(index) = node.device(info, later) else { break };
            devices.push((index, trimmed(info)));
        }
        if later || node.inventory.is_none() {
            node.renew(Inventory::of_environment(environment), environment.inventory.is_some());
        }
        if later {
            node.started = environment.started.clone();
            node.command = environment.command.iter().take(64).map(|w| cut(w).to_owned()).collect();
            node.version = cut(&environment.version).to_owned();
            node.facts = facts(environment);
            node.method = environment.method;
        }
        self.runs.insert(environment.hash.clone(), Run { node: number, host, devices });
        Ok(())
    }

    /// Takes in a record; false if its environment has not been seen, and then it is left out.
    pub fn add_record(&mut self, record: &Record, source: Source) -> bool {
        let Some(run) = self.runs.get(&record.environment) else { return false };
        let Some((device, info)) = run.devices.iter().find(|(_, d)| d.id == record.device) else {
            let text =
                format!("device {} is not in the environment of {}", record.device.escape_debug(), run.host.escape_debug());
            let file = self.names.text(source.file).to_owned();
            self.problem(&file, source.line.into(), text);
            return true;
        };
        let (node, device) = (run.node as usize, *device);
        let mut seen = Observation {
            device,
            kind: Kind::Skipped,
            metric: record.metric,
            suspect: false,
            power_capped: false,
            case: self.names.number(record.case.as_str()),
            provider: self.names.number(cut(&record.provider)),
            reason: 0,
            started: seconds(&record.started),
            value: f32::NAN,
            cv: f32::NAN,
            ci: f32::NAN,
            throttled: 0.0,
            datasheet: f32::NAN,
            at_clock: f32::NAN,
            empirical: f32::NAN,
            source,
        };
        let placed = place(record, info, Specs::built_in());
        let outcomes = &mut self.nodes[node].outcomes;
        let reason = match &record.outcome {
            Outcome::Measured { samples, verification, telemetry } => {
                outcomes.measured += 1;
                for (name, delta) in &telemetry.counter_deltas {
                    if *delta != 0 && !IGNORED_COUNTERS.contains(&name.as_str()) {
                        let counter = self.names.number(cut(name));
                        self.nodes[node].moved.push(Moved { device, case: seen.case, counter, delta: *delta, source });
                    }
                }
                let passed = verification.passed();
                match placed {
                    Some(p) if passed => {
                        seen.kind = Kind::Measured;
                        seen.value = p.achieved as f32;
                        seen.cv = p.summary.cv as f32;
                        seen.ci = p.summary.ci as f32;
                        let marked = samples.throttled.iter().filter(|i| **i < samples.seconds.len()).count();
                        seen.throttled = marked as f32 / samples.seconds.len().max(1) as f32;
                        seen.power_capped = telemetry.throttle_reasons.iter().all(|r| POWER_LIMITS.contains(&r.as_str()));
                        let fraction = |kind| p.fraction_of(kind).map_or(f32::NAN, |f| f as f32);
                        seen.datasheet = fraction(RoofKind::Datasheet);
                        seen.at_clock = fraction(RoofKind::ObservedClock);
                        seen.empirical = fraction(RoofKind::Empirical);
                        seen.suspect = p.suspect() && record.metric != Metric::BusBandwidth;
                        telemetry.throttle_reasons.join(", ")
                    }
                    None if passed => {
                        seen.kind = Kind::Unverified;
                        "its samples are no durations".into()
                    }
                    _ if verification.checked == 0 => {
                        seen.kind = Kind::Unverified;
                        "its check looked at nothing".into()
                    }
                    _ => {
                        seen.kind = Kind::Wrong;
                        wrong(verification)
                    }
                }
            }
            Outcome::Skipped { reason } => {
                outcomes.skipped += 1;
                reason.clone()
            }
            Outcome::Failed { reason } => {
                outcomes.failed += 1;
                seen.kind = Kind::Failed;
                reason.clone()
            }
            Outcome::Wrong { verification } => {
                outcomes.wrong += 1;
                seen.kind = Kind::Wrong;
                wrong(verification)
            }
        };
        seen.reason = self.reason(&reason);
        self.nodes[node].seen.push(seen);
        self.records += 1;
        true
    }

    fn reason(&mut self, text: &str) -> u32 {
        let before = self.names.len();
        if self.reasons > MAX_REASONS {
            return self.names.number("(not kept: too many different reasons)");
        }
        let number = self.names.number(cut(text));
        self.reasons += self.names.len() - before;
        number
    }

    fn node(&mut self, host: &str) -> u32 {
        if let Some(n) = self.by_name.get(host) {
            return *n;
        }
        let n = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node { name: host.to_owned(), ..Node::default() });
        self.by_name.insert(host.to_owned(), n);
        n
    }

    /// Takes over what another fleet holds.
    pub fn merge(&mut self, other: Self) {
        let numbers: Vec<u32> = other.names.texts.iter().map(|t| self.names.number(t)).collect();
        let renamed = |n: u32| numbers.get(n as usize).copied().unwrap_or(0);
        let mut places = Vec::new();
        for from in other.nodes {
            let number = self.node(&from.name);
            places.push(number);
            let to = &mut self.nodes[number as usize];
            to.take_over(from, renamed);
        }
        for (hash, run) in other.runs {
            let node = places[run.node as usize];
            self.runs.entry(hash).or_insert(Run { node, ..run });
        }
        for p in other.problems {
            self.problem(&p.file, p.line, p.text);
        }
        self.problems_left_out += other.problems_left_out;
        self.records += other.records;
        self.reasons += other.reasons;
    }

    /// Ends the reading: nodes by name, and what only reading needed is let go.
    pub fn finish(&mut self) {
        self.runs = HashMap::new();
        self.by_name = HashMap::new();
        self.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        self.problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        if self.problems_left_out > 0 {
            let text = format!("{} more problems are not listed", self.problems_left_out);
            self.problems.push(Problem { file: String::new(), line: 0, text });
            self.problems_left_out = 0;
        }
    }
}

/// What is known of where a run was made, beyond its devices.
fn facts(environment: &Environment) -> BTreeMap<String, String> {
    let own = [
        ("os", Some(environment.os.clone())),
        ("cpu", Some(environment.cpu.clone())),
        ("governor", environment.governor.clone()),
        ("profile", Some(environment.profile.clone())),
        ("seed", Some(environment.seed.to_string())),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.filter(|v| !v.is_empty())?)));
    let all = environment.facts.iter().take(MAX_FACTS).map(|(name, value)| (name.clone(), value.clone())).chain(own);
    all.map(|(name, value)| (cut(&name).to_owned(), cut(&value).to_owned())).collect()
}

impl Node {
    /// The index of a device, entered or brought up to date; None beyond what an index holds.
    fn device(&mut self, info: &DeviceInfo, later: bool) -> Option<u16> {
        let model = Specs::built_in().find(info).map_or_else(|| cut(&info.name).to_owned(), |s| s.id.clone());
        let entry = Device {
            shown: NodeDevice {
                id: cut(&info.id).to_owned(),
                model,
                uuid: info.uuid.as_deref().map(|t| cut(t).to_owned()),
                pci: info.pci.as_deref().map(|t| cut(t).to_owned()),
                driver: cut(&info.driver).to_owned(),
                ..NodeDevice::default()
            },
            name: cut(&info.name).to_owned(),
            driver: cut(&info.driver).to_owned(),
            backend: info.backend,
        };
        let at = self.devices.iter().position(|d| d.is(&entry));
        let index = match at {
            Some(i) => {
                if later {
                    self.devices[i] = entry;
                }
                i
            }
            None => {
                self.devices.push(entry);
                self.devices.len() - 1
            }
        };
        u16::try_from(index).ok()
    }

    /// A later inventory: one of the whole node replaces what was known, so that a GPU that is gone is gone; one gathered from
    /// the devices of a run does not make the others missing.
    fn renew(&mut self, found: Inventory, whole: bool) {
        let known = self.inventory.take().filter(|_| !whole).unwrap_or_default();
        self.inventory = Some(known.joined(found));
        self.whole |= whole;
    }

    fn take_over(&mut self, from: Self, renamed: impl Fn(u32) -> u32) {
        let later = from.started >= self.started;
        let mut places = Vec::new();
        for device in from.devices {
            let at = self.devices.iter().position(|d| d.is(&device));
            places.push(at.unwrap_or(self.devices.len()) as u16);
            match at {
                Some(i) if later => self.devices[i] = device,
                Some(_) => {}
                None => self.devices.push(device),
            }
        }
        if later {
            if let Some(found) = from.inventory {
                self.renew(found, from.whole);
            }
            (self.started, self.command, self.version, self.method) = (from.started, from.command, from.version, from.method);
            self.facts = from.facts;
        }
        let o = &mut self.outcomes;
        o.measured += from.outcomes.measured;
        o.skipped += from.outcomes.skipped;
        o.failed += from.outcomes.failed;
        o.wrong += from.outcomes.wrong;
        let place = |d: u16| places.get(usize::from(d)).copied().unwrap_or(0);
        let mut seen = from.seen;
        for s in &mut seen {
            (s.device, s.case, s.provider, s.reason) = (place(s.device), renamed(s.case), renamed(s.provider), renamed(s.reason));
            s.source.file = renamed(s.source.file);
        }
        // Most nodes are met by one reader alone: theirs is taken as it is, for a copy of each would double what a fleet needs.
        if self.seen.is_empty() {
            self.seen = seen;
        } else {
            self.seen.append(&mut seen);
        }
        self.moved.extend(from.moved.into_iter().map(|m| Moved {
            device: place(m.device),
            case: renamed(m.case),
            counter: renamed(m.counter),
            source: Source { file: renamed(m.source.file), ..m.source },
            ..m
        }));
    }
}

/// The component that a case id names; memory for one that names none of ours.
pub(super) fn component(case: &str) -> Component {
    let first = case.split('/').next().unwrap_or_default();
    Component::ALL.into_iter().find(|c| c.name() == first).unwrap_or(Component::Memory)
}

/// What roofs follow from, and nothing else.
fn trimmed(info: &DeviceInfo) -> DeviceInfo {
    DeviceInfo { facts: Default::default(), libraries: Vec::new(), ..info.clone() }
}

fn wrong(v: &crate::Verification) -> String {
    format!("{} ({})", v.fault(), cut(&v.method))
}

/// At most [`MAX_TEXT`] bytes of a text.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Seconds since 1970 of an RFC 3339 time in UTC; 0 for anything else, which is then the oldest.
pub(super) fn seconds(text: &str) -> u32 {
    let parse = || {
        let field = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
        let (year, month, day) = (field(0..4)?, field(5..7)?, field(8..10)?);
        let (hour, minute, second) = (field(11..13)?, field(14..16)?, field(17..19)?);
        // Days from civil (Howard Hinnant, "chrono-compatible low-level date algorithms").
        let y = if month <= 2 { year - 1 } else { year };
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + day_of_year - 719_468;
        u32::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()
    };
    parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_stays_small() {
        assert!(size_of::<Observation>() <= 64, "{}", size_of::<Observation>());
    }

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(seconds("1970-01-02T00:00:01Z"), 86_401);
        assert_eq!(seconds("2026-11-24T19:38:23Z"), 1_795_549_103);
        assert_eq!(seconds("2000-03-01T00:00:00Z"), 951_868_800);
        for odd in ["", "yesterday", "é026-11-24T19:38:23Z", "9999999-1-1"] {
            assert_eq!(seconds(odd), 0, "{odd}");
        }
    }
}
