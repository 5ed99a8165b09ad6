//! `ridgepoint run`: the main job.

use super::print;
use crate::args::{ProfileArg, Run};
use crate::exit::{Exit, Outcome};
use crate::launch::{self, Place};
use crate::session::{self, Session, Setup};
use crate::{report, select};
use ridgepoint_harness::Profile;

pub(crate) fn run(args: &Run) -> Outcome {
    let profile: Profile = if args.quick { ProfileArg::Quick } else { args.profile }.into();
    let format = report::format(report::FORMATS, &args.format)?;
    let place = launch::join()?;
    if matches!(place, Place::Done) {
        return Ok(Exit::Pass);
    }
    let interrupted = session::on_interrupt()?;
    let devices = session::devices(&select::devices(&args.device)?, &place)?;
    if args.together {
        session::together::possible(&devices)?;
    }
    // What one process can measure alone, a job has no need of.
    let between = ["collectives/".to_owned()];
    let filters = if place.launched() && args.filters.is_empty() { &between } else { args.filters.as_slice() };
    let made = args.shapes.made(&args.filters)?;
    let jobs = match &made {
        Some(made) => session::jobs_of(&devices, &made.ids, &args.provider)?,
        None => session::jobs(&devices, profile, filters, &args.provider)?,
    };
    let streaming = args.format == "json";
    let setup = Setup {
        profile,
        sustain: args.sustain,
        seed: args.seed,
        retune: args.retune,
        out: args.out.as_deref(),
        resume: args.resume.as_deref(),
        streaming,
        place,
        passes: made.as_ref().map_or(&[], |made| &made.passes),
    };
    let mut session = Session::begin(devices, &setup, interrupted)?;
    let measured = if args.data_sweep { session.measure_data(&jobs) } else { session.measure(jobs.iter()) };
    let measured = measured.or_else(|failure| session.anew(failure))?;
    let complete = measured && (!args.together || session.measure_together(&jobs)?);
    let folder = session.folder.clone();
    let model = session.finish()?;
    if !streaming {
        print(&(format.render)(&model))?;
    }
    if !complete {
        return Err(session::to_be_continued(&folder));
    }
    Ok(model.verdict())
}
