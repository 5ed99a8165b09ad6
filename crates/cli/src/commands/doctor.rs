//! `ridgepoint doctor`: every library that could be used, where it was found, or how to get it.

use super::print;
use crate::exit::{Exit, Outcome};
use ridgepoint_device::PROBES;
use std::fmt::Write;

pub(crate) fn run() -> Outcome {
    let mut text = String::new();
    for probe in PROBES {
        let (findings, found) = ((probe.doctor)(), (probe.discover)());
        // The device that exists for tests has nothing to say where nobody asked for it.
        if findings.is_empty() && found.devices.is_empty() && found.absent.is_none() {
            continue;
        }
        let _ = writeln!(text, "{}", probe.backend);
        for finding in findings {
            let _ =
                writeln!(text, "  {} {:<22} {}", if finding.ok { "ok     " } else { "not ok " }, finding.what, finding.detail);
            if let Some(remedy) = finding.remedy {
                let _ = writeln!(text, "          remedy: {remedy}");
            }
        }
        if let Some(reason) = found.absent {
            let _ = writeln!(text, "  no device: {reason}");
        }
    }
    print(&text)?;
    Ok(Exit::Pass)
}
