//! Which algorithm and protocol a collective ran by, from the library's lines of it (`NCCL_DEBUG_SUBSYS=TUNING`). A line tells of an
//! operation and of bytes: an operation takes only its own lines, and its bytes are those that the library counts. Newer versions count
//! what one rank is given (`AllGather: 2048 Bytes -> Algo RING proto LL channel{Lo..Hi}={0..1}`: S over the ranks), older ones all of S
//! (`… -> Algo 1 proto 0 time 12.3`), some of those without the operation's name.

use super::{Said, plain};
use crate::{CollectiveOp, CollectiveProblem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Algorithms and protocols by the numbers that older versions write.
const ALGORITHMS: [&str; 7] = ["Tree", "Ring", "CollnetDirect", "CollnetChain", "NVLS", "NVLSTree", "PAT"];
const PROTOCOLS: [&str; 3] = ["LL", "LL128", "Simple"];
/// Characters of a name that are kept.
const NAME: usize = 24;

/// The operation, where the line tells it; whether the bytes are S; the bytes; algorithm; protocol. A job's ranks send many: no field names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Ran(String, bool, u64, String, String);

impl Said {
    /// What the library says it ran for this collective: algorithms and protocols under the names that `NCCL_ALGO` and `NCCL_PROTO` take.
    /// Empty where it says nothing of it, as for sends and receives. Lines that name no operation count where none names one.
    #[must_use]
    pub fn ran(&self, problem: &CollectiveProblem) -> BTreeSet<(String, String)> {
        let (whole, name) = (problem.bytes.0, name(problem.op));
        let own = if problem.op.divides() { whole / problem.ranks.max(1) as u64 } else { whole };
        let named = self.ran.iter().any(|Ran(op, ..)| !op.is_empty());
        let these = self.ran.iter().filter(|Ran(op, of_whole, bytes, ..)| {
            name.is_some_and(|name| if named { op == name } else { true }) && *bytes == if *of_whole { whole } else { own }
        });
        these.map(|Ran(.., algorithm, protocol)| (algorithm.clone(), protocol.clone())).collect()
    }
}

/// The library's name of an operation that it has algorithms for.
const fn name(op: CollectiveOp) -> Option<&'static str> {
    match op {
        CollectiveOp::AllReduce => Some("AllReduce"),
        CollectiveOp::AllGather => Some("AllGather"),
        CollectiveOp::ReduceScatter => Some("ReduceScatter"),
        CollectiveOp::Broadcast => Some("Broadcast"),
        CollectiveOp::Reduce => Some("Reduce"),
        _ => None,
    }
}

impl CollectiveOp {
    /// Whether NCCL and RCCL have algorithms to choose from for it: the other operations are sends and receives in a group.
    #[must_use]
    pub const fn has_algorithms(self) -> bool {
        name(self).is_some()
    }
}

