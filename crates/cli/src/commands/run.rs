//! `ridgepoint run`: the main job.

use super::print;
use crate::args::{ProfileArg, Run};
use crate::environment::{self, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::report::{self, Model};
use crate::select;
use crate::store::{self, Records, Writer};
use crate::suites::Listed;
use indicatif::{ProgressBar, ProgressStyle};
use ridgepoint_core::{Environment, Line};
use ridgepoint_device::{Device, open};
use ridgepoint_harness::{Policy, Profile, Scope, measure};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One measurement to make.
struct Job {
    device: usize,
    listed: Listed,
    provider: String,
}

pub(crate) fn run(args: &Run) -> Outcome {
    let profile: Profile = if args.quick { ProfileArg::Quick } else { args.profile }.into();
    let format = report::format(&args.format)?;
    let interrupted = on_interrupt()?;

    let mut devices = Vec::new();
    for id in select::devices(&args.device)? {
        devices.push(open(&id).map_err(|e| Failure::environment(format!("cannot open {id}: {e}")))?);
    }
    let jobs = jobs(&devices, profile, args)?;

    let folder = args.resume.clone().or_else(|| args.out.clone()).unwrap_or_else(default_folder);
    let (mut writer, mut found) = match args.resume {
        Some(_) => Writer::resume(&folder)?,
        None => (Writer::create(&folder)?, Records::default()),
    };
    let done = store::done(&found);
    let infos = devices.iter().map(|d| d.info().clone()).collect();
    let environment = environment::observe(infos, profile, args.seed);
    writer.append(&Line::Environment(Box::new(environment.clone())))?;
    found.environments.push(environment.clone());

    let mut session = Session { devices, policy: Policy::of(profile), seed: args.seed, environment, interrupted };
    let streaming = args.format == "json";
    let complete = session.run(&jobs, &done, &mut writer, &mut found, streaming)?;

    let model = Model::new(found.environments, found.records);
    let html = folder.join("report.html");
    std::fs::write(&html, report::html(&model)).map_err(|e| store::cannot_write(&html, &e))?;
    if !streaming {
        print(&(format.render)(&model))?;
    }
    let _ = writeln!(std::io::stderr(), "records: {}\nreport:  {}", folder.join(store::RAW).display(), html.display());
    if !complete {
        return Err(Failure::environment(format!(
            "interrupted; what was done is kept, go on with: ridgepoint run --resume {}",
            folder.display()
        )));
    }
    Ok(model.verdict())
}

/// Everything to measure, in order: each device in turn, each case with each of its providers.
fn jobs(devices: &[Box<dyn Device>], profile: Profile, args: &Run) -> Outcome<Vec<Job>> {
    let mut jobs = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let ranks = device.collectives().map_or(1, |c| c.max_ranks());
        let scope = Scope::of(device.info(), profile, ranks);
        for listed in select::cases(&scope, &args.filters)? {
            for provider in listed.suite.providers(&listed.case, device.as_ref()) {
                if args.provider.is_empty() || args.provider.contains(&provider) {
                    jobs.push(Job { device: index, listed: listed.clone(), provider });
                }
            }
        }
    }
    if jobs.is_empty() {
        return Err(Failure::usage(format!("no provider named {} does any of these cases here", args.provider.join(" or "))));
    }
    Ok(jobs)
}

struct Session {
    devices: Vec<Box<dyn Device>>,
    policy: Policy,
    seed: u64,
    environment: Environment,
    interrupted: Arc<AtomicBool>,
}

impl Session {
    /// Measures all jobs that are not done; false if it was interrupted before the end.
    fn run(
        &mut self,
        jobs: &[Job],
        done: &BTreeSet<(String, String, String)>,
        writer: &mut Writer,
        found: &mut Records,
        streaming: bool,
    ) -> Outcome<bool> {
        let progress = progress(jobs.len());
        for job in jobs {
            if self.interrupted.load(Ordering::Relaxed) {
                progress.abandon();
                return Ok(false);
            }
            let id = self.devices[job.device].info().id.clone();
            let case = &job.listed.case;
            progress.set_message(format!("{id} {} {}", case.id, job.provider));
            if !done.contains(&(id.clone(), case.id.as_str().to_owned(), job.provider.clone())) {
                let started = now();
                let device = self.devices[job.device].as_ref();
                let measured = measure(job.listed.suite, case, &job.provider, device, &self.policy, self.seed);
                let lost = measured.lost;
                let record = measured.record(case, &job.provider, device.info(), &self.environment.hash, started);
                let line = Line::Record(Box::new(record));
                writer.append(&line)?;
                if streaming {
                    print(&(serde_json::to_string(&line).unwrap_or_default() + "\n"))?;
                }
                if let Line::Record(record) = line {
                    found
                        .records
                        .retain(|r| (&r.device, &r.case, &r.provider) != (&record.device, &record.case, &record.provider));
                    found.records.push(*record);
                }
                if lost {
                    self.devices[job.device] =
                        open(&id).map_err(|e| Failure::environment(format!("{id} was lost and cannot be opened again: {e}")))?;
                }
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(true)
    }
}

/// A bar with the time left on a terminal; nothing in a log.
fn progress(jobs: usize) -> ProgressBar {
    let bar = ProgressBar::new(jobs as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed} elapsed, {eta} left  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(std::time::Duration::from_millis(500));
    bar
}

/// Sets a flag at the first Ctrl-C or SIGTERM, so that the case in hand is finished and the report written; ends at the second.
fn on_interrupt() -> Outcome<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Environment as i32);
        }
        let _ = writeln!(
            std::io::stderr(),
            "\nridgepoint: finishing the case in hand, then writing the report (Ctrl-C again to stop at once)"
        );
    })
    .map_err(|e| Failure::environment(format!("cannot watch for Ctrl-C: {e}")))?;
    Ok(flag)
}

/// A folder of its own for each run, so that none writes over another.
fn default_folder() -> PathBuf {
    let stamp = now().replace(':', "-");
    let base = Path::new("ridgepoint-out");
    let numbered = (2..100).map(|n| base.join(format!("{stamp}-{n}")));
    std::iter::once(base.join(&stamp)).chain(numbered).find(|p| !p.exists()).unwrap_or_else(|| base.join(&stamp))
}
