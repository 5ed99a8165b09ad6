//! Collectives between GPUs, by NCCL or RCCL: one process with a GPU a rank, or this process as one rank of many. `team.rs` runs
//! them, `check.rs` makes what they send and checks what they receive, on the GPU.

use super::check::Programs;
use super::driver::{Buffer as Memory, Context, Driver};
use super::guard::{Guarded, Pulse, Watch};
use super::nccl::{self, Nccl, UniqueId, dotted, failed};
use super::stream::Stream;
use super::sys::{Handle, Ptr};
use super::team::Team;
use crate::lateness::Lateness;
use crate::transport::{self, Said};
use crate::{CollectiveOp, CollectiveProblem, Collectives, Communicator, DeviceError, Exchange, Registration, Result};
use ridgepoint_core::{Bytes, Dtype, Library};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Executions are over in milliseconds; connections are made at the first, which takes seconds on a large machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Another patience, in seconds.
const PATIENCE_VARIABLE: &str = "RIDGEPOINT_PATIENCE";
/// Bytes made on the host at a time.
const CHUNK: usize = 16 << 20;

/// What the two libraries do not share.
pub(crate) struct Kind {
    /// `nccl`, `rccl`.
    pub(crate) provider: &'static str,
    /// `NCCL`, `RCCL`.
    pub(crate) name: &'static str,
    /// Whether FP8 is FNUZ on this architecture.
    pub(crate) fnuz: fn(&str) -> bool,
}

/// The library, and the devices from which ranks are made.
pub(crate) struct Ranks {
    pub(crate) kind: &'static Kind,
    pub(crate) api: Arc<Nccl>,
    pub(crate) driver: Arc<Driver>,
    /// The first rank's device; the others follow it.
    pub(crate) first: usize,
    pub(crate) target: String,
    pub(crate) version: i32,
    programs: Arc<Programs>,
    pulse: Arc<Pulse>,
    /// A call that did not come back.
    stuck: Arc<Mutex<Option<DeviceError>>>,
    /// Ranks that exchanged messages last and their messages, for the next round of a sweep: to connect them takes seconds.
    pairs: Mutex<Option<(CollectiveProblem, Guarded)>>,
}

impl Ranks {
    pub(crate) fn new(kind: &'static Kind, api: &Arc<Nccl>, ctx: &Context, first: usize) -> std::result::Result<Self, String> {
        let version = api.number().map_err(|error| error.to_string())?;
        let (api, driver) = (Arc::clone(api), Arc::clone(&ctx.driver));
        Ok(Self {
            kind,
            api,
            driver,
            first,
            target: ctx.facts.target.clone(),
            version,
            programs: Arc::default(),
            pulse: Arc::default(),
            stuck: Arc::default(),
            pairs: Mutex::default(),
        })
    }

    /// Ranks `ours` of `problem.ranks`, on devices from the first on; `join` makes their communicators.
    fn start(
        &self,
        problem: &CollectiveProblem,
        ours: std::ops::Range<usize>,
        join: impl FnOnce(&[Member], &mut [Handle]) -> Result<()>,
    ) -> Result<Team> {
        let p = problem;
        let numbers = self.numbers(p)?;
        let mut team = Team {
            api: Arc::clone(&self.api),
            programs: Arc::clone(&self.programs),
            problem: *p,
            numbers,
            members: Vec::new(),
            broken: None,
            times: (vec![0.0; ours.len()], 0),
            config: self.describe(p, ours.len()),
            patience: patience()?,
            pulse: Arc::clone(&self.pulse),
            single: None,
            lateness: Lateness::of(ours.len()),
            meeting: None,
        };
        for rank in ours.clone() {
            self.pulse.at("opening the devices");
            let ctx = Context::open(Arc::clone(&self.driver), self.ordinal(rank - ours.start))?;
            team.members.push(Member::new(&ctx, &self.api, p, rank)?);
        }
        let mut handles = vec![std::ptr::null_mut(); ours.len()];
        self.pulse.at("connecting the ranks (ncclCommInit)");
        join(&team.members, &mut handles)?;
        team.members.iter_mut().zip(handles).for_each(|(member, handle)| member.comm = handle);
        team.register()?;
        for member in &team.members {
            member.fill(p, &self.programs, &self.pulse)?;
        }
        team.poison()?;
        Ok(team)
    }

