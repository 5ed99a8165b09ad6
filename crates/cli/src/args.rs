//! The command line. Help texts are written for someone who has five minutes and a node to judge.

mod collectives;
mod foreign;
mod search;

use crate::shapes::Shapes;
use clap::{Parser, Subcommand, ValueEnum};
use ridgepoint_core::Seconds;
use ridgepoint_harness::{Class, Profile};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use collectives::{Collectives, size as collective_size};
pub(crate) use search::Search;

/// Measure what a GPU node can really do: memory, matrix units, attention, collectives. Every result is verified, and each
/// number is shown under its roof.
#[derive(Debug, Parser)]
#[command(name = "ridgepoint", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 all right (accept: PASS, WARN) · 1 a result was wrong, failed or unreadable (accept: FAIL, WARN with --strict) · 2 wrong usage · 3 the machine can't do it (accept: SKIP, INVALID: no verdict was reached)
Start with `ridgepoint run --quick`.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the devices that can be measured, and why others can't.
    Devices(Devices),
    /// List the cases, without measuring any.
    List(List),
    /// Measure: verify each case, time it, place it under its roof, write records and report.html.
    Run(Run),
    /// Find the shape at which matrix products are fastest here: short trials over many, the best of them verified and measured in full.
    Search(Search),
    /// Find a slow link or rank: every rank sends to every other, in pairs. For a job of several processes (mpirun, srun).
    Pairs(Pairs),
    /// Measure a kernel of your own: a .cu, .hip, .wgsl or .c file and a description of what it takes and must compute. It is
    /// verified, timed, placed under its roof and recorded like any case. A description to start from: examples/fused_add_relu.
    BenchKernel(BenchKernel),
    /// Measure collectives with the flags of nccl-tests: `collectives all_reduce -b 8 -e 128M -f 2 -g 8`.
    Collectives(Collectives),
    /// Render record files again: tables, CSV, JSON, Markdown or HTML. Needs no device.
    Report(Report),
    /// Put two sets of records side by side: two nodes, dates, vendors or devices, case by case, with how sure each ratio is.
    Compare(Compare),
    /// Measure this node and judge it, or judge record files: PASS, WARN or FAIL, with the bad GPU and the reason.
    Accept(Accept),
    /// Load all devices for a given time, watch every result, heat, clocks and error counters.
    Burn(Burn),
    /// Rule files: check one, list those built in, print one to start from.
    #[command(subcommand)]
    Rules(Rules),
    /// Baselines: make one from records, show how figures drifted between dates.
    #[command(subcommand)]
    Baseline(Baseline),
    /// Write the records of a fleet that does not exist, with known faults, to try rules on.
    #[command(hide = true)]
    Simulate(Simulate),
    /// Show each library that could be used: where it was found, which version, or how to get it.
    Doctor,
    /// Print the JSON Schema of a record line.
    Schema,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Devices {
    /// Also print every fact as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only cases whose id contains this, or matches it as a pattern with `*` (several: any of them).
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// How much to measure.
    #[arg(long, value_enum, default_value = "standard")]
    pub(crate) profile: ProfileArg,
    /// List for a kind of device instead of the best one present.
    #[arg(long, value_enum)]
    pub(crate) class: Option<ClassArg>,
    #[command(flatten)]
    pub(crate) shapes: Shapes,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Only cases whose id contains this, or matches it as a pattern with `*` (several: any of them). A whole id is that case
    /// alone, listed or not: `gemm/m1000n1000k1000/bf16`.
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Device to measure: an id as `devices` shows it, `best`, or `all` for each in turn.
    #[arg(long, default_value = "best", value_name = "ID")]
    pub(crate) device: String,
    /// After each GPU alone, all of them at once: what they share (power, the host's links) shows as a part of what each has alone.
    #[arg(long)]
    pub(crate) together: bool,
    /// How much to measure: quick ends in a minute on two cores, three on a GPU.
    #[arg(long, value_enum, default_value = "standard", conflicts_with = "quick")]
    pub(crate) profile: ProfileArg,
    /// Short for `--profile quick`.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Keep each case running this long (60s, 5m) and record bandwidth, clock, power and temperature over time.
    #[arg(long, value_name = "TIME", value_parser = sustain)]
    pub(crate) sustain: Option<Seconds>,
    /// Measure each GEMM with normal, uniform, zero, constant and sine-wave data in turn, and show what that does to TFLOP/s, clock and
    /// power: numbers that toggle few bits draw less. The profile (or --sustain) says how long each goes on.
    #[arg(long, conflicts_with = "together")]
    pub(crate) data_sweep: bool,
    /// Search the fastest launch or algorithm of each case anew, instead of taking what an earlier run found on this chip, driver
    /// and library.
    #[arg(long)]
    pub(crate) retune: bool,
    /// Folder for raw.jsonl and report.html. Default: a new one under ridgepoint-out, named by the time.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the run in this folder: what it has is kept, the rest is measured.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub(crate) resume: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What to print: tables for people, `json` for record lines as they come, `csv`.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
    /// Only this provider (several: any of them): `native`, `cublaslt`, ….
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Vec<String>,
    #[command(flatten)]
    pub(crate) shapes: Shapes,
}

