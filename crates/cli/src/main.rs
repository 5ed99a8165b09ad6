//! The `ridgepoint` command: measures memory, matrix units, attention and collectives of a node, proves each result right,
//! and says how far each number is from the physical limit.

mod args;
mod commands;
mod environment;
mod hunt;
mod intake;
mod inventory;
mod launch;
mod node;
mod packs;
mod report;
mod session;
mod shapes;
mod soak;
mod store;
mod sweep;

use clap::Parser;
use ridgepoint::{exit, select, suites};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if ridgepoint_device::cpu::rank_main(Some(ridgepoint_collectives::beside)) {
        return ExitCode::SUCCESS;
    }
    ridgepoint_device::transport::listen();
    let args = args::Args::parse();
    let result = match &args.command {
        args::Command::Devices(a) => commands::devices::run(a),
        args::Command::List(a) => commands::list::run(a),
        args::Command::Pairs(a) => commands::pairs::run(a),
        args::Command::Run(a) => commands::run::run(a),
        args::Command::Search(a) => commands::search::run(a),
        args::Command::BenchKernel(a) => commands::bench_kernel::run(a),
        args::Command::Collectives(a) => commands::collectives::run(a),
        args::Command::Report(a) => commands::report::run(a),
        args::Command::Compare(a) => commands::compare::run(a),
        args::Command::Accept(a) => commands::accept::run(a),
        args::Command::Burn(a) => commands::burn::run(a),
        args::Command::Rules(a) => commands::rules::run(a),
        args::Command::Baseline(a) => commands::baseline::run(a),
        args::Command::Simulate(a) => commands::simulate::run(a),
        args::Command::Doctor => commands::doctor::run(),
        args::Command::Schema => commands::schema::run(),
    };
    launch::tell_launcher(&result);
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // A reader that went away (`| head`) is no failure to report.
            let _ = writeln!(std::io::stderr(), "ridgepoint: {failure}");
            failure.exit.into()
        }
    }
}
