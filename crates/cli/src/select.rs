//! Which cases and devices a user means.

use crate::exit::{Failure, Outcome};
use crate::suites::{self, Listed, SUITES};
use ridgepoint_core::Backend;
use ridgepoint_device::{Discovery, PROBES};
use ridgepoint_harness::Scope;

/// The cases of `scope` that any of `filters` names; all of them without a filter. A whole id is that case alone, in the list or
/// not; any other filter is all listed cases that match it.
///
/// # Errors
/// One sentence for a filter that names nothing.
pub fn cases(scope: &Scope, filters: &[String]) -> Outcome<Vec<Listed>> {
    let all = suites::all(scope);
    if filters.is_empty() {
        return Ok(all);
    }
    let (mut wanted, mut unlisted) = (vec![false; all.len()], Vec::new());
    for filter in filters {
        let alone = whole(filter);
        let named = |l: &Listed| match &alone {
            Some(listed) => l.case.id == listed.case.id,
            None => matches(filter, l.case.id.as_str()),
        };
        let found: Vec<usize> = (0..all.len()).filter(|i| named(&all[*i])).collect();
        if let (true, Some(listed)) = (found.is_empty(), alone) {
            if unlisted.iter().all(|other: &Listed| other.case.id != listed.case.id) {
                unlisted.push(listed);
            }
        } else if found.is_empty() {
            return Err(Failure::usage(format!(
                "no case matches '{}'; `ridgepoint list` shows the {} of this profile, and a whole id such as gemm/m1000n1000k1000/f32 runs even if it is not among them",
                filter.escape_debug(),
                all.len()
            )));
        }
        found.into_iter().for_each(|i| wanted[i] = true);
    }
    let listed = all.into_iter().zip(wanted).filter_map(|(listed, wanted)| wanted.then_some(listed));
    Ok(listed.chain(unlisted).collect())
}

/// The case that a whole id means.
#[must_use]
pub fn whole(id: &str) -> Option<Listed> {
    SUITES.iter().find_map(|suite| Some(Listed { suite: *suite, case: suite.parse(id)? }))
}

/// True if `filter` means the case of this id: as a whole id, as a part of one or as a pattern.
#[must_use]
pub fn means(filter: &str, id: &str) -> bool {
    whole(filter).map_or_else(|| matches(filter, id), |listed| listed.case.id.as_str() == id)
}

/// True if `id` contains `filter`, or matches it whole where it has a `*`.
#[must_use]
pub fn matches(filter: &str, id: &str) -> bool {
    let mut parts = filter.split('*');
    let first = parts.next().unwrap_or_default();
    if !filter.contains('*') {
        return id.contains(first);
    }
    let Some(mut rest) = id.strip_prefix(first) else { return false };
    let mut last = "";
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = part;
    }
    last.is_empty() || id.ends_with(last)
}

/// The ids of the devices that `wanted` names.
///
/// # Errors
/// One sentence for a device that is not there, with those that are.
pub fn devices(wanted: &str) -> Outcome<Vec<String>> {
    let found: Vec<Discovery> = PROBES.iter().map(|p| (p.discover)()).collect();
    let ids = found.iter().flat_map(|d| &d.devices).map(|f| f.id.clone());
    match wanted {
        "all" => {
            let ids: Vec<String> = ids.collect();
            if ids.is_empty() {
                Err(Failure::environment("there is no device to measure; `ridgepoint doctor` says why"))
            } else {
                Ok(ids)
            }
        }
        "best" => best(&found)
            .map(|id| vec![id])
            .ok_or_else(|| Failure::environment("there is no device to measure; `ridgepoint doctor` says why")),
        "node" => match node(&found) {
            ids if ids.is_empty() => devices("best"),
            ids => Ok(ids),
        },
        id => {
            let full = if id.contains(':') { id.to_owned() } else { format!("{id}:0") };
            let ids: Vec<String> = ids.collect();
            if ids.contains(&full) {
                return Ok(vec![full]);
            }
            let backend = full.split(':').next().unwrap_or_default();
            let present = format!("present: {}", ids.join(", "));
            let known = PROBES.iter().zip(&found).find(|(p, _)| p.backend.name() == backend);
            Err(match known {
                Some((_, Discovery { absent: Some(reason), .. })) => {
                    Failure::environment(format!("no device '{id}': {reason}; {present}"))
                }
                Some(_) => Failure::environment(format!("no device '{id}'; {present}")),
                None => Failure::usage(format!("unknown device '{}'; {present} (or best, all)", id.escape_debug())),
            })
        }
    }
}