    /// All ranks in this process.
    fn all(&self, problem: &CollectiveProblem) -> Result<Guarded> {
        let devices: Vec<i32> = (0..problem.ranks).map(|rank| self.ordinal(rank)).collect();
        let list = devices.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        let who = format!("ranks 0 to {} (devices {list})", problem.ranks.saturating_sub(1));
        let (pulse, stuck) = (Arc::default(), Arc::clone(&self.stuck));
        let watch = Watch { pulse: Arc::clone(&pulse), patience: patience()?, who, stuck: Arc::clone(&stuck) };
        let (api, driver, programs) = (Arc::clone(&self.api), Arc::clone(&self.driver), Arc::clone(&self.programs));
        let (target, pairs) = (self.target.clone(), Mutex::default());
        let there = Self { api, driver, programs, target, pulse, stuck, pairs, ..*self };
        let problem = *problem;
        Guarded::start(watch, move || {
            there.start(&problem, 0..problem.ranks, |members, handles| {
                members[0].ctx.api()?;
                // SAFETY: writes a communicator for each of the devices, which are as many.
                unsafe { there.api.init_all(handles.as_mut_ptr(), devices.len() as i32, devices.as_ptr()) }.map_err(failed)
            })
        })
    }

    /// The device of this process's so-many-th rank: those from the first on, around.
    fn ordinal(&self, member: usize) -> i32 {
        ((self.first + member) % self.max_ranks()) as i32
    }

    /// The library's numbers for a problem that it can do.
    fn numbers(&self, p: &CollectiveProblem) -> Result<Numbers> {
        let dtype = nccl::dtype(p.dtype, self.kind.name, self.version).map_err(DeviceError::Unsupported)?;
        if p.root >= p.ranks {
            return Err(DeviceError::invalid(format!("there is no rank {} to be the root of {}", p.root, p.ranks)));
        }
        if p.in_place && !p.op.in_place() {
            return Err(DeviceError::unsupported(format!("{} has no in-place form", p.op.name())));
        }
        if p.count() == 0 || p.op.divides() && !p.count().is_multiple_of(p.ranks) {
            return Err(DeviceError::invalid(format!("{} of {} are no equal parts for {} ranks", p.bytes, p.dtype, p.ranks)));
        }
        Ok(Numbers { dtype, redop: nccl::redop(p.redop) })
    }

    fn describe(&self, p: &CollectiveProblem, ours: usize) -> BTreeMap<String, String> {
        let chosen = |name: &str| std::env::var(name).unwrap_or_else(|_| "the library's choice".into());
        let how = match p.op {
            CollectiveOp::AllToAll if !self.api.has_all_to_all() => "grouped sends and receives",
            CollectiveOp::Gather if !self.api.has_gather() => "grouped sends and receives",
            CollectiveOp::Scatter if !self.api.has_scatter() => "grouped sends and receives",
            CollectiveOp::AllToAllV | CollectiveOp::SendRecv => "grouped sends and receives",
            _ => "the library's own call",
        };
        let mut config = BTreeMap::from([
            ("library".into(), format!("{} {}", self.kind.name, dotted(self.version))),
            ("algorithm".into(), chosen("NCCL_ALGO")),
            ("protocol".into(), chosen("NCCL_PROTO")),
            ("call".into(), how.to_owned()),
            ("ranks".into(), format!("{ours} of {} in this process, a GPU each", p.ranks)),
        ]);
        if p.registration != Registration::None {
            config.insert("buffers".into(), p.registration.name().into());
        }
        if p.consumes() {
            config.insert("timed".into(), "each execution by itself, its input restored in between".into());
        }
        config
    }
}

fn patience() -> Result<Duration> {
    let Ok(text) = std::env::var(PATIENCE_VARIABLE) else { return Ok(PATIENCE) };
    let seconds = text.parse().ok().filter(|s: &f64| (0.1..=86_400.0).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        DeviceError::invalid(format!("{PATIENCE_VARIABLE} is '{}': seconds from 0.1 to 86400 are wanted", text.escape_debug()))
    })
}

