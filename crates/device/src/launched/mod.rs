//! Many processes, started by a launcher: who they are, how they meet, and what rank 0 has them do.
//!
//! `world.rs` reads the launcher's variables. `meeting.rs` brings all ranks to rank 0 over a small exchange (`channel.rs`) that is
//! authenticated and bounded; nothing listens before that is asked for or after all have come. From then on rank 0 gives orders
//! (`message.rs`, `roll.rs`, `team.rs`) and every other process serves (`agent.rs`): it starts its rank as a child and reports what
//! becomes of it. A child (`rank.rs`) is connected to the others by an MPI library (`mpi/`), by TCP (`tcp/`), by its device's own
//! library (`device.rs`), or over shared memory. So rank 0 runs suites as it would alone.

mod agent;
mod beside;
mod channel;
mod descriptors;
mod device;
mod greeting;
mod host;
mod meeting;
mod message;
mod mpi;
mod planted;
mod rank;
mod roll;
mod tcp;
mod team;
pub mod world;

use crate::beside::MakeBeside;
use crate::cpu::collectives::{Elsewhere, SharedMemory};
use crate::probe::Finding;
use crate::{Collectives, DeviceError, Result, network};
use channel::{Side, greet};
use meeting::Arrived;
use message::{Connected, Order, Start};
use ridgepoint_core::Bytes;
use roll::Roll;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use world::World;

pub use message::{Combination, Peer};

/// Seconds for all ranks to come, and for a rank to get nowhere.
const PATIENCE_VARIABLE: &str = "RIDGEPOINT_PATIENCE";
/// What connects the CPU's ranks, where another than the best is wanted.
const ENGINE_VARIABLE: &str = "RIDGEPOINT_ENGINE";
const PATIENCE: Duration = Duration::from_secs(60);

/// To be called first in `main`: if this process was started as a rank, serves until its parent is done, and returns true.
#[must_use]
pub(crate) fn rank_main(make: Option<MakeBeside>) -> bool {
    rank::main(make)
}

/// The place of this process in a job of several, by its environment; None where it is alone.
///
/// # Errors
/// Variables that make no sense, by name.
pub fn place() -> std::result::Result<Option<World>, String> {
    Ok(world::find(&|name| std::env::var(name).ok())?.filter(|world| world.size > 1))
}

/// What `doctor` says of the libraries that connect ranks.
#[must_use]
pub(crate) fn doctor() -> Vec<Finding> {
    mpi::findings()
}

fn patience() -> Result<Duration> {
    let Ok(text) = std::env::var(PATIENCE_VARIABLE) else { return Ok(PATIENCE) };
    let seconds = text.parse().ok().filter(|s: &f64| (0.1..=86_400.0).contains(s));
    let seconds = seconds.ok_or_else(|| {
        DeviceError::invalid(format!("{PATIENCE_VARIABLE} is '{}': seconds from 0.1 to 86400 are wanted", text.escape_debug()))
    })?;
    Ok(Duration::from_secs_f64(seconds))
}

/// This process as it introduces itself.
fn introduce(world: &World) -> Peer {
    let read = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").map(|p| p.display().to_string()).unwrap_or_default();
    let mpi = if world.mpi {
        mpi::search(world.launcher).map(|(_, flavour)| flavour.name().to_owned())
    } else {
        Err(format!("{} bootstraps no MPI library", world.launcher))
    };
    Peer {
        rank: world.rank,
        size: world.size,
        host: read("/proc/sys/kernel/hostname"),
        boot: format!("{} {namespace}", read("/proc/sys/kernel/random/boot_id")),
        process: std::process::id(),
        local_rank: world.local_rank,
        address: None,
        network: network::Rate::of(&network::ports(&[])).map(|rate| (rate.ports, (rate.gbps * 1e3).round() as u64)),
        mpi,
    }
}

