//! Every algorithm and protocol of NCCL or RCCL by itself: new processes for each, since the library reads its variables once, and
//! since a combination that hangs can then be ended without the others: a child of this one, or the ranks of a launched job, each
//! started anew by its launched process. Records keep which it was in their provider.

use crate::args::Collectives;
use crate::commands::print;
use crate::environment::{self, now};
use crate::exit::{Failure, Outcome as Ends};
use crate::launch::Place;
use crate::report::{self, Model};
use crate::session::{self, Session, Setup};
use crate::store::{self, Writer};
use crate::suites::SUITES;
use ridgepoint_collectives::problem;
use ridgepoint_core::{Environment, Line, Outcome, Record};
use ridgepoint_device::die_with_parent;
use ridgepoint_device::transport::{Said, as_found, has_none};
use ridgepoint_harness::{Counts, Profile};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// As `NCCL_ALGO` takes them; the library's own choice first, for comparison.
const ALGORITHMS: [&str; 6] = ["Ring", "Tree", "NVLS", "NVLSTree", "CollnetDirect", "CollnetChain"];
/// As `NCCL_PROTO` takes them.
const PROTOCOLS: [&str; 3] = ["LL", "LL128", "Simple"];

/// Of what is sends and receives.
const NO_ALGORITHM: &str = "no algorithm to choose";

/// The library's log, in a child's folder.
const LOG: &str = "nccl.log";

/// What the library is told to use; None leaves the choice to the library.
type Choice = Option<(&'static str, &'static str)>;

fn choices() -> impl Iterator<Item = Choice> {
    let all = ALGORITHMS.into_iter().flat_map(|algorithm| PROTOCOLS.map(|protocol| Some((algorithm, protocol))));
    std::iter::once(None).chain(all)
}

/// `nccl-ring-ll128`.
fn provider(library: &str, choice: Choice) -> String {
    choice.map_or_else(|| library.into(), |(a, p)| format!("{library}-{}-{}", a.to_lowercase(), p.to_lowercase()))
}

/// Whether the library chooses how it does this case.
fn chooses(id: &str) -> bool {
    problem(id).is_some_and(|problem| problem.op.has_algorithms())
}

/// Runs the sweep of `ids` on the device with this id, or those of a job.
pub(crate) fn run(args: &Collectives, place: &Place, device: &str, library: &str, ids: &[String]) -> Ends {
    if !matches!(library, "nccl" | "rccl") {
        return Err(Failure::usage(format!("--sweep is over NCCL's and RCCL's algorithms; {device} has its ranks by {library}")));
    }
    let interrupted = session::on_interrupt()?;
    let folder = args.out.clone().unwrap_or_else(session::default_folder);
    let mut writer = Writer::create(&folder)?;
    let opened = session::devices(&[device.to_owned()], &Place::Alone)?;
    let own = environment::observe(&opened, Profile::Standard, args.seed, place.facts());
    writer.append(&Line::Environment(Box::new(own.clone())))?;
    drop(opened);
    let (mut environments, mut records) = (vec![own.clone()], Vec::new());
    for choice in choices() {
        if interrupted.load(Ordering::Relaxed) {
            return Err(Failure::environment(format!("interrupted; what was done is in {}", folder.display())));
        }
        let by = provider(library, choice);
        let _ = writeln!(std::io::stderr(), "{by} …");
        let below = folder.join(&by);
        let timeout = Duration::from_secs(args.timeout.unwrap_or(600));
        let ids_now: Vec<String> = ids.iter().filter(|id| choice.is_none() || chooses(id)).cloned().collect();
        let (ended, said) = if ids_now.is_empty() {
            (None, Said::default())
        } else if place.launched() {
            place.sweep(choice, timeout);
            ranks(args, place, device, &ids_now, &below, &interrupted)?
        } else {
            let ended = child(args, device, choice, &ids_now, &below, timeout)?;
            (ended, Said::in_file(&below.join(LOG)))
        };
        let found = store::read(&below).unwrap_or_default();
        for environment in found.environments {
            // The ranks' variables are not those of this process, which has one environment.
            if environments.iter().any(|known: &Environment| known.hash == environment.hash) {
                continue;
            }
            writer.append(&Line::Environment(Box::new(environment.clone())))?;
            environments.push(environment);
        }
        for id in ids {
            let record = found.records.iter().find(|r| r.case.as_str() == id).cloned();
            let without = || if ids_now.contains(id) { lost(&ended) } else { none_to_choose(id, library) };
            let Some(mut record) = record.or_else(|| missing(id, device, &own, without())) else { continue };
            record.provider.clone_from(&by);
            record.outcome = refused(record.outcome, library, said.lacks());
            if let (Outcome::Measured { .. }, Some(problem)) = (&record.outcome, problem(id)) {
                let ran = said.ran(&problem);
                record.outcome = as_asked(record.outcome, library, choice, &ran);
                record.labels.extend(if chooses(id) { labels(choice, &ran) } else { vec![NO_ALGORITHM.into()] });
            } else {
                record.labels.extend(choice.map(|(algorithm, protocol)| format!("{algorithm} {protocol}")));
            }
            writer.append(&Line::Record(Box::new(record.clone())))?;
            records.push(record);
        }
    }
    let model = Model::new(environments, records);
    let html = folder.join("report.html");
    std::fs::write(&html, report::html(&model)).map_err(|e| store::cannot_write(&html, &e))?;
    print(&(report::format(report::FORMATS, &args.format)?.render)(&model))?;
    let _ = writeln!(std::io::stderr(), "records: {}\nreport:  {}", folder.join(store::RAW).display(), html.display());
    Ok(model.verdict())
}

