//! Which link is slow, and whose fault it is: every rank sends to every other, in pairs, all pairs of a round at once.
//!
//! n ranks take n − 1 rounds (n of them where n is odd, with one rank idle in each), by the circle method of a tournament: one
//! rank stays, the others move on by a place each round. Sends are looked at in each direction, since a bad port is often bad in
//! one alone. Links within a host are compared with each other, and those between hosts likewise.

use ridgepoint_core::Bytes;
use ridgepoint_device::{Collectives, DeviceError, Exchange, RankPlace};
use std::cmp::Ordering;
use std::collections::BTreeMap;

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

/// What a sweep measured.
#[derive(Debug)]
pub struct Swept {
    /// Every link of the rounds that came to an end, by sender and receiver.
    pub links: Vec<Link>,
    /// Rounds that came to an end, and all there are.
    pub rounds: (usize, usize),
    /// Why there are no more: names the ranks that did not arrive, or says that ranks do not talk in pairs here.
    pub failure: Option<DeviceError>,
}

/// Measures every link of `collectives`; `done` is told of each round: its number, how many there are, and its links. What was
/// measured before a rank failed is kept.
pub fn sweep(collectives: &dyn Collectives, bytes: Bytes, times: u64, mut done: impl FnMut(usize, usize, &[Link])) -> Swept {
    let places = collectives.places();
    let all = rounds(collectives.max_ranks());
    let mut swept = Swept { links: Vec::new(), rounds: (0, all.len()), failure: None };
    for (number, partners) in all.iter().enumerate() {
        let seen = match collectives.exchange(partners, bytes, times) {
            Ok(seen) => seen,
            Err(failure) => {
                swept.failure = Some(failure);
                break;
            }
        };
        let wrong = |rank: usize| seen.get(rank).copied().flatten().map_or(0, |e| e.wrong);
        let before = swept.links.len();
        for (from, to) in partners.iter().enumerate().filter_map(|(from, to)| Some((from, (*to)?))) {
            let Some(Exchange { seconds, .. }) = seen.get(from).copied().flatten() else { continue };
            let rate = bytes.0 as f64 / seconds.0.max(1e-12) / 1e9;
            swept.links.push(Link { from, to, kind: Kind::of(&places, from, to), rate, wrong: wrong(to) });
        }
        swept.rounds.0 = number + 1;
        done(number + 1, all.len(), &swept.links[before..]);
    }
    swept.links.sort_by_key(|link| (link.from, link.to));
    swept
}

/// A rank all of whose links of a medium are slow in a direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowRank {
    /// Which.
    pub rank: usize,
    /// To send, or else to receive.
    pub sends: bool,
    /// Over the network, or else within its host.
    pub network: bool,
    /// Its best link's part of what is usual.
    pub fraction: f64,
}

/// A slow link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowLink {
    /// Which.
    pub link: Link,
    /// Its part of what is usual.
    pub fraction: f64,
    /// The slow rank that explains it.
    pub rank: Option<usize>,
}

/// What is wrong with the links.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Slow ranks, the worst first.
    pub ranks: Vec<SlowRank>,
    /// All slow links: those that no rank explains first, and of each the worst.
    pub links: Vec<SlowLink>,
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

