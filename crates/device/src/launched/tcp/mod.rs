//! Ranks connected by plain TCP, for jobs over several hosts without an MPI library: an engine of our own that is labelled so.
//!
//! Every rank has a connection to every other, and each collective is direct: a byte goes from the rank that has it to the rank
//! that wants it. A reduction is cut into a part for each rank, which combines all ranks' values of it.

mod links;

use super::host::Fabric;
use super::message::Connected;
use crate::cpu::collectives::reduce::{self, reduce};
use crate::{CollectiveOp as Op, CollectiveProblem, DeviceError, Result};
use links::{Arriving, Leaving};
pub(super) use links::{Links, Listening};

/// A rank's side of it.
pub(super) struct Tcp {
    links: Links,
    /// Other ranks' values of this rank's part of a reduction, and what comes of them where there is no other place for it.
    scratch: Vec<Vec<u8>>,
    combined: Vec<u8>,
}

impl Tcp {
    pub(super) fn new(links: Links) -> Self {
        Self { links, scratch: Vec::new(), combined: Vec::new() }
    }

    /// Everyone's values of the parts that they combine: this rank's part of `input` is combined into `out`.
    ///
    /// # Safety
    /// `input` points to the whole of S, and `out` to this rank's part of it, which it may be itself.
    unsafe fn reduce_part(&mut self, p: &CollectiveProblem, input: *const u8, out: *mut u8) -> Result<()> {
        let (rank, size) = (self.links.rank, p.size());
        let mine = p.part(rank);
        let leaving: Vec<Leaving> = self
            .links
            .others()
            // SAFETY: a part lies within S.
            .map(|peer| Leaving { peer, at: unsafe { input.add(p.part(peer).start * size) }, len: p.part(peer).len() * size })
            .collect();
        let scratch = &mut self.scratch;
        let arriving: Vec<Arriving> =
            self.links.others().map(|peer| Arriving { peer, at: scratch[peer].as_mut_ptr(), len: mine.len() * size }).collect();
        // SAFETY: `ready` made every scratch buffer as long as the part; nothing else touches either side.
        unsafe { self.links.exchange(leaving, arriving) }?;
        // SAFETY: as above.
        let own = unsafe { input.add(mine.start * size) };
        let scratch = &self.scratch;
        let values = |r: usize| if r == rank { own } else { scratch[r].as_ptr() };
        // SAFETY: each holds so many elements, aligned as the allocator aligns and as parts of whole elements are.
        unsafe { reduce(p.dtype, p.redop, p.ranks, values, out, mine.len()) };
        Ok(())
    }
}

impl Fabric for Tcp {
    fn connected(&self) -> Connected {
        let (rank, size) = (self.links.rank, self.links.size());
        Connected { rank, size, provider: "tcp".into(), library: String::new(), path: None }
    }

    fn ready(&mut self, p: &CollectiveProblem) -> Result<()> {
        if p.op.reduces() && !reduce::DTYPES.contains(&p.dtype) {
            return Err(DeviceError::unsupported(format!("no rank here combines {}", p.dtype)));
        }
        let len = if p.op.reduces() { p.part(self.links.rank).len() * p.size() } else { 0 };
        self.scratch = vec![vec![0; len]; p.ranks];
        self.combined = vec![0; len];
        Ok(())
    }

    fn meet(&mut self) -> Result<()> {
        self.links.meet()
    }