/// Every process but that of rank 0: serves until the job is over.
///
/// # Errors
/// Rank 0 could not be reached.
pub fn follow(world: &World) -> Result<()> {
    let (out, input) = meeting::call(world, &introduce(world), patience()?).map_err(DeviceError::invalid)?;
    agent::serve(input, out);
    Ok(())
}

/// The ranks of a job, as rank 0 has them.
pub struct Job {
    /// Rank 0's place.
    pub world: World,
    roll: Mutex<Roll>,
    peers: Vec<Peer>,
    /// What came of having an MPI library connect the ranks, which can be done once.
    mpi: OnceLock<std::result::Result<Connected, String>>,
    /// Ranks are to talk two by two.
    pairs: AtomicBool,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("world", &self.world).finish_non_exhaustive()
    }
}

impl Job {
    /// Rank 0: waits for all others; `waiting` is told now and then for whom, and how long it will go on.
    ///
    /// # Errors
    /// Ranks that did not come, by number.
    pub fn lead(world: &World, waiting: &mut dyn FnMut(&[usize], Duration)) -> Result<Arc<Self>> {
        let patience = patience()?;
        let own = introduce(world);
        // Rank 0's own rank is served like any other, by a thread.
        let failed = |e: std::io::Error| DeviceError::Call { call: "starting rank 0", code: 0, message: e.to_string() };
        let (here, there) = UnixStream::pair().map_err(failed)?;
        type Ends = (Box<dyn Read + Send>, Box<dyn Write + Send>);
        let ends = |stream: UnixStream| -> std::io::Result<Ends> { Ok((Box::new(stream.try_clone()?), Box::new(stream))) };
        let (reader, writer) = ends(there).map_err(failed)?;
        let served = std::thread::Builder::new().name("rank-0".into()).spawn(move || {
            if let Ok((out, input)) = greet(reader, writer, &agent::between_relatives(), Side::Caller) {
                agent::serve(input, out);
            }
        });
        served.map_err(failed)?;
        let (reader, writer) = ends(here).map_err(failed)?;
        let (out, input) = greet(reader, writer, &agent::between_relatives(), Side::Listener).map_err(failed)?;
        let others = meeting::gather(world, patience, waiting);
        let late = |message| DeviceError::Call { call: "waiting for the ranks", code: i64::from(libc::ETIMEDOUT), message };
        let (others, address) = others.map_err(late)?;
        let mut arrived = vec![Arrived { peer: Peer { address, ..own }, out, input }];
        arrived.extend(others);
        let roll = Roll::new(arrived, patience);
        let peers = roll.peers.clone();
        Ok(Arc::new(Self {
            world: world.clone(),
            roll: Mutex::new(roll),
            peers,
            mpi: OnceLock::new(),
            pairs: AtomicBool::new(false),
        }))
    }

    /// Number of ranks.
    #[must_use]
    pub fn size(&self) -> usize {
        self.peers.len()
    }

    /// All ranks, in order.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Says that ranks are to talk two by two, which those that share memory cannot: TCP stands in for it.
    pub fn in_pairs(&self) {
        self.pairs.store(true, Ordering::Relaxed);
    }

    /// Has the ranks' libraries use a combination of algorithm and protocol, from the next time on that their devices are opened and
    /// for so long at most. What failed before is no hindrance, since their processes are started anew.
    pub fn sweep(&self, combination: Combination, limit: Duration) {
        self.roll().sweep(combination, limit);
    }