impl Collectives for Ranks {
    fn provider(&self) -> &'static str {
        self.kind.provider
    }

    fn library(&self) -> Option<Library> {
        let path = Some(self.api.library.path.display().to_string());
        Some(Library { name: self.kind.name.into(), version: dotted(self.version), path })
    }

    fn max_ranks(&self) -> usize {
        self.driver.count().map_or(1, |n| n.max(1) as usize)
    }

    fn encoding(&self, dtype: Dtype) -> Dtype {
        match dtype {
            Dtype::E4m3 if (self.kind.fnuz)(&self.target) => Dtype::E4m3fnuz,
            Dtype::E5m2 if (self.kind.fnuz)(&self.target) => Dtype::E5m2fnuz,
            other => other,
        }
    }

    fn communicator(&self, problem: &CollectiveProblem) -> Result<Box<dyn Communicator>> {
        if !(1..=self.max_ranks()).contains(&problem.ranks) {
            let n = self.max_ranks();
            return Err(DeviceError::unsupported(format!("{} ranks asked for; there are {n} GPUs, one a rank", problem.ranks)));
        }
        Ok(Box::new(self.all(problem)?))
    }

    fn token(&self) -> Result<Vec<u8>> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: writes 128 bytes.
        unsafe { self.api.unique_id(&mut id) }.map_err(failed)?;
        Ok(id.0.to_vec())
    }

    fn join(&self, problem: &CollectiveProblem, rank: usize, token: &[u8]) -> Result<Box<dyn Communicator>> {
        let id = token.try_into().map(UniqueId);
        let id = id.map_err(|_| DeviceError::invalid(format!("a unique id has 128 bytes, not {}", token.len())))?;
        if rank >= problem.ranks {
            return Err(DeviceError::invalid(format!("there is no rank {rank} of {}", problem.ranks)));
        }
        let team = self.start(problem, rank..rank + 1, |members, handles| {
            members[0].ctx.api()?;
            // SAFETY: writes one communicator, of the device that was just made current.
            unsafe { self.api.init_rank(handles.as_mut_ptr(), problem.ranks as i32, id, rank as i32) }.map_err(failed)
        })?;
        Ok(Box::new(team))
    }

    fn said(&self) -> Vec<Said> {
        transport::said().into_iter().collect()
    }

    fn exchange(&self, partners: &[Option<usize>], bytes: Bytes, times: u64) -> Result<Vec<Option<Exchange>>> {
        let problem = self.messages(partners.len(), bytes);
        let mut kept = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|(of, _)| *of != problem) {
            // Not two of them at a time: each has its buffers.
            *kept = None;
            *kept = Some((problem, self.all(&problem)?));
        }
        kept.as_mut().map_or_else(|| Ok(Vec::new()), |(_, ranks)| ranks.pair(partners, times))
    }

    fn messages(&self, ranks: usize, bytes: Bytes) -> CollectiveProblem {
        super::pairs::messages(ranks, bytes)
    }
}

/// A problem in the library's numbers.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) dtype: i32,
    redop: i32,
}

/// A rank of this process.
pub(super) struct Member {
    pub(super) rank: usize,
    pub(super) ctx: Arc<Context>,
    pub(super) stream: Stream,
    pub(super) comm: Handle,
    /// What it sends; in place a copy of that, to restore it from.
    pub(super) sent: Memory,
    /// What it receives; in place the whole of S.
    pub(super) received: Memory,
    /// Registrations of the two, or their windows.
    pub(super) registered: Vec<Handle>,
}

// SAFETY: the handles are tokens of the library, used by one thread at a time.
unsafe impl Send for Member {}

impl Member {
    fn new(ctx: &Arc<Context>, api: &Arc<Nccl>, p: &CollectiveProblem, rank: usize) -> Result<Self> {
        let whole = p.count() * p.size();
        // Windows are of one length at all ranks; what a rank does not need is left alone.
        let symmetric = p.registration == Registration::Symmetric;
        let bytes = |elements: usize| if symmetric { whole } else { (elements * p.size()).max(p.size()) };
        let received = if p.in_place { whole } else { bytes(p.receives(rank)) };
        let memory = |len| match p.registration {
            Registration::None => Memory::new(ctx, len).map_err(DeviceError::from),
            _ => library_memory(ctx, api, len),
        };
        Ok(Self {
            rank,
            stream: Stream::new(ctx)?,
            comm: std::ptr::null_mut(),
            sent: memory(bytes(p.sends(rank)))?,
            received: memory(received)?,
            registered: Vec::new(),
            ctx: Arc::clone(ctx),
        })
    }

    /// Makes what it sends: on the device where that has a kernel for it, else on the host.
    fn fill(&self, p: &CollectiveProblem, programs: &Programs, pulse: &Pulse) -> Result<()> {
        pulse.at("making the inputs");
        if programs.fill(self, p)? {
            return Ok(());
        }
        let (len, size) = (p.sends(self.rank) * p.size(), p.size());
        let mut chunk = vec![0; CHUNK.min(len)];
        for start in (0..len).step_by(CHUNK) {
            let part = &mut chunk[..CHUNK.min(len - start)];
            p.fill(self.rank, start / size, part);
            pulse.beat();
            self.stream.upload((&self.sent).into(), start, part)?;
        }
        Ok(())
    }

