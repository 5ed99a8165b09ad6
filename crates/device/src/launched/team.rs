//! Rank 0's side of ranks that do what they are told, whatever connects them: an MPI library, TCP, or their devices' own.

use super::Job;
use super::message::{Connected, Order, Report};
use super::planted::FAULT;
use super::roll::{Answer, Roll};
use crate::beside::RanksBeside;
use crate::lateness::{LOOKS, Lateness};
use crate::transport::Said;
use crate::{Checked, CollectiveProblem, Collectives, Communicator, DeviceError, Exchange, RankPlace, Result, Rounding, Timing};
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Bytes, Dtype, Library, Seconds};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Variables that choose a library's transport.
const TRANSPORT: [&str; 8] = [
    "OMPI_MCA_pml",
    "OMPI_MCA_btl",
    "OMPI_MCA_mtl",
    "UCX_TLS",
    "UCX_NET_DEVICES",
    "FI_PROVIDER",
    "MPIR_CVAR_CH4_NETMOD",
    "MPIR_CVAR_CH4_SHM",
];

/// About how long executions on devices are ordered at once: a fraction of any patience.
const PIECE: Seconds = Seconds(1.0);

/// The engine.
pub(super) struct Ranks {
    job: Arc<Job>,
    connected: Connected,
    own: Option<Own>,
    /// Bytes of a sweep's messages, and the token by which its devices met.
    sweep: Mutex<Option<(Bytes, Vec<u8>)>>,
    /// What the ranks' libraries wrote, as they told it last.
    said: Mutex<Vec<Said>>,
}

/// Where it is devices that are connected: their backend, and rank 0's own library, which makes the tokens.
type Own = (String, Arc<dyn Collectives + Send + Sync>);

impl Ranks {
    pub(super) fn new(job: &Arc<Job>, connected: Connected, own: Option<Own>) -> Self {
        Self { job: Arc::clone(job), connected, own, sweep: Mutex::default(), said: Mutex::default() }
    }

    fn config(&self) -> BTreeMap<String, String> {
        let job = &self.job;
        let hosts = job.hosts();
        let mut transport: Vec<String> =
            if self.connected.provider == "tcp" { vec!["TCP, each rank to each".into()] } else { Vec::new() };
        transport.extend(TRANSPORT.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))));
        if transport.is_empty() {
            transport.push("the library's choice".into());
        }
        let mut config = BTreeMap::from([
            ("transport".into(), transport.join(" ")),
            (
                "ranks".into(),
                format!("{} processes on {} host{}", job.size(), hosts.len(), if hosts.len() == 1 { "" } else { "s" }),
            ),
            ("launcher".into(), job.world.launcher.to_string()),
        ]);
        if self.own.is_some() {
            let chosen = job.roll().combination().and_then(|swept| swept.choice.clone());
            let (algorithm, protocol) = chosen.map_or((None, None), |(algorithm, protocol)| (Some(algorithm), Some(protocol)));
            for (key, name, told) in [("algorithm", "NCCL_ALGO", algorithm), ("protocol", "NCCL_PROTO", protocol)] {
                let told = told.or_else(|| std::env::var(name).ok());
                config.insert(key.into(), told.unwrap_or_else(|| "the library's choice".into()));
            }
        }
        if !self.connected.library.is_empty() {
            config.insert("library".into(), self.connected.library.clone());
        }
        if hosts.len() > 1 {
            let most = hosts.values().map(Vec::len).max().unwrap_or(1);
            config.insert("hosts".into(), hosts.len().to_string());
            config.insert("ranks a host".into(), most.to_string());
            // The slowest host's ports bound them all; where one does not tell, nothing is known.
            let rates: Option<Vec<(usize, u64)>> = job.peers().iter().map(|peer| peer.network).collect();
            if let Some((ports, mbit)) = rates.and_then(|r| r.into_iter().min_by_key(|(ports, mbit)| *ports as u64 * mbit)) {
                config.insert("ports a host".into(), format!("{ports} × {} Gbit/s", mbit as f64 / 1e3));
            }
        }
        if let Ok(fault) = std::env::var(FAULT) {
            config.insert("planted fault".into(), fault);
        }
        let cores = crate::cpu::affinity::online();
        if self.own.is_none() && hosts.iter().any(|(_, ranks)| ranks.len() > cores) {
            config.insert("oversubscribed".into(), format!("{} ranks, cores: {cores}", job.size()));
        }
        config
    }

    /// The ranks with a process each, started anew where a case before failed or left some waiting.
    fn up(&self) -> Result<MutexGuard<'_, Roll>> {
        let mut roll = self.job.roll();
        match &self.own {
            _ if !roll.down => {}
            Some((backend, _)) => drop(roll.devices(backend)?),
            None if self.provider() == "tcp" => drop(roll.tcp()?),
            None => return Err(DeviceError::unsupported("a case before left ranks waiting, and MPI is started once a job")),
        }
        Ok(roll)
    }
}

