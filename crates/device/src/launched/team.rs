//! Rank 0's side of ranks that do what they are told, whatever connects them: an MPI library, TCP, or their devices' own.

use super::Job;
use super::host::FAULT;
use super::message::{Connected, Order, Report};
use super::roll::Answer;
use crate::{Checked, CollectiveProblem, Collectives, Communicator, DeviceError, Exchange, RankPlace, Result, Rounding, Timing};
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Bytes, Dtype, Library, Seconds};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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

/// The engine.
pub(super) struct Ranks {
    job: Arc<Job>,
    connected: Connected,
    own: Option<Own>,
    /// Bytes of a sweep's messages, and the token by which its devices met.
    sweep: Mutex<Option<(Bytes, Vec<u8>)>>,
}

/// Where it is devices that are connected: their backend, and rank 0's own library, which makes the tokens.
type Own = (String, Arc<dyn Collectives + Send + Sync>);

impl Ranks {
    pub(super) fn new(job: &Arc<Job>, connected: Connected, own: Option<Own>) -> Self {
        Self { job: Arc::clone(job), connected, own, sweep: Mutex::default() }
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
        let mut roll = self.job.roll();
        // A case that one rank alone could not do has left the others waiting inside their library.
        match &self.own {
            _ if !roll.down => {}
            Some((backend, _)) => drop(roll.devices(backend)?),
            None if self.provider() == "tcp" => drop(roll.tcp()?),
            None => return Err(DeviceError::unsupported("a case before left ranks waiting, and MPI is started once a job")),
        }
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
            working: vec![0; n],
            runs: (0, 0),
        }))
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
        let answers = self.job.roll().ask("the exchange", order)?;
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
    /// Nanoseconds of each rank: of all executions, and of its own work in those that were looked at.
    times: Vec<u64>,
    working: Vec<u64>,
    /// Executions, and those that were looked at.
    runs: (u64, u64),
}

impl Communicator for Team {
    fn poison(&mut self) -> Result<()> {
        self.job.roll().ask("poisoning the outputs", |_| Order::Poison).map(drop)
    }

    fn run(&mut self, n: usize) -> Result<Timing> {
        let answers: Vec<Answer> = self.job.roll().ask("the collective", |_| Order::Run(n as u64))?;
        let mut slowest = 0;
        for (rank, (report, _)) in answers.iter().enumerate() {
            if let Report::Done { nanoseconds, working } = report {
                slowest = slowest.max(*nanoseconds);
                self.times[rank] += nanoseconds;
                self.working[rank] += working;
            }
        }
        self.runs = (self.runs.0 + n as u64, self.runs.1 + 1);
        Ok(Timing { seconds: Seconds(slowest as f64 / 1e9), clock: self.clock })
    }

    fn output(&mut self, rank: usize) -> Result<Vec<u8>> {
        if rank >= self.times.len() {
            return Err(DeviceError::invalid(format!("there is no rank {rank}")));
        }
        let answers = self.job.roll().ask_some("fetching an output", &[rank], |_| Order::Output)?;
        answers.into_iter().next().map(|(_, bytes)| bytes).ok_or_else(|| DeviceError::invalid("no output came"))
    }

    fn check(&mut self, tolerance: f64) -> Result<Option<Checked>> {
        if !self.on_devices {
            return Ok(None);
        }
        let answers = match self.job.roll().ask("checking the outputs", |_| Order::Check { tolerance }) {
            Err(DeviceError::Unsupported(_)) => return Ok(None),
            answers => answers?,
        };
        let mut total = Checked::default();
        for (report, _) in answers {
            if let Report::Checked { checked, wrong, error } = report {
                total.merge(Checked { checked, wrong, error: f64::from_bits(error) });
            }
        }
        Ok(Some(total))
    }

    fn rounding(&self) -> Rounding {
        self.rounding
    }

    fn times(&self) -> Vec<Seconds> {
        means(&self.times, self.runs.0)
    }

    fn working(&self) -> Vec<Seconds> {
        means(&self.working, self.runs.1)
    }

    fn config(&self) -> BTreeMap<String, String> {
        self.config.clone()
    }
}

/// Sums of nanoseconds over their number.
fn means(sums: &[u64], n: u64) -> Vec<Seconds> {
    if n == 0 { Vec::new() } else { sums.iter().map(|sum| Seconds(*sum as f64 / n as f64 / 1e9)).collect() }
}
