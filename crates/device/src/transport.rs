//! How NCCL or RCCL connected its ranks, and what it ran, from what it wrote of it (`NCCL_DEBUG=INFO`): peer access, shared memory
//! or a network, which NICs, whether a NIC reads and writes GPU memory by itself, algorithms and protocols. Each process of a job
//! reads what its own library wrote; here all of it becomes a record's words, and the rank that goes another way than the others is named.

mod ran;

use ran::Ran;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// More of a file is not read: a line a channel and peer of a large machine fits many times.
pub(crate) const MOST: u64 = 16 << 20;
/// More ways, and more sizes with what ran for them, are not kept: it is to fit a message.
const MOST_WAYS: usize = 64;
const MOST_RAN: usize = 2000;
/// Ranks that are named one by one.
const NAMED: usize = 16;
/// The fact that the environment, a user's mostly, has the library write elsewhere.
const LOG: &str = "library's log";

/// What the library of one process, or of several together, said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// NIC, network, NVLS.
    facts: BTreeMap<String, String>,
    /// `P2P/CUMEM`, `NET/IB/0/GDRDMA`.
    ways: BTreeSet<String>,
    /// What collectives ran by.
    ran: BTreeSet<Ran>,
    /// It has not the combination that was asked for.
    lacks: bool,
    /// Its last warning.
    warning: Option<String>,
}

/// At most so many characters, none of them a control character.
fn plain(text: &str, most: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(most).collect()
}

