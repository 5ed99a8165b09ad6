//! `ridgepoint list`: the cases, with no device needed.

use super::print;
use crate::args::List;
use crate::exit::{Exit, Outcome};
use crate::select;
use crate::shapes::{Made, heading};
use ridgepoint_core::model::Part;
use ridgepoint_device::{PROBES, open};
use ridgepoint_harness::{Class, Scope};
use std::fmt::Write;

pub(crate) fn run(args: &List) -> Outcome {
    if let Some(made) = args.shapes.made(&args.filters)? {
        print(&describe(&made))?;
        return Ok(Exit::Pass);
    }
    let profile = args.profile.into();
    let scope = match args.class {
        Some(class) => Scope::typical(class.into(), profile),
        None => {
            let best =
                PROBES.iter().find_map(|p| (p.discover)().devices.into_iter().next()).and_then(|found| open(&found.id).ok());
            best.map_or_else(|| Scope::typical(Class::Gpu, profile), |device| Scope::on(device.as_ref(), profile))
        }
    };
    let cases = select::cases(&scope, &args.filters)?;
    let mut text = String::new();
    for listed in &cases {
        let _ = writeln!(text, "{}", listed.case.id);
    }
    print(&text)?;
    Ok(Exit::Pass)
}

/// Ids, one a line; those of a model under what they are part of, with how often and where each occurs.
fn describe(made: &Made) -> String {
    let mut text = String::new();
    let parts = || made.passes.iter().flat_map(|pass| &pass.parts);
    for id in made.ids.iter().filter(|id| !parts().any(|part| part.case == **id)) {
        let _ = writeln!(text, "{id}");
    }
    let width = made.ids.iter().map(String::len).max().unwrap_or(0);
    for pass in &made.passes {
        let chosen: Vec<_> = pass.parts.iter().filter(|part| made.ids.contains(&part.case)).collect();
        if !chosen.is_empty() {
            let _ = writeln!(text, "# {}", heading(pass));
        }
        for Part { layer, case, count } in chosen {
            let _ = writeln!(text, "{case:width$}  {count:>4} × {layer}");
        }
    }
    text
}