/// Every GPU of the node: those of the first backend that has any, since another shows the same ones again.
fn node(found: &[Discovery]) -> Vec<String> {
    let gpus = PROBES.iter().zip(found).filter(|(p, _)| !matches!(p.backend, Backend::Cpu | Backend::Fake));
    let mut real = gpus.map(|(_, d)| d.devices.iter().filter(|f| !f.software).map(|f| f.id.clone()).collect::<Vec<_>>());
    real.find(|ids| !ids.is_empty()).unwrap_or_default()
}

/// The first device of the first backend that has one; a GPU emulated on the CPU only where there is nothing else, since the CPU
/// itself does all of that faster.
fn best(found: &[Discovery]) -> Option<String> {
    let devices = || found.iter().flat_map(|d| &d.devices);
    devices().find(|f| !f.software).or_else(|| devices().next()).map(|f| f.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_device::Found;
    use ridgepoint_harness::{Class, Profile};

    #[test]
    fn the_best_device_is_the_first_that_is_no_emulation() {
        let device = |id: &str, software| Found { id: id.into(), name: String::new(), detail: String::new(), software };
        let of = |lists: &[&[Found]]| -> Vec<Discovery> {
            lists.iter().map(|l| Discovery { devices: l.to_vec(), absent: None }).collect()
        };
        let (lavapipe, cpu) = (device("vulkan:0", true), device("cpu:0", false));
        let gpu = device("vulkan:1", false);
        let (emulated, both, host) = (&[lavapipe.clone()][..], &[lavapipe.clone(), gpu][..], &[cpu][..]);
        assert_eq!(best(&of(&[&[], emulated, host])).as_deref(), Some("cpu:0"));
        assert_eq!(best(&of(&[both, host])).as_deref(), Some("vulkan:1"));
        assert_eq!(best(&of(&[emulated])).as_deref(), Some("vulkan:0"));
        assert_eq!(best(&[]), None);
        let gpus = [device("cuda:0", false), device("cuda:1", false)];
        let again = [device("vulkan:0", false), device("vulkan:1", true)];
        assert_eq!(node(&of(&[&gpus, &[], &again, host])), ["cuda:0", "cuda:1"]);
        assert_eq!(node(&of(&[&[], &[], &again, host])), ["vulkan:0"]);
        assert!(node(&of(&[&[], &[], emulated, host])).is_empty());
    }

    #[test]
    fn a_whole_id_is_that_case_alone() {
        let scope = Scope::typical(Class::Gpu, Profile::Quick);
        let ids = |filters: &[&str]| -> Vec<String> {
            let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
            cases(&scope, &filters).unwrap().iter().map(|l| l.case.id.as_str().to_owned()).collect()
        };
        let full = "attention/prefill/b1hq16hkv16sq16384sk16384d128/bf16";
        let causal = format!("{full}/causal");
        assert_eq!(ids(&[full]), [full]);
        assert_eq!(ids(&[&causal, full]), [full, &causal], "in the list's order");
        assert_eq!(ids(&["b1hq16hkv16sq16384sk16384d128/bf16"]), [full, &causal], "a part of both");
        // One that is not in the list, although a longer one is.
        let (unlisted, part) = ("gemm/m4096n4096k4095/bf16", "sq16384sk16384d128/bf16/causal");
        assert_eq!(ids(&[unlisted, part, unlisted]), [&causal, unlisted]);
        assert!(cases(&scope, &["gemm/m4096".to_owned(), "nothing".to_owned()]).is_err());
    }

    #[test]
    fn a_filter_is_a_part_or_a_pattern() {
        for (filter, id, expected) in [
            ("gemm", "gemm/m1n1k1/f32", true),
            ("f16", "gemm/m1n1k1/bf16", true),
            ("gemm/*/f32", "gemm/m1n1k1/f32", true),
            ("gemm/*/f32", "gemm/m1n1k1/f32/tn", false),
            ("*bf16", "gemm/m1n1k1/bf16", true),
            ("memory", "gemm/m1n1k1/bf16", false),
            ("a*b*a", "aba", true),
            ("a*ba*", "ab", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(filter, id), expected, "{filter} on {id}");
        }
    }
}