/// A time to keep a case running.
fn sustain(text: &str) -> Result<Seconds, String> {
    let time = humantime::parse_duration(text).map_err(|e| format!("{e}; a time is written 60s or 5m"))?.as_secs_f64();
    if (0.1..=86_400.0).contains(&time) { Ok(Seconds(time)) } else { Err("from 100ms to 1day".into()) }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pairs {
    /// Device whose ranks talk: an id as `devices` shows it, or `best`.
    #[arg(long, default_value = "cpu", value_name = "ID")]
    pub(crate) device: String,
    /// Bytes of a message.
    #[arg(long, default_value = "1MiB", value_name = "SIZE")]
    pub(crate) size: ridgepoint_core::Bytes,
    /// Messages in each direction of a pair.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) times: u64,
    /// A link is slow below so many percent of the median of its kind.
    #[arg(long, default_value_t = 70.0, value_name = "PERCENT")]
    pub(crate) slow: f64,
    /// What to print: a table, or `json`.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = ["table", "json"])]
    pub(crate) format: String,
    /// Folder for pairs.jsonl, a line a link as they are measured. Default: a new one under ridgepoint-out, named by the time.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchKernel {
    /// The kernel: .cu or .hip for CUDA and HIP, .wgsl for Vulkan, .c for the CPU. Several, in one language or in many, are
    /// measured beside each other, each on the devices that take it. It is compiled and run as your own program.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Its arguments, launch, work and reference: a TOML file. Mistakes are explained by line.
    #[arg(long, value_name = "SPEC.toml")]
    pub(crate) spec: PathBuf,
    /// Another value for one of the sizes in it: `--size n=1000000` (several).
    #[arg(long, value_name = "NAME=N", value_parser = size)]
    pub(crate) size: Vec<(String, u64)>,
    /// Device to measure on: an id, the `best` that takes one of the files, or `all` that do.
    #[arg(long, default_value = "best", value_name = "ID")]
    pub(crate) device: String,
    /// How long to measure.
    #[arg(long, value_enum, default_value = "standard", conflicts_with = "quick")]
    pub(crate) profile: ProfileArg,
    /// Short for `--profile quick`.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Folder for raw.jsonl and report.html. Default: a new one under ridgepoint-out, named by the time.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What to print: tables for people, `json` for record lines as they come, `csv`.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
}

/// `n=16777216`.
fn size(text: &str) -> Result<(String, u64), String> {
    let parsed = text.split_once('=').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    parsed.filter(|(_, value)| *value > 0).ok_or_else(|| "write a name and a whole number, as in n=16777216".into())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// Record files (raw.jsonl) or folders that hold one.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// What to render: table, csv, json, markdown, html.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// A and B: record files, or folders of them. Several runs in a folder are taken together. One alone is compared with
    /// itself, on the two devices or by the two providers that are named.
    #[arg(required = true, num_args = 1..=2, value_names = ["A", "B"])]
    pub(crate) files: Vec<PathBuf>,
    /// Only cases whose id contains this, or matches it as a pattern with `*` (several: any of them).
    #[arg(long, value_name = "FILTER")]
    pub(crate) case: Vec<String>,
    /// Device, for both or for each side: `cuda:3`, `cpu:0,vulkan:0`, `cuda:*`. Default: each id with itself, or all there are.
    #[arg(long, value_name = "ID[,ID]")]
    pub(crate) device: Option<String>,
    /// Provider, for both or for each side: `wgmma`, `cublaslt,wgmma`. Default: the best of each case.
    #[arg(long, value_name = "NAME[,NAME]")]
    pub(crate) provider: Option<String>,
    /// End with code 1 where B is surely below so many percent of A (the whole 95 % interval is), or lost a case that A has.
    #[arg(long, value_name = "PERCENT")]
    pub(crate) fail_below: Option<f64>,
    /// What to render: table, csv, json, markdown, html.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Accept {
    /// Record files, folders of them (every .jsonl below), or `-` for standard input. Without any, this node is measured first:
    /// each device, the links to it, collectives, and a soak.
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) here: Here,
    /// Rules: a file, or a name of `rules list` (several: all of them). Default: those built in for the devices found.
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) rules: Vec<String>,
    /// Compare with this baseline, as `baseline make` writes it; a node more than 5 % below it fails, unless the rules say.
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// How many GPUs each node must have.
    #[arg(long, value_name = "N")]
    pub(crate) gpus: Option<u32>,
    /// A warning is a failure, in the exit code too.
    #[arg(long)]
    pub(crate) strict: bool,
    /// What to print: table, json, csv, markdown, html, junit, prometheus, openmetrics.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
    /// Write every report into this folder: a page to sign, Markdown, CSV, JSON, JUnit XML, metrics for Prometheus. Where this
    /// node is measured, the folder of its records is it.
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// How `accept` measures this node; without a meaning where record files are judged.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Measuring this node")]
pub(crate) struct Here {
    /// Device to measure: an id as `devices` shows it, `all`, or `node`: every GPU, and the CPU where there is none.
    #[arg(long, default_value = "node", value_name = "ID", conflicts_with = "files")]
    pub(crate) device: String,
    /// How much to measure: quick has all that the built-in rules require.
    #[arg(long, value_enum, default_value = "quick", conflicts_with = "files")]
    pub(crate) profile: ProfileArg,
    /// Only cases whose id contains this, or matches it as a pattern with `*` (several: any of them); what rules require and is
    /// left out still counts as missing.
    #[arg(long, value_name = "FILTER", conflicts_with = "files")]
    pub(crate) only: Vec<String>,
    /// Folder for the records and report.html. Default: a new one under ridgepoint-out, named by the time.
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the acceptance in this folder: what it has is kept, the rest is measured.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "files"])]
    pub(crate) resume: Option<PathBuf>,
    /// How long to soak all devices at once after the measurements; 0 for not at all.
    #[arg(long, default_value = "1min", value_name = "TIME", value_parser = crate::commands::burn::time, conflicts_with = "files")]
    pub(crate) soak: Duration,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 1, conflicts_with = "files")]
    pub(crate) seed: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Burn {
    /// Loads: cases of memory, gemm or attention, in turn. Default: a large GEMM and a triad through device memory.
    #[arg(value_name = "CASE")]
    pub(crate) cases: Vec<String>,
    /// How long.
    #[arg(long, default_value = "10min", value_name = "TIME", value_parser = crate::commands::burn::time)]
    pub(crate) time: Duration,
    /// Devices, all at once: an id as `devices` shows it, `all`, or `node`: every GPU, and the CPU where there is none.
    #[arg(long, default_value = "node", value_name = "ID")]
    pub(crate) device: String,
    /// How long one load runs before the next: seconds swing the power, `50ms` mixes the loads.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = crate::commands::burn::time)]
    pub(crate) turn: Duration,
    /// Time between checks of a load's results against a reference on the host; in between the device compares each by itself.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = crate::commands::burn::time)]
    pub(crate) check_every: Duration,
    /// Folder for raw.jsonl and report.html. Default: a new one under ridgepoint-out, named by the time.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What to print: tables for people, `json` for record lines, `csv`.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
    /// Only by this provider (several: the first of them that there is).
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rules {
    /// Read a rule file and explain every mistake by its line.
    Check {
        /// Rule files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the rule sets that are built in.
    List,
    /// Print a built-in rule set: a file to start from.
    Show {
        /// A name of `rules list`.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Baseline {
    /// Make a baseline of records: medians by device model, case and provider.
    Make {
        /// Record files, folders of them, or `-`.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The file to write.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show how each metric moved between the dates of the records, the worst first.
    Drift {
        /// Record files, folders of them, or `-`.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Show movements of at least this many percent.
        #[arg(long, default_value_t = 2.0, value_name = "PERCENT")]
        above: f64,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Simulate {
    /// Folder to write a file a node into, or `-` for a stream on standard output.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Nodes.
    #[arg(long, default_value_t = 100)]
    pub(crate) nodes: u32,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Fault: none, slow-memory, throttled, slow-clock, weak-link, wrong-results, missing-gpu.
    #[arg(long, default_value = "none")]
    pub(crate) fault: String,
    /// Its size in percent.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) size: f64,
    /// Every so many-th node is faulty.
    #[arg(long, default_value_t = 50)]
    pub(crate) every: u32,
}

/// [`Profile`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ProfileArg {
    /// A first look.
    Quick,
    /// A result to compare.
    Standard,
    /// Every size and dtype.
    Full,
}

impl From<ProfileArg> for Profile {
    fn from(arg: ProfileArg) -> Self {
        match arg {
            ProfileArg::Quick => Self::Quick,
            ProfileArg::Standard => Self::Standard,
            ProfileArg::Full => Self::Full,
        }
    }
}

/// [`Class`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ClassArg {
    /// A CPU.
    Cpu,
    /// A GPU.
    Gpu,
    /// A GPU emulated on a CPU.
    SoftwareGpu,
}

impl From<ClassArg> for Class {
    fn from(arg: ClassArg) -> Self {
        match arg {
            ClassArg::Cpu => Self::Cpu,
            ClassArg::Gpu => Self::Gpu,
            ClassArg::SoftwareGpu => Self::SoftwareGpu,
        }
    }
}
