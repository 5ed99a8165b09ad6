//! `ridgepoint list`: the cases, with no device needed.

use super::print;
use crate::args::List;
use crate::exit::{Exit, Outcome};
use crate::select;
use ridgepoint_device::{PROBES, open};
use ridgepoint_harness::{Class, Scope};
use std::fmt::Write;

pub(crate) fn run(args: &List) -> Outcome {
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