impl Said {
    /// What is in a log, as far as it is read; nothing where there is none.
    #[must_use]
    pub fn in_file(path: &Path) -> Self {
        let (mut text, mut said) = (Vec::new(), Self::default());
        if std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text)).is_ok() {
            said.read(&String::from_utf8_lossy(&text));
        }
        said
    }

    /// What the library of this process has written so far where the environment has it write (`NCCL_DEBUG`, `NCCL_DEBUG_FILE`);
    /// None where it says nothing.
    #[must_use]
    pub fn by_the_environment() -> Option<Self> {
        let [level, file] =
            ["NCCL_DEBUG", "NCCL_DEBUG_FILE"].map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
        if let Some(named) = &file {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            // As the library reads the name.
            let host = host.trim().split('.').next().unwrap_or_default();
            let name = named.replace("%h", host).replace("%p", &std::process::id().to_string());
            let mut said = Self::in_file(Path::new(&name));
            said.facts.insert(LOG.into(), format!("as the environment has it: NCCL_DEBUG_FILE={}", plain(named, 200)));
            return Some(said);
        }
        let mut said = Self::default();
        let level = plain(&level?, 20);
        said.facts.insert(LOG.into(), format!("as the environment has it: NCCL_DEBUG={level} without NCCL_DEBUG_FILE, not read"));
        Some(said)
    }

    /// Takes in whole lines.
    pub fn read(&mut self, log: &str) {
        log.lines().for_each(|line| self.line(line));
    }

    fn line(&mut self, line: &str) {
        // `Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM`, `… [receive] via NET/IB/0/GDRDMA`, `CollNet 00/0 : 1 [send] via COLLNET/SHARP/0`.
        if let Some((_, way)) = line.split_once(" via ").filter(|_| line.contains("Channel") || line.contains("CollNet")) {
            let way = plain(way.split_whitespace().next().unwrap_or_default(), 60);
            if self.ways.len() < MOST_WAYS {
                self.ways.insert(way);
            }
        }
        for (sign, key) in
            [("NET/IB : Using", "NIC"), ("NET/Socket : Using", "NIC"), ("NET/OFI ", "NIC"), ("Using network", "network")]
        {
            if let Some((_, rest)) = line.split_once(sign) {
                let rest = plain(rest, 200);
                self.facts.entry(key.to_owned()).or_insert_with(|| rest.trim_start_matches(':').trim().to_owned());
            }
        }
        if line.contains("NVLS multicast support is") {
            let is = if line.contains("not available") { "not available" } else { "available" };
            self.facts.insert("NVLS".into(), is.into());
        }
        if let Some((_, warning)) = line.split_once("NCCL WARN ") {
            self.warning = Some(plain(warning, 200));
        }
        self.lacks |= line.contains("available") && has_none(line);
        if self.ran.len() < MOST_RAN {
            self.ran.extend(ran::of_line(line));
        }
    }

    /// What was said of the communicators of another process, or later.
    pub fn merge(&mut self, other: Self) {
        for (key, value) in other.facts {
            self.facts.entry(key).or_insert(value);
        }
        self.ways.extend(other.ways);
        self.ran.extend(other.ran);
        self.lacks |= other.lacks;
        self.warning = other.warning.or(self.warning.take());
    }

    /// Whether it said that it has no such combination of algorithm and protocol.
    #[must_use]
    pub const fn lacks(&self) -> bool {
        self.lacks
    }

    /// Its last warning, once.
    pub(crate) fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// Whether a NIC reaches GPU memory by itself; None where no network is used.
    fn direct(&self) -> Option<&'static str> {
        let network = self.ways.iter().any(|way| way.starts_with("NET/"));
        network.then(|| if self.ways.iter().any(|way| way.contains("GDRDMA")) { "used" } else { "not used" })
    }

    /// The NICs without the addresses, which all hosts have of their own.
    fn nics(&self) -> Option<String> {
        let nic = self.facts.get("NIC")?;
        let words = nic.split("; OOB").next().unwrap_or_default().split_whitespace().filter(|word| {
            // `[0]mlx5_0:1/IB`, and not `[RO]`.
            word.strip_prefix('[').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        let names = words.map(|word| if word.contains('<') { word.split(':').next().unwrap_or(word) } else { word });
        Some(names.collect::<Vec<_>>().join(" ")).filter(|names| !names.is_empty()).or_else(|| Some(nic.clone()))
    }
}

/// Whether the library says that it has no such combination.
#[must_use]
pub fn has_none(text: &str) -> bool {
    text.to_ascii_lowercase().contains("no algorithm/protocol available")
}

/// How the ranks of these processes are connected, in a record's words: the ways of all, and else what most of them say.
#[must_use]
pub fn config(processes: &[Said]) -> BTreeMap<String, String> {
    let keys: BTreeSet<&String> = processes.iter().flat_map(|said| said.facts.keys()).collect();
    let most = |key: &String| commonest(processes.iter().map(|said| said.facts.get(key).cloned()));
    let mut found: BTreeMap<String, String> = keys.into_iter().filter_map(|key| Some((key.clone(), most(key)?))).collect();
    let ways: BTreeSet<&str> = processes.iter().flat_map(|said| &said.ways).map(String::as_str).collect();
    if !ways.is_empty() {
        found.insert("transport".into(), ways.into_iter().collect::<Vec<_>>().join(", "));
    }
    if let Some(direct) = commonest(processes.iter().map(Said::direct)) {
        found.insert("GPUDirect RDMA".into(), direct.into());
    }
    found
}

/// The value that most have, the first of those.
fn commonest<T: PartialEq>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    let values: Vec<T> = values.flatten().collect();
    let count = |value: &T| values.iter().filter(|other| *other == value).count();
    let at = (0..values.len()).rev().max_by_key(|i| count(&values[*i]))?;
    values.into_iter().nth(at)
}

