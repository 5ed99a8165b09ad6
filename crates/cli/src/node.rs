//! Measuring a whole node for acceptance, from the inside out: each device by itself, then the links to it, then all devices
//! together, at last all of them under load for a while. A fault is met first where it can be named: a slow memory before the collective that it slows.

use crate::args::Here;
use crate::exit::Outcome;
use crate::launch::Place;
use crate::session::{self, Job, Session, Setup};
use crate::{report, select, soak, store};
use ridgepoint_core::{Case, Component, Level};
use ridgepoint_harness::soak::Plan;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// How long a load of the soak runs before the next.
const SOAK_TURN: Duration = Duration::from_secs(5);
/// The longest time between checks of the soak's results by the host.
const SOAK_CHECK: Duration = Duration::from_secs(30);

/// A stage's name, and which cases it has.
type Stage = (&'static str, fn(&Case) -> bool);

/// The stages, in order.
const STAGES: [Stage; 3] = [
    ("node", |c| c.component != Component::Collectives && !matches!(c.level, Level::Host | Level::Peer)),
    ("fabric", |c| c.component != Component::Collectives && matches!(c.level, Level::Host | Level::Peer)),
    ("collectives", |c| c.component == Component::Collectives),
];

/// A node that was measured.
pub(crate) struct Measured {
    /// The record file.
    pub(crate) records: PathBuf,
    /// What was measured, for a terminal.
    pub(crate) tables: String,
}

/// Measures this node.
pub(crate) fn measure(args: &Here) -> Outcome<Measured> {
    let profile = args.profile.into();
    let interrupted = session::on_interrupt()?;
    let devices = session::devices(&select::devices(&args.device)?, &Place::Alone)?;
    let jobs = session::jobs(&devices, profile, &args.only, &[])?;
    let loads = devices.iter().map(|d| soak::loads(d.as_ref(), &[], &[])).collect::<Outcome<Vec<_>>>()?;
    let shown: Vec<String> = devices.iter().map(|d| format!("{} {}", d.info().id, d.info().name)).collect();
    tell(&format!("accepting {}", shown.join(", ")));
    // It is judged by itself, whoever else is started beside it.
    let setup = Setup { resume: args.resume.as_deref(), ..Setup::new(profile, args.seed, args.out.as_deref()) };
    let mut session = Session::begin(devices, &setup, interrupted)?;
    let mut complete = true;
    for (name, is_of) in STAGES {
        let stage: Vec<&Job> = jobs.iter().filter(|j| is_of(&j.listed.case)).collect();
        if complete && !stage.is_empty() {
            tell(&format!("{name}: {} measurements", stage.len()));
            complete = session.measure(stage.into_iter())?;
        }
    }
    if complete && !args.soak.is_zero() {
        tell(&format!("soak: all devices, {}", humantime::format_duration(args.soak)));
        let plan = Plan { length: args.soak, turn: SOAK_TURN, check_every: (args.soak / 4).min(SOAK_CHECK) };
        complete = soak::all(&mut session, loads, &plan)?;
    }
    let folder = session.folder.clone();
    let model = session.finish()?;
    if !complete {
        return Err(session::to_be_continued(&folder));
    }
    let tables = report::format(report::FORMATS, "table").map(|f| (f.render)(&model))? + &soak::summary(&model);
    Ok(Measured { records: folder.join(store::RAW), tables })
}

/// Where it has got to, for whoever waits and for a log.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "ridgepoint: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packs::PACKS;
    use crate::suites;
    use ridgepoint_core::verdict::RuleSet;
    use ridgepoint_harness::{Class, Profile, Scope};

    #[test]
    fn each_case_has_one_stage() {
        for class in [Class::Cpu, Class::Gpu] {
            for listed in suites::all(&Scope::typical(class, Profile::Full)) {
                let stages = STAGES.iter().filter(|(_, is_of)| is_of(&listed.case)).count();
                assert_eq!(stages, 1, "{}", listed.case.id);
            }
        }
    }

    /// A required rule that the quick profile has no case for would refuse every node.
    #[test]
    fn the_quick_profile_has_what_the_packs_require() {
        let cases = suites::all(&Scope::typical(Class::Gpu, Profile::Quick));
        let mut required = 0;
        for pack in PACKS {
            for rule in RuleSet::parse(pack.text).unwrap().rules.iter().filter(|r| r.required) {
                let chosen = |id: &str| rule.cases.iter().any(|p| p.matches(id)) && rule.fits_size(id);
                assert!(cases.iter().any(|l| chosen(l.case.id.as_str())), "{} {}", pack.name, rule.id);
                required += 1;
            }
        }
        assert!(required > 8);
    }
}
