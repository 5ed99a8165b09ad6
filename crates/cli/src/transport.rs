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
    if name.is_empty() { BTreeMap::new() } else { read(Path::new(&name)) }
}

/// What a log says, as entries of a record's configuration; nothing where there is no log.
fn read(path: &Path) -> BTreeMap<String, String> {
    let mut text = Vec::new();
    let Ok(file) = std::fs::File::open(path) else { return BTreeMap::new() };
    if file.take(MOST).read_to_end(&mut text).is_err() {
        return BTreeMap::new();
    }
    of(&String::from_utf8_lossy(&text))
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
        assert!(of("via nothing\n\u{1b}[2J").is_empty() && read(Path::new("/nonexistent")).is_empty());
    }
}
