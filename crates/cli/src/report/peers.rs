//! The copies between devices among records, as a matrix: from each device to each other, one way and both ways at once.

use super::text::{clean, significant};
use super::{Model, Row};
use std::fmt::Write as _;

/// Copies of one size by one provider.
pub(super) struct Matrix {
    pub(super) bytes: String,
    pub(super) provider: String,
    /// Both ways at once.
    pub(super) both: bool,
    /// Ids, in the order of rows and columns.
    pub(super) devices: Vec<String>,
    /// GB/s from the device of the row to that of the column.
    pub(super) cells: Vec<Vec<Option<f64>>>,
}

/// A copy's device, its peer, and what the matrix of it is.
fn copy(row: &Row) -> Option<(&str, usize, (String, String, bool))> {
    let r = &row.record;
    let segments: Vec<&str> = r.case.as_str().split('/').collect();
    let (bytes, to, both) = match segments.as_slice() {
        ["memory", "p2p", bytes, to] => (bytes, to, false),
        ["memory", "p2p", bytes, to, "bidir"] => (bytes, to, true),
        _ => return None,
    };
    Some((r.device.as_str(), to.strip_prefix("to")?.parse().ok()?, ((*bytes).to_owned(), r.provider.clone(), both)))
}

/// The matrices of a model, in the order of their first records.
pub(super) fn matrices(model: &Model) -> Vec<Matrix> {
    let measured: Vec<_> = model.rows.iter().filter_map(|row| Some((copy(row)?, row.placement.as_ref()?.achieved))).collect();
    let mut kinds: Vec<&(String, String, bool)> = Vec::new();
    for ((.., kind), _) in &measured {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let matrix = |kind: &(String, String, bool)| {
        let of: Vec<(&str, String, f64)> = measured
            .iter()
            .filter(|((.., k), _)| k == kind)
            .map(|((device, to, _), gbps)| (*device, format!("{}:{to}", device.split(':').next().unwrap_or_default()), *gbps))
            .collect();
        let mut devices: Vec<String> = of.iter().flat_map(|(from, to, _)| [(*from).to_owned(), to.clone()]).collect();
        devices.sort_by_key(|id| {
            let (backend, index) = id.split_once(':').unwrap_or((id, ""));
            (backend.to_owned(), index.parse::<u64>().unwrap_or(u64::MAX))
        });
        devices.dedup();
        // A case measured twice is shown at its later value.
        let cell = |from: &String, to: &String| of.iter().rev().find(|(f, t, _)| f == from && t == to).map(|(.., gbps)| *gbps);
        let cells = devices.iter().map(|from| devices.iter().map(|to| cell(from, to)).collect()).collect();
        Matrix { bytes: kind.0.clone(), provider: kind.1.clone(), both: kind.2, devices, cells }
    };
    kinds.into_iter().map(matrix).collect()
}

/// The matrices for people; a pair alone has its rows already.
pub(super) fn text(model: &Model) -> String {
    let mut text = String::new();
    for m in matrices(model).iter().filter(|m| m.cells.iter().flatten().flatten().count() > 1) {
        let ways = if m.both { "both ways at once, the sum" } else { "one way" };
        let _ = write!(
            text,
            "\nGB/s from each device (rows) to each other, {} by {}, {ways}\n{:>10}",
            clean(&m.bytes),
            clean(&m.provider),
            ""
        );
        m.devices.iter().for_each(|id| text += &format!(" {:>9}", clean(id)));
        for (from, cells) in m.devices.iter().zip(&m.cells) {
            let _ = write!(text, "\n{:>10}", clean(from));
            for cell in cells {
                let _ = write!(text, " {:>9}", cell.map_or_else(|| "·".into(), significant));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::{Environment, Record};
    use serde_json::json;

    fn record(device: &str, case: &str) -> Record {
        let text = json!({
            "environment": "e", "device": device, "case": case, "component": "memory", "provider": "copy-engine", "dtype": "f32",
            "metric": "bandwidth", "level": "peer", "work": { "flops": 0, "bytes": 1 << 30 }, "cache": "cold", "data": "normal",
            "started": "", "outcome": "measured",
            "samples": { "seconds": [0.01, 0.01], "batch": 1, "clock": "device", "warmup": 0.0, "steady": true, "stop": "converged" },
            "verification": { "method": "m", "error": 0.0, "tolerance": 0.0, "checked": 1, "wrong": 0 },
            "telemetry": { "readings": 0 },
        });
        serde_json::from_value(text).unwrap()
    }

    fn model(records: Vec<Record>) -> Model {
        let device = |id: &str| {
            json!({
                "id": id, "backend": "cuda", "vendor": "NVIDIA", "name": "Stub GPU", "arch": "sm_90", "driver": "1", "memory": 1 << 30,
                "units": 4, "caches": [], "software": false,
            })
        };
        let devices = ["cuda:0", "cuda:1", "cuda:10"].map(device);
        let environment = json!({
            "schema": 1, "hash": "e", "version": "0", "method": 1, "host": "h", "os": "o", "cpu": "c", "command": [], "profile": "full",
            "seed": 1, "started": "", "devices": devices,
        });
        let environment: Environment = serde_json::from_value(environment).unwrap();
        Model::new(vec![environment], records)
    }

    #[test]
    fn copies_between_devices_are_a_matrix_by_size_way_and_provider() {
        let model = model(vec![
            record("cuda:0", "memory/p2p/1GiB/to1"),
            record("cuda:1", "memory/p2p/1GiB/to0"),
            record("cuda:10", "memory/p2p/1GiB/to1"),
            record("cuda:0", "memory/p2p/1GiB/to1/bidir"),
            record("cuda:0", "memory/h2d/1GiB"),
        ]);
        let found = matrices(&model);
        assert_eq!(found.iter().map(|m| m.both).collect::<Vec<_>>(), [false, true]);
        assert_eq!(found[0].devices, ["cuda:0", "cuda:1", "cuda:10"]);
        let filled: Vec<(usize, usize)> =
            (0..3).flat_map(|i| (0..3).map(move |j| (i, j))).filter(|(i, j)| found[0].cells[*i][*j].is_some()).collect();
        assert_eq!(filled, [(0, 1), (1, 0), (2, 1)]);
        let text = text(&model);
        assert!(text.contains("1GiB by copy-engine, one way") && !text.contains("both ways"), "{text}");
        assert!(text.lines().any(|l| l.trim_start().starts_with("cuda:10") && l.matches('·').count() == 2), "{text}");
    }
}