/// What is usual for a link of this kind: the median over its like, and of two the better. Rails are alike; a way from one rail to
/// another may take a switch more, and is compared with its like alone.
fn usual(links: &[Link], kind: Kind) -> f64 {
    let alike = |link: &&Link| std::mem::discriminant(&link.kind) == std::mem::discriminant(&kind);
    let mut rates: Vec<f64> = links.iter().filter(alike).map(|l| l.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

/// Finds the links that are slower than `limit` of what is usual for their kind, and the ranks that explain them: over a medium (its
/// host, the network) a rank is slow to send, or to receive, if even its best link is.
#[must_use]
pub fn judge(links: &[Link], limit: f64) -> Findings {
    let kinds: BTreeMap<Kind, f64> = links.iter().map(|l| (l.kind, usual(links, l.kind))).collect();
    let judged = |link: &Link| (*link, link.rate / kinds[&link.kind].max(f64::MIN_POSITIVE));
    let judged: Vec<(Link, f64)> = links.iter().map(judged).collect();
    let mut slow: Vec<SlowLink> = judged
        .iter()
        .filter(|(_, fraction)| *fraction < limit)
        .map(|(link, fraction)| SlowLink { link: *link, fraction: *fraction, rank: None })
        .collect();
    let mut ranks = Vec::new();
    // Who sends is asked first: of two ranks with one slow direction between them nothing tells whose fault it is.
    for sends in [true, false] {
        let end = |link: &Link| if sends { link.from } else { link.to };
        // The best link of each rank over each medium.
        let mut best: BTreeMap<(usize, bool), f64> = BTreeMap::new();
        for (link, fraction) in &judged {
            let most = best.entry((end(link), link.kind != Kind::Node)).or_insert(0.0);
            *most = most.max(*fraction);
        }
        for ((rank, network), fraction) in best.into_iter().filter(|(_, fraction)| *fraction < limit) {
            let its = |l: &&mut SlowLink| end(&l.link) == rank && (l.link.kind != Kind::Node) == network && l.rank.is_none();
            let mut any = false;
            for link in slow.iter_mut().filter(its) {
                (link.rank, any) = (Some(rank), true);
            }
            if any {
                ranks.push(SlowRank { rank, sends, network, fraction });
            }
        }
    }
    slow.sort_by(|a, b| (a.rank.is_some(), a.fraction).partial_cmp(&(b.rank.is_some(), b.fraction)).unwrap_or(Ordering::Equal));
    ranks.sort_by(|a, b| a.fraction.total_cmp(&b.fraction));
    Findings { ranks, links: slow, wrong: links.iter().filter(|l| l.wrong > 0).copied().collect() }
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

    /// Slow ranks as (rank, sends, network, fraction).
    type Ranks = Vec<(usize, bool, bool, f64)>;
    /// Slow links as (from, to, rank).
    type Links = Vec<(usize, usize, Option<usize>)>;

    fn told(found: &Findings) -> (Ranks, Links) {
        let ranks = found.ranks.iter().map(|r| (r.rank, r.sends, r.network, r.fraction)).collect();
        (ranks, found.links.iter().map(|l| (l.link.from, l.link.to, l.rank)).collect())
    }

    #[test]
    fn a_rank_that_sends_slowly_is_named_with_its_links() {
        for n in [2, 3, 8] {
            let found = judge(&links(n, |from, _| if from == 1 { 0.1 } else { 1.0 }), 0.7);
            let its: Vec<_> = (0..n).filter(|to| *to != 1).map(|to| (1, to, Some(1))).collect();
            assert_eq!(told(&found), (vec![(1, true, true, 0.1)], its), "{n} ranks");
        }
        let found = judge(&links(8, |_, to| if to == 3 { 0.2 } else { 1.0 }), 0.7);
        assert_eq!(told(&found).0, [(3, false, true, 0.2)]);
        let both = judge(&links(8, |from, to| if from == 5 || to == 5 { 0.2 } else { 1.0 }), 0.7);
        assert_eq!(told(&both).0, [(5, true, true, 0.2), (5, false, true, 0.2)]);
    }

    #[test]
    fn a_single_link_is_named_by_itself_and_before_those_that_a_rank_explains() {
        let found = judge(&links(8, |from, to| if (from, to) == (2, 6) { 0.3 } else { 1.0 + 0.01 * to as f64 }), 0.7);
        assert_eq!(told(&found), (vec![], vec![(2, 6, None)]));
        assert!(judge(&links(8, |from, _| 1.0 + 0.05 * from as f64), 0.7).is_empty());
        let found = judge(
            &links(8, |from, to| {
                if (from, to) == (2, 6) {
                    0.3
                } else if from == 4 {
                    0.1
                } else {
                    1.0
                }
            }),
            0.7,
        );
        assert_eq!((told(&found).0, told(&found).1[0]), (vec![(4, true, true, 0.1)], (2, 6, None)));
    }

    /// Links of two hosts of four ranks, by kind: (rate within a host, on a rail, across rails).
    fn two_hosts(node: f64, rail: f64, across: f64) -> Vec<Link> {
        let places: Vec<RankPlace> = (0..8).map(|r| RankPlace { host: format!("h{}", r / 4), local: Some(r % 4) }).collect();
        let mut all = links(8, |_, _| 1.0);
        for link in &mut all {
            link.kind = Kind::of(&places, link.from, link.to);
            link.rate = match link.kind {
                Kind::Node => node,
                Kind::Rail(_) => rail,
                _ => across,
            };
        }
        all
    }

    #[test]
    fn a_way_between_rails_is_no_slow_rail_and_a_rank_with_a_bad_port_is_named_beside_fast_neighbours() {
        assert!(judge(&two_hosts(50.0, 10.0, 4.0), 0.7).is_empty());
        let mut all = two_hosts(50.0, 10.0, 4.0);
        let slow = |l: &&mut Link| (l.from, l.to) == (0, 4);
        all.iter_mut().filter(slow).for_each(|l| l.rate = 5.0);
        assert_eq!(told(&judge(&all, 0.7)), (vec![], vec![(0, 4, None)]), "above what is usual across rails");
        let mut all = two_hosts(50.0, 10.0, 4.0);
        all.iter_mut().filter(|l| l.from == 6 && l.kind != Kind::Node).for_each(|l| l.rate /= 4.0);
        let (ranks, links) = told(&judge(&all, 0.7));
        assert_eq!((ranks, links.len()), (vec![(6, true, true, 0.25)], 4));
        assert!(links.iter().all(|(from, _, rank)| (*from, *rank) == (6, Some(6))));
    }

    /// Three ranks, the last of which is gone at the second round.
    struct Mortal;

    impl Collectives for Mortal {
        fn provider(&self) -> &'static str {
            "mortal"
        }
        fn max_ranks(&self) -> usize {
            4
        }
        fn communicator(
            &self,
            _: &ridgepoint_device::CollectiveProblem,
        ) -> ridgepoint_device::Result<Box<dyn ridgepoint_device::Communicator>> {
            Err(DeviceError::unsupported("pairs alone"))
        }
        fn exchange(&self, partners: &[Option<usize>], _: Bytes, _: u64) -> ridgepoint_device::Result<Vec<Option<Exchange>>> {
            let first = partners[0] == rounds(4)[0][0];
            let seen = Exchange { seconds: ridgepoint_core::Seconds(1e-3), wrong: 0 };
            if first { Ok(vec![Some(seen); 4]) } else { Err(DeviceError::invalid("rank 3 is gone")) }
        }
    }

    #[test]
    fn rounds_before_a_rank_is_gone_are_kept() {
        let mut told = Vec::new();
        let swept = sweep(&Mortal, Bytes(1000), 1, |number, of, links| told.push((number, of, links.len())));
        assert_eq!((swept.links.len(), swept.rounds, told), (4, (1, 3), vec![(1, 3, 4)]));
        assert!(swept.failure.unwrap().to_string().contains("rank 3 is gone"));
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
