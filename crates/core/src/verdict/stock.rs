//! The node as it should be against the node as it was found.

use super::checks::Place;
use super::judge::Findings;
use super::{Expected, Finding, Gpu, Inventory, Reason, RuleSet, Verdict};
use crate::DeviceInfo;
use crate::specs::Specs;
use std::collections::BTreeSet;

/// One thing compared.
enum Found {
    Right(String),
    Wrong(Reason, String),
    Unknown(String),
}

/// Compares the node's inventory with what `set` expects, a finding for each thing that is asked for.
pub(super) fn check(place: &Place<'_>, set: &RuleSet, expected: &Expected, findings: &mut Findings) {
    let empty = Inventory::default();
    let found = place.node.inventory.as_ref().unwrap_or(&empty);
    let is_model = |g: &Gpu| expected.model.as_ref().is_none_or(|p| p.matches(&g.name) || p.matches(&model(&g.name)));
    let gpus: Vec<&Gpu> = found.gpus.iter().filter(|g| is_model(g)).collect();
    let mut add = |what: &str, device: Option<&str>, outcome: Found| {
        let (verdict, reason, text) = match outcome {
            Found::Right(text) => (Verdict::Pass, Reason::WithinLimit, text),
            Found::Wrong(reason, text) => (expected.severity.verdict(), reason, text),
            Found::Unknown(text) if expected.required => (expected.severity.verdict(), Reason::InventoryUnknown, text),
            Found::Unknown(text) => (Verdict::Skip, Reason::InventoryUnknown, text),
        };
        findings.add(verdict, || {
            let mut finding = place.finding(&set.name, &format!("inventory.{what}"), verdict, reason);
            finding.evidence.threshold.clone_from(&expected.source);
            Finding { text, required: expected.required, device: device.map(str::to_owned), ..finding }
        });
    };
    if let Some(n) = expected.gpus {
        add("gpus", None, count_of_gpus(n, &gpus, found, expected));
    } else if let Some(wanted) = &expected.model
        && gpus.is_empty()
    {
        let there: BTreeSet<&str> = found.gpus.iter().map(|g| g.name.as_str()).collect();
        let text = format!("no {wanted} found; there: {}", listed(&there));
        add("model", None, Found::Wrong(Reason::GpuMissing, text));
    }
    for gpu in &gpus {
        let on = Some(gpu.device.as_str());
        if let Some(least) = expected.memory_gb {
            add(
                "memory",
                on,
                match gpu.memory {
                    Some(m) if m.0 as f64 / 1e9 >= least => Found::Right(format!("{:.1} GB", m.0 as f64 / 1e9)),
                    Some(m) => mismatch(&format!("{:.1} GB of memory", m.0 as f64 / 1e9), &format!("at least {least} GB")),
                    None => unknown("its memory"),
                },
            );
        }
        if let Some(wanted) = expected.ecc {
            let word = |on: bool| if on { "ECC on" } else { "ECC off" };
            add("ecc", on, compare(gpu.ecc, "its ECC mode", |e| e == wanted, |e| word(e).into(), word(wanted)));
        }
        // A lone GPU has none to be linked with.
        if let Some(links) = expected.links.filter(|_| gpus.len() > 1) {
            let wanted = format!("{links}");
            add("links", on, compare(gpu.links_up, "its links", |n| n >= links, |n| format!("{n} links up"), &wanted));
        }
        if let Some(wanted) = expected.pcie {
            // A GPU at rest slows its link down: the best that both ends can do counts where it is known, and the width of now.
            let best = gpu.pcie_max.or(gpu.pcie);
            let fits = |b: super::PcieLink| {
                b.generation >= wanted.generation
                    && b.width >= wanted.width
                    && gpu.pcie.is_none_or(|now| now.width >= wanted.width)
            };
            let shown = |b: super::PcieLink| match gpu.pcie {
                Some(now) if now.width < b.width => format!("PCIe runs at {now} of {b}"),
                _ => format!("PCIe {b}"),
            };
            add("pcie", on, compare(best, "its PCIe link", fits, shown, &wanted.to_string()));
        }
        if let Some(wanted) = &expected.driver {
            let shown = |d: &String| format!("driver {d}");
            add("driver", on, compare(gpu.driver.as_ref(), "its driver", |d| wanted.allows(d), shown, wanted.as_str()));
        }
        for (name, wanted) in &expected.firmware {
            if !found.firmware.contains_key(name) {
                let version = gpu.firmware.get(name);
                add("firmware", on, compare(version, name, |v| wanted.allows(v), |v| format!("{name} {v}"), wanted.as_str()));
            }
        }
    }
    for (name, wanted) in &expected.firmware {
        if let Some(version) = found.firmware.get(name) {
            add("firmware", None, compare(Some(version), name, |v| wanted.allows(v), |v| format!("{name} {v}"), wanted.as_str()));
        }
    }
    for (name, wanted) in &expected.libraries {
        let versions: Vec<&str> =
            found.libraries.iter().filter(|l| l.name.eq_ignore_ascii_case(name)).map(|l| l.version.as_str()).collect();
        add(
            "libraries",
            None,
            match versions.iter().find(|v| !wanted.allows(v)) {
                Some(bad) => mismatch(&format!("{name} {bad}"), wanted.as_str()),
                None if versions.is_empty() => unknown(&format!("a library {name}")),
                None => Found::Right(format!("{name} {}", versions.join(", "))),
            },
        );
    }
    if let Some(n) = expected.nics {
        let rate = expected.nic_gbps.unwrap_or(0.0);
        let up = |nic: &&super::Nic| !nic.state.as_deref().is_some_and(|s| s.to_ascii_uppercase().contains("DOWN"));
        let fast = found.nics.iter().filter(up).filter(|nic| nic.rate_gbps.unwrap_or(0.0) >= rate).count();
        let wanted =
            if rate > 0.0 { format!("{n} ports of {rate} Gbit/s that are up") } else { format!("{n} ports that are up") };
        add(
            "nics",
            None,
            match fast {
                _ if found.nics.is_empty() => unknown("the network ports"),
                fast if fast >= n as usize => Found::Right(format!("{fast} network ports")),
                fast => mismatch(&format!("{fast} such network ports of {}", found.nics.len()), &wanted),
            },
        );
    }
}

