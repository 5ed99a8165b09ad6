//! How many faults are found and how many healthy nodes refused, on simulated fleets of known faults: the tables of
//! docs/evidence/fleet.md. Judged by the rule sets that ship, as `accept` would.
//!
//! `cargo run --release -p ridgepoint-core --example fleet_study -- FIRST_SEED SEEDS NODES`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use ridgepoint_core::verdict::simulate::{Fault, Simulation};
use ridgepoint_core::verdict::{Fleet, Judgement, RuleBook, RuleSet, Source, Verdict, judge};

const SIZES: [f64; 11] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0];
/// One node in so many is faulty.
const EVERY: u32 = 25;

/// What came of some fleets.
#[derive(Default)]
struct Tally {
    faulty: u32,
    found: u32,
    /// FAIL names the very GPU.
    named: u32,
    looked_at: u32,
    healthy: u32,
    refused: u32,
    warned: u32,
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u32>().unwrap_or(1));
    let (first, seeds, nodes) = (args.next().unwrap_or(101), args.next().unwrap_or(2), args.next().unwrap_or(1000));
    println!("seeds {first} to {}, fleets of {nodes} nodes of 8 GPUs, one node in {EVERY} faulty\n", first + seeds - 1);
    println!("| fault | size | faulty | FAIL | of these the GPU named | WARN | healthy | FAIL | WARN |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut all = Tally::default();
    if std::env::var_os("WHY").is_some() {
        row("two", 0.0, &tally(Fault::None, 0.0, (0.4, 7.0), first, seeds, nodes));
        row("none", 0.0, &tally(Fault::None, 0.0, (0.0, 0.0), first, seeds, nodes));
        return;
    }
    for fault in Fault::ALL {
        let sizes: &[f64] = if fault.has_size() { &SIZES } else { &[0.0] };
        for size in sizes {
            let tally = tally(fault, *size, (0.0, 0.0), first, seeds, nodes);
            row(fault.name(), *size, &tally);
            all.healthy += tally.healthy;
            all.refused += tally.refused;
            all.warned += tally.warned;
        }
    }
    for size in [0.0, 10.0] {
        let fault = if size > 0.0 { Fault::SlowMemory } else { Fault::None };
        row(
            &format!("{}, 40 % of the nodes with a driver 7 % slower in GEMM", fault.name()),
            size,
            &tally(fault, size, (0.4, 7.0), first, seeds, nodes),
        );
    }
    let rate = f64::from(all.refused) / f64::from(all.healthy) * 100.0;
    println!(
        "\nhealthy nodes of all fleets but the last two: {}, FAIL {} ({rate:.4} %), WARN {}",
        all.healthy, all.refused, all.warned
    );
}

fn row(fault: &str, size: f64, t: &Tally) {
    println!(
        "| {fault} | {size} % | {} | {} | {} | {} | {} | {} | {} |",
        t.faulty, t.found, t.named, t.looked_at, t.healthy, t.refused, t.warned
    );
}

fn tally(fault: Fault, size_pct: f64, second_group: (f64, f64), first: u32, seeds: u32, nodes: u32) -> Tally {
    let mut t = Tally::default();
    for seed in first..first + seeds {
        let seed = u64::from(seed) * 1000 + fault as u64 * 100 + size_pct as u64;
        let simulation = Simulation { seed, nodes, gpus: 8, fault, size_pct, every: EVERY, second_group };
        count(&simulation, &judged(&simulation), &mut t);
    }
    t
}

fn judged(simulation: &Simulation) -> Judgement {
    let mut fleet = Fleet::default();
    let file = fleet.file("simulated");
    for n in 0..simulation.nodes {
        let (environment, records) = simulation.node(n);
        let _ = fleet.add_environment(&environment);
        for (line, record) in records.iter().enumerate() {
            fleet.add_record(record, Source { file, line: line as u32 + 2 });
        }
    }
    fleet.finish();
    let texts = [include_str!("../../cli/packs/h100.toml"), include_str!("../../cli/packs/generic.toml")];
    let sets = texts.iter().filter_map(|t| RuleSet::parse(t).ok()).collect();
    judge(&fleet, &RuleBook { sets, ..RuleBook::default() })
}

fn count(simulation: &Simulation, judgement: &Judgement, t: &mut Tally) {
    for (n, node) in (0..).zip(&judgement.nodes) {
        let (fail, warn) = (node.verdict == Verdict::Fail, node.verdict == Verdict::Warn);
        if simulation.fault_of(n) == Fault::None {
            t.healthy += 1;
            t.refused += u32::from(fail);
            if fail && std::env::var_os("WHY").is_some() {
                for f in judgement.findings_of(&node.node).iter().filter(|f| f.verdict == Verdict::Fail) {
                    println!("  {} {} {:?} {}", f.rule, f.reason, f.case, f.text);
                }
            }
            t.warned += u32::from(warn);
            continue;
        }
        let device = format!("cuda:{}", simulation.bad_gpu(n));
        let pci = format!("0000:{:02x}:00.0", 0x18 + 0x11 * simulation.bad_gpu(n));
        let mut fails = judgement.findings_of(&node.node).iter().filter(|f| f.verdict == Verdict::Fail);
        // A missing GPU is named by the address at which nothing is; a slow link slows all.
        let named = fails.any(|f| match simulation.fault {
            Fault::MissingGpu => f.text.contains(&pci),
            Fault::WeakLink => f.rule == "collectives-cohort",
            _ => f.device.as_deref() == Some(&device),
        });
        t.faulty += 1;
        t.found += u32::from(fail);
        t.named += u32::from(fail && named);
        t.looked_at += u32::from(warn);
    }
}
