//! `ridgepoint pairs`: which link between ranks is slow, and which rank is to blame.

use super::print;
use crate::args::Pairs;
use crate::exit::{Exit, Failure, Outcome};
use crate::launch::{self, Place};
use crate::report::clean;
use crate::{select, session, store};
use ridgepoint_collectives::pairs::{Findings, Link, SlowLink, SlowRank, Swept, judge, sweep};
use ridgepoint_device::RankPlace;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &Pairs) -> Outcome {
    if !(0.0..=100.0).contains(&args.slow) {
        return Err(Failure::usage(format!("--slow {}: percent from 0 to 100", args.slow)));
    }
    if args.size.0 == 0 {
        return Err(Failure::usage("--size 0: a message has bytes"));
    }
    let place = launch::join()?;
    if matches!(place, Place::Done) {
        return Ok(Exit::Pass);
    }
    place.in_pairs();
    let devices = session::devices(&select::devices(&args.device)?, &place)?;
    let alone = || Failure::environment(format!("{} has no one to talk to; start this by mpirun or srun", args.device));
    let collectives = devices.first().and_then(|d| d.collectives()).ok_or_else(alone)?;
    let folder = args.out.clone().unwrap_or_else(session::default_folder);
    let mut file = Links::create(&folder)?;
    let mut unwritten = Ok(());
    let progress = |round: usize, of: usize, links: &[Link]| {
        let _ = writeln!(std::io::stderr(), "ridgepoint: round {round} of {of}");
        if unwritten.is_ok() {
            unwritten = links.iter().try_for_each(|link| file.append(&of_link(link)));
        }
    };
    let Swept { links, rounds: (done, of), failure } = sweep(collectives, args.size, args.times, progress);
    unwritten?;
    let failure = failure.map(|failure| failure.to_string());
    if let (Some(failure), true) = (&failure, links.is_empty()) {
        return Err(Failure::environment(failure.clone()));
    }
    let found = judge(&links, args.slow / 100.0);
    let places = collectives.places();
    let seen = Seen {
        args,
        provider: collectives.provider(),
        places: &places,
        links: &links,
        found: &found,
        failure: failure.as_deref(),
    };
    let summary = seen.as_json();
    file.append(&seen.findings())?;
    print(&(if args.format == "json" { summary.to_string() + "\n" } else { seen.as_text() }))?;
    let _ = writeln!(std::io::stderr(), "links: {}", file.path.display());
    match failure {
        Some(failure) => Err(Failure { message: format!("{done} of {of} rounds were done: {failure}"), exit: Exit::CheckFailed }),
        None if found.is_empty() => Ok(Exit::Pass),
        None => Ok(Exit::CheckFailed),
    }
}

/// The links as they are measured, a line each, so that a killed run keeps what it had; the last line says what was found.
struct Links {
    file: File,
    path: PathBuf,
}

impl Links {
    fn create(folder: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(folder).map_err(|e| store::cannot_write(folder, &e))?;
        let path = folder.join("pairs.jsonl");
        let file = File::create_new(&path).map_err(|e| store::cannot_write(&path, &e))?;
        Ok(Self { file, path })
    }

    fn append(&mut self, line: &Value) -> Outcome<()> {
        writeln!(self.file, "{line}").map_err(|e| store::cannot_write(&self.path, &e))
    }
}

fn of_link(l: &Link) -> Value {
    json!({"from": l.from, "to": l.to, "kind": l.kind.name(), "GB/s": l.rate, "wrong": l.wrong})
}

/// Slow links that a person is shown; all are in the file.
const SHOWN: usize = 16;

/// What a sweep saw, to be told.
struct Seen<'s> {
    args: &'s Pairs,
    provider: &'s str,
    places: &'s [RankPlace],
    links: &'s [Link],
    found: &'s Findings,
    failure: Option<&'s str>,
}

