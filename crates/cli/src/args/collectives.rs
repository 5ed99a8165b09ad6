//! The flags of `ridgepoint collectives`: those of nccl-tests and rccl-tests, under their letters.

use super::foreign::Foreign;
use ridgepoint_core::Bytes;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Collectives {
    /// Which: all_reduce, all_gather, reduce_scatter, broadcast, reduce, alltoall, alltoallv, gather, scatter, sendrecv, or all
    /// of them. Default: all_reduce.
    #[arg(value_name = "OP")]
    pub(crate) ops: Vec<String>,
    /// Smallest size: 8, 32K, 128M, 4G (powers of two, as nccl-tests has them).
    #[arg(short = 'b', long = "minbytes", value_name = "SIZE", default_value = "32M", value_parser = size)]
    pub(crate) begin: Bytes,
    /// Largest size. Default: the smallest.
    #[arg(short = 'e', long = "maxbytes", value_name = "SIZE", value_parser = size)]
    pub(crate) end: Option<Bytes>,
    /// From size to size by this factor.
    #[arg(short = 'f', long = "stepfactor", value_name = "N", default_value_t = 2)]
    pub(crate) factor: u32,
    /// From size to size by this much instead.
    #[arg(short = 'i', long = "stepbytes", value_name = "SIZE", value_parser = size, conflicts_with = "factor")]
    pub(crate) step: Option<Bytes>,
    /// Time this many executions. Default: until the median is known to half a percent.
    #[arg(short = 'n', long = "iters", value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) iterations: Option<u64>,
    /// Warm up by this many executions, after the one that proves the result. Default: until times are steady.
    #[arg(short = 'w', long = "warmup", visible_alias = "warmup_iters", value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub(crate) warmup: Option<u64>,
    /// Ranks: GPUs of this node, or processes of a CPU. Default: all there are.
    #[arg(short = 'g', long = "ranks", visible_alias = "ngpus", value_name = "N")]
    pub(crate) ranks: Option<u64>,
    /// How values are combined: sum, prod, min, max, avg, or all of them in turn.
    #[arg(short = 'o', long = "op", value_name = "REDOP", default_value = "sum")]
    pub(crate) op: String,
    /// Element type: float, half, bfloat16, double, int8, int32, f8e4m3, f8e5m2, our names (f32, bf16, …), or all of
    /// them in turn.
    #[arg(short = 'd', long = "datatype", value_name = "TYPE", default_value = "float")]
    pub(crate) dtype: String,
    /// Root of broadcast, reduce, gather and scatter, or all of them in turn.
    #[arg(short = 'r', long = "root", value_name = "RANK", default_value = "0")]
    pub(crate) root: String,
    /// Tell the library of the buffers: 1 registers them with each rank, 2 makes symmetric windows of them.
    #[arg(short = 'R', long = "register", alias = "local_register", value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) register: u8,
    /// Not in place as well.
    #[arg(long)]
    pub(crate) out_of_place: bool,
    /// NCCL and RCCL: each algorithm with each protocol by itself, new processes for each, the library's own choice first.
    #[arg(long, conflicts_with_all = ["resume", "provider"])]
    pub(crate) sweep: bool,
    /// Of a sweep: end what one combination runs after so many seconds (600). Any run ends when no rank gets on for a minute, or for
    /// RIDGEPOINT_PATIENCE seconds.
    #[arg(short = 'T', long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Device of the first rank, as `devices` shows it, or `best`.
    #[arg(long, default_value = "best", value_name = "ID")]
    pub(crate) device: String,
    /// Folder for raw.jsonl and report.html. Default: a new one under ridgepoint-out, named by the time.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the run in this folder: what it has is kept, the rest is measured.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub(crate) resume: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What to print: tables for people, `nccl-tests` for that tool's columns, `json` for record lines as they come, `csv`.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
    /// Only this provider.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Vec<String>,
    #[command(flatten)]
    pub(crate) foreign: Foreign,
}

/// A size as nccl-tests takes it: `8`, `32K`, `128M`, `4G`, powers of two as there; or as our ids write it.
pub(crate) fn size(text: &str) -> Result<Bytes, String> {
    let plain = text.trim_end_matches(['b', 'B']).trim_end_matches('i');
    let (digits, unit) = match plain.char_indices().last() {
        Some((at, c)) if c.is_ascii_alphabetic() => (&plain[..at], c.to_ascii_uppercase()),
        _ => (plain, ' '),
    };
    let shift = match unit {
        ' ' => Some(0),
        'K' => Some(10),
        'M' => Some(20),
        'G' => Some(30),
        'T' => Some(40),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift)).filter(|n| *n <= 1 << 40);
    bytes.map(Bytes).ok_or_else(|| format!("'{}' is no size; one looks like 8, 32K, 128M or 4G", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_nccl_tests_reads_them_and_as_ids_write_them() {
        for (text, bytes) in [("8", 8), ("32K", 32 << 10), ("128m", 128 << 20), ("4G", 4 << 30), ("4KiB", 4096), ("64B", 64)] {
            assert_eq!(size(text), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "K", "-1", "1.5M", "8X", "99999999999G", "2T ", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
