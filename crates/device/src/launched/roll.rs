//! Rank 0's view of the ranks: whom it has told what, who has answered, and who has not. Every wait ends: when a rank is gone or
//! has failed, or when none gets on for the job's patience; and the error says which ranks arrived and which did not, or what the
//! one that failed said.

use super::channel::Secret;
use super::meeting::{Arrived, Out};
use super::message::{Combination, Connected, Order, Peer, Report, Start};
use crate::{DeviceError, Result};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// When one rank is found to be gone, the others get so long, and until each gives a sign of life, to come as far as they can without it.
const SETTLE: Duration = Duration::from_millis(300);
/// When one rank cannot do what was ordered, the others get so long without a step to find that out for themselves: those that wait
/// for it inside a library never do.
const REFUSED: Duration = Duration::from_secs(5);
/// A rank that has given no sign of life for so long is not only waiting for another. They come four times a second.
const SILENCE: Duration = Duration::from_secs(2);

/// Why orders were not carried out.
pub(super) enum Ended {
    /// Ranks said that they cannot, or that it failed: there may be others that they can.
    Refused(DeviceError),
    /// A rank is gone or hangs.
    Broken(DeviceError),
}

impl From<Ended> for DeviceError {
    fn from((Ended::Refused(error) | Ended::Broken(error)): Ended) -> Self {
        error
    }
}

type Word = (usize, std::result::Result<(Report, Vec<u8>), String>);

/// The ranks of a job.
pub(super) struct Roll {
    out: Vec<Out>,
    words: Receiver<Word>,
    pub(super) peers: Vec<Peer>,
    pub(super) patience: Duration,
    /// The failure that ended it: there is no going on after one.
    broken: Option<DeviceError>,
    /// Executions that each rank has begun, and when it last said so.
    begun: Vec<(u64, Instant)>,
    /// Steps that each has made by itself.
    steps: Vec<u64>,
    /// Launched processes that have hung up.
    closed: Vec<bool>,
    /// Ranks whose new process is not there yet: what is still heard is of the one before.
    stale: Vec<bool>,
    /// Ranks that are gone, and how: one may go when it has answered and nobody waits for it.
    lost: Vec<(usize, String)>,
    /// The ranks' processes were ended, some of them with nothing wrong, and must be started anew.
    pub(super) down: bool,
    /// MPI is started once a job.
    once: bool,
    /// Number of the last process that joined a segment of shared memory, and those that have ended since, by rank.
    joined: u64,
    ended: BTreeMap<usize, String>,
    /// What the ranks' libraries are told to use, and for how long that may take.
    swept: Option<(Combination, Duration, Instant)>,
}

/// A rank's answer to an order, with the bytes that came before it.
pub(super) type Answer = (Report, Vec<u8>);

impl Roll {
    /// All ranks of a job, in order, each with a thread that listens to it.
    pub(super) fn new(ranks: Vec<Arrived>, patience: Duration) -> Self {
        let (word, words) = mpsc::channel::<Word>();
        let (mut out, mut peers) = (Vec::new(), Vec::new());
        for (rank, arrived) in ranks.into_iter().enumerate() {
            let (word, mut input) = (word.clone(), arrived.input);
            std::thread::spawn(move || {
                loop {
                    let heard = input.receive::<Report>();
                    let last = heard.is_err();
                    // Whoever listened may be gone.
                    if word.send((rank, heard.map_err(|e| silence(&e)))).is_err() || last {
                        return;
                    }
                }
            });
            out.push(arrived.out);
            peers.push(arrived.peer);
        }
        let (begun, steps) = (vec![(0, Instant::now()); peers.len()], vec![0; peers.len()]);
        let (closed, stale) = (vec![false; peers.len()], vec![false; peers.len()]);
        let (broken, lost, down, once, joined, ended, swept) = (None, Vec::new(), false, false, 0, BTreeMap::new(), None);
        Self { out, words, peers, patience, broken, begun, steps, closed, stale, lost, down, once, joined, ended, swept }
    }

    pub(super) fn size(&self) -> usize {
        self.peers.len()
    }

    /// Gives each rank its order and no answer is waited for.
    pub(super) fn tell(&mut self, order: impl Fn(usize) -> Order) {
        for (rank, out) in self.out.iter_mut().enumerate() {
            // One that is gone is heard to be.
            let _ = out.send(&order(rank), &[]);
        }
    }

    /// Gives each rank its order and waits until all have answered.
    pub(super) fn ask(&mut self, call: &'static str, order: impl Fn(usize) -> Order) -> Result<Vec<Answer>> {
        let all: Vec<usize> = (0..self.size()).collect();
        self.ask_some(call, &all, order)
    }

