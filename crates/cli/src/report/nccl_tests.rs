//! The columns and footer of nccl-tests and rccl-tests, to the letter, for whatever reads those: one block an operation, as they
//! have a program an operation. Times are medians of verified executions. A result that is wrong has no time here either; its
//! row says 0.00 and how many elements were wrong.

use super::{Model, Row};
use ridgepoint_core::{Component, Dtype, Environment, Outcome};
use std::fmt::Write;

/// What `--format` takes.
pub(crate) const NAME: &str = "nccl-tests";

/// Our dtypes and their names for them.
pub(crate) const TYPES: [(Dtype, &str); 8] = [
    (Dtype::I8, "int8"),
    (Dtype::I32, "int32"),
    (Dtype::F16, "half"),
    (Dtype::F32, "float"),
    (Dtype::F64, "double"),
    (Dtype::Bf16, "bfloat16"),
    (Dtype::E4m3, "f8e4m3"),
    (Dtype::E5m2, "f8e5m2"),
];

/// Operations that have a parameter of S over the number of ranks.
const DIVIDED: [&str; 6] = ["all_gather", "reduce_scatter", "alltoall", "alltoallv", "gather", "scatter"];
const REDUCING: [&str; 3] = ["all_reduce", "reduce_scatter", "reduce"];
const ROOTED: [&str; 4] = ["broadcast", "reduce", "gather", "scatter"];

/// What a case's id says.
#[derive(Clone, PartialEq)]
struct Case {
    op: String,
    ranks: u64,
    dtype: Dtype,
    redop: String,
    root: u64,
    registered: String,
    device: String,
    provider: String,
}

impl Case {
    /// The case of a record, and whether it is in place.
    fn of(row: &Row) -> Option<(Self, bool)> {
        let r = &row.record;
        let mut words = r.case.as_str().split('/').skip(1);
        let op = words.next()?.to_owned();
        let ranks = words.next()?.strip_prefix('r')?.parse().ok()?;
        let mut case = Self {
            redop: if REDUCING.contains(&op.as_str()) { "sum" } else { "none" }.into(),
            op,
            ranks,
            dtype: r.dtype.class(),
            root: 0,
            registered: String::new(),
            device: r.device.clone(),
            provider: r.provider.clone(),
        };
        let mut in_place = false;
        for word in words.skip(2) {
            match (word, word.strip_prefix("root")) {
                ("inplace", _) => in_place = true,
                (_, Some(root)) => case.root = root.parse().ok()?,
                ("registered" | "symmetric", _) => case.registered = word.into(),
                _ => case.redop = word.into(),
            }
        }
        Some((case, in_place))
    }
}

pub(crate) fn render(model: &Model) -> String {
    let mut blocks: Vec<(Case, Vec<(&Row, bool)>)> = Vec::new();
    for row in model.rows.iter().filter(|row| row.record.component == Component::Collectives) {
        let Some((case, in_place)) = Case::of(row) else { continue };
        match blocks.iter_mut().find(|(other, _)| *other == case) {
            Some((_, rows)) => rows.push((row, in_place)),
            None => blocks.push((case, vec![(row, in_place)])),
        }
    }
    let mut text = String::new();
    for (case, rows) in &blocks {
        block(&mut text, model, case, rows);
    }
    if blocks.is_empty() { "# no collective was measured\n".into() } else { text }
}

