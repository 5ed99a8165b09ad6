//! `ridgepoint devices`: what can be measured here, and why the rest can't.

use super::print;
use crate::args::Devices;
use crate::exit::{Exit, Failure, Outcome};
use ridgepoint_core::specs::Specs;
use ridgepoint_device::{PROBES, open};
use std::fmt::Write;

pub(crate) fn run(args: &Devices) -> Outcome {
    let mut text = String::new();
    let mut infos = Vec::new();
    for probe in PROBES {
        let found = (probe.discover)();
        for device in &found.devices {
            let _ = writeln!(text, "{:<10} {}  {}", device.id, device.name, device.detail);
            if args.json {
                infos.push(
                    open(&device.id).map_err(|e| Failure::environment(format!("cannot open {}: {e}", device.id)))?.info().clone(),
                );
            }
        }
        if let Some(reason) = found.absent {
            let _ = writeln!(text, "{:<10} none: {reason}", probe.backend.name());
        }
    }
    if args.json {
        let known: Vec<_> = infos
            .iter()
            .map(|info| serde_json::json!({ "info": info, "model": Specs::built_in().find(info).map(|s| s.id.clone()) }))
            .collect();
        text = serde_json::to_string_pretty(&known).map_err(|e| Failure::environment(e.to_string()))? + "\n";
    }
    print(&text)?;
    Ok(Exit::Pass)
}