    /// Gives those `ranks` their order and waits until they have answered.
    pub(super) fn ask_some(
        &mut self,
        call: &'static str,
        ranks: &[usize],
        order: impl Fn(usize) -> Order,
    ) -> Result<Vec<Answer>> {
        let outcome = self.attempt(call, ranks, order);
        if let Err(Ended::Broken(error)) = &outcome {
            self.broken = Some(error.clone());
            // Whoever hangs is ended by its own agent.
            self.tell(|_| Order::Dismiss);
        }
        Ok(outcome?)
    }

    /// As [`Roll::ask_some`], but what fails is not the job's end.
    pub(super) fn attempt(
        &mut self,
        call: &'static str,
        ranks: &[usize],
        order: impl Fn(usize) -> Order,
    ) -> std::result::Result<Vec<Answer>, Ended> {
        if let Some(error) = &self.broken {
            return Err(Ended::Broken(error.clone()));
        }
        for rank in ranks {
            let order = order(*rank);
            if let Order::Start(start) = &order {
                self.once = matches!(start, Start::Mpi);
                self.stale[*rank] = true;
                // A launched process that hung up starts nothing.
                self.lost.retain(|(lost, _)| lost != rank || self.closed[*rank]);
            }
            // One that is gone is heard to be.
            let _ = self.out[*rank].send(&order, &[]);
        }
        self.answers(call, ranks)
    }

