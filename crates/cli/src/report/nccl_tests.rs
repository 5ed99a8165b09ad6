//! Columns, header and footer as nccl-tests 2.19.6 writes them, for whatever reads those: one block an operation, as it has a program
//! an operation; its dtypes, reductions and roots one after the other.
//!
//! The first line differs in its end: it says who wrote this, and nccl-headers=0, since no header was compiled in; where no NCCL or
//! RCCL connected the ranks it says what did. Whose bus id is not known, as another rank's is not, has its device's name in its place.
//! What is in the columns differs where this project's rules do. Times are medians of verified executions, not means. What is wrong has
//! no time, and neither has an in-place all-to-all or send-recv, which that tool times without a result to check: 0.00, and no
//! part of the average. Parts of no bytes have no row. An uneven all-to-all has its own pattern.

use super::text::clean;
use super::{Model, Row};
use ridgepoint_core::{Component, Dtype, Environment, Outcome, Samples};
use std::fmt::Write;

/// The version whose output this is.
const VERSION: &str = "2.19.6";
/// More ranks are not listed: an id may claim any number, and that tool cuts its list too.
const LISTED: u64 = 256;
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
/// Operations whose redop is shown: send-recv has none, and that tool shows it all the same.
const REDUCING: [&str; 4] = ["all_reduce", "reduce_scatter", "reduce", "sendrecv"];
const ROOTED: [&str; 4] = ["broadcast", "reduce", "gather", "scatter"];

/// What a case's id says.
#[derive(Clone, PartialEq)]
struct Case {
    op: String,
    ranks: u64,
    registered: String,
    device: String,
    provider: String,
}

/// What the columns of a row say beside its size.
#[derive(Clone, PartialEq)]
struct Kind {
    dtype: Dtype,
    redop: String,
    root: u64,
}

/// A row of a block: its kind, its record, and whether it is in place.
type Entry<'m> = (Kind, &'m Row, bool);

impl Case {
    /// The case of a record, its kind, and whether it is in place.
    fn of(row: &Row) -> Option<(Self, Kind, bool)> {
        let r = &row.record;
        let mut words = r.case.as_str().split('/').skip(1);
        let op = words.next()?.to_owned();
        let ranks = words.next()?.strip_prefix('r')?.parse().ok().filter(|ranks| (1..=65536).contains(ranks))?;
        let redop = if REDUCING.contains(&op.as_str()) { "sum" } else { "none" }.into();
        let mut kind = Kind { dtype: r.dtype.class(), redop, root: 0 };
        let mut case = Self { op, ranks, registered: String::new(), device: r.device.clone(), provider: r.provider.clone() };
        let mut in_place = false;
        for word in words.skip(2) {
            match (word, word.strip_prefix("root")) {
                ("inplace", _) => in_place = true,
                (_, Some(root)) => kind.root = root.parse().ok()?,
                ("registered" | "symmetric", _) => case.registered = word.into(),
                _ => kind.redop = word.into(),
            }
        }
        Some((case, kind, in_place))
    }
}