impl Collectives for Ranks {
    fn provider(&self) -> &'static str {
        match (&self.own, self.connected.provider.as_str()) {
            (Some((_, own)), _) => own.provider(),
            (None, "tcp") => "tcp",
            _ => "mpi",
        }
    }

    fn library(&self) -> Option<Library> {
        let Connected { library, path, provider, .. } = &self.connected;
        (provider == "mpi").then(|| Library { name: "mpi".into(), version: library.clone(), path: path.clone() })
    }

    fn max_ranks(&self) -> usize {
        self.job.size()
    }

    fn encoding(&self, dtype: Dtype) -> Dtype {
        self.own.as_ref().map_or(dtype, |(_, own)| own.encoding(dtype))
    }

    fn communicator(&self, problem: &CollectiveProblem) -> Result<Box<dyn Communicator>> {
        let token = self.own.as_ref().map_or(Ok(Vec::new()), |(_, own)| own.token())?;
        let order = Order::Prepare { problem: *problem, token };
        *self.sweep.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut roll = self.up()?;
        roll.ask("starting the ranks", |_| order.clone())?;
        drop(roll);
        let n = problem.ranks;
        // Elements pass from rank to rank in their own type, but where a rank combines all values of a part at once.
        let rounding = if self.provider() == "tcp" { Rounding::Once } else { Rounding::EachStep };
        let clock = if self.own.is_some() { Clock::Device } else { Clock::Host };
        Ok(Box::new(Team {
            clock,
            on_devices: self.own.is_some(),
            rounding,
            job: Arc::clone(&self.job),
            config: self.config(),
            times: vec![0; n],
            runs: 0,
            begun: false,
            each: None,
            together: [0.0; 4],
            lateness: Lateness::of(n),
        }))
    }

    fn said(&self) -> Vec<Said> {
        let mut kept = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // Where a case ended badly no one answers: what was known before it stays.
        if self.own.is_some()
            && !self.job.roll().down
            && let Ok(answers) = self.job.roll().ask("asking what the libraries wrote", |_| Order::Tell)
        {
            let said = |(report, _)| if let Report::Said(said) = report { said } else { Said::default() };
            kept.resize_with(answers.len(), Said::default);
            // Those of a sweep may have been started anew meanwhile.
            kept.iter_mut().zip(answers.into_iter().map(said)).for_each(|(kept, said)| kept.merge(said));
        }
        kept.clone()
    }

    fn places(&self) -> Vec<RankPlace> {
        self.job.peers().iter().map(|peer| RankPlace { host: peer.host.clone(), local: peer.local_rank }).collect()
    }

    fn exchange(&self, partners: &[Option<usize>], bytes: Bytes, times: u64) -> Result<Vec<Option<Exchange>>> {
        let mut sweep = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        if sweep.as_ref().is_none_or(|(of, _)| *of != bytes) {
            *sweep = Some((bytes, self.own.as_ref().map_or(Ok(Vec::new()), |(_, own)| own.token())?));
        }
        let token = sweep.as_ref().map(|(_, token)| token.clone()).unwrap_or_default();
        let partner = |rank: usize| partners.get(rank).copied().flatten();
        let order = |rank: usize| Order::Pair { partner: partner(rank), bytes: bytes.0, times, token: token.clone() };
        let answers = self.up()?.ask("the exchange", order)?;
        let seconds = |nanoseconds: u64| Seconds(nanoseconds as f64 / 1e9 / times.max(1) as f64);
        let paired = answers.iter().zip(partners).map(|((report, _), partner)| match report {
            Report::Paired { nanoseconds, wrong } if partner.is_some() => {
                Some(Exchange { seconds: seconds(*nanoseconds), wrong: *wrong })
            }
            _ => None,
        });
        Ok(paired.collect())
    }
}

/// Ranks that are up and hold the buffers of a collective.
struct Team {
    job: Arc<Job>,
    clock: Clock,
    /// Each rank's device can check for itself.
    on_devices: bool,
    rounding: Rounding,
    config: BTreeMap<String, String>,
    /// Nanoseconds of each rank in all executions, and their number.
    times: Vec<u64>,
    runs: u64,
    /// There was an execution.
    begun: bool,
    /// Seconds of an execution, by the last run.
    each: Option<f64>,
    /// As much of the collective alone, of what is beside it, and of both; 0 where there was none.
    together: [f64; 4],
    lateness: Lateness,
}

impl Team {
    /// So many executions: the slowest rank's time.
    fn execute(&mut self, times: u64) -> Result<f64> {
        let answers: Vec<Answer> = self.job.roll().ask("the collective", |_| Order::Run(times))?;
        let mut slowest = 0;
        for (rank, (report, _)) in answers.iter().enumerate() {
            if let Report::Done { nanoseconds } = report {
                slowest = slowest.max(*nanoseconds);
                self.times[rank] += nanoseconds;
            }
        }
        self.runs += times;
        self.begun = true;
        Ok(slowest as f64 / 1e9)
    }

