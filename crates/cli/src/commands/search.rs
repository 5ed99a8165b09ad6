//! `ridgepoint search`: the shape at which products are fastest. Trials choose where to look; every figure that is shown was measured
//! and verified as any other.

use super::print;
use crate::args::Search;
use crate::exit::{Failure, Outcome};
use crate::hunt::trial::{Trials, trial};
use crate::hunt::{Hunt, Point};
use crate::launch::Place;
use crate::report::{self, significant};
use crate::session::{self, Job, Session, Setup};
use crate::shapes::{self, Axis};
use crate::suites::{Listed, SUITES};
use crate::{args::ProfileArg, select};
use indicatif::{ProgressBar, ProgressStyle};
use ridgepoint_core::Seconds;
use ridgepoint_core::record::Outcome as Came;
use ridgepoint_core::stats::Summary;
use ridgepoint_device::DeviceError;
use ridgepoint_harness::{Class, Profile, Scope};
use std::io::Write;
use std::time::Instant;

pub(crate) fn run(args: &Search) -> Outcome {
    let profile: Profile = if args.quick { ProfileArg::Quick } else { args.profile }.into();
    let format = report::format(report::FORMATS, &args.format)?;
    let devices = session::devices(&select::devices(&args.device)?, &Place::Alone)?;
    let [device] = devices.as_slice() else { return Err(Failure::usage("a search is on one device: name it")) };
    let scope = Scope::on(device.as_ref(), profile);
    let usual = usual(scope.class);
    let axis = |given: &Option<Axis>| given.clone().map_or_else(|| Axis::parse(usual).map_err(Failure::usage), Ok);
    let axes = [axis(&args.m)?, axis(&args.n)?, axis(&args.k)?];
    shapes::product(1024, 1024, 1024, &args.dtype)?;
    let interrupted = session::on_interrupt()?;
    let streaming = args.format == "json";
    let setup = Setup { resume: args.resume.as_deref(), streaming, ..Setup::new(profile, args.seed, args.out.as_deref()) };
    let session = Session::begin(devices, &setup, interrupted)?;
    let trials = Trials::open(&session.folder)?;
    let hunt = Hunt::new([0, 1, 2].map(|i| axes[i].values.len()));
    let mut search = Searching { args, axes, hunt, trials, session, best: None, memory: scope.memory.0, began: Instant::now() };
    let complete = search.through()?;
    let (tried, best) = (search.hunt.count(), search.best.take());
    let folder = search.session.folder.clone();
    let model = search.session.finish()?;
    let verdict = match &best {
        Some(best) => format!("the most: {}, of {tried} shapes tried\n", best.words()),
        None => format!("nothing was measured: none of {tried} shapes could be tried\n"),
    };
    if streaming {
        tell(verdict.trim_end());
    } else {
        print(&((format.render)(&model) + if args.format == "table" { &verdict } else { "" }))?;
    }
    if complete { Ok(model.verdict()) } else { Err(session::to_be_continued(&folder)) }
}

/// Where to look by default: up to what fills the device, in steps that a tile divides.
const fn usual(class: Class) -> &'static str {
    match class {
        Class::Gpu => "1024:16384:256",
        Class::Cpu => "256:3072:128",
        Class::SoftwareGpu => "64:512:64",
    }
}

/// The best result: measured in full, and right.
struct Best {
    case: String,
    provider: String,
    /// Operations a second.
    rate: f64,
}

impl Best {
    fn words(&self) -> String {
        let shape = self.case.trim_start_matches("gemm/");
        format!("{} TFLOP/s at {shape} by {}", significant(self.rate / 1e12), self.provider)
    }
}

/// A search under way.
struct Searching<'a> {
    args: &'a Search,
    axes: [Axis; 3],
    hunt: Hunt,
    trials: Trials,
    session: Session,
    best: Option<Best>,
    /// Bytes of the device's memory.
    memory: u64,
    began: Instant,
}

