//! Flags of `ridgepoint search`.

use super::ProfileArg;
use crate::shapes::Axis;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Search {
    /// Element type of the products, as it ends an id: `bf16`, `e4m3`.
    #[arg(long, default_value = "bf16", value_name = "DTYPE")]
    pub(crate) dtype: String,
    /// Rows of A and C to look among: a list and ranges. Default: 1024:16384:256 on a GPU, 256:3072:128 on a CPU.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse)]
    pub(crate) m: Option<Axis>,
    /// Rows of B, columns of C; as --m.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse)]
    pub(crate) n: Option<Axis>,
    /// Columns of A and B; as --m.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse)]
    pub(crate) k: Option<Axis>,
    /// Device to measure: an id as `devices` shows it, or `best`.
    #[arg(long, default_value = "best", value_name = "ID")]
    pub(crate) device: String,
    /// Only this provider (several: any of them): `native`, `cublaslt`, ….
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Vec<String>,
    /// Stop trying after this long, and measure the best.
    #[arg(long, default_value = "15min", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) limit: Duration,
    /// So many of the best shapes are measured in full at the end.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = best)]
    pub(crate) best: usize,
    /// How long the best are measured.
    #[arg(long, value_enum, default_value = "standard", conflicts_with = "quick")]
    pub(crate) profile: ProfileArg,
    /// Short for `--profile quick`.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Folder for raw.jsonl, report.html and what the trials showed. Default: a new one under ridgepoint-out, named by the time.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the search in this folder: what was tried or measured there is not done again.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub(crate) resume: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What to print: tables for people, `json` for record lines as they come, `csv`.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
}

/// How many of the best.
fn best(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| "from 1 to 1000".into())
}