    /// Sees who is late. Never within a run: its last execution is to be the one that is checked, and its time that of nothing else.
    fn look(&mut self) -> Result<()> {
        let answers = self.job.roll().ask("looking who is late", |_| Order::Look(LOOKS as u64))?;
        let waited: Vec<&Vec<u64>> = answers
            .iter()
            .filter_map(|(report, _)| if let Report::Looked { waited } = report { Some(waited) } else { None })
            .collect();
        for i in 0..LOOKS {
            let at = |waited: &&Vec<u64>| Seconds(waited.get(i).map_or(0.0, |ns| *ns as f64 / 1e9));
            self.lateness.saw(&waited.iter().map(at).collect::<Vec<_>>());
        }
        Ok(())
    }
}

impl Communicator for Team {
    fn poison(&mut self) -> Result<()> {
        // Connections are made at the first execution.
        if self.begun {
            self.look()?;
        }
        self.job.roll().ask("poisoning the outputs", |_| Order::Poison).map(drop)
    }

    fn run(&mut self, n: usize) -> Result<Timing> {
        let (mut left, mut seconds) = (n as u64, 0.0);
        while left > 0 {
            // A device gives no sign of life while it works off a run: a long one is ordered in pieces.
            let most = if self.on_devices { self.each.map_or(1, |each| (PIECE.0 / each) as u64) } else { left };
            let piece = most.clamp(1, left);
            let took = self.execute(piece)?;
            self.each = Some(took / piece as f64);
            seconds += took;
            left -= piece;
        }
        Ok(Timing { seconds: Seconds(seconds), clock: self.clock })
    }

    fn output(&mut self, rank: usize) -> Result<Vec<u8>> {
        if rank >= self.times.len() {
            return Err(DeviceError::invalid(format!("there is no rank {rank}")));
        }
        let answers = self.job.roll().ask_some("fetching an output", &[rank], |_| Order::Output)?;
        answers.into_iter().next().map(|(_, bytes)| bytes).ok_or_else(|| DeviceError::invalid("no output came"))
    }

    fn check(&mut self, tolerance: f64) -> Result<Option<Checked>> {
        let answers = match self.job.roll().ask("checking the outputs", |_| Order::Check { tolerance }) {
            Err(DeviceError::Unsupported(_)) => return Ok(None),
            answers => answers?,
        };
        Ok(Some(in_all(answers)))
    }

    fn beside(&mut self) -> Option<&mut dyn RanksBeside> {
        self.on_devices.then_some(self as &mut dyn RanksBeside)
    }

    fn rounding(&self) -> Rounding {
        self.rounding
    }

    fn forget(&mut self) {
        self.times.fill(0);
        self.runs = 0;
    }

    fn times(&self) -> Vec<Seconds> {
        if self.runs == 0 {
            return Vec::new();
        }
        self.times.iter().map(|sum| Seconds(*sum as f64 / self.runs as f64 / 1e9)).collect()
    }

    fn lateness(&self) -> Vec<Seconds> {
        self.lateness.medians()
    }

    fn config(&self) -> BTreeMap<String, String> {
        self.config.clone()
    }
}

/// What all ranks found.
fn in_all(answers: Vec<Answer>) -> Checked {
    let mut total = Checked::default();
    for (report, _) in answers {
        if let Report::Checked { checked, wrong, error } = report {
            total.merge(Checked { checked, wrong, error: f64::from_bits(error) });
        }
    }
    total
}

impl RanksBeside for Team {
    fn ready(&mut self, size: &str, dtype: Dtype, seed: u64) -> Result<String> {
        let order = Order::Beside { size: size.to_owned(), dtype, seed };
        let answers = self.job.roll().ask("making what is beside the collective ready", |_| order.clone())?;
        let by = answers.into_iter().find_map(|(report, _)| if let Report::Beside { by } = report { Some(by) } else { None });
        by.ok_or_else(|| DeviceError::invalid("no rank says what is beside the collective"))
    }

    fn time(&mut self, n: usize, collective: bool, beside: bool) -> Result<Seconds> {
        let (mut left, mut seconds, which) = (n as u64, 0.0, usize::from(collective) + 2 * usize::from(beside));
        while left > 0 {
            // As a run: in pieces.
            let most = if self.together[which] > 0.0 { (PIECE.0 / self.together[which]) as u64 } else { 1 };
            let times = most.clamp(1, left);
            let answers = self.job.roll().ask("the collective with a product beside it", |_| Order::Together {
                times,
                collective,
                beside,
            })?;
            let took = |(report, _): &Answer| if let Report::Done { nanoseconds } = report { *nanoseconds } else { 0 };
            let took = answers.iter().map(took).max().unwrap_or(0) as f64 / 1e9;
            self.together[which] = took / times as f64;
            self.begun |= collective;
            seconds += took;
            left -= times;
        }
        Ok(Seconds(seconds))
    }

    fn check(&mut self) -> Result<Checked> {
        self.job.roll().ask("checking what is beside the collective", |_| Order::CheckBeside).map(in_all)
    }
}