impl Seen<'_> {
    /// `rank 3 (node7)`.
    fn name(&self, rank: usize) -> String {
        self.places.get(rank).map_or_else(|| format!("rank {rank}"), |place| format!("rank {rank} ({})", clean(&place.host)))
    }

    fn as_text(&self) -> String {
        let Self { args, links, found, .. } = self;
        let n = links.iter().map(|l| l.from.max(l.to) + 1).max().unwrap_or(0);
        let mut text = format!(
            "GB/s from each rank (rows) to each other by {}, {} messages of {}\n\n{:>6}",
            self.provider, args.times, args.size, ""
        );
        (0..n).for_each(|to| text += &format!("{to:>9}"));
        for from in 0..n {
            let _ = write!(text, "\n{from:>6}");
            for to in 0..n {
                let link = links.iter().find(|l| (l.from, l.to) == (from, to));
                text += &link.map_or_else(|| format!("{:>9}", "·"), |l| format!("{:>9.3}", l.rate));
            }
        }
        text += "\n\n";
        let mut kinds: Vec<_> = links.iter().map(|l| l.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let mut rates: Vec<f64> = links.iter().filter(|l| l.kind == kind).map(|l| l.rate).collect();
            rates.sort_by(f64::total_cmp);
            let (low, high) = (rates[0], rates[rates.len() - 1]);
            let _ = writeln!(text, "{}: {low:.3} to {high:.3} GB/s over {} links", kind.name(), rates.len());
        }
        for SlowRank { rank, sends, network, fraction } in &found.ranks {
            let what = if *sends { "sends slowly to every other" } else { "receives slowly from every other" };
            let over = if *network { "over the network" } else { "within its host" };
            let _ =
                writeln!(text, "SLOW RANK: {} {what} {over}: at best {:.0} % of the usual", self.name(*rank), fraction * 100.0);
        }
        for SlowLink { link: Link { from, to, kind, rate, .. }, fraction, rank } in found.links.iter().take(SHOWN) {
            let (from, to) = (self.name(*from), self.name(*to));
            let why = rank.map_or_else(String::new, |rank| format!(", as rank {rank} is"));
            let percent = fraction * 100.0;
            let _ =
                writeln!(text, "SLOW LINK: {from} to {to}, {}: {rate:.3} GB/s, {percent:.0} % of the usual{why}", kind.name());
        }
        if found.links.len() > SHOWN {
            let _ = writeln!(text, "and {} slow links more: they are in pairs.jsonl", found.links.len() - SHOWN);
        }
        for Link { from, to, wrong, .. } in &found.wrong {
            let _ = writeln!(text, "WRONG BYTES: {wrong} from {} at {}", self.name(*from), self.name(*to));
        }
        if found.is_empty() {
            let _ = writeln!(text, "no link is below {} % of the usual for its kind, and every byte came right", args.slow);
        }
        if let Some(failure) = self.failure {
            let _ = writeln!(text, "NOT ALL: {}", clean(failure));
        }
        text
    }

    /// What was found, and what kept the rest from being looked at.
    fn findings(&self) -> Value {
        let rank = |r: &SlowRank| {
            let (direction, over) = (if r.sends { "sends" } else { "receives" }, if r.network { "network" } else { "host" });
            json!({"rank": r.rank, "direction": direction, "over": over, "fraction": r.fraction})
        };
        let link = |l: &SlowLink| json!({"from": l.link.from, "to": l.link.to, "fraction": l.fraction, "rank": l.rank});
        json!({
            "slow ranks": self.found.ranks.iter().map(rank).collect::<Vec<_>>(),
            "slow links": self.found.links.iter().map(link).collect::<Vec<_>>(),
            "wrong": self.found.wrong.iter().map(of_link).collect::<Vec<_>>(),
            "failure": self.failure,
        })
    }

    fn as_json(&self) -> Value {
        let ranks = self.places.iter().enumerate().map(|(rank, p)| json!({"rank": rank, "host": p.host, "local": p.local}));
        let mut all = self.findings();
        all["provider"] = self.provider.into();
        all["bytes"] = self.args.size.0.into();
        all["times"] = self.args.times.into();
        all["ranks"] = ranks.collect::<Vec<_>>().into();
        all["links"] = self.links.iter().map(of_link).collect::<Vec<_>>().into();
        all
    }
}
