//! A measuring session: devices opened, records written as they come, an interrupt noticed between cases. `run` and `accept`
//! differ in what they measure and what they make of it, never in how.

mod anew;
mod data;
pub(crate) mod together;

use crate::commands::print;
use crate::environment::{self, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::launch::Place;
use crate::report::{self, Model};
use crate::select;
use crate::store::{self, Records, Writer};
use crate::suites::Listed;
use indicatif::{ProgressBar, ProgressStyle};
use ridgepoint_core::model::Pass;
use ridgepoint_core::{Case, Environment, Line, Record, Seconds};
use ridgepoint_device::{Device, open, transport};
use ridgepoint_harness::{Counts, Measured, Policy, Profile, Scope, measure};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One measurement to make.
pub(crate) struct Job {
    device: usize,
    pub(crate) listed: Listed,
    provider: String,
}

impl Job {
    /// A case by a provider on the `device`-th of a session's devices.
    pub(crate) const fn new(device: usize, listed: Listed, provider: String) -> Self {
        Self { device, listed, provider }
    }
}

/// What a session is told before it begins.
pub(crate) struct Setup<'s> {
    pub(crate) profile: Profile,
    /// Keep each case running so long.
    pub(crate) sustain: Option<Seconds>,
    pub(crate) seed: u64,
    /// Search launches and algorithms anew.
    pub(crate) retune: bool,
    /// Folder for the records; a new one by default.
    pub(crate) out: Option<&'s Path>,
    /// Folder of a session to go on with.
    pub(crate) resume: Option<&'s Path>,
    /// Print record lines as they come.
    pub(crate) streaming: bool,
    /// Whether it is rank 0 of a job.
    pub(crate) place: Place,
    /// Forward passes that the cases are parts of.
    pub(crate) passes: &'s [Pass],
}

impl<'s> Setup<'s> {
    /// A plain session of this process alone, into a folder of its own.
    pub(crate) const fn new(profile: Profile, seed: u64, out: Option<&'s Path>) -> Self {
        Self {
            profile,
            sustain: None,
            seed,
            retune: false,
            out,
            resume: None,
            streaming: false,
            place: Place::Alone,
            passes: &[],
        }
    }
}

/// A session under way.
pub(crate) struct Session {
    pub(crate) devices: Vec<Box<dyn Device>>,
    place: Place,
    pub(crate) folder: PathBuf,
    pub(crate) interrupted: Arc<AtomicBool>,
    pub(crate) seed: u64,
    policy: Policy,
    environment: Environment,
    writer: Writer,
    found: Records,
    done: BTreeSet<(String, String, String)>,
    streaming: bool,
    /// What a device was lost in that this process cannot open again.
    lost_in: Option<anew::Key>,
}

/// Opens the devices with these ids.
pub(crate) fn devices(ids: &[String], place: &Place) -> Outcome<Vec<Box<dyn Device>>> {
    ids.iter().map(|id| opened(id, place)).collect()
}

/// A device, that takes part in the job if there is one.
fn opened(id: &str, place: &Place) -> Outcome<Box<dyn Device>> {
    let mut device = open(id).map_err(|e| Failure::environment(format!("cannot open {id}: {e}")))?;
    place.take_part(device.as_mut())?;
    Ok(device)
}

/// Everything to measure, in order: each device in turn, each case with each of its providers.
pub(crate) fn jobs(devices: &[Box<dyn Device>], profile: Profile, filters: &[String], providers: &[String]) -> Outcome<Vec<Job>> {
    let mut jobs = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let scope = Scope::on(device.as_ref(), profile);
        for listed in select::cases(&scope, filters)? {
            for provider in listed.suite.providers(&listed.case, device.as_ref()) {
                if providers.is_empty() || providers.contains(&provider) {
                    jobs.push(Job { device: index, listed: listed.clone(), provider });
                }
            }
        }
    }
    offered(&jobs, providers)?;
    Ok(jobs)
}