pub(crate) fn render(model: &Model) -> String {
    let mut blocks: Vec<(Case, Vec<Entry<'_>>)> = Vec::new();
    for row in model.rows.iter().filter(|row| row.record.component == Component::Collectives) {
        let Some((case, kind, in_place)) = Case::of(row) else { continue };
        match blocks.iter_mut().find(|(other, _)| *other == case) {
            Some((_, rows)) => rows.push((kind, row, in_place)),
            None => blocks.push((case, vec![(kind, row, in_place)])),
        }
    }
    let mut text = String::new();
    for (case, rows) in &blocks {
        block(&mut text, model, case, rows);
    }
    if blocks.is_empty() { "# no collective was measured\n".into() } else { text }
}

fn block(text: &mut String, model: &Model, case: &Case, rows: &[Entry<'_>]) {
    let environment = rows.first().and_then(|(_, row, _)| model.environments.iter().find(|e| e.hash == row.record.environment));
    head(text, case, rows, &sizes(rows), environment);
    // Columns with something wrong, and not the elements, which stand in the rows.
    let (mut wrong, mut bandwidths) = (0, Vec::new());
    let mut kinds: Vec<&Kind> = Vec::new();
    for (kind, ..) in rows {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for kind in kinds {
        let of_kind: Vec<Entry<'_>> = rows.iter().filter(|(other, ..)| other == kind).cloned().collect();
        for size in sizes(&of_kind) {
            let find = |in_place| of_kind.iter().find(|(_, row, i)| row.record.work.bytes.0 == size && *i == in_place);
            let count = size / kind.dtype.element_bytes().unwrap_or(1) as u64;
            let count = if DIVIDED.contains(&case.op.as_str()) { count / case.ranks.max(1) } else { count };
            let name = TYPES.iter().find(|(dtype, _)| *dtype == kind.dtype).map_or("other", |(_, name)| *name);
            let root = if ROOTED.contains(&case.op.as_str()) { kind.root as i64 } else { -1 };
            let _ = write!(text, "{size:>12}  {count:>12}  {name:>8}  {:>6}  {root:>6}", kind.redop);
            let places = [find(false), find(true)].map(|place| place.map(|(_, row, _)| *row));
            for place in places {
                text.push_str(&columns(place, &mut wrong, &mut bandwidths));
            }
            text.push('\n');
            for row in places.into_iter().flatten() {
                if let Outcome::Failed { reason } | Outcome::Skipped { reason } = &row.record.outcome {
                    let _ = writeln!(text, "# {}: {}", row.record.case, clean(reason));
                }
            }
        }
    }
    let mean = bandwidths.iter().sum::<f64>() / bandwidths.len().max(1) as f64;
    let verdict = if wrong == 0 { "OK" } else { "FAILED" };
    let _ = writeln!(
        text,
        "# Out of bounds values : {wrong} {verdict}\n# Avg bus bandwidth    : {} \n#\n# Collective test concluded: {}_perf\n#\n",
        six_digits(mean),
        case.op
    );
}

/// The sizes of these rows, each once.
fn sizes(rows: &[Entry<'_>]) -> Vec<u64> {
    let mut sizes: Vec<u64> = rows.iter().map(|(_, row, _)| row.record.work.bytes.0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// What the first line says of the library: NCCL's and RCCL's number, as their `ncclGetVersion` gives it, or who connected the ranks.
fn of_library(library: &str, provider: &str) -> String {
    let ridgepoint = concat!("as ridgepoint ", env!("CARGO_PKG_VERSION"), " writes it");
    let version = library.strip_prefix("NCCL ").or_else(|| library.strip_prefix("RCCL ")).unwrap_or_default();
    let numbers: Vec<u64> = version.split('.').map_while(|number| number.parse().ok().filter(|n| *n < 100)).collect();
    match numbers[..] {
        [major, minor, patch] => format!("nccl-headers=0 nccl-library={} {ridgepoint}", major * 10_000 + minor * 100 + patch),
        _ => format!("{ridgepoint}; ranks by {}", clean(if library.is_empty() { provider } else { library })),
    }
}

fn head(text: &mut String, case: &Case, rows: &[Entry<'_>], sizes: &[u64], environment: Option<&Environment>) {
    let (least, most) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
    let asked = |flags: &[&str]| environment.and_then(|e| after(&e.command, flags));
    let bytes = |flags: &[&str]| asked(flags).and_then(|text| crate::args::collective_size(text).ok()).map(|bytes| bytes.0);
    let begin = bytes(&["-b", "--minbytes"]);
    let end = bytes(&["-e", "--maxbytes"]).or(begin);
    let ratios = |a: &[u64]| (a[0] > 0 && a[1].is_multiple_of(a[0])).then(|| a[1] / a[0]);
    let steps: Vec<Option<u64>> = sizes.windows(2).map(ratios).collect();
    let step = match (bytes(&["-i", "--stepbytes"]), asked(&["-f", "--stepfactor"]), steps.first()) {
        (Some(step), ..) => format!("{step}(bytes)"),
        (None, Some(factor), _) if factor.parse::<u32>().is_ok() => format!("{factor}(factor)"),
        (.., Some(Some(factor))) if steps.iter().all(|s| s == &Some(*factor)) => format!("{factor}(factor)"),
        (.., Some(_)) => format!("{}(bytes)", sizes[1] - sizes[0]),
        _ => "2(factor)".into(),
    };
    let measured = || {
        rows.iter().filter_map(|(_, row, _)| match (&row.record.outcome, &row.placement) {
            (Outcome::Measured { samples, .. }, Some(placement)) => Some((samples, placement.summary.median)),
            _ => None,
        })
    };
    let iterations = measured().map(|(samples, _)| samples.seconds.len() as u64 * samples.batch).max().unwrap_or(0);
    // Warm-up by time is told in executions: each row had so many at least.
    let warmup = asked(&["-w", "--warmup"]).and_then(|n| n.parse().ok()).unwrap_or_else(|| {
        let executions = |(samples, median): (&Samples, f64)| (samples.warmup.0 / median.max(1e-9)) as u64;
        measured().map(executions).min().unwrap_or(0)
    });
    let places: Vec<(&str, &str)> = environment
        .and_then(|e| e.facts.get("rank processes"))
        .map(|all| all.split(' ').filter_map(|place| place.rsplit_once('/')).collect())
        .unwrap_or_default();
    let library = rows.iter().find_map(|(_, row, _)| row.record.config.get("library")).map_or("", String::as_str);
    let _ = writeln!(
        text,
        "# nccl-tests version {VERSION} {}\n\
         # Collective test starting: {}_perf\n\
         # nThread 1 nGpus {} minBytes {} maxBytes {} step: {step} warmup iters: {warmup} iters: {iterations} agg iters: 1 \
         validation: 1 graph: 0 unalign: 0\n#\n# Using devices",
        of_library(library, &case.provider),
        case.op,
        if places.is_empty() { case.ranks } else { 1 },
        begin.unwrap_or(least),
        end.unwrap_or(most),
    );
    let host = environment.map_or("unknown", |e| e.host.as_str());
    let process = environment.and_then(|e| e.facts.get("process")).map_or("0", String::as_str);
    let info = environment.and_then(|e| e.devices.iter().find(|d| d.id == case.device));
    let first: u64 = case.device.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let gpus = case.provider.starts_with("nccl") || case.provider.starts_with("rccl");
    // Under a launcher each rank has a host and process of its own, and the device of its number there.
    for rank in 0..case.ranks.min(LISTED) {
        let place = places.get(rank as usize);
        let before = |host: &str| places[..rank as usize].iter().filter(|(other, _)| *other == host).count() as u64;
        let (host, process) = place.copied().unwrap_or((host, process));
        let device = match place {
            Some((host, _)) if gpus => before(host),
            None if gpus => first + rank,
            _ => first,
        };
        // Domain, bus and device, without the function.
        let pci = info.and_then(|d| d.pci.as_deref()).filter(|_| rank == 0).unwrap_or(&case.device);
        let pci = clean(pci.split_once('.').map_or(pci, |(device, _)| device));
        let (host, process, name) = (clean(host), clean(process), clean(info.map_or("", |d| d.name.as_str())));
        let _ = writeln!(text, "#  Rank {rank:2} Group  0 Pid {process:>6} on {host:>10} device {device:2} [{pci}] {name}");
    }
    if case.ranks > LISTED {
        text.push_str("...\n");
    }
    let columns = |words: [&str; 5]| {
        let [size, count, kind, redop, root] = words;
        format!("# {size:>10}  {count:>12}  {kind:>8}  {redop:>6}  {root:>6}")
    };
    let figures = |[time, algbw, busbw, wrong]: [&str; 4]| format!("  {time:>7}  {algbw:>6}  {busbw:>6}  {wrong:>6}").repeat(2);
    let _ = write!(
        text,
        "#\n{}           out-of-place                       in-place          \n{}{} \n{}{} \n",
        columns([""; 5]),
        columns(["size", "count", "type", "redop", "root"]),
        figures(["time", "algbw", "busbw", "#wrong"]),
        columns(["(B)", "(elements)", "", "", ""]),
        figures(["(us)", "(GB/s)", "(GB/s)", ""]),
    );
}

/// What follows one of `flags` on a command line of `collectives`: as the next word, or in the same one.
fn after<'c>(command: &'c [String], flags: &[&str]) -> Option<&'c str> {
    command.iter().find(|word| *word == "collectives")?;
    command.iter().enumerate().find_map(|(at, word)| {
        flags.iter().find_map(|flag| match word.strip_prefix(flag)? {
            "" => command.get(at + 1).map(String::as_str),
            rest if flag.starts_with("--") => rest.strip_prefix('='),
            rest => Some(rest),
        })
    })
}

/// Time in µs, algbw and busbw in GB/s, elements that were wrong; zeros and N/A for what was not measured.
fn columns(row: Option<&Row>, wrong: &mut u64, bandwidths: &mut Vec<f64>) -> String {
    let figures = |micro: f64, algbw: f64, busbw: f64| format!("  {}  {}  {}", fit(micro, 7), fit(algbw, 6), fit(busbw, 6));
    match row.map(|row| (row, &row.record.outcome, &row.placement)) {
        Some((row, Outcome::Measured { .. }, Some(placement))) => {
            let (seconds, work) = (placement.summary.median, row.record.work);
            let algbw = work.bytes.0 as f64 / seconds / 1e9;
            let busbw = algbw * work.bus_factor.unwrap_or(1.0);
            bandwidths.push(busbw);
            figures(seconds * 1e6, algbw, busbw) + &format!("  {:>6}", 0)
        }
        Some((_, Outcome::Wrong { verification }, _)) => {
            *wrong += 1;
            figures(0.0, 0.0, 0.0) + &format!("  {:>6}", six_digits(verification.wrong as f64))
        }
        _ => figures(0.0, 0.0, 0.0) + "    N/A",
    }
}

/// So wide, with two digits, one, none, or as a power of ten: whichever fits first.
fn fit(value: f64, width: usize) -> String {
    let plain = [2, 1, 0].into_iter().map(|digits| format!("{value:width$.digits$}")).find(|text| text.len() <= width);
    plain.unwrap_or_else(|| format!("{:>width$}", power_of_ten(value, usize::from(width >= 7))))
}

/// As C prints `%.{digits}e`.
fn power_of_ten(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// As C prints `%g`.
fn six_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return "0".into();
    }
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let scientific = power_of_ten(value, 5);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        magnitude @ -4..6 => short(&format!("{value:.digits$}", digits = (5 - magnitude) as usize)),
        _ => format!("{}e{exponent}", short(mantissa)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        // Made with printf, %*.2f and so on.
        assert_eq!(
            [12.345, 1234.5, 12345.6, 1234567.8, 12345678.0].map(|v| fit(v, 7)),
            ["  12.35", "1234.50", "12345.6", "1234568", "1.2e+07"]
        );
        assert_eq!([0.0, 999.994, 278_604.52, 9_999_999.0].map(|v| fit(v, 6)), ["  0.00", "999.99", "278605", " 1e+07"]);
        assert_eq!(
            [0.0, 135.455, 2.619_37, 0.012_345_678, 999_999.0, 999_999.9, 1e6, 1_234_567.0, 0.000_012_345, 100.0].map(six_digits),
            ["0", "135.455", "2.61937", "0.0123457", "999999", "1e+06", "1e+06", "1.23457e+06", "1.2345e-05", "100"]
        );
    }

    #[test]
    fn the_first_line_has_the_librarys_number_where_it_has_one() {
        for (library, expected) in [
            ("NCCL 2.27.3", "nccl-headers=0 nccl-library=22703 as ridgepoint "),
            ("RCCL 2.22.3", "nccl-headers=0 nccl-library=22203 as ridgepoint "),
        ] {
            assert!(of_library(library, "nccl").starts_with(expected), "{library}");
        }
        assert!(of_library("Open MPI v5.0.7", "mpi").ends_with("; ranks by Open MPI v5.0.7"));
        assert!(of_library("NCCL 2.x", "nccl").ends_with("; ranks by NCCL 2.x"));
        assert!(of_library("", "shared-memory").ends_with("; ranks by shared-memory"));
    }

    #[test]
    fn flags_are_found_as_clap_takes_them() {
        let command: Vec<String> =
            "ridgepoint collectives -b 8 -e128M --stepfactor=4 -w 0".split(' ').map(str::to_owned).collect();
        let found = [&["-b", "--minbytes"][..], &["-e", "--maxbytes"], &["-f", "--stepfactor"], &["-w", "--warmup"], &["-n"]];
        assert_eq!(found.map(|flags| after(&command, flags)), [Some("8"), Some("128M"), Some("4"), Some("0"), None]);
        assert_eq!(after(&["run".into(), "-b".into(), "8".into()], &["-b"]), None);
    }
}
