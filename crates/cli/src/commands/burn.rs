//! `ridgepoint burn`: load for a given time, all devices at once, and nothing that they compute goes unwatched.

use super::print;
use crate::args::{Burn, ProfileArg};
use crate::exit::{Failure, Outcome};
use crate::launch::Place;
use crate::session::{self, Session, Setup};
use crate::{report, select, soak};
use ridgepoint_harness::soak::Plan;
use std::time::Duration;

pub(crate) fn run(args: &Burn) -> Outcome {
    if args.time.is_zero() {
        return Err(Failure::usage("a burn of no time shows nothing; --time 10min, say"));
    }
    let format = report::format(report::FORMATS, &args.format)?;
    let interrupted = session::on_interrupt()?;
    let devices = session::devices(&select::devices(&args.device)?, &Place::Alone)?;
    let loads = devices.iter().map(|d| soak::loads(d.as_ref(), &args.cases, &args.provider)).collect::<Outcome<Vec<_>>>()?;
    let plan = Plan { length: args.time, turn: args.turn, check_every: args.check_every };
    let streaming = args.format == "json";
    let profile = ProfileArg::Quick.into();
    let setup = Setup { streaming, ..Setup::new(profile, args.seed, args.out.as_deref()) };
    let mut session = Session::begin(devices, &setup, interrupted)?;
    let complete = soak::all(&mut session, loads, &plan)?;
    let model = session.finish()?;
    if !streaming {
        print(&(format.render)(&model))?;
        if args.format == "table" {
            print(&soak::summary(&model))?;
        }
    }
    let verdict = model.verdict();
    if !complete && verdict == crate::exit::Exit::Pass {
        return Err(Failure::environment("interrupted; the records tell of the time until then"));
    }
    Ok(verdict)
}

/// Reads a time as people write it: `90s`, `10min`, `2h`; `0` for none.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let limit = Duration::from_secs(14 * 86_400);
    let time = humantime::parse_duration(text).map_err(|e| format!("{e}; write 90s, 10min or 2h"))?;
    if time > limit { Err("at most 14 days".into()) } else { Ok(time) }
}