    fn answers(&mut self, call: &'static str, ranks: &[usize]) -> std::result::Result<Vec<Answer>, Ended> {
        let mut waiting = Waiting { call, answers: vec![None; self.size()], failed: None };
        let mut parts: Vec<Vec<u8>> = vec![Vec::new(); self.size()];
        let (mut since, mut noticed, mut refused) = (Instant::now(), None, false);
        self.begun.iter_mut().for_each(|(_, at)| *at = Instant::now());
        while ranks.iter().any(|r| waiting.answers[*r].is_none()) {
            let word = self.words.recv_timeout(Duration::from_millis(20));
            match word {
                Ok((rank, Ok((Report::Starting, _)))) => self.stale[rank] = false,
                Ok((rank, Ok(_))) if self.stale[rank] => {}
                Ok((rank, Ok((Report::Progress { begun, steps }, _)))) => {
                    if begun != self.begun[rank].0 || std::mem::replace(&mut self.steps[rank], steps) != steps {
                        since = Instant::now();
                    }
                    self.begun[rank] = (begun, Instant::now());
                }
                Ok((rank, Ok((Report::Output { last }, body)))) => {
                    since = Instant::now();
                    parts[rank].extend_from_slice(&body);
                    if last {
                        waiting.answers[rank] = Some((Report::Output { last }, std::mem::take(&mut parts[rank])));
                    }
                }
                Ok((rank, Ok((Report::Gone { how, child: 0 }, _)))) => self.lost.push((rank, how)),
                Ok((_, Ok((Report::Gone { .. }, _)))) => {}
                Ok((rank, Ok(answer))) => {
                    since = Instant::now();
                    if let Report::Failed { reason } = &answer.0 {
                        noticed.get_or_insert(since);
                        waiting.failed.get_or_insert_with(|| (rank, reason.clone()));
                    }
                    refused |= matches!(answer.0, Report::Unable { .. });
                    waiting.answers[rank] = Some(answer);
                }
                Ok((rank, Err(how))) => {
                    self.closed[rank] = true;
                    self.lost.push((rank, hung_up(&how)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.describe(&waiting)),
            }
            if !self.lost.is_empty() {
                noticed.get_or_insert_with(Instant::now);
            }
            if let Some((_, limit, from)) = &self.swept
                && from.elapsed() > *limit
            {
                let message = format!("no end after {} s; the ranks' processes were ended", limit.as_secs());
                return Err(Ended::Broken(DeviceError::Call { call, code: i64::from(libc::ETIMEDOUT), message }));
            }
            let settled = noticed.is_some_and(|at: Instant| {
                let waits = |rank: &&usize| waiting.answers[**rank].is_none() && self.lost.iter().all(|(lost, _)| lost != *rank);
                let all = || ranks.iter().filter(waits).all(|rank| self.begun[*rank].1 > at);
                at.elapsed() >= SETTLE && (at.elapsed() >= SILENCE || all())
            });
            if settled || since.elapsed() > if refused { self.patience.min(REFUSED) } else { self.patience } {
                return Err(self.refusal(&waiting, ranks).unwrap_or_else(|| self.describe(&waiting)));
            }
        }
        if refused || waiting.failed.is_some() {
            return Err(self.refusal(&waiting, ranks).unwrap_or_else(|| self.describe(&waiting)));
        }
        Ok(ranks.iter().filter_map(|rank| waiting.answers[*rank].take()).collect())
    }

    /// What the rank says that failed first, or else one that cannot do what was ordered; by name, unless all say so. Where others
    /// were left waiting for it, their processes are ended; after a failure all are that can be started anew, since a library may not
    /// be fit for more. None where a rank is gone, which is worse, or none says anything.
    fn refusal(&mut self, waiting: &Waiting, ranks: &[usize]) -> Option<Ended> {
        if !self.lost.is_empty() {
            return None;
        }
        let said = |rank: &usize| waiting.answers[*rank].as_ref().map(|(report, _)| report);
        let unable: Vec<(usize, &String)> = ranks
            .iter()
            .filter_map(|rank| match said(rank) {
                Some(Report::Unable { reason }) => Some((*rank, reason)),
                _ => None,
            })
            .collect();
        if waiting.failed.is_none() && unable.is_empty() {
            return None;
        }
        if ranks.iter().any(|rank| waiting.answers[*rank].is_none()) || waiting.failed.is_some() && !self.once {
            self.down = true;
            self.tell(|_| Order::Dismiss);
        }
        if let Some((rank, reason)) = &waiting.failed {
            let message = format!("{}: {reason}", self.name(*rank));
            return Some(Ended::Refused(DeviceError::Call { call: waiting.call, code: 0, message }));
        }
        let (rank, reason) = *unable.first()?;
        let reason = if unable.len() == ranks.len() { reason.clone() } else { format!("{}: {reason}", self.name(rank)) };
        Some(Ended::Refused(DeviceError::Unsupported(reason)))
    }

    /// `rank 3 (node7, process 4711)`.
    fn name(&self, rank: usize) -> String {
        let Peer { host, process, .. } = &self.peers[rank];
        format!("rank {rank} ({host}, process {process})")
    }

    /// Who is to blame: ranks that are gone, those that give no sign of life, or else those that are behind the others.
    fn describe(&self, waiting: &Waiting) -> Ended {
        let lost = |rank: usize| self.lost.iter().any(|(r, _)| *r == rank);
        let done = |rank: usize| waiting.answers[rank].is_some();
        let silent = |rank: usize| !done(rank) && self.begun[rank].1.elapsed() > SILENCE;
        let furthest = self.begun.iter().map(|(n, _)| *n).max().unwrap_or(0);
        let (here, missing): (Vec<usize>, Vec<usize>) =
            (0..self.size()).partition(|rank| !lost(*rank) && !silent(*rank) && (done(*rank) || self.begun[*rank].0 == furthest));
        let mut why: Vec<String> = self.lost.iter().map(|(rank, how)| format!("{} is gone ({how})", self.name(*rank))).collect();
        why.extend(waiting.failed.iter().map(|(rank, reason)| format!("{} said: {reason}", self.name(*rank))));
        let code = if why.is_empty() {
            why.push(format!("no rank got on for {} s", self.patience.as_secs_f64()));
            let quiet: Vec<usize> = (0..self.size()).filter(|rank| silent(*rank)).collect();
            why.extend(quiet.iter().map(|rank| format!("{} gives no sign of life", self.name(*rank))));
            libc::ETIMEDOUT
        } else {
            libc::ECHILD
        };
        let message =
            format!("{}; ranks that arrived: {}; that did not: {}", why.join(", "), super::list(&here), super::list(&missing));
        Ended::Broken(DeviceError::Call { call: waiting.call, code: i64::from(code), message })
    }

    /// From now on the ranks' libraries are told what to use, for so long at most; a failure before was that of other processes of
    /// the ranks, unless a launched process is gone.
    pub(super) fn sweep(&mut self, combination: Combination, limit: Duration) {
        self.swept = Some((combination, limit, Instant::now()));
        if self.closed.iter().all(|closed| !closed) {
            self.broken = None;
            self.lost.clear();
        }
    }

    /// What the ranks' libraries are told to use.
    pub(super) fn combination(&self) -> Option<&Combination> {
        self.swept.as_ref().map(|(combination, ..)| combination)
    }

    /// Has every rank open its device.
    pub(super) fn devices(&mut self, backend: &str) -> Result<Connected> {
        let order = Order::Start(Start::Device { backend: backend.to_owned(), swept: self.combination().cloned() });
        let answers = self.ask("opening the ranks' devices", |_| order.clone())?;
        self.down = false;
        agreed(answers, self.size()).map_err(DeviceError::unsupported)
    }

    /// Has all ranks connect to each other by TCP.
    pub(super) fn tcp(&mut self) -> Result<Connected> {
        let mut hosts = Vec::new();
        for peer in &self.peers {
            hosts.push(peer.address.ok_or_else(|| DeviceError::unsupported(format!("rank {} has no address", peer.rank)))?);
        }
        let answers = self.ask("starting the ranks", |rank| Order::Start(Start::Tcp { address: hosts[rank] }))?;
        let addresses: Vec<SocketAddr> = answers
            .iter()
            .filter_map(|(report, _)| if let Report::Listening { address } = report { Some(*address) } else { None })
            .collect();
        let failed = |e: std::io::Error| DeviceError::invalid(format!("cannot make a secret: {e}"));
        Order::of_addresses(&addresses).for_each(|part| self.tell(|_| part.clone()));
        let order = Order::Connect { secret: Secret::random().map_err(failed)? };
        let answers = self.ask("connecting the ranks", |_| order.clone())?;
        self.down = false;
        agreed(answers, self.size()).map_err(DeviceError::unsupported)
    }

    /// Has every rank join the shared memory behind descriptor `fd` of `process`.
    pub(super) fn join(&mut self, process: u32, fd: i32) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.joined += 1;
        self.ended.clear();
        let child = self.joined;
        self.stale.fill(true);
        self.tell(|rank| Order::Join { process, fd, rank, child });
        Ok(())
    }

    /// How a rank's process of the last [`Roll::join`] ended, if it did or could not start.
    pub(super) fn gone(&mut self, rank: usize) -> Option<String> {
        while let Ok((rank, word)) = self.words.try_recv() {
            match word {
                Ok((Report::Starting, _)) => self.stale[rank] = false,
                Ok(_) if self.stale[rank] => {}
                Ok((Report::Gone { how, child }, _)) if child == self.joined => drop(self.ended.insert(rank, how)),
                Ok((Report::Unable { reason }, _)) => drop(self.ended.insert(rank, reason)),
                Ok(_) => {}
                Err(how) => {
                    self.closed[rank] = true;
                    let name = self.name(rank);
                    let message = format!("{name} is gone ({})", hung_up(&how));
                    self.broken.get_or_insert(DeviceError::Call { call: "the job", code: i64::from(libc::ECHILD), message });
                    self.ended.insert(rank, hung_up(&how));
                }
            }
        }
        self.ended.get(&rank).cloned()
    }
}

/// What all ranks say of how they are connected, if each is who it should be.
pub(super) fn agreed(answers: Vec<Answer>, size: usize) -> std::result::Result<Connected, String> {
    let mut first = None;
    for (rank, (report, _)) in answers.into_iter().enumerate() {
        match report {
            Report::Connected(said) if (said.rank, said.size) == (rank, size) => drop(first.get_or_insert(said)),
            Report::Connected(Connected { rank: other, size: others, library, .. }) => {
                return Err(format!("{library} says that rank {rank} of {size} is rank {other} of {others}"));
            }
            _ => return Err(format!("rank {rank} did not say how it is connected")),
        }
    }
    first.ok_or_else(|| "there are no ranks".into())
}

fn hung_up(how: &str) -> String {
    format!("its launched process hung up: {how}")
}

/// The reason why nothing more is heard, in a reader's words.
fn silence(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::UnexpectedEof { "the connection ended".into() } else { error.to_string() }
}

/// Orders that are being carried out.
struct Waiting {
    call: &'static str,
    answers: Vec<Option<Answer>>,
    /// The first that failed, and its words.
    failed: Option<(usize, String)>,
}

impl Drop for Roll {
    fn drop(&mut self) {
        self.tell(|_| Order::Leave);
        // Launchers take it for a failure when rank 0 is gone first; the others need a moment, and have one at most.
        let deadline = Instant::now() + super::agent::GRACE + Duration::from_secs(1);
        while self.closed.iter().any(|closed| !closed) {
            match self.words.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((rank, Err(_))) => self.closed[rank] = true,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent::between_relatives;
    use super::super::channel::{Receiver as Input, Sender, Side, greet};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    type Far = (Sender<Box<dyn Write + Send>>, Input<Box<dyn Read + Send>>);

    /// Both ends of a connection to a rank.
    fn rank(rank: usize) -> (Arrived, Far) {
        let (near, far) = UnixStream::pair().unwrap();
        let meet = |stream: UnixStream, side| {
            let (read, write): (Box<dyn Read + Send>, Box<dyn Write + Send>) =
                (Box::new(stream.try_clone().unwrap()), Box::new(stream));
            greet(read, write, &between_relatives(), side).unwrap()
        };
        let far = std::thread::spawn(move || meet(far, Side::Caller));
        let (out, input) = meet(near, Side::Listener);
        let (host, boot, mpi) = ("h".into(), "b".into(), Err("none".into()));
        let peer = Peer { rank, size: 2, host, boot, process: 7, local_rank: None, address: None, network: None, mpi };
        (Arrived { peer, out, input }, far.join().unwrap())
    }

    /// What a rank is told next, other than to end.
    fn told(far: &mut Far) -> Order {
        loop {
            match far.1.receive::<Order>().unwrap().0 {
                Order::Dismiss => {}
                order => return order,
            }
        }
    }

    const DONE: Report = Report::Done { nanoseconds: 1 };

    #[test]
    fn a_rank_that_went_after_its_answer_is_named_by_the_next_order() {
        let ((first, mut one), (second, mut two)) = (rank(0), rank(1));
        let mut roll = Roll::new(vec![first, second], Duration::from_secs(60));
        two.0.send(&DONE, &[]).unwrap();
        two.0.send(&Report::Gone { how: "killed".into(), child: 0 }, &[]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        one.0.send(&DONE, &[]).unwrap();
        assert_eq!(roll.ask("running", |_| Order::Run(1)).unwrap().len(), 2);
        let since = Instant::now();
        let error = roll.ask("checking", |_| Order::Poison).unwrap_err().to_string();
        assert!(error.contains("rank 1 (h, process 7) is gone (killed)"), "{error}");
        assert!(since.elapsed() < Duration::from_secs(30), "{error}");
        let error = roll.ask("checking", |_| Order::Poison).unwrap_err().to_string();
        assert!(error.contains("is gone (killed)"), "the job is over: {error}");
    }

    #[test]
    fn a_failure_that_leaves_no_rank_lost_ends_a_case_and_not_the_job() {
        let ((first, mut one), (second, mut two)) = (rank(0), rank(1));
        let mut roll = Roll::new(vec![first, second], Duration::from_secs(60));
        // Rank 0 waits for the other inside a library, and both must be started anew.
        two.0.send(&Report::Failed { reason: "no memory".into() }, &[]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let error = roll.ask("running", |_| Order::Run(1)).unwrap_err().to_string();
        assert!(error.contains("rank 1 (h, process 7): no memory") && roll.down, "{error}");
        for far in [&mut one, &mut two] {
            assert_eq!(told(far), Order::Run(1));
            // The end of the process that was dismissed, and what it said before, is of no interest any more.
            far.0.send(&Report::Gone { how: "dismissed".into(), child: 0 }, &[]).unwrap();
            far.0.send(&Report::Starting, &[]).unwrap();
            far.0.send(&DONE, &[]).unwrap();
        }
        assert_eq!(roll.ask("starting", |_| Order::Start(Start::Mpi)).unwrap().len(), 2);
        // MPI is started once a job: whoever has answered stays.
        roll.down = false;
        one.0.send(&DONE, &[]).unwrap();
        two.0.send(&Report::Failed { reason: "no memory".into() }, &[]).unwrap();
        assert!(roll.ask("running", |_| Order::Run(1)).is_err() && !roll.down);
        one.0.send(&DONE, &[]).unwrap();
        two.0.send(&DONE, &[]).unwrap();
        assert_eq!(roll.ask("running", |_| Order::Run(1)).unwrap().len(), 2);
    }

    #[test]
    fn a_launched_process_that_hung_up_is_named_by_whatever_comes_next() {
        let ((first, mut one), (second, two)) = (rank(0), rank(1));
        let mut roll = Roll::new(vec![first, second], Duration::from_secs(60));
        one.0.send(&DONE, &[]).unwrap();
        drop(two);
        let is_gone = |outcome: std::result::Result<Vec<Answer>, Ended>| {
            let error = DeviceError::from(outcome.err().unwrap()).to_string();
            assert!(error.contains("rank 1 (h, process 7) is gone (its launched process hung up"), "{error}");
        };
        is_gone(roll.attempt("starting", &[0, 1], |_| Order::Start(Start::Mpi)));
        one.0.send(&Report::Starting, &[]).unwrap();
        one.0.send(&DONE, &[]).unwrap();
        is_gone(roll.attempt("starting", &[0, 1], |_| Order::Start(Start::Mpi)));
    }
}