/// Ranks that go another way than most: in what, and in a sentence each. A rank whose library says nothing of it differs in nothing.
#[must_use]
pub fn differences(ranks: &[Said]) -> Vec<(&'static str, String)> {
    type Aspect = fn(&Said) -> Option<String>;
    let aspects: [(&str, Aspect); 4] = [
        ("network", |said| said.facts.get("network").cloned()),
        ("NICs", Said::nics),
        ("GPUDirect RDMA", |said| said.direct().map(Into::into)),
        ("NVLS", |said| said.facts.get("NVLS").cloned()),
    ];
    let mut found = Vec::new();
    for (what, of) in aspects {
        let Some(most) = commonest(ranks.iter().map(of)) else { continue };
        let mut others: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (rank, said) in ranks.iter().enumerate() {
            if let Some(value) = of(said).filter(|value| *value != most) {
                others.entry(value).or_default().push(rank);
            }
        }
        for (value, who) in others {
            let list = who.iter().take(NAMED).map(usize::to_string).collect::<Vec<_>>().join(", ");
            let more = who.len().checked_sub(NAMED + 1).map_or_else(String::new, |n| format!(" and {} more", n + 1));
            let rank = if who.len() == 1 { "rank" } else { "ranks" };
            found.push((what, format!("{rank} {list}{more}: {what} {value}, where most have {most}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(log: &str) -> Said {
        let mut said = Said::default();
        said.read(log);
        said
    }

    #[test]
    fn ways_nics_and_direct_access_are_read_and_anything_else_is_nothing() {
        let log = "node:15:26 [0] NCCL INFO NET/IB : Using [0]mlx5_2:1/RoCE [RO]; OOB eth0:10.0.0.1<0>\n\
                   node:15:26 [0] NCCL INFO Using network IB\n\
                   node:15:26 [0] NCCL INFO NVLS multicast support is available on dev 0\n\
                   node:15:26 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n\
                   node:15:26 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n\
                   node:15:26 [0] NCCL INFO CollNet 00/0 : 0 [send] via COLLNET/SHARP/0/GDRDMA\n\
                   node:15:26 [0] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [send] via NET/IB/0/GDRDMA\n";
        let found = config(&[said(log)]);
        assert_eq!(found["transport"], "COLLNET/SHARP/0/GDRDMA, NET/IB/0/GDRDMA, P2P/CUMEM/read");
        assert_eq!((found["GPUDirect RDMA"].as_str(), found["NVLS"].as_str()), ("used", "available"));
        assert_eq!((found["NIC"].as_str(), found["network"].as_str()), ("[0]mlx5_2:1/RoCE [RO]; OOB eth0:10.0.0.1<0>", "IB"));
        let staged = config(&[said("Channel 00/0 : 7[7] -> 8[0] [send] via NET/Socket/1\n")]);
        assert_eq!(staged["GPUDirect RDMA"], "not used");
        assert!(config(&[said("via nothing\n\u{1b}[2J")]).is_empty());
        assert_eq!(Said::in_file(Path::new("/nonexistent")), Said::default());
        let mut warned = said("n:1:2 [0] transport.cc:7 NCCL WARN of\u{7} this\nn:1:2 [0] NCCL INFO after it\n");
        assert_eq!((warned.take_warning().as_deref(), warned.take_warning()), (Some("of this"), None));
    }

    #[test]
    fn what_it_has_not_is_told_in_its_error_or_its_log() {
        assert!(has_none("Error : no algorithm/protocol available for function AllReduce") && !has_none("internal error"));
        assert!(said("NCCL WARN Error : no algorithm/protocol available\n").lacks());
        assert!(!said("NCCL INFO AllReduce: 4096 Bytes -> Algo TREE proto LL\n").lacks());
    }

    #[test]
    fn the_rank_that_goes_another_way_is_named_and_addresses_are_no_difference() {
        let of = |rank: usize| {
            let nics = "[0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]";
            let log = match rank {
                5 => {
                    "NET/Socket : Using [0]eth0:10.0.0.5<0>\nUsing network Socket\nChannel 00/0 : 5[5] -> 6[6] via NET/Socket/0\n"
                        .into()
                }
                // In the middle of a node there is no network, and that is nothing to tell.
                3 => format!(
                    "NET/IB : Using {nics}; OOB eth0:10.0.0.3<0>\nUsing network IB\nChannel 00/0 : 3[3] -> 4[4] via P2P/CUMEM\n"
                ),
                rank => format!(
                    "NET/IB : Using {nics}; OOB eth0:10.0.0.{rank}<0>\nUsing network IB\nChannel 00/0 : 0[0] -> 1[1] via NET/IB/{rank}/GDRDMA\n"
                ),
            };
            said(&log)
        };
        let ranks: Vec<Said> = (0..8).map(of).collect();
        let text: Vec<String> = differences(&ranks).into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            text,
            [
                "rank 5: network Socket, where most have IB",
                "rank 5: NICs [0]eth0, where most have [0]mlx5_0:1/IB [1]mlx5_1:1/IB",
                "rank 5: GPUDirect RDMA not used, where most have used",
            ]
        );
        let found = config(&ranks);
        assert_eq!((found["network"].as_str(), found["GPUDirect RDMA"].as_str()), ("IB", "used"));
        assert!(found["transport"].contains("NET/Socket/0") && found["transport"].contains("NET/IB/7/GDRDMA, "), "{found:?}");
        assert!(differences(&ranks[..5]).is_empty() && differences(&[]).is_empty() && config(&[]).is_empty());
        let mut all = Said::default();
        ranks.into_iter().for_each(|said| all.merge(said));
        assert_eq!(all.direct(), Some("used"));
    }
}