/// One sentence where nobody of those that were asked for does any case. One of several may have none: a list of names serves many commands.
fn offered(jobs: &[Job], providers: &[String]) -> Outcome<()> {
    if jobs.is_empty() {
        return Err(Failure::usage(format!("no provider named {} does any of these cases here", providers.join(" or "))));
    }
    Ok(())
}

/// Exactly the cases with these ids, on each device in turn, with each of their providers.
pub(crate) fn jobs_of(devices: &[Box<dyn Device>], ids: &[String], providers: &[String]) -> Outcome<Vec<Job>> {
    let mut jobs = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        for id in ids {
            let listed = select::whole(id).ok_or_else(|| Failure::usage(format!("'{id}' is no case")))?;
            for provider in listed.suite.providers(&listed.case, device.as_ref()) {
                if providers.is_empty() || providers.contains(&provider) {
                    jobs.push(Job { device: index, listed: listed.clone(), provider });
                }
            }
        }
    }
    offered(&jobs, providers)?;
    Ok(jobs)
}

impl Session {
    /// Begins, or goes on: the folder is made or taken up, and the environment is its next line.
    pub(crate) fn begin(devices: Vec<Box<dyn Device>>, setup: &Setup<'_>, interrupted: Arc<AtomicBool>) -> Outcome<Self> {
        let chosen = setup.resume.or(setup.out).map(Path::to_owned);
        let folder = chosen.unwrap_or_else(default_folder);
        let (mut writer, mut found) = match setup.resume {
            Some(_) => Writer::resume(&folder)?,
            None => (Writer::create(&folder)?, Records::default()),
        };
        let mut done = store::done(&found);
        done.extend(anew::lost_in());
        ridgepoint_harness::search(setup.profile, setup.retune);
        let environment = environment::observe(&devices, setup.profile, setup.seed, setup.place.facts());
        let environment = Environment { passes: setup.passes.to_vec(), ..environment }.hashed();
        store::same_machine(&found, &environment)?;
        let other = |e: &&Environment| (&e.profile, e.seed) != (&environment.profile, environment.seed);
        if let Some(before) = found.environments.iter().find(other) {
            let Environment { profile, seed, .. } = before;
            let _ = writeln!(
                std::io::stderr(),
                "ridgepoint: what was measured before (profile {profile}, seed {seed}) is kept as it is"
            );
        }
        writer.append(&Line::Environment(Box::new(environment.clone())))?;
        found.environments.push(environment.clone());
        Ok(Self {
            devices,
            place: setup.place.clone(),
            folder,
            interrupted,
            seed: setup.seed,
            policy: Policy { sustain: setup.sustain, ..Policy::of(setup.profile) },
            environment,
            writer,
            found,
            done,
            streaming: setup.streaming,
            lost_in: None,
        })
    }

    /// True once someone has asked it to end.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// True if a record of it is there already and need not be made again.
    pub(crate) fn is_done(&self, device: &str, case: &str, provider: &str) -> bool {
        self.done.contains(&(device.to_owned(), case.to_owned(), provider.to_owned()))
    }

    /// Measures so often, and not as often as the method says.
    pub(crate) const fn count(&mut self, counts: Counts) {
        self.policy.counts = counts;
    }