/// What a line tells of what ran.
pub(super) fn of_line(line: &str) -> Option<Ran> {
    let kept = |word: &str| word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(NAME).collect::<String>();
    let named = |word: &str, names: &[&str]| {
        let by_number = word.parse().ok().and_then(|n: usize| names.get(n));
        let known = by_number.or_else(|| names.iter().find(|name| name.eq_ignore_ascii_case(&word.replace('_', ""))));
        known.map_or_else(|| kept(word), |name| (*name).to_owned())
    };
    let (before, after) = line.split_once(" Bytes -> ")?;
    let (before, size) = before.rsplit_once(' ')?;
    // `… [0] NCCL INFO AllReduce:`, `… AllReduce [Symmetric]:`, `… [0] NCCL INFO`.
    let op = before.strip_suffix(':').map_or("", |before| before.split(" [Symmetric]").next().unwrap_or_default());
    let op = plain(op.rsplit(' ').next().unwrap_or_default(), NAME);
    let words: Vec<&str> = after.split_whitespace().collect();
    let (algorithm, protocol) = match *words {
        ["Algo", algorithm, "proto", protocol, ..] => (named(algorithm, &ALGORITHMS), named(protocol, &PROTOCOLS)),
        // Over symmetric windows it has kernels of another kind.
        ["Kernel", kernel, ..] => ("Symmetric".into(), kept(kernel)),
        _ => return None,
    };
    Some(Ran(op, words.contains(&"time"), size.parse().ok()?, algorithm, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::{Bytes, Dtype};

    fn ran(log: &str, op: CollectiveOp, bytes: u64) -> Vec<String> {
        let mut said = Said::default();
        said.read(log);
        let problem = CollectiveProblem::new(op, 4, Bytes(bytes), Dtype::F32);
        said.ran(&problem).into_iter().map(|(a, p)| format!("{a} {p}")).collect()
    }

    #[test]
    fn an_operation_takes_its_own_lines_and_the_bytes_that_the_library_counts() {
        use CollectiveOp::{AllGather, AllReduce, AllToAll, Broadcast, Gather, ReduceScatter, SendRecv};
        let log = "n:1:2 [0] NCCL INFO AllReduce: 4096 Bytes -> Algo TREE proto LL channel{Lo..Hi}={0..1}\n\
                   n:1:2 [0] NCCL INFO AllReduce: 16384 Bytes -> Algo NVLS_TREE proto SIMPLE channel{Lo..Hi}={0..15}\n\
                   n:1:2 [0] NCCL INFO AllGather: 4096 Bytes -> Algo PAT proto SIMPLE channel{Lo..Hi}={0..1}\n\
                   n:1:2 [0] NCCL INFO AllGather: 1024 Bytes -> Algo 1 proto 1 channel{Lo..Hi}={0..1}\n\
                   n:1:2 [0] NCCL INFO ReduceScatter [Symmetric]: 1024 Bytes -> Kernel ReduceScatter_LL nchannels 1 nthreads 2 nWorks 1\n";
        assert_eq!(
            (ran(log, AllReduce, 4096), ran(log, AllReduce, 16384)),
            (vec!["Tree LL".into()], vec!["NVLSTree Simple".into()])
        );
        assert_eq!(
            (ran(log, AllGather, 4096), ran(log, AllGather, 16384)),
            (vec!["Ring LL128".into()], vec!["PAT Simple".into()])
        );
        assert_eq!(ran(log, ReduceScatter, 4096), ["Symmetric ReduceScatter_LL"]);
        for (op, bytes) in [(AllReduce, 1024), (Broadcast, 4096), (AllToAll, 4096), (SendRecv, 4096), (Gather, 16384)] {
            assert!(ran(log, op, bytes).is_empty(), "{op:?}");
        }
        assert!(
            AllGather.has_algorithms() && Broadcast.has_algorithms() && !AllToAll.has_algorithms() && !Gather.has_algorithms()
        );
    }

    #[test]
    fn older_versions_count_all_of_a_collective_and_may_name_none() {
        use CollectiveOp::{AllGather, AllReduce, AllToAll};
        let named = "n:1:2 [0] NCCL INFO AllGather: 8192 Bytes -> Algo 1 proto 2 time 2860.208008\n";
        let nameless = "n:1:2 [0] NCCL INFO 8192 Bytes -> Algo 0 proto 0 time 12.300000\n";
        assert_eq!(ran(named, AllGather, 8192), ["Ring Simple"]);
        assert_eq!(
            (ran(nameless, AllGather, 8192), ran(nameless, AllReduce, 8192)),
            (vec!["Tree LL".into()], vec!["Tree LL".into()])
        );
        assert!(ran(nameless, AllToAll, 8192).is_empty() && ran(nameless, AllReduce, 4096).is_empty());
        // Versions that write both: the one with a name is meant.
        let both = nameless.to_owned() + named;
        assert_eq!((ran(&both, AllGather, 8192), ran(&both, AllReduce, 8192)), (vec!["Ring Simple".into()], vec![]));
        let odd = "Bytes -> Algo\nx Bytes -> Algo 99 proto Odd\n Bytes -> Algo 1 proto 1\n[0] 8 Bytes -> Algo 99 proto Odd\u{1b}[2J time\n";
        assert_eq!(ran(odd, AllReduce, 8), ["99 Odd2J"]);
    }
}
