//! Many processes, started by a launcher: who they are, how they meet, and what rank 0 has them do.
//!
//! `world.rs` reads the launcher's variables. `meeting.rs` brings all ranks to rank 0 over a small exchange (`channel.rs`) that is
//! authenticated and bounded; nothing listens before that is asked for or after all have come. From then on rank 0 gives orders
//! (`message.rs`, `roll.rs`) and every other process serves (`agent.rs`): it starts its rank as a child, over an MPI library
//! (`mpi/`) or over shared memory, and reports what becomes of it. So rank 0 runs suites as it would alone.

mod agent;
mod channel;
mod meeting;
mod message;
mod mpi;
mod roll;
pub mod world;

use crate::cpu::collectives::{Elsewhere, SharedMemory};
use crate::probe::Finding;
use crate::{Collectives, DeviceError, Result};
use channel::{Side, greet};
use meeting::Arrived;
use message::{Connected, Order, Report};
use ridgepoint_core::Bytes;
use roll::Roll;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use world::World;

pub use message::Peer;

/// Seconds for all ranks to come, and for a rank to get nowhere.
const PATIENCE_VARIABLE: &str = "RIDGEPOINT_PATIENCE";
const PATIENCE: Duration = Duration::from_secs(60);

/// To be called first in `main`: if this process was started as a rank, serves until its parent is done, and returns true.
#[must_use]
pub(crate) fn rank_main() -> bool {
    mpi::rank::main()
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
    mpi::library::findings()
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
        mpi::library::search(world.launcher).map(|(_, flavour)| flavour.name().to_owned())
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
    connected: std::result::Result<Connected, String>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("world", &self.world).finish_non_exhaustive()
    }
}

impl Job {
    /// Rank 0: waits for all others, and has an MPI library connect them where there is one.
    ///
    /// # Errors
    /// Ranks that did not come, by number.
    pub fn lead(world: &World) -> Result<Arc<Self>> {
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
        let mut arrived = vec![Arrived { peer: own, out, input }];
        let others = meeting::gather(world, patience);
        arrived.extend(others.map_err(|message| DeviceError::Call {
            call: "waiting for the ranks",
            code: i64::from(libc::ETIMEDOUT),
            message,
        })?);
        let mut roll = Roll::new(arrived, patience);
        let peers = roll.peers.clone();
        let connected = connect(&mut roll, &peers);
        Ok(Arc::new(Self { world: world.clone(), roll: Mutex::new(roll), peers, connected }))
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

    /// How the CPU's ranks talk: the MPI library, or shared memory where all are on one host.
    ///
    /// # Errors
    /// Why they cannot.
    pub(crate) fn engine(
        self: &Arc<Self>,
        cores: &[usize],
        last_level_cache: Bytes,
    ) -> Result<Box<dyn Collectives + Send + Sync>> {
        let reason = match &self.connected {
            Ok(connected) => return Ok(Box::new(mpi::team::MpiRanks::new(self, connected.clone()))),
            Err(reason) => reason,
        };
        if let Some(error) = self.roll().broken() {
            return Err(error);
        }
        let first = &self.peers[0];
        if self.peers.iter().any(|peer| (&peer.host, &peer.boot) != (&first.host, &first.boot)) {
            return Err(DeviceError::unsupported(format!(
                "ranks on several hosts need an MPI library and a launcher that it knows: {reason}"
            )));
        }
        let elsewhere: Arc<dyn Elsewhere> = Arc::<Self>::clone(self);
        Ok(Box::new(
            SharedMemory::new(cores, last_level_cache)
                .of_a_job(elsewhere, self.size(), reason)
                .with_patience(self.roll().patience),
        ))
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
    let answers = match roll.attempt("starting MPI", &everyone, |_| Order::StartMpi) {
        Ok(answers) => answers,
        Err(error) => {
            roll.tell(|_| Order::Dismiss);
            return Err(error.to_string());
        }
    };
    let mut all = Vec::new();
    for (rank, (report, _)) in answers.into_iter().enumerate() {
        match report {
            Report::Connected(connected) if (connected.rank, connected.size) == (rank, peers.len()) => all.push(connected),
            Report::Connected(Connected { rank: other, size, library, .. }) => {
                roll.tell(|_| Order::Dismiss);
                return Err(format!("{library} says that rank {rank} of {} is rank {other} of {size}", peers.len()));
            }
            _ => return Err(format!("rank {rank} did not say how MPI connected it")),
        }
    }
    all.into_iter().next().ok_or_else(|| "there are no ranks".into())
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
