//! How NCCL or RCCL connected its ranks, from what it wrote of it (`NCCL_DEBUG=INFO`): peer access, shared memory or a network,
//! which NIC, and whether the NIC reads and writes GPU memory by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// More is not read: a line a channel and peer of a large machine fits many times.
const MOST: u64 = 16 << 20;

/// What the library of this process has written so far, if it was told to write (`NCCL_DEBUG=INFO`, `NCCL_DEBUG_FILE`).
pub(crate) fn of_this_process(host: &str) -> BTreeMap<String, String> {
    let named = std::env::var("NCCL_DEBUG_FILE").unwrap_or_default();
    // As the library reads the name.
    let name = named.replace("%h", host).replace("%p", &std::process::id().to_string());
    if name.is_empty() { BTreeMap::new() } else { of(&log(Path::new(&name))) }
}

fn of(log: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut ways: BTreeSet<String> = BTreeSet::new();
    for line in log.lines() {
        // `Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM`, `… [receive] via NET/IB/0/GDRDMA`.
        if let Some((_, way)) = line.split_once(" via ").filter(|_| line.contains("Channel")) {
            let way: String =
                way.split_whitespace().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(60).collect();
            ways.insert(way);
        }
        for (sign, key) in
            [("NET/IB : Using", "NIC"), ("NET/Socket : Using", "NIC"), ("NET/OFI ", "NIC"), ("Using network", "network")]
        {
            if let Some((_, rest)) = line.split_once(sign) {
                let rest: String = rest.trim().chars().filter(|c| !c.is_control()).take(200).collect();
                found.entry(key.to_owned()).or_insert_with(|| rest.trim_start_matches(':').trim().to_owned());
            }
        }
        if line.contains("NVLS multicast support is") {
            let is = if line.contains("not available") { "not available" } else { "available" };
            found.insert("NVLS".into(), is.into());
        }
    }
    if !ways.is_empty() {
        let direct = ways.iter().any(|way| way.contains("GDRDMA"));
        let network = ways.iter().any(|way| way.starts_with("NET/"));
        found.insert("transport".into(), ways.into_iter().collect::<Vec<_>>().join(", "));
        if network {
            found.insert("GPUDirect RDMA".into(), if direct { "used" } else { "not used" }.into());
        }
    }
    found
}

/// Algorithms and protocols by the numbers that older versions write.
const ALGORITHMS: [&str; 7] = ["Tree", "Ring", "CollnetDirect", "CollnetChain", "NVLS", "NVLSTree", "PAT"];
const PROTOCOLS: [&str; 3] = ["LL", "LL128", "Simple"];

/// What the library says it ran (`NCCL_DEBUG_SUBSYS=TUNING`): algorithms and protocols under the names that `NCCL_ALGO` and
/// `NCCL_PROTO` take, of collectives of so many bytes, or of all where no line tells of that many.
pub(crate) fn ran(log: &str, bytes: u64) -> BTreeSet<(String, String)> {
    let named = |word: &str, names: &[&str]| {
        let by_number = word.parse().ok().and_then(|n: usize| names.get(n));
        let known = by_number.or_else(|| names.iter().find(|name| name.eq_ignore_ascii_case(&word.replace('_', ""))));
        known.map_or_else(|| word.chars().filter(|c| c.is_alphanumeric()).take(20).collect(), |name| (*name).to_owned())
    };
    let line = |line: &str| {
        let (before, after) = line.split_once(" Bytes -> Algo ")?;
        let mut words = after.split_whitespace();
        let (algorithm, protocol) = (words.next()?, words.nth(1)?);
        let size = before.rsplit(' ').next()?.parse::<u64>().ok()?;
        Some((size, (named(algorithm, &ALGORITHMS), named(protocol, &PROTOCOLS))))
    };
    let all: Vec<_> = log.lines().filter_map(line).collect();
    let these: BTreeSet<_> = all.iter().filter(|(size, _)| *size == bytes).map(|(_, ran)| ran.clone()).collect();
    if these.is_empty() { all.into_iter().map(|(_, ran)| ran).collect() } else { these }
}

/// Whether the library says that it has no such combination.
pub(crate) fn has_none(text: &str) -> bool {
    text.to_ascii_lowercase().contains("no algorithm/protocol available")
}

/// A log of the library's, as far as it is read; empty where there is none.
pub(crate) fn log(path: &Path) -> String {
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text));
    if read.is_ok() { String::from_utf8_lossy(&text).into_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_nics_and_direct_access_are_read_and_anything_else_is_nothing() {
        let log = "node:15:26 [0] NCCL INFO NET/IB : Using [0]mlx5_2:1/RoCE [RO]; OOB eth0:10.0.0.1<0>\n\
                   node:15:26 [0] NCCL INFO Using network IB\n\
                   node:15:26 [0] NCCL INFO NVLS multicast support is available on dev 0\n\
                   node:15:26 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n\
                   node:15:26 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n\
                   node:15:26 [0] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [send] via NET/IB/0/GDRDMA\n";
        let found = of(log);
        assert_eq!(found["transport"], "NET/IB/0/GDRDMA, P2P/CUMEM/read");
        assert_eq!((found["GPUDirect RDMA"].as_str(), found["NVLS"].as_str()), ("used", "available"));
        assert_eq!((found["NIC"].as_str(), found["network"].as_str()), ("[0]mlx5_2:1/RoCE [RO]; OOB eth0:10.0.0.1<0>", "IB"));
        let staged = of("Channel 00/0 : 7[7] -> 8[0] [send] via NET/Socket/1\n");
        assert_eq!(staged["GPUDirect RDMA"], "not used");
        assert!(of("via nothing\n\u{1b}[2J").is_empty() && super::log(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn what_ran_is_read_by_name_and_by_number() {
        let log = "n:1:2 [0] NCCL INFO AllReduce: 4096 Bytes -> Algo TREE proto LL channel{Lo..Hi}={0..1}\n\
                   n:1:2 [0] NCCL INFO AllReduce: 65536 Bytes -> Algo NVLS_TREE proto SIMPLE channel{Lo..Hi}={0..15}\n\
                   n:1:2 [0] NCCL INFO 8192 Bytes -> Algo 1 proto 1 time 12.300000\n\
                   Bytes -> Algo\nx Bytes -> Algo 99 proto Odd\n7 Bytes -> Algo 99 proto Odd\u{1b}[2J\n";
        let ran = |bytes| ran(log, bytes).into_iter().map(|(a, p)| format!("{a} {p}")).collect::<Vec<_>>();
        assert_eq!(ran(4096), ["Tree LL"]);
        assert_eq!(
            (ran(65536), ran(8192), ran(7)),
            (vec!["NVLSTree Simple".into()], vec!["Ring LL128".into()], vec!["99 Odd2J".into()])
        );
        assert_eq!(ran(1).len(), 4);
        assert!(has_none("Error : no algorithm/protocol available for function AllReduce") && !has_none("internal error"));
    }
}