fn count_of_gpus(n: u32, gpus: &[&Gpu], found: &Inventory, expected: &Expected) -> Found {
    let what = expected.model.as_ref().map_or_else(|| "GPUs".to_owned(), |m| format!("{m} GPUs"));
    let here = gpus.len();
    if here == n as usize {
        return Found::Right(format!("{here} {what}"));
    }
    let at: BTreeSet<&str> = gpus.iter().filter_map(|g| g.pci.as_deref()).collect();
    let others = found.gpus.len() - here;
    let mut text = format!("{here} {what} found, {n} expected");
    if !at.is_empty() {
        text += &format!("; found at {}", listed(&at));
    }
    if others > 0 {
        text += &format!("; {others} of another model");
    }
    Found::Wrong(if here < n as usize { Reason::GpuMissing } else { Reason::InventoryMismatch }, text)
}

fn compare<T>(found: Option<T>, what: &str, fits: impl Fn(T) -> bool, shown: impl Fn(T) -> String, wanted: &str) -> Found
where
    T: Clone,
{
    match found {
        None => unknown(what),
        Some(value) if fits(value.clone()) => Found::Right(shown(value)),
        Some(value) => mismatch(&shown(value), wanted),
    }
}

fn mismatch(found: &str, wanted: &str) -> Found {
    Found::Wrong(Reason::InventoryMismatch, format!("{found}; expected {wanted}"))
}

fn unknown(what: &str) -> Found {
    Found::Unknown(format!("{what} could not be found out"))
}

fn listed(texts: &BTreeSet<&str>) -> String {
    texts.iter().take(16).copied().collect::<Vec<_>>().join(", ")
}

/// The model of a device by the driver's name for it: its id in specs.toml, or the name itself.
fn model(name: &str) -> String {
    let info = DeviceInfo { name: name.into(), ..DeviceInfo::nameless() };
    Specs::built_in().find(&info).map_or_else(|| name.to_owned(), |s| s.id.clone())
}
