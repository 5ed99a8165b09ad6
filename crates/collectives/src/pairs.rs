//! Which link is slow, and whose fault it is: every rank sends to every other, in pairs, all pairs of a round at once.
//!
//! n ranks take n − 1 rounds (n of them where n is odd, with one rank idle in each), by the circle method of a tournament: one
//! rank stays, the others move on by a place each round. Sends are looked at in each direction, since a bad port is often bad in
//! one alone. Links within a host are compared with each other, and those between hosts likewise.

use ridgepoint_core::Bytes;
use ridgepoint_device::{Collectives, Exchange, RankPlace, Result};

/// With whom each rank talks in a round; None for one that sits out.
pub type Round = Vec<Option<usize>>;

/// The rounds in which each of `n` ranks meets each other once.
#[must_use]
pub fn rounds(n: usize) -> Vec<Round> {
    // With an odd number someone meets a rank that is not there.
    let places = n + n % 2;
    let turning = places.saturating_sub(1);
    let round = |turn: usize| {
        let at = |place: usize| if place == 0 { 0 } else { (place - 1 + turn) % turning + 1 };
        let mut partners = vec![None; n];
        for place in 0..places / 2 {
            let (a, b) = (at(place), at(places - 1 - place));
            if a < n && b < n {
                (partners[a], partners[b]) = (Some(b), Some(a));
            }
        }
        partners
    };
    if n < 2 { Vec::new() } else { (0..turning).map(round).collect() }
}

/// What lies between two ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One host.
    Node,
    /// Two hosts, and the same number on each: one rail, where each has a network card of its own.
    Rail(usize),
    /// Two hosts, from one rail to another.
    AcrossRails,
    /// Two hosts, of which nothing more is known.
    Between,
}

impl Kind {
    /// As it is shown.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Node => "within a node".into(),
            Self::Rail(k) => format!("rail {k}"),
            Self::AcrossRails => "across rails".into(),
            Self::Between => "between nodes".into(),
        }
    }

    fn of(places: &[RankPlace], from: usize, to: usize) -> Self {
        match (places.get(from), places.get(to)) {
            (Some(a), Some(b)) if a.host == b.host => Self::Node,
            (Some(a), Some(b)) => match (a.local, b.local) {
                (Some(k), Some(l)) if k == l => Self::Rail(k),
                (Some(_), Some(_)) => Self::AcrossRails,
                _ => Self::Between,
            },
            _ => Self::Node,
        }
    }
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Who sends.
    pub from: usize,
    /// Who receives.
    pub to: usize,
    /// What lies between them.
    pub kind: Kind,
    /// GB/s.
    pub rate: f64,
    /// Bytes that came wrong at the receiver.
    pub wrong: u64,
}

/// Measures every link of `collectives`; `done` is told of each round.
///
/// # Errors
/// Names the ranks that did not arrive; `Unsupported` where ranks do not talk in pairs.
pub fn sweep(collectives: &dyn Collectives, bytes: Bytes, times: u64, mut done: impl FnMut(usize, usize)) -> Result<Vec<Link>> {
    let places = collectives.places();
    let rounds = rounds(collectives.max_ranks());
    let mut links = Vec::new();
    for (number, partners) in rounds.iter().enumerate() {
        let seen = collectives.exchange(partners, bytes, times)?;
        let wrong = |rank: usize| seen.get(rank).copied().flatten().map_or(0, |e| e.wrong);
        for (from, to) in partners.iter().enumerate().filter_map(|(from, to)| Some((from, (*to)?))) {
            let Some(Exchange { seconds, .. }) = seen[from] else { continue };
            let rate = bytes.0 as f64 / seconds.0.max(1e-12) / 1e9;
            links.push(Link { from, to, kind: Kind::of(&places, from, to), rate, wrong: wrong(to) });
        }
        done(number + 1, rounds.len());
    }
    links.sort_by_key(|link| (link.from, link.to));
    Ok(links)
}

/// What is wrong with the links.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Ranks all of whose links are slow in a direction: `(rank, sends, fraction of the usual)`, the worst first.
    pub ranks: Vec<(usize, bool, f64)>,
    /// Slow links that no such rank explains, with the fraction, the worst first.
    pub links: Vec<(Link, f64)>,
    /// Links over which bytes came wrong.
    pub wrong: Vec<Link>,
}

impl Findings {
    /// Nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty() && self.links.is_empty() && self.wrong.is_empty()
    }
}

