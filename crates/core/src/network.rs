//! What the network between hosts lets a collective do at most: the ports that a host has, and what an operation must move through
//! them whatever its algorithm, short of a switch that computes.

use crate::record::Record;
use crate::roofline::{Bound, Roof, RoofKind, ranks};
use crate::{Level, Metric};

/// The roof of busbw between hosts; None within one, or where the ports' rate is not known. It is that of every host's ports at
/// once in each direction, for ranks that are spread evenly.
///
/// With N ranks, R of them a host, S over all and C GB/s a host: all-gather brings S(N−R)/N into each host, reduce-scatter out of
/// it, all-reduce both; all-to-all takes R·S(N−R)/N out of each. Broadcast, reduce and a ring of sends move S through one host.
/// busbw counts S(N−1)/N (twice that for all-reduce) over the time, S for the last three.
pub(crate) fn roof(record: &Record) -> Option<Roof> {
    if record.level != Level::Peer || record.metric != Metric::BusBandwidth {
        return None;
    }
    let number = |key: &str| record.config.get(key)?.parse::<f64>().ok();
    let hosts = number("hosts").filter(|hosts| *hosts > 1.0)?;
    let (n, here) = (f64::from(ranks(record)?), number("ranks a host")?);
    // `8 × 400 Gbit/s`
    let told = record.config.get("ports a host")?;
    let (ports, rate) = told.strip_suffix(" Gbit/s")?.split_once(" × ")?;
    let gigabytes = ports.parse::<f64>().ok()? * rate.parse::<f64>().ok()? / 8.0;
    if !(gigabytes.is_finite() && gigabytes > 0.0 && here >= 1.0 && here < n) {
        return None;
    }
    let across = (n - 1.0) / (n - here);
    let value = match record.case.as_str().split('/').nth(1)? {
        "all_reduce" | "all_gather" | "reduce_scatter" | "gather" | "scatter" => gigabytes * across,
        "alltoall" | "alltoallv" => gigabytes * across / here,
        _ => gigabytes,
    };
    Some(Roof { kind: RoofKind::Datasheet, value, source: format!("{told} a host, {hosts} hosts"), bound: Bound::Memory })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofline::place;
    use crate::roofline::tests::{bus, h100};
    use crate::specs::Specs;

    #[test]
    fn ports_bound_what_goes_between_hosts_and_links_what_stays() {
        let between = |op: &str, ranks: u32, here: &str, ports: &str| {
            let mut record = bus(&format!("collectives/{op}/r{ranks}/1GiB/f32"), 40.0, "Ring");
            for (key, value) in [("hosts", "2"), ("ranks a host", here), ("ports a host", ports)] {
                record.config.insert(key.into(), value.into());
            }
            record
        };
        let first = |record: &Record| {
            let placed = place(record, &h100(), Specs::built_in()).unwrap();
            (placed.roofs[0].value, placed.roofs[0].source.clone())
        };
        // Eight ports of 400 Gbit/s are 400 GB/s; with eight of sixteen ranks at home an all-reduce needs 8/15 of what it counts,
        // which is more than NVLink lets through.
        assert_eq!(first(&between("all_reduce", 16, "8", "8 × 400 Gbit/s")).0, 450.0);
        let slow = first(&between("all_reduce", 16, "8", "2 × 100 Gbit/s"));
        assert_eq!((slow.0, slow.1.as_str()), (25.0 * 15.0 / 8.0, "2 × 100 Gbit/s a host, 2 hosts"));
        assert_eq!(first(&between("alltoall", 16, "8", "8 × 400 Gbit/s")).0, 400.0 * 15.0 / 64.0);
        assert_eq!(first(&between("broadcast", 2, "1", "1 × 25 Gbit/s")).0, 3.125);
        assert_eq!(first(&between("all_reduce", 2, "1", "1 × 25 Gbit/s")).0, 3.125);
        // Nonsense is nothing.
        for (here, ports) in [("2", "1 × 25 Gbit/s"), ("1", "x"), ("1", "1 × 0 Gbit/s"), ("1", "1 × inf Gbit/s")] {
            assert!(roof(&between("all_reduce", 2, here, ports)).is_none(), "{here} {ports}");
        }
    }
}
