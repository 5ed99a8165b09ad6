//! What travels between rank 0 and the ranks: orders out, reports back.

use crate::CollectiveProblem;
use serde::{Deserialize, Serialize};

/// What a rank is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start the rank's own process and have an MPI library connect it.
    StartMpi,
    /// Start rank `rank` over the shared memory behind descriptor `fd` of process `process` of this host, as child `child`.
    Join { process: u32, fd: i32, rank: usize, child: u64 },
    /// End the process that was started, if it has not ended by itself.
    Dismiss,
    /// Make and fill the buffers of a collective.
    Prepare(CollectiveProblem),
    /// Overwrite the receive buffer.
    Poison,
    /// Do the collective so many times.
    Run(u64),
    /// Send what was received.
    Output,
    /// Exchange messages of `bytes` with `partner`, `times` times; only wait for the others where there is none.
    Pair { partner: Option<usize>, bytes: u64, times: u64 },
    /// The job is over.
    Leave,
}

/// What a rank says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The first word: who this is.
    Hello(Peer),
    /// An MPI library connected it.
    Connected(Connected),
    /// An order was carried out.
    Done {
        /// Time of a run.
        nanoseconds: u64,
        /// The rank's own time in its last execution, without its waiting for the others.
        working: u64,
    },
    /// An exchange with another rank: the time of all its messages, and bytes that arrived wrong.
    Paired { nanoseconds: u64, wrong: u64 },
    /// Bytes of an output follow; the last ones are marked.
    Output { last: bool },
    /// A sign of life: executions begun since the start.
    Progress { begun: u64 },
    /// An order could not be carried out, since this cannot do such a thing.
    Unable { reason: String },
    /// An order failed.
    Failed { reason: String },
    /// The rank's process has ended: the child of that number, 0 for the one that MPI connects.
    Gone { how: String, child: u64 },
}

/// A rank as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its rank.
    pub rank: usize,
    /// How many ranks it thinks there are.
    pub size: usize,
    /// Its host's name.
    pub host: String,
    /// Its host's boot, which two containers of one host share.
    pub boot: String,
    /// Its process.
    pub process: u32,
    /// Its number on its host: its rail, where each has a network card of its own.
    pub local_rank: Option<usize>,
    /// The MPI library that it found, where its launcher can bootstrap one.
    pub mpi: Result<String, String>,
}

/// What an MPI library said when it had started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Connected {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) library: String,
    pub(super) path: String,
}