/// What is usual for a link of this kind: the median, and of two the better.
fn usual(links: &[Link], kind: Kind) -> f64 {
    let alike = |other: Kind| (other == Kind::Node) == (kind == Kind::Node);
    let mut rates: Vec<f64> = links.iter().filter(|l| alike(l.kind)).map(|l| l.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

/// Finds the links that are slower than `limit` of what is usual for their kind, and the ranks that explain them: a rank is slow
/// to send (or to receive) if even its best link is.
#[must_use]
pub fn judge(links: &[Link], limit: f64) -> Findings {
    let fraction = |link: &Link| link.rate / usual(links, link.kind).max(f64::MIN_POSITIVE);
    let slow: Vec<(Link, f64)> = links.iter().map(|l| (*l, fraction(l))).filter(|(_, f)| *f < limit).collect();
    let mut ranks: Vec<(usize, bool, f64)> = Vec::new();
    // Who sends is asked first: of two ranks with one slow direction between them nothing tells whose fault it is.
    for sends in [true, false] {
        let end = |link: &Link| if sends { link.from } else { link.to };
        let mut ends: Vec<usize> = slow.iter().map(|(l, _)| end(l)).collect();
        ends.sort_unstable();
        ends.dedup();
        for rank in ends {
            let best = links.iter().filter(|l| end(l) == rank).map(fraction).fold(0.0, f64::max);
            let explained = |l: &Link| !sends && ranks.iter().any(|(r, s, _)| *s && *r == l.from);
            let any_left = slow.iter().any(|(l, _)| end(l) == rank && !explained(l));
            if best < limit && any_left {
                ranks.push((rank, sends, best));
            }
        }
    }
    let explained = |l: &Link| ranks.iter().any(|(rank, sends, _)| *rank == if *sends { l.from } else { l.to });
    let mut left: Vec<(Link, f64)> = slow.into_iter().filter(|(l, _)| !explained(l)).collect();
    left.sort_by(|a, b| a.1.total_cmp(&b.1));
    ranks.sort_by(|a, b| a.2.total_cmp(&b.2));
    Findings { ranks, links: left, wrong: links.iter().filter(|l| l.wrong > 0).copied().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_meets_everyone_once_in_as_few_rounds_as_there_can_be() {
        for n in 0..=17 {
            let all = rounds(n);
            assert_eq!(all.len(), if n < 2 { 0 } else { n - 1 + n % 2 }, "{n} ranks");
            let mut met = vec![vec![0; n]; n];
            for round in &all {
                assert!(round.iter().filter(|p| p.is_none()).count() <= n % 2);
                for (rank, partner) in round.iter().enumerate().filter_map(|(r, p)| Some((r, (*p)?))) {
                    assert_eq!(round[partner], Some(rank));
                    met[rank][partner] += 1;
                }
            }
            assert!((0..n).all(|a| (0..n).all(|b| met[a][b] == usize::from(a != b))), "{n} ranks");
        }
    }

    fn links(n: usize, rate: impl Fn(usize, usize) -> f64) -> Vec<Link> {
        let pairs = (0..n).flat_map(|from| (0..n).map(move |to| (from, to))).filter(|(from, to)| from != to);
        pairs.map(|(from, to)| Link { from, to, kind: Kind::Between, rate: rate(from, to), wrong: 0 }).collect()
    }

    #[test]
    fn a_rank_that_sends_slowly_is_named_and_explains_its_links() {
        for n in [2, 3, 8] {
            let found = judge(&links(n, |from, _| if from == 1 { 0.1 } else { 1.0 }), 0.7);
            assert_eq!(found, Findings { ranks: vec![(1, true, 0.1)], ..Findings::default() }, "{n} ranks");
        }
        let found = judge(&links(8, |_, to| if to == 3 { 0.2 } else { 1.0 }), 0.7);
        assert_eq!(found.ranks, [(3, false, 0.2)]);
        let both = judge(&links(8, |from, to| if from == 5 || to == 5 { 0.2 } else { 1.0 }), 0.7);
        assert_eq!(both.ranks, [(5, true, 0.2), (5, false, 0.2)]);
    }

    #[test]
    fn a_single_link_is_named_by_itself() {
        let found = judge(&links(8, |from, to| if (from, to) == (2, 6) { 0.3 } else { 1.0 + 0.01 * to as f64 }), 0.7);
        assert!(found.ranks.is_empty());
        assert_eq!(found.links.iter().map(|(l, _)| (l.from, l.to)).collect::<Vec<_>>(), [(2, 6)]);
        assert!(judge(&links(8, |from, _| 1.0 + 0.05 * from as f64), 0.7).is_empty());
    }

    #[test]
    fn kinds_are_told_by_host_and_rail_and_compared_apart() {
        let places: Vec<RankPlace> = (0..4).map(|r| RankPlace { host: format!("h{}", r / 2), local: Some(r % 2) }).collect();
        assert_eq!(Kind::of(&places, 0, 1), Kind::Node);
        assert_eq!(Kind::of(&places, 1, 3), Kind::Rail(1));
        assert_eq!(Kind::of(&places, 1, 2), Kind::AcrossRails);
        assert_eq!(Kind::of(&[], 0, 1), Kind::Node);
        // A network is slower than a host's memory, and no fault.
        let mut all = links(4, |_, _| 1.0);
        all.iter_mut().for_each(|l| l.kind = Kind::of(&places, l.from, l.to));
        all.iter_mut().filter(|l| l.kind == Kind::Node).for_each(|l| l.rate = 50.0);
        assert!(judge(&all, 0.7).is_empty());
    }

    #[test]
    fn wrong_bytes_are_a_finding_at_any_speed() {
        let mut all = links(3, |_, _| 1.0);
        all[2].wrong = 1;
        assert_eq!(judge(&all, 0.7).wrong, [all[2]]);
    }
}
