//! How NCCL or RCCL connected its ranks, and what it ran, from what it wrote of it (`NCCL_DEBUG=INFO`): peer access, shared memory
//! or a network, which NICs, whether a NIC reads and writes GPU memory by itself, algorithms and protocols. Each process of a job
//! reads what its own library wrote; here all of it becomes a record's words, and the rank that goes another way than the others is named.

mod here;
#[cfg(target_os = "linux")]
mod log;
mod ran;

pub use here::{as_found, environment, listen, said};
#[cfg(target_os = "linux")]
pub(crate) use log::Log;
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
    /// None where it says nothing, or asks for warnings alone, which say nothing of connections.
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
        let level = plain(&level.filter(|level| !["WARN", "VERSION"].iter().any(|few| level.eq_ignore_ascii_case(few)))?, 20);
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

    /// Whether NICs reach GPU memory by themselves.
    fn direct(&self) -> Option<String> {
        direct(self.ways.iter().map(String::as_str))
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
    if let Some(direct) = direct(ways.iter().copied()) {
        found.insert("GPUDirect RDMA".into(), direct);
    }
    if !ways.is_empty() {
        found.insert("transport".into(), ways.into_iter().collect::<Vec<_>>().join(", "));
    }
    found
}

/// Whether NICs reach GPU memory by themselves, and which do not; None where no network is used.
fn direct<'a>(ways: impl Iterator<Item = &'a str>) -> Option<String> {
    let (with, without): (Vec<&str>, Vec<&str>) =
        ways.filter(|way| way.starts_with("NET/")).partition(|way| way.contains("/GDRDMA"));
    match (with.is_empty(), without.is_empty()) {
        (true, true) => None,
        (true, false) => Some("not used".into()),
        (false, true) => Some("used".into()),
        (false, false) => Some(format!("partly used, not by {}", without.join(", "))),
    }
}

/// The value that most have, the first of those.
fn commonest<T: PartialEq>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    let values: Vec<T> = values.flatten().collect();
    let count = |value: &T| values.iter().filter(|other| *other == value).count();
    let at = (0..values.len()).rev().max_by_key(|i| count(&values[*i]))?;
    values.into_iter().nth(at)
}

/// `rank 3`, `ranks 3, 5 and 7 more`.
fn named(ranks: &[usize]) -> String {
    let list = ranks.iter().take(NAMED).map(usize::to_string).collect::<Vec<_>>().join(", ");
    let more = ranks.len().checked_sub(NAMED + 1).map_or_else(String::new, |n| format!(" and {} more", n + 1));
    format!("{} {list}{more}", if ranks.len() == 1 { "rank" } else { "ranks" })
}

/// Ranks that go another way than most, or all where no value has most: in what, and in a sentence each. A rank whose library says
/// nothing of it differs in nothing.
#[must_use]
pub fn differences(ranks: &[Said]) -> Vec<(&'static str, String)> {
    type Aspect = fn(&Said) -> Option<String>;
    let aspects: [(&str, Aspect); 4] = [
        ("network", |said| said.facts.get("network").cloned()),
        ("NICs", Said::nics),
        ("GPUDirect RDMA", Said::direct),
        ("NVLS", |said| said.facts.get("NVLS").cloned()),
    ];
    let mut found = Vec::new();
    for (what, of) in aspects {
        let mut values: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (rank, said) in ranks.iter().enumerate() {
            if let Some(value) = of(said) {
                values.entry(value).or_default().push(rank);
            }
        }
        // What most have, if any value has more ranks than each other one.
        let largest = values.values().map(Vec::len).max().unwrap_or_default();
        let tied = values.values().filter(|who| who.len() == largest).count() > 1;
        if tied {
            let mut sides: Vec<_> = values.iter().map(|(value, who)| (who, value)).collect();
            sides.sort();
            let each = sides
                .iter()
                .map(|(who, value)| format!("{} {} {value}", named(who), if who.len() == 1 { "has" } else { "have" }));
            found.push((what, format!("{what}: {}", each.collect::<Vec<_>>().join(", "))));
            continue;
        }
        let Some(most) = values.iter().find(|(_, who)| who.len() == largest).map(|(value, _)| value) else { continue };
        for (value, who) in values.iter().filter(|(value, _)| *value != most) {
            found.push((what, format!("{}: {what} {value}, where most have {most}", named(who))));
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
        assert_eq!((found["network"].as_str(), found["GPUDirect RDMA"].as_str()), ("IB", "partly used, not by NET/Socket/0"));
        assert!(found["transport"].contains("NET/Socket/0") && found["transport"].contains("NET/IB/7/GDRDMA, "), "{found:?}");
        assert!(differences(&ranks[..5]).is_empty() && differences(&[]).is_empty() && config(&[]).is_empty());
        let mut all = Said::default();
        ranks.into_iter().for_each(|said| all.merge(said));
        assert_eq!(all.direct().as_deref(), Some("partly used, not by NET/Socket/0"));
        let one = said("Channel 00/0 : 0[0] -> 1[1] via NET/IB/0/GDRDMA\nChannel 00/0 : 0[0] -> 1[1] via NET/IB/3(2)\n");
        assert_eq!(config(&[one])["GPUDirect RDMA"], "partly used, not by NET/IB/3(2)");
    }

    #[test]
    fn of_two_neither_is_most() {
        let of = |network: &str| said(&format!("Using network {network}\n"));
        let text = |ranks: &[Said]| differences(ranks).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; ");
        assert_eq!(text(&[of("IB"), of("Socket")]), "network: rank 0 has IB, rank 1 has Socket");
        assert_eq!(
            text(&[of("Socket"), of("IB"), of("Socket"), of("IB"), of("OFI")]),
            "network: ranks 0, 2 have Socket, ranks 1, 3 have IB, rank 4 has OFI"
        );
        assert_eq!(text(&[of("Socket"), of("IB"), of("Socket")]), "rank 1: network IB, where most have Socket");
    }
}