impl Searching<'_> {
    /// Looks until nothing is left to try or the time is over, and measures the best; false if it was interrupted.
    fn through(&mut self) -> Outcome<bool> {
        let mut whole = true;
        for number in 1.. {
            let points = self.hunt.round();
            if points.is_empty() || !whole {
                break;
            }
            whole = self.round(number, &points)?;
            // What leads is measured in full, so that there is always a figure to show.
            if !self.session.interrupted() {
                self.measure(1)?;
            }
        }
        if self.session.interrupted() {
            // Only what takes a moment: one measurement, if there is none yet.
            if self.best.is_none() {
                self.measure(1)?;
            }
            return Ok(false);
        }
        self.measure(self.args.best)?;
        Ok(!self.session.interrupted())
    }

    /// Tries the points of a round; false if it was ended before.
    fn round(&mut self, number: usize, points: &[Point]) -> Outcome<bool> {
        let bar = ProgressBar::new(points.len() as u64);
        let style = ProgressStyle::with_template("{prefix} {bar:20} {pos}/{len}  {elapsed}  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(format!("round {number}"));
        for point in points {
            if self.session.interrupted() || self.began.elapsed() > self.args.limit {
                bar.abandon();
                return Ok(false);
            }
            let [m, n, k] = self.sizes(*point);
            let best = self.best.as_ref().map_or_else(String::new, |best| format!("; best so far {}", best.words()));
            bar.set_message(format!("trying m{m}n{n}k{k}{best}"));
            let rate = self.rate(*point)?;
            self.hunt.tell(*point, rate);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(true)
    }

    fn sizes(&self, point: Point) -> [u64; 3] {
        [0, 1, 2].map(|i| self.axes[i].values[point[i]])
    }

    fn listed(&self, point: Point) -> Option<Listed> {
        let [m, n, k] = self.sizes(point);
        let id = format!("gemm/m{m}n{n}k{k}/{}", self.args.dtype);
        SUITES.iter().find_map(|suite| Some(Listed { suite: *suite, case: suite.parse(&id)? }))
    }

    /// The providers of a shape that are wanted.
    fn providers(&self, listed: &Listed) -> Vec<String> {
        let all = listed.suite.providers(&listed.case, self.session.devices[0].as_ref());
        all.into_iter().filter(|name| self.args.provider.is_empty() || self.args.provider.contains(name)).collect()
    }

    /// Operations a second of the fastest provider, by trial; None where nobody could.
    fn rate(&mut self, point: Point) -> Outcome<Option<f64>> {
        let Some(listed) = self.listed(point).filter(|listed| listed.case.work.bytes.0 < self.memory / 4) else {
            return Ok(None);
        };
        let (flops, id) = (listed.case.work.flops.0 as f64, listed.case.id.as_str());
        let mut most: Option<f64> = None;
        for provider in self.providers(&listed) {
            let device = self.session.devices[0].info().id.clone();
            let seconds = match self.trials.get(&device, id, &provider) {
                Some(known) => known,
                None => {
                    let bound = self.hunt.leaders(1).first().map(|(_, rate)| *rate).into_iter().chain(most).reduce(f64::max);
                    let enough = bound.map(|rate| Seconds(flops / rate));
                    let open = self.session.devices[0].as_ref();
                    let seconds = match trial(listed.suite, &listed.case, &provider, open, self.session.seed, enough) {
                        Ok(seconds) => Some(seconds),
                        Err(error) => {
                            if matches!(error, DeviceError::Lost(_)) {
                                self.session.reopen(0)?;
                            }
                            None
                        }
                    };
                    self.trials.keep(&device, id, &provider, seconds)?;
                    seconds
                }
            };
            if let Some(rate) = seconds.map(|s| flops / s.0) {
                most = Some(most.map_or(rate, |m| m.max(rate)));
            }
        }
        Ok(most)
    }

    /// Measures so many of the leaders in full, each by the provider whose trial was fastest.
    fn measure(&mut self, leaders: usize) -> Outcome<()> {
        for (at, (point, _)) in self.hunt.leaders(leaders).into_iter().enumerate() {
            // The first is for whoever waits; the others are for completeness, and can be left.
            if at > 0 && self.session.interrupted() {
                break;
            }
            let Some(listed) = self.listed(point) else { continue };
            let (device, id) = (self.session.devices[0].info().id.clone(), listed.case.id.as_str().to_owned());
            let timed = |name: &String| self.trials.get(&device, &id, name).flatten();
            let fastest = self.providers(&listed).into_iter().filter_map(|name| Some((timed(&name)?.0, name)));
            let Some((_, provider)) = fastest.min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
            self.session.measure_one(&Job::new(0, listed.clone(), provider.clone()))?;
            let Some(record) = self.session.record(&device, &id, &provider) else { continue };
            let Came::Measured { samples, .. } = &record.outcome else { continue };
            let seconds: Vec<f64> = samples.seconds.iter().map(|s| s.0).collect();
            let Some(summary) = Summary::of(&seconds).filter(|s| s.median > 0.0) else { continue };
            let rate = listed.case.work.flops.0 as f64 / summary.median;
            if self.best.as_ref().is_none_or(|best| rate > best.rate) {
                let best = Best { case: id, provider, rate };
                tell(&format!("best so far: {}", best.words()));
                self.best = Some(best);
            }
        }
        Ok(())
    }
}

/// Where it has got to, for whoever waits and for a log.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
