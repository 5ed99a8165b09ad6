//! Judging whole fleets whose faults are known: what is found, what is left alone, and that the order of reading changes nothing.
//! docs/evidence/fleet.md has the same at length.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use ridgepoint_core::verdict::simulate::{Fault, Simulation};
use ridgepoint_core::verdict::{Fleet, Judgement, Reason, RuleBook, RuleSet, Source, Verdict, judge};

fn simulation(fault: Fault, size_pct: f64) -> Simulation {
    Simulation { seed: 77, nodes: 120, gpus: 8, fault, size_pct, every: 20, second_group: (0.0, 0.0) }
}

fn taken_in(simulation: &Simulation, nodes: impl Iterator<Item = u32>) -> Fleet {
    let mut fleet = Fleet::default();
    let file = fleet.file("simulated");
    for n in nodes {
        let (environment, records) = simulation.node(n);
        fleet.add_environment(&environment).unwrap();
        for (line, record) in records.iter().enumerate() {
            assert!(fleet.add_record(record, Source { file, line: line as u32 + 2 }));
        }
    }
    fleet
}

fn book(packs: &[&str]) -> RuleBook {
    RuleBook { sets: packs.iter().map(|t| RuleSet::parse(t).unwrap()).collect(), ..RuleBook::default() }
}

const H100: &str = include_str!("../../cli/packs/h100.toml");
const GENERIC: &str = include_str!("../../cli/packs/generic.toml");

fn judged(simulation: &Simulation, packs: &[&str]) -> Judgement {
    let mut fleet = taken_in(simulation, 0..simulation.nodes);
    fleet.finish();
    judge(&fleet, &book(packs))
}

#[test]
fn every_fault_of_ten_percent_is_found_and_every_healthy_node_is_left_alone() {
    for fault in Fault::ALL {
        let simulation = simulation(fault, 10.0);
        let judgement = judged(&simulation, &[H100, GENERIC]);
        for (n, node) in (0..).zip(&judgement.nodes) {
            let faulty = simulation.fault_of(n) != Fault::None;
            assert_eq!(
                node.verdict == Verdict::Fail,
                faulty,
                "{fault:?} {}: {:#?}",
                node.node,
                judgement.findings_of(&node.node)
            );
        }
        let first = &judgement.suspects[0];
        let best = &judgement.findings[first.findings[0] as usize];
        assert_eq!((first.rank, best.verdict), (1, Verdict::Fail));
        assert_eq!(best.node, first.node);
    }
}

#[test]
fn two_groups_are_told_and_are_no_outliers() {
    let two = Simulation { second_group: (0.4, 12.0), nodes: 400, ..simulation(Fault::None, 0.0) };
    // In this simulation the group is decided by the node's number modulo 1000.
    let two = Simulation { nodes: 1000, every: 0, gpus: 2, ..two };
    let judgement = judged(&two, &[GENERIC]);
    assert_eq!(judgement.counts().fail, 0);
    let told: Vec<_> = judgement.fleet.iter().filter(|f| f.reason == Reason::TwoCohorts).collect();
    assert!(told.iter().any(|f| f.text.contains("driver 575.57.08") || f.text.contains("driver 580.95.05")), "{told:#?}");
    assert_eq!(judgement.verdict, Verdict::Warn);
}

#[test]
fn the_order_of_reading_changes_nothing() {
    let simulation = simulation(Fault::SlowMemory, 10.0);
    let mut forward = taken_in(&simulation, 0..40);
    forward.finish();
    // By three readers, each backwards, merged.
    let mut parts = Fleet::default();
    for part in 0..3 {
        parts.merge(taken_in(&simulation, (0..40).rev().filter(|n| n % 3 == part)));
    }
    parts.finish();
    let book = book(&[H100, GENERIC]);
    let (a, b) = (judge(&forward, &book), judge(&parts, &book));
    assert_eq!(a.findings, b.findings);
    assert_eq!(a.suspects, b.suspects);
    assert_eq!(
        a.nodes.iter().map(|n| (&n.node, n.verdict, n.counts)).collect::<Vec<_>>(),
        b.nodes.iter().map(|n| (&n.node, n.verdict, n.counts)).collect::<Vec<_>>()
    );
}

#[test]
fn a_wrong_result_is_not_made_good_by_a_right_one_later() {
    let simulation = Simulation { nodes: 1, every: 1, ..simulation(Fault::WrongResults, 0.0) };
    let (environment, records) = simulation.node(0);
    let healthy = Simulation { fault: Fault::None, ..simulation }.node(0).1;
    let mut fleet = Fleet::default();
    let file = fleet.file("again");
    fleet.add_environment(&environment).unwrap();
    for (line, record) in records.into_iter().chain(healthy).enumerate() {
        let record = ridgepoint_core::Record { environment: environment.hash.clone(), ..record };
        fleet.add_record(&record, Source { file, line: line as u32 });
    }
    fleet.finish();
    let judgement = judge(&fleet, &book(&[GENERIC]));
    assert_eq!(judgement.verdict, Verdict::Fail);
    assert_eq!(judgement.suspects[0].fault, "wrong results");
}

#[test]
fn nothing_is_no_pass() {
    let empty = judge(&Fleet::default(), &book(&[GENERIC]));
    assert_eq!((empty.verdict, empty.nodes.len()), (Verdict::Skip, 0));
}