    /// Measures all jobs that are not done; false if it was interrupted before the end.
    pub(crate) fn measure<'j>(&mut self, jobs: impl ExactSizeIterator<Item = &'j Job>) -> Outcome<bool> {
        let progress = progress(jobs.len());
        for job in jobs {
            if self.interrupted() {
                progress.abandon();
                return Ok(false);
            }
            let (id, case) = (&self.devices[job.device].info().id, &job.listed.case);
            progress.set_message(format!("{id} {} {}", case.id, job.provider));
            self.measure_one(job)?;
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(true)
    }

    /// Measures one job, unless that was done.
    pub(crate) fn measure_one(&mut self, job: &Job) -> Outcome<()> {
        let case = &job.listed.case;
        let device = self.devices[job.device].as_ref();
        if self.is_done(&device.info().id, case.id.as_str(), &job.provider) {
            return Ok(());
        }
        let started = now();
        let measured = measure(job.listed.suite, case, &job.provider, device, &self.policy, self.seed);
        self.complete(job.device, case, &job.provider, measured, started)
    }

    /// The latest record of a measurement, if there is one.
    pub(crate) fn record(&self, device: &str, case: &str, provider: &str) -> Option<&Record> {
        self.found.records.iter().rev().find(|r| (&*r.device, r.case.as_str(), &*r.provider) == (device, case, provider))
    }

    /// Opens a device anew that was lost.
    pub(crate) fn reopen(&mut self, device: usize) -> Outcome<()> {
        let id = self.devices[device].info().id.clone();
        self.devices[device] = opened(&id, &self.place).map_err(|e| Failure::environment(format!("{id} was lost: {e}")))?;
        Ok(())
    }

    /// Keeps what came of a case on a device; a device that was lost is opened anew.
    pub(crate) fn complete(
        &mut self,
        device: usize,
        case: &Case,
        provider: &str,
        measured: Measured,
        started: String,
    ) -> Outcome<()> {
        let lost = measured.lost;
        let info = self.devices[device].info();
        let mut record = measured.record(case, provider, info, &self.environment.hash, started);
        if matches!(provider, "nccl" | "rccl") {
            let said = self.devices[device].collectives().map(|c| c.said()).unwrap_or_default();
            record.config.extend(transport::config(&said));
            let differences = transport::differences(&said);
            record.labels.extend(differences.iter().map(|(what, _)| format!("ranks differ in {what}")));
            if !differences.is_empty() {
                let all: Vec<String> = differences.into_iter().map(|(_, text)| text).collect();
                record.config.insert("ranks that differ".into(), all.join("; "));
            }
        }
        self.keep(record)?;
        if !lost {
            return Ok(());
        }
        let id = self.devices[device].info().id.clone();
        let reopened = self.reopen(device);
        if reopened.is_err() && matches!(self.place, Place::Alone) {
            self.lost_in = Some((id, case.id.as_str().to_owned(), provider.to_owned()));
        }
        reopened
    }

    /// Writes a record down; an earlier one of the same measurement gives way to it in what is shown.
    fn keep(&mut self, record: Record) -> Outcome<()> {
        let line = Line::Record(Box::new(record));
        self.writer.append(&line)?;
        if self.streaming {
            print(&(serde_json::to_string(&line).unwrap_or_default() + "\n"))?;
        }
        if let Line::Record(record) = line {
            let same = |r: &Record| (&r.device, &r.case, &r.provider) == (&record.device, &record.case, &record.provider);
            self.found.records.retain(|r| !same(r));
            self.done.extend(store::settled(&record));
            self.found.records.push(*record);
        }
        Ok(())
    }

    /// Ends: the page is written, and where everything lies is told. Gives the records for whatever else is shown of them.
    pub(crate) fn finish(self) -> Outcome<Model> {
        let model = Model::new(self.found.environments, self.found.records);
        let html = self.folder.join("report.html");
        std::fs::write(&html, report::html(&model)).map_err(|e| store::cannot_write(&html, &e))?;
        let records = self.folder.join(store::RAW);
        let _ = writeln!(std::io::stderr(), "records: {}\nreport:  {}", records.display(), html.display());
        Ok(model)
    }
}

/// What an interrupted command says last.
pub(crate) fn to_be_continued(folder: &Path) -> Failure {
    let folder = folder.display();
    Failure::environment(format!("interrupted; what was done is kept, go on with the same command and --resume {folder}"))
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
pub(crate) fn on_interrupt() -> Outcome<Arc<AtomicBool>> {
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
pub(crate) fn default_folder() -> PathBuf {
    let stamp = now().replace(':', "-");
    let base = Path::new("ridgepoint-out");
    let numbered = (2..100).map(|n| base.join(format!("{stamp}-{n}")));
    std::iter::once(base.join(&stamp)).chain(numbered).find(|p| !p.exists()).unwrap_or_else(|| base.join(&stamp))
}
