//! What travels between rank 0 and the ranks: orders out, reports back.

use crate::CollectiveProblem;
use crate::transport::Said;
use ridgepoint_core::Dtype;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// What a rank is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start the rank's own process.
    Start(Start),
    /// Addresses of ranks, following those that came before: a part, since a message is bounded and a job is not. No answer.
    Addresses(Vec<SocketAddr>),
    /// All ranks' addresses were told: connect. The secret is what all prove themselves by.
    Connect { secret: String },
    /// Start rank `rank` over the shared memory behind descriptor `fd` of process `process` of this host, as child `child`.
    Join { process: u32, fd: i32, rank: usize, child: u64 },
    /// End the process that was started, if it has not ended by itself.
    Dismiss,
    /// Make and fill the buffers of a collective; the token is what a device's library of rank 0 made for it.
    Prepare { problem: CollectiveProblem, token: Vec<u8> },
    /// Overwrite the receive buffer.
    Poison,
    /// Do the collective so many times.
    Run(u64),
    /// Come so many times to a collective from a common start, to see who is late.
    Look(u64),
    /// Send what was received.
    Output,
    /// Compare what was received with what it must be.
    Check { tolerance: f64 },
    /// Exchange messages of `bytes` with `partner`, `times` times; only wait for the others where there is none. The token is that of
    /// [`Order::Prepare`]: the same for all rounds of a sweep.
    Pair { partner: Option<usize>, bytes: u64, times: u64, token: Vec<u8> },
    /// Make a product of this size ready beside the collective.
    Beside { size: String, dtype: Dtype, seed: u64 },
    /// Do the collective so many times, or the product, or both at once.
    Together { times: u64, collective: bool, beside: bool },
    /// Compare the product's result with what it must be.
    CheckBeside,
    /// Tell what the device's library has written of how it connects the ranks.
    Tell,
    /// The job is over.
    Leave,
}

/// Addresses in one message: the longest that there are fit twice.
const PART: usize = 2048;

impl Order {
    /// All ranks' addresses, in parts.
    pub(super) fn of_addresses(all: &[SocketAddr]) -> impl Iterator<Item = Self> {
        all.chunks(PART).map(|part| Self::Addresses(part.to_vec()))
    }
}

/// What connects a rank to the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Start {
    /// An MPI library.
    Mpi,
    /// TCP, from this address of the rank's host.
    Tcp { address: IpAddr },
    /// The library of its device; of a sweep with what it is told to use.
    Device { backend: String, swept: Option<Combination> },
}

/// What a sweep has a library use, as `NCCL_ALGO` and `NCCL_PROTO` take it; None leaves the choice to the library. No other variable
/// can be set by an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// Algorithm and protocol.
    pub choice: Option<(String, String)>,
}

impl Combination {
    /// The variables to set.
    ///
    /// # Errors
    /// What is no name of either.
    pub(super) fn variables(&self) -> Result<Vec<(&'static str, &str)>, String> {
        let Some((algorithm, protocol)) = &self.choice else { return Ok(Vec::new()) };
        let is_name = |word: &str| (1..=20).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric());
        let variables = vec![("NCCL_ALGO", algorithm.as_str()), ("NCCL_PROTO", protocol.as_str())];
        match variables.iter().find(|(_, word)| !is_name(word)) {
            Some((name, word)) => Err(format!("'{}' is nothing to set {name} to", word.escape_debug())),
            None => Ok(variables),
        }
    }
}

/// What a rank says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The first word: who this is.
    Hello(Peer),
    /// The rank's own process is about to be started: what was said before is of the one before it, of which nothing stays.
    Starting,
    /// Others may call it there.
    Listening { address: SocketAddr },
    /// It is connected to the others.
    Connected(Connected),
    /// An order was carried out; the time of a run.
    Done { nanoseconds: u64 },
    /// How long it waited for the others, in nanoseconds, each time from a common start.
    Looked { waited: Vec<u64> },
    /// What a check found; the bits of the largest error, since JSON has no NaN.
    Checked { checked: u64, wrong: u64, error: u64 },
    /// An exchange with another rank: the time of all its messages, and bytes that arrived wrong.
    Paired { nanoseconds: u64, wrong: u64 },
    /// What the device's library has written so far.
    Said(Said),
    /// By whom the product is done.
    Beside { by: String },
    /// Bytes of an output follow; the last ones are marked.
    Output { last: bool },
    /// A sign of life: executions begun since the start, and steps of whatever else takes long.
    Progress { begun: u64, steps: u64 },
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
    /// The address of its host by which it came.
    pub address: Option<IpAddr>,
    /// Ports that its host has to the network, and Mbit/s of each; None where the kernel tells no rate.
    #[serde(default)]
    pub network: Option<(usize, u64)>,
    /// The MPI library that it found, where its launcher can bootstrap one.
    pub mpi: Result<String, String>,
}

/// What a rank says when it is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Connected {
    pub(super) rank: usize,
    pub(super) size: usize,
    /// `mpi`, `tcp`, or the device's.
    pub(super) provider: String,
    /// The library and its version.
    pub(super) library: String,
    pub(super) path: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_sets_two_variables_and_nothing_else() {
        let of = |algorithm: &str, protocol: &str| Combination { choice: Some((algorithm.into(), protocol.into())) };
        assert_eq!(of("Ring", "LL128").variables(), Ok(vec![("NCCL_ALGO", "Ring"), ("NCCL_PROTO", "LL128")]));
        assert_eq!(Combination::default().variables(), Ok(vec![]));
        for (algorithm, protocol) in [("", "LL"), ("Ring", "LL\n"), ("allreduce:tree;x", "LL"), ("Ring", "aaaaaaaaaaaaaaaaaaaaa")]
        {
            assert!(of(algorithm, protocol).variables().is_err(), "{algorithm} {protocol}");
        }
    }
}