fn block(text: &mut String, model: &Model, case: &Case, rows: &[(&Row, bool)]) {
    let mut sizes: Vec<u64> = rows.iter().map(|(row, _)| row.record.work.bytes.0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let environment = rows.first().and_then(|(row, _)| model.environments.iter().find(|e| e.hash == row.record.environment));
    head(text, case, rows, &sizes, environment);
    let (mut wrong, mut bandwidths) = (0, Vec::new());
    for size in sizes {
        let find = |in_place| rows.iter().find(|(row, i)| row.record.work.bytes.0 == size && *i == in_place).map(|(row, _)| *row);
        let count = size / case.dtype.element_bytes().unwrap_or(1) as u64;
        let count = if DIVIDED.contains(&case.op.as_str()) { count / case.ranks.max(1) } else { count };
        let name = TYPES.iter().find(|(dtype, _)| *dtype == case.dtype).map_or("other", |(_, name)| *name);
        let root = if ROOTED.contains(&case.op.as_str()) { case.root as i64 } else { -1 };
        let _ = write!(text, "{size:>12}  {count:>12}  {name:>8}  {:>6}  {root:>6}", case.redop);
        for place in [find(false), find(true)] {
            text.push_str(&columns(place, &mut wrong, &mut bandwidths));
        }
        text.push('\n');
        for row in [find(false), find(true)].into_iter().flatten() {
            if let Outcome::Failed { reason } | Outcome::Skipped { reason } = &row.record.outcome {
                let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                let _ = writeln!(text, "# {}: {reason}", row.record.case);
            }
        }
    }
    let mean = bandwidths.iter().sum::<f64>() / bandwidths.len().max(1) as f64;
    let verdict = if wrong == 0 { "OK" } else { "FAILED" };
    let _ = writeln!(text, "# Out of bounds values : {wrong} {verdict}\n# Avg bus bandwidth    : {} \n#\n", six_digits(mean));
}

fn head(text: &mut String, case: &Case, rows: &[(&Row, bool)], sizes: &[u64], environment: Option<&Environment>) {
    let (least, most) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
    let ratios = |a: &[u64]| (a[0] > 0 && a[1].is_multiple_of(a[0])).then(|| a[1] / a[0]);
    let steps: Vec<Option<u64>> = sizes.windows(2).map(ratios).collect();
    let step = match steps.first() {
        Some(Some(factor)) if steps.iter().all(|s| s == &Some(*factor)) => format!("{factor}(factor)"),
        Some(_) => format!("{}(bytes)", sizes[1] - sizes[0]),
        None => "2(factor)".into(),
    };
    let executions = |row: &Row| match &row.record.outcome {
        Outcome::Measured { samples, .. } => samples.seconds.len() as u64 * samples.batch,
        _ => 0,
    };
    let iterations = rows.iter().map(|(row, _)| executions(row)).max().unwrap_or(0);
    let warmup = environment.and_then(|e| after(&e.command, &["-w", "--warmup"])).unwrap_or_else(|| "0".into());
    let _ = writeln!(
        text,
        "# {}_perf by {} (ridgepoint)\n# nThread 1 nGpus {} minBytes {least} maxBytes {most} step: {step} warmup iters: {warmup} iters: {iterations} agg iters: 1 validation: 1 graph: 0\n#\n# Using devices",
        case.op, case.provider, case.ranks
    );
    let host = environment.map_or("unknown", |e| e.host.as_str());
    let process = environment.and_then(|e| e.facts.get("process")).map_or("0", String::as_str);
    // Under a launcher each rank has a host and process of its own, and the device of its number there.
    let places: Vec<(&str, &str)> = environment
        .and_then(|e| e.facts.get("rank processes"))
        .map(|all| all.split(' ').filter_map(|place| place.rsplit_once('/')).collect())
        .unwrap_or_default();
    let measured = environment.and_then(|e| e.devices.iter().find(|d| d.id == case.device));
    let first: u64 = case.device.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let gpus = case.provider.starts_with("nccl") || case.provider.starts_with("rccl");
    for rank in 0..case.ranks {
        let place = places.get(rank as usize);
        let before = |host: &str| places[..rank as usize].iter().filter(|(other, _)| *other == host).count() as u64;
        let (host, process) = place.copied().unwrap_or((host, process));
        let device = match place {
            Some((host, _)) if gpus => before(host),
            None if gpus => first + rank,
            _ => first,
        };
        let pci = measured.and_then(|d| d.pci.as_deref()).filter(|_| rank == 0).unwrap_or(&case.device);
        let name = measured.map_or("", |d| d.name.as_str());
        let _ = writeln!(text, "#  Rank {rank:2} Group  0 Pid {process:>6} on {host:>10} device {device:2} [{pci}] {name}");
    }
    text.push_str(
        "#\n\
         #                                                              out-of-place                       in-place          \n\
         #       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong\n\
         #        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)       \n",
    );
}

/// What follows one of `flags` on a command line.
fn after(command: &[String], flags: &[&str]) -> Option<String> {
    let at = command.iter().position(|word| flags.contains(&word.as_str()))?;
    command.get(at + 1).filter(|n| n.parse::<u64>().is_ok()).cloned()
}

/// Time in µs, algbw and busbw in GB/s, elements that were wrong; zeros and N/A for what was not measured.
fn columns(row: Option<&Row>, wrong: &mut u64, bandwidths: &mut Vec<f64>) -> String {
    let none = |what: &str| format!("  {:>7}  {:>6}  {:>6}  {what:>5}", "0.00", "0.00", "0.00");
    match row.map(|row| (row, &row.record.outcome)) {
        Some((row, Outcome::Measured { verification, .. })) => {
            let Some(placement) = &row.placement else { return none("N/A") };
            let (seconds, work) = (placement.summary.median, row.record.work);
            let algbw = work.bytes.0 as f64 / seconds / 1e9;
            let busbw = algbw * work.bus_factor.unwrap_or(1.0);
            bandwidths.push(busbw);
            *wrong += verification.wrong;
            format!("  {:>7}  {algbw:>6.2}  {busbw:>6.2}  {:>5}", time(seconds * 1e6), verification.wrong)
        }
        Some((_, Outcome::Wrong { verification })) => {
            *wrong += verification.wrong;
            none(&verification.wrong.to_string())
        }
        _ => none("N/A"),
    }
}

/// Fewer digits the longer it is, as there.
fn time(micro: f64) -> String {
    if micro >= 10_000.0 {
        format!("{micro:.0}")
    } else if micro >= 100.0 {
        format!("{micro:.1}")
    } else {
        format!("{micro:.2}")
    }
}

/// As C prints `%g`.
fn six_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".into();
    }
    let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        assert_eq!([12.345, 123.456, 12345.6].map(time), ["12.35", "123.5", "12346"]);
        assert_eq!([0.0, 135.455, 2.619_37, 0.012_345_678].map(six_digits), ["0", "135.455", "2.61937", "0.0123457"]);
    }
}