/// Measures by the ranks of a job, in new processes; gives how that ended where it did not end well, and what their libraries wrote.
fn ranks(
    args: &Collectives,
    place: &Place,
    device: &str,
    ids: &[String],
    folder: &Path,
    interrupted: &Arc<AtomicBool>,
) -> Ends<(Option<String>, Said)> {
    let opened = match session::devices(&[device.to_owned()], place) {
        Ok(opened) => opened,
        Err(failure) => return Ok((Some(failure.message), Said::default())),
    };
    let jobs = session::jobs_of(&opened, ids, &[])?;
    let setup = Setup { place: place.clone(), ..Setup::new(Profile::Standard, args.seed, Some(folder)) };
    let mut session = Session::begin(opened, &setup, Arc::clone(interrupted))?;
    session.count(Counts { warmup: args.warmup, executions: args.iterations });
    let ended = match session.measure(jobs.iter()) {
        Ok(true) => None,
        Ok(false) => Some("it was interrupted".into()),
        Err(failure) => Some(failure.message),
    };
    let mut said = Said::default();
    let told = session.devices.iter().filter_map(|device| device.collectives()).flat_map(|c| c.said());
    told.for_each(|one| said.merge(one));
    Ok((ended, said))
}

/// Measures the same by this program in a child of its own; gives how that ended where it did not end well.
fn child(
    args: &Collectives,
    device: &str,
    choice: Choice,
    ids: &[String],
    folder: &Path,
    timeout: Duration,
) -> Ends<Option<String>> {
    let failed = |e: std::io::Error| Failure::environment(format!("cannot start a child: {e}"));
    std::fs::create_dir_all(folder).map_err(|e| store::cannot_write(folder, &e))?;
    let log = folder.join("stderr.txt");
    let errors = File::create(&log).map_err(|e| store::cannot_write(&log, &e))?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("collectives").args(again(args, ids)).args(["--device", device, "--format", "json", "--out"]).arg(folder);
    as_found(&mut command);
    command.env("NCCL_DEBUG", "INFO").env("NCCL_DEBUG_SUBSYS", "INIT,NET,GRAPH,TUNING");
    command.env("NCCL_DEBUG_FILE", folder.join(LOG));
    // One that hangs would keep the GPUs when this process is killed.
    die_with_parent(&mut command);
    if let Some((algorithm, protocol)) = choice {
        command.env("NCCL_ALGO", algorithm).env("NCCL_PROTO", protocol);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().map_err(failed)?;
    let started = Instant::now();
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if matches!(status.code(), Some(0 | 1 | 3)) => return Ok(None),
            Some(status) => {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let last = text.lines().last().unwrap_or_default();
                return Ok(Some(format!("its process ended by {status}: {last}")));
            }
            None if started.elapsed() > timeout => {
                // It may have ended meanwhile, and that is as good.
                let _ = child.kill();
                let _ = child.wait();
                return Ok(Some(format!("no end after {} s; its process was ended", timeout.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The arguments that say to measure these, as a child is given them.
fn again(args: &Collectives, ids: &[String]) -> Vec<String> {
    let mut words: Vec<String> = ids.iter().filter_map(|id| problem(id)).map(|problem| problem.op.name().to_owned()).collect();
    words.dedup();
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
    flag("-b", args.begin.0.to_string());
    flag("-f", args.factor.to_string());
    flag("-o", args.op.clone());
    flag("-d", args.dtype.clone());
    flag("-r", args.root.to_string());
    flag("-R", args.register.to_string());
    flag("--seed", args.seed.to_string());
    let optional = [
        ("-e", args.end.map(|b| b.0)),
        ("-i", args.step.map(|b| b.0)),
        ("-w", args.warmup),
        ("-n", args.iterations),
        ("-g", args.ranks),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            flag(name, value.to_string());
        }
    }
    if args.out_of_place {
        words.push("--out-of-place".into());
    }
    words
}

/// What became of a case of which its process left no record.
fn lost(ended: &Option<String>) -> Outcome {
    Outcome::Failed { reason: ended.clone().unwrap_or_else(|| "its process left no record of it".into()) }
}

/// What becomes of a case that is alike in all combinations.
fn none_to_choose(id: &str, library: &str) -> Outcome {
    let op = problem(id).map_or("this", |problem| problem.op.name());
    Outcome::Skipped { reason: format!("{library} has no algorithm to choose for {op}: it is sends and receives") }
}

/// A record for a case of which a child left none.
fn missing(id: &str, device: &str, environment: &Environment, outcome: Outcome) -> Option<Record> {
    let case = SUITES.iter().find_map(|suite| suite.parse(id))?;
    Some(Record {
        environment: environment.hash.clone(),
        device: device.into(),
        case: case.id,
        component: case.component,
        provider: String::new(),
        dtype: case.dtype,
        metric: case.metric,
        level: case.level,
        work: case.work,
        cache: case.cache,
        data: case.data,
        config: Default::default(),
        labels: vec![],
        started: now(),
        tuning: None,
        soak: None,
        outcome,
    })
}

/// A combination that the library has not, as it says in its error or its log, is skipped: the codes are those of real errors too.
fn refused(outcome: Outcome, library: &str, lacks: bool) -> Outcome {
    match outcome {
        Outcome::Failed { reason } if has_none(&reason) || lacks && reason.starts_with("nccl") => {
            Outcome::Skipped { reason: format!("{library} does not do this combination here: {reason}") }
        }
        other => other,
    }
}

/// Some versions take another algorithm in silence where they have not the one asked for: its time is not this one's. Nor is it known to
/// be where the library tells of two for the same.
fn as_asked(outcome: Outcome, library: &str, choice: Choice, ran: &BTreeSet<(String, String)>) -> Outcome {
    let Some((algorithm, protocol)) = choice else { return outcome };
    if ran.iter().all(|(a, p)| a == algorithm && p == protocol) {
        return outcome;
    }
    let instead = ran.iter().map(|(a, p)| format!("{a} {p}")).collect::<Vec<_>>().join(", ");
    Outcome::Skipped { reason: format!("{library} ran {instead} where {algorithm} {protocol} was asked for") }
}

/// What ran, as the library's log has it, or what was asked for where that tells nothing.
fn labels(choice: Choice, ran: &BTreeSet<(String, String)>) -> Vec<String> {
    match choice {
        Some((algorithm, protocol)) if ran.is_empty() => vec![format!("asked for {algorithm} {protocol}")],
        _ => ran.iter().map(|(algorithm, protocol)| format!("{algorithm} {protocol}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<String> = choices().map(|choice| provider("nccl", choice)).collect();
        assert_eq!(names.len(), 1 + ALGORITHMS.len() * PROTOCOLS.len());
        assert!(names.contains("nccl") && names.contains("nccl-ring-ll128") && names.contains("nccl-nvls-simple"));
    }

    #[test]
    fn only_what_the_library_says_it_lacks_is_a_skip() {
        let failed = |reason: &str| Outcome::Failed { reason: reason.into() };
        let skipped = |outcome: &Outcome| matches!(outcome, Outcome::Skipped { .. });
        let internal = "ncclGroupEnd failed: internal error (3)";
        assert!(!skipped(&refused(failed(internal), "nccl", false)) && skipped(&refused(failed(internal), "nccl", true)));
        let said = "the collective failed: rank 0 (a, process 7): ncclAllReduce failed: internal error; it wrote: Error : no algorithm/protocol available";
        assert!(skipped(&refused(failed(said), "nccl", false)));
        assert!(!skipped(&refused(failed("all_reduce failed: no rank got on"), "nccl", true)));
    }

    #[test]
    fn what_is_sends_and_receives_is_no_part_of_a_combination() {
        let id = |op: &str| format!("collectives/{op}/r2/4KiB/f32");
        assert!(["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce"].iter().all(|op| chooses(&id(op))));
        assert!(!["alltoall", "alltoallv", "gather", "scatter", "sendrecv"].iter().any(|op| chooses(&id(op))));
        let Outcome::Skipped { reason } = none_to_choose(&id("gather"), "rccl") else { panic!("not skipped") };
        assert_eq!(reason, "rccl has no algorithm to choose for gather: it is sends and receives");
    }

    #[test]
    fn a_figure_stands_under_what_ran() {
        let ran: BTreeSet<_> = [("Ring".to_owned(), "LL".to_owned())].into();
        let skip = |choice, ran: &BTreeSet<_>| match as_asked(Outcome::Failed { reason: String::new() }, "nccl", choice, ran) {
            Outcome::Skipped { reason } => Some(reason),
            _ => None,
        };
        assert_eq!(skip(Some(("Tree", "LL")), &ran).unwrap(), "nccl ran Ring LL where Tree LL was asked for");
        assert!(
            skip(Some(("Ring", "LL")), &ran).is_none()
                && skip(None, &ran).is_none()
                && skip(Some(("Tree", "LL")), &BTreeSet::new()).is_none()
        );
        let both: BTreeSet<_> = [("Ring", "LL"), ("Tree", "LL")].map(|(a, p)| (a.to_owned(), p.to_owned())).into();
        assert_eq!(skip(Some(("Tree", "LL")), &both).unwrap(), "nccl ran Ring LL, Tree LL where Tree LL was asked for");
        assert_eq!(labels(None, &ran), ["Ring LL"]);
        assert_eq!(labels(Some(("Tree", "LL")), &BTreeSet::new()), ["asked for Tree LL"]);
    }
}
