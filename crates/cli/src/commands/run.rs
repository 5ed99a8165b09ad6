//! `ridgepoint run`: the main job.

use super::print;
use crate::args::{ProfileArg, Run};
use crate::exit::Outcome;
use crate::session::{self, Session, Setup};
use crate::{report, select};
use ridgepoint_harness::Profile;

pub(crate) fn run(args: &Run) -> Outcome {
    let profile: Profile = if args.quick { ProfileArg::Quick } else { args.profile }.into();
    let format = report::format(report::FORMATS, &args.format)?;
    let interrupted = session::on_interrupt()?;
    let devices = session::devices(&select::devices(&args.device)?)?;
    let jobs = session::jobs(&devices, profile, &args.filters, &args.provider)?;
    let streaming = args.format == "json";
    let setup = Setup {
        profile,
        sustain: args.sustain,
        seed: args.seed,
        out: args.out.as_deref(),
        resume: args.resume.as_deref(),
        streaming,
    };
    let mut session = Session::begin(devices, &setup, interrupted)?;
    let complete = session.measure(jobs.iter())?;
    let folder = session.folder.clone();
    let model = session.finish()?;
    if !streaming {
        print(&(format.render)(&model))?;
    }
    if !complete {
        return Err(session::to_be_continued("run", &folder));
    }
    Ok(model.verdict())
}
