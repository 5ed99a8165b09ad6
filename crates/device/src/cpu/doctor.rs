//! What about this host would make a CPU number smaller or less steady than it could be, and what to do about it.

use super::affinity::{self, THREADS_VARIABLE};
use super::kernels;
use crate::probe::Finding;
use std::fs::read_to_string;

pub(super) fn findings() -> Vec<Finding> {
    let mut found = vec![
        Finding {
            what: "native kernels".into(),
            ok: true,
            detail: format!("built in; SIMD in use: {:?}", kernels::simd()),
            remedy: None,
        },
        cores(affinity::cores().len(), affinity::allowed().len(), std::env::var(THREADS_VARIABLE).ok().as_deref()),
    ];
    let read = |path| read_to_string(path).ok();
    found.extend(read("/sys/kernel/mm/transparent_hugepage/enabled").map(|t| huge_pages(&t)));
    found.extend(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").map(|t| governor(&t)));
    found
}

fn cores(used: usize, allowed: usize, variable: Option<&str>) -> Finding {
    let count = format!("{used} in use, one thread a physical core, of {allowed} hardware threads allowed");
    let bad = variable.filter(|v| !v.parse::<usize>().is_ok_and(|n| n > 0));
    Finding {
        what: "cores".into(),
        ok: bad.is_none(),
        detail: match bad {
            Some(v) => {
                format!("{count}; {THREADS_VARIABLE} is '{}', which is no number of cores and is ignored", v.escape_debug())
            }
            None => count,
        },
        remedy: bad.map(|_| format!("unset {THREADS_VARIABLE}")),
    }
}

/// The kernel shows the choice in brackets: `always [madvise] never`.
fn huge_pages(setting: &str) -> Finding {
    let never = setting.contains("[never]");
    Finding {
        what: "huge pages".into(),
        ok: !never,
        detail: if never {
            "transparent huge pages are off: latency and bandwidth over a few MiB include misses of the TLB".into()
        } else {
            format!("transparent huge pages: {}", setting.trim())
        },
        remedy: never.then(|| "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled".into()),
    }
}

fn governor(setting: &str) -> Finding {
    let governor = setting.trim();
    let steady = governor == "performance";
    Finding {
        what: "frequency governor".into(),
        ok: steady,
        detail: if steady { governor.into() } else { format!("{governor}: cores may start a measurement below their clock") },
        remedy: (!steady).then(|| "sudo cpupower frequency-set -g performance".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_speed_is_named_with_its_remedy() {
        assert!(huge_pages("always [madvise] never\n").ok);
        assert!(huge_pages("always madvise [never]\n").remedy.is_some());
        assert!(governor("performance\n").ok && !governor("powersave\n").ok);
        assert!(cores(2, 4, None).ok && cores(1, 4, Some("1")).ok);
        for bad in ["two", "0", "-1", ""] {
            assert!(cores(2, 4, Some(bad)).detail.contains("ignored"), "{bad}");
        }
    }
}
