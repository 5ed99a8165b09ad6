//! `ridgepoint report`: renders record files again, on any machine.

use super::deliver;
use crate::args::Report;
use crate::exit::{Exit, Outcome};
use crate::report::{self, Model};
use crate::store;
use std::io::Write;

pub(crate) fn run(args: &Report) -> Outcome {
    let format = report::format(report::FORMATS, &args.format)?;
    let mut all = store::Records::default();
    for file in &args.files {
        let found = store::read(file)?;
        all.environments.extend(found.environments);
        all.records.extend(found.records);
        all.problems.extend(found.problems);
    }
    for problem in &all.problems {
        let _ = writeln!(std::io::stderr(), "ridgepoint: {problem}");
    }
    let model = Model::new(all.environments, all.records);
    let text = (format.render)(&model);
    deliver(&text, args.output.as_deref())?;
    Ok(if all.problems.is_empty() { model.verdict() } else { Exit::CheckFailed })
}
