//! The command line. Help texts are written for someone who has five minutes and a node to judge.

use clap::{Parser, Subcommand, ValueEnum};
use ridgepoint_harness::{Class, Profile};
use std::path::PathBuf;

/// Measure what a GPU node can really do: memory, matrix units, attention, collectives. Every result is verified, and each
/// number is shown under its roof.
#[derive(Debug, Parser)]
#[command(name = "ridgepoint", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 all right · 1 a result was wrong, failed or unreadable · 2 wrong usage · 3 the machine can't do it
Start with `ridgepoint run --quick`.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the devices that can be measured, and why others can't.
    Devices(Devices),
    /// List the cases, without measuring any.
    List(List),
    /// Measure: verify each case, time it, place it under its roof, write records and report.html.
    Run(Run),
    /// Render record files again: tables, CSV, JSON or HTML. Needs no device.
    Report(Report),
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
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Only cases whose id contains this, or matches it as a pattern with `*` (several: any of them). A whole id runs even if
    /// it is not listed: `gemm/m1000n1000k1000/bf16`.
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Device to measure: an id as `devices` shows it, `best`, or `all` for each in turn.
    #[arg(long, default_value = "best", value_name = "ID")]
    pub(crate) device: String,
    /// How much to measure: quick ends in a minute on two cores, three on a GPU.
    #[arg(long, value_enum, default_value = "standard", conflicts_with = "quick")]
    pub(crate) profile: ProfileArg,
    /// Short for `--profile quick`.
    #[arg(long)]
    pub(crate) quick: bool,
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
}

#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// Record files (raw.jsonl) or folders that hold one.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// What to render: table, csv, json, html.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: String,
    /// Write to this file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
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
