//! `ridgepoint pairs`: which link between ranks is slow, and which rank is to blame.

use super::print;
use crate::args::Pairs;
use crate::exit::{Exit, Failure, Outcome};
use crate::launch::{self, Place};
use crate::{select, session};
use ridgepoint_collectives::pairs::{Findings, Link, judge, sweep};
use ridgepoint_device::RankPlace;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;

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
    let devices = session::devices(&select::devices(&args.device)?, &place)?;
    let alone = || Failure::environment(format!("{} has no one to talk to; start this by mpirun or srun", args.device));
    let collectives = devices.first().and_then(|d| d.collectives()).ok_or_else(alone)?;
    let progress = |round: usize, of: usize| {
        let _ = writeln!(std::io::stderr(), "ridgepoint: round {round} of {of}");
    };
    let links = sweep(collectives, args.size, args.times, progress).map_err(|e| Failure::environment(e.to_string()))?;
    let found = judge(&links, args.slow / 100.0);
    let places = collectives.places();
    if args.format == "json" {
        print(&(as_json(args, collectives.provider(), &places, &links, &found) + "\n"))?;
    } else {
        print(&as_text(args, &places, &links, &found))?;
    }
    Ok(if found.is_empty() { Exit::Pass } else { Exit::CheckFailed })
}

/// `rank 3 (node7)`.
fn name(places: &[RankPlace], rank: usize) -> String {
    places.get(rank).map_or_else(|| format!("rank {rank}"), |place| format!("rank {rank} ({})", place.host))
}

fn as_text(args: &Pairs, places: &[RankPlace], links: &[Link], found: &Findings) -> String {
    let n = links.iter().map(|l| l.from + 1).max().unwrap_or(0);
    let mut text = format!("GB/s from each rank (rows) to each other, {} messages of {}\n\n{:>6}", args.times, args.size, "");
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
    for (rank, sends, fraction) in &found.ranks {
        let what = if *sends { "sends slowly to every other" } else { "receives slowly from every other" };
        let _ = writeln!(text, "SLOW RANK: {} {what}: at best {:.0} % of the usual", name(places, *rank), fraction * 100.0);
    }
    for (Link { from, to, kind, rate, .. }, fraction) in &found.links {
        let (from, to) = (name(places, *from), name(places, *to));
        let _ =
            writeln!(text, "SLOW LINK: {from} to {to}, {}: {rate:.3} GB/s, {:.0} % of the usual", kind.name(), fraction * 100.0);
    }
    for Link { from, to, wrong, .. } in &found.wrong {
        let _ = writeln!(text, "WRONG BYTES: {wrong} from {} at {}", name(places, *from), name(places, *to));
    }
    if found.is_empty() {
        let _ = writeln!(text, "no link is below {} % of the usual for its kind, and every byte came right", args.slow);
    }
    text
}

fn as_json(args: &Pairs, provider: &str, places: &[RankPlace], links: &[Link], found: &Findings) -> String {
    let link = |l: &Link| json!({"from": l.from, "to": l.to, "kind": l.kind.name(), "GB/s": l.rate, "wrong": l.wrong});
    let ranks = places.iter().enumerate().map(|(rank, p)| json!({"rank": rank, "host": p.host, "local": p.local}));
    let slow_rank = |(rank, sends, fraction): &(usize, bool, f64)| json!({"rank": rank, "direction": if *sends { "sends" } else { "receives" }, "fraction": fraction});
    json!({
        "provider": provider,
        "bytes": args.size.0,
        "times": args.times,
        "ranks": ranks.collect::<Vec<_>>(),
        "links": links.iter().map(link).collect::<Vec<_>>(),
        "slow ranks": found.ranks.iter().map(slow_rank).collect::<Vec<_>>(),
        "slow links": found.links.iter().map(|(l, fraction)| json!({"from": l.from, "to": l.to, "fraction": fraction})).collect::<Vec<_>>(),
        "wrong": found.wrong.iter().map(link).collect::<Vec<_>>(),
    })
    .to_string()
}