    /// Ranks by host.
    #[must_use]
    pub fn hosts(&self) -> BTreeMap<String, Vec<usize>> {
        let mut hosts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        self.peers.iter().for_each(|peer| hosts.entry(peer.host.clone()).or_default().push(peer.rank));
        hosts
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the CPU's ranks talk: by an MPI library; without one over shared memory where all are on one host, and else by TCP.
    /// `RIDGEPOINT_ENGINE` names one of them.
    ///
    /// # Errors
    /// Why they cannot.
    pub(crate) fn engine(
        self: &Arc<Self>,
        cores: &[usize],
        last_level_cache: Bytes,
    ) -> Result<Box<dyn Collectives + Send + Sync>> {
        let first = &self.peers[0];
        let one_host = self.peers.iter().all(|peer| (&peer.host, &peer.boot) == (&first.host, &first.boot));
        let wanted = std::env::var(ENGINE_VARIABLE).ok();
        let reason = match wanted.as_deref() {
            None | Some("mpi") => match self.mpi.get_or_init(|| connect(&mut self.roll(), &self.peers)) {
                Ok(connected) => return Ok(Box::new(team::Ranks::new(self, connected.clone(), None))),
                Err(reason) if wanted.is_some() => return Err(DeviceError::unsupported(format!("no MPI: {reason}"))),
                Err(reason) => reason.as_str(),
            },
            Some("tcp" | "shared-memory") => "another engine was asked for",
            Some(other) => {
                let known = "mpi, tcp, shared-memory";
                return Err(DeviceError::invalid(format!("{ENGINE_VARIABLE} is '{}': known are {known}", other.escape_debug())));
            }
        };
        if wanted.as_deref() == Some("tcp") || (wanted.is_none() && (!one_host || self.pairs.load(Ordering::Relaxed))) {
            let connected = self.roll().tcp()?;
            return Ok(Box::new(team::Ranks::new(self, connected, None)));
        }
        if !one_host {
            return Err(DeviceError::unsupported("ranks on several hosts share no memory"));
        }
        let elsewhere: Arc<dyn Elsewhere> = Arc::<Self>::clone(self);
        let patience = self.roll().patience;
        Ok(Box::new(SharedMemory::new(cores, last_level_cache).of_a_job(elsewhere, self.size(), reason).with_patience(patience)))
    }

    /// Ranks on devices, connected by their own library: each process opens its own device, and rank 0's makes the tokens.
    ///
    /// # Errors
    /// A rank without a device.
    pub(crate) fn on_devices(
        self: &Arc<Self>,
        backend: &str,
        own: &Arc<dyn Collectives + Send + Sync>,
    ) -> Result<Arc<dyn Collectives + Send + Sync>> {
        let connected = self.roll().devices(backend)?;
        Ok(Arc::new(team::Ranks::new(self, connected, Some((backend.to_owned(), Arc::clone(own))))))
    }
}

/// Has an MPI library connect the ranks.
///
/// # Errors
/// Why not, in which case nothing of it stays.
fn connect(roll: &mut Roll, peers: &[Peer]) -> std::result::Result<Connected, String> {
    for peer in peers {
        match &peer.mpi {
            Err(reason) => return Err(reason.clone()),
            Ok(flavour) if peers[0].mpi.as_ref() != Ok(flavour) => {
                return Err(format!("rank {} has {flavour}, rank 0 another", peer.rank));
            }
            Ok(_) => {}
        }
    }
    let everyone: Vec<usize> = (0..peers.len()).collect();
    let outcome =
        roll.attempt("starting MPI", &everyone, |_| Order::Start(Start::Mpi)).map_err(|e| DeviceError::from(e).to_string());
    let outcome = outcome.and_then(|answers| roll::agreed(answers, peers.len()));
    if outcome.is_err() {
        roll.tell(|_| Order::Dismiss);
    }
    outcome
}

impl Elsewhere for Job {
    fn start(&self, process: u32, fd: i32) -> Result<()> {
        self.roll().join(process, fd)
    }

    fn gone(&self, rank: usize) -> Option<String> {
        self.roll().gone(rank)
    }

    fn dismiss(&self) {
        self.roll().tell(|_| Order::Dismiss);
    }
}

/// Ranks as text.
fn list(ranks: &[usize]) -> String {
    match ranks {
        [] => "none".to_owned(),
        ranks => ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    }
}