    fn execute(&mut self, p: &CollectiveProblem, send: &mut [u8], receive: &mut [u8]) -> Result<()> {
        let (rank, n) = (self.links.rank, self.links.size());
        let size = p.size();
        let bytes = |range: &std::ops::Range<usize>| (range.start * size, range.len() * size);
        let base = receive.as_mut_ptr();
        // In place a rank's input lies in the one buffer, at its own part.
        // SAFETY: what a rank sends lies within its buffer, as its problem says.
        let input: *const u8 = if p.in_place { unsafe { base.add(p.sends_from(rank) * size) } } else { send.as_ptr() };
        // SAFETY: as above.
        let output = unsafe { base.add(p.receives_from(rank) * size) };
        let (mut leaving, mut arriving, mut own) = (Vec::new(), Vec::new(), None);
        let mut leave = |peer: usize, (start, len): (usize, usize)| {
            // SAFETY: as above.
            leaving.push(Leaving { peer, at: unsafe { input.add(start) }, len });
        };
        let mut arrive = |peer: usize, (start, len): (usize, usize)| {
            // SAFETY: as above.
            arriving.push(Arriving { peer, at: unsafe { base.add(start) }, len });
        };
        let others = || (1..n).map(move |step| (rank + step) % n);
        match p.op {
            Op::ReduceScatter => {
                // SAFETY: the whole of S is there, and the output holds a part.
                return unsafe { self.reduce_part(p, input, output) };
            }
            Op::AllReduce => {
                let at = bytes(&p.part(rank)).0;
                // SAFETY: as above.
                unsafe { self.reduce_part(p, input, base.add(at)) }?;
                for peer in others() {
                    // SAFETY: as above; what leaves is what was just combined.
                    leaving.push(Leaving { peer, at: unsafe { base.add(at) }, len: bytes(&p.part(rank)).1 });
                    arrive(peer, bytes(&p.part(peer)));
                }
            }
            Op::Reduce => {
                let (at, len) = bytes(&p.part(rank));
                if rank == p.root {
                    // SAFETY: as above.
                    unsafe { self.reduce_part(p, input, base.add(at)) }?;
                    others().for_each(|peer| arrive(peer, bytes(&p.part(peer))));
                } else {
                    let mut combined = std::mem::take(&mut self.combined);
                    // SAFETY: as above.
                    unsafe { self.reduce_part(p, input, combined.as_mut_ptr()) }?;
                    leaving.push(Leaving { peer: p.root, at: combined.as_ptr(), len });
                    self.combined = combined;
                }
            }
            Op::AllGather | Op::Gather => {
                let (at, len) = bytes(&p.part(rank));
                for peer in others() {
                    if p.op == Op::AllGather || peer == p.root {
                        leave(peer, (0, len));
                    }
                    if p.op == Op::AllGather || rank == p.root {
                        arrive(peer, bytes(&p.part(peer)));
                    }
                }
                own = (p.op == Op::AllGather || rank == p.root).then_some((0, at, len));
            }
            Op::Broadcast | Op::Scatter => {
                let piece = |peer: usize| if p.op == Op::Scatter { bytes(&p.part(peer)) } else { (0, p.count() * size) };
                if rank == p.root {
                    others().for_each(|peer| leave(peer, piece(peer)));
                    own = Some((piece(rank).0, p.receives_from(rank) * size, piece(rank).1));
                } else {
                    arrive(p.root, (p.receives_from(rank) * size, piece(rank).1));
                }
            }
            Op::AllToAll | Op::AllToAllV => {
                let share = p.count() / n;
                let piece = |peer: usize| {
                    if p.op == Op::AllToAll { bytes(&(share * peer..share * (peer + 1))) } else { bytes(&p.uneven(rank, peer)) }
                };
                // What comes from a peer is as long as what goes there, and lies at the same place.
                others().for_each(|peer| (leave(peer, piece(peer)), arrive(peer, piece(peer))).0);
                own = Some((piece(rank).0, piece(rank).0, piece(rank).1));
            }
            Op::SendRecv => {
                let whole = (0, p.count() * size);
                if n == 1 {
                    own = Some((0, 0, whole.1));
                } else {
                    leave((rank + 1) % n, whole);
                    arrive((rank + n - 1) % n, whole);
                }
            }
        }
        if let Some((from, to, len)) = own.filter(|_| !p.in_place) {
            receive[to..to + len].copy_from_slice(&send[from..from + len]);
        }
        // SAFETY: all pieces lie within the two buffers, and no piece that arrives overlaps another or one that leaves.
        unsafe { self.links.exchange(leaving, arriving) }
    }

    fn say(&mut self, bytes: &[u8], peer: usize) -> Result<()> {
        // An empty word is no word on a stream.
        let bytes = if bytes.is_empty() { &[1][..] } else { bytes };
        let leaving = vec![Leaving { peer, at: bytes.as_ptr(), len: bytes.len() }];
        // SAFETY: a slice's own bytes.
        unsafe { self.links.exchange(leaving, Vec::new()) }
    }

    fn hear(&mut self, bytes: &mut [u8], peer: usize) -> Result<()> {
        let mut word = [0];
        let bytes = if bytes.is_empty() { &mut word[..] } else { bytes };
        let arriving = vec![Arriving { peer, at: bytes.as_mut_ptr(), len: bytes.len() }];
        // SAFETY: a slice's own bytes.
        unsafe { self.links.exchange(Vec::new(), arriving) }
    }
}