    /// In place: its input, as it was.
    pub(super) fn restore(&self, p: &CollectiveProblem) -> Result<()> {
        let (from, to) = ((&self.sent).into(), (&self.received).into());
        Ok(self.stream.copy(from, 0, to, p.sends_from(self.rank) * p.size(), p.sends(self.rank) * p.size())?)
    }

    /// Addresses of what it sends and receives.
    pub(super) fn places(&self, p: &CollectiveProblem) -> (Ptr, Ptr) {
        let at = |elements: usize| self.received.ptr + (elements * p.size()) as Ptr;
        if p.in_place {
            (at(p.sends_from(self.rank)), at(p.receives_from(self.rank)))
        } else {
            (self.sent.ptr, self.received.ptr)
        }
    }

    /// Enqueues its share of one execution.
    pub(super) fn enqueue(&self, api: &Nccl, p: &CollectiveProblem, numbers: Numbers) -> Result<()> {
        self.ctx.api()?;
        let Numbers { dtype, redop } = numbers;
        let (n, rank, count, part) = (p.ranks, self.rank, p.count(), p.count() / p.ranks);
        let ((s, r), comm, stream, root) = (self.places(p), self.comm, self.stream.handle, p.root as i32);
        let at = |base: Ptr, elements: usize| base + (elements * p.size()) as Ptr;
        // SAFETY: buffers hold the elements that `sends` and `receives` say, which are those named here; communicator, stream
        // and buffers belong to the device that was made current.
        unsafe {
            let send = |from: usize, count: usize, peer: usize| api.send(at(s, from), count, dtype, peer as i32, comm, stream);
            let receive = |to: usize, count: usize, peer: usize| api.receive(at(r, to), count, dtype, peer as i32, comm, stream);
            match p.op {
                CollectiveOp::AllReduce => api.all_reduce(s, r, count, dtype, redop, comm, stream),
                CollectiveOp::Reduce => api.reduce(s, r, count, dtype, redop, root, comm, stream),
                CollectiveOp::ReduceScatter => api.reduce_scatter(s, r, part, dtype, redop, comm, stream),
                CollectiveOp::AllGather => api.all_gather(s, r, part, dtype, comm, stream),
                CollectiveOp::Broadcast => api.broadcast(s, r, count, dtype, root, comm, stream),
                CollectiveOp::AllToAll if api.has_all_to_all() => api.all_to_all(s, r, part, dtype, comm, stream),
                CollectiveOp::AllToAll => {
                    (0..n).try_for_each(|peer| send(part * peer, part, peer).and_then(|()| receive(part * peer, part, peer)))
                }
                CollectiveOp::AllToAllV => (0..n).filter(|peer| !p.uneven(rank, *peer).is_empty()).try_for_each(|peer| {
                    // As long either way, and so it begins where it began.
                    let range = p.uneven(rank, peer);
                    send(range.start, range.len(), peer).and_then(|()| receive(range.start, range.len(), peer))
                }),
                CollectiveOp::Gather if api.has_gather() => api.gather(s, r, part, dtype, root, comm, stream),
                CollectiveOp::Gather => send(0, part, p.root).and_then(|()| match rank == p.root {
                    true => (0..n).try_for_each(|peer| receive(part * peer, part, peer)),
                    false => Ok(()),
                }),
                CollectiveOp::Scatter if api.has_scatter() => api.scatter(s, r, part, dtype, root, comm, stream),
                CollectiveOp::Scatter => receive(0, part, p.root).and_then(|()| match rank == p.root {
                    true => (0..n).try_for_each(|peer| send(part * peer, part, peer)),
                    false => Ok(()),
                }),
                CollectiveOp::SendRecv => send(0, count, (rank + 1) % n).and_then(|()| receive(0, count, (rank + n - 1) % n)),
            }
        }
        .map_err(failed)
    }
}

/// Memory as the library wants it for windows and registration; the driver's where it has no wish.
fn library_memory(ctx: &Arc<Context>, api: &Arc<Nccl>, len: usize) -> Result<Memory> {
    if !api.has_mem_alloc() {
        return Ok(Memory::new(ctx, len)?);
    }
    ctx.api()?;
    let mut ptr = 0;
    // SAFETY: writes one pointer.
    unsafe { api.mem_alloc(&mut ptr, len) }.map_err(failed)?;
    let api = Arc::clone(api);
    // SAFETY: allocated just now, and freed once. A status at this point has no one to go to.
    Ok(Memory::of(ctx, ptr, len, Box::new(move |ptr| drop(unsafe { api.mem_free(ptr) }))))
}
