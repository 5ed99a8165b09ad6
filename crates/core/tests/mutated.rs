//! Valid files with a few bytes changed, fed to every parser: what a fuzzer does at length (fuzz/), on every run of the tests.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

#[path = "../../../fuzz/parsers.rs"]
mod parsers;

use proptest::prelude::*;
use ridgepoint_core::verdict::simulate::{Fault, Simulation};
use ridgepoint_core::verdict::{Fleet, Source, baseline};
use ridgepoint_core::{Line, model, specs};

/// What is put in where it is not expected.
const HOSTILE: &[&str] = &[
    "nan",
    "inf",
    "-1",
    "1e999",
    "99999999999999999999",
    "\"",
    "'''",
    "[[[[[[[[",
    "{{{{",
    "\u{1b}[2J",
    "\r\nPASS",
    "\0",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "=",
    "#",
    "\u{202e}",
    "é",
    "[[rule]]\n",
    "min = 1\n",
    "case = \"*\"\n",
    ",",
    "}",
    "null",
    "0",
];

/// Changes: what, where, and with what.
type Change = (u8, u32, u8);

fn changed(seed: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (what, place, with) in changes {
        let at = *place as usize % (bytes.len() + 1);
        let until = (at + 1 + usize::from(*with)).min(bytes.len());
        match what % 5 {
            0 if at < bytes.len() => bytes[at] = *with,
            1 => drop(bytes.drain(at..until)),
            2 => drop(bytes.splice(at..at, bytes[at..until].to_vec())),
            3 => drop(bytes.splice(at..until.min(at + 4), HOSTILE[usize::from(*with) % HOSTILE.len()].bytes())),
            _ => drop(bytes.splice(at..at, HOSTILE[usize::from(*with) % HOSTILE.len()].bytes())),
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((any::<u8>(), any::<u32>(), any::<u8>()), 1..6)
}

/// The records of a small node, an environment first.
fn lines() -> String {
    let node =
        Simulation { seed: 9, nodes: 1, gpus: 1, fault: Fault::Throttled, size_pct: 9.0, every: 1, second_group: (0.0, 0.0) };
    let (environment, records) = node.node(0);
    let lines = std::iter::once(Line::Environment(Box::new(environment)))
        .chain(records.into_iter().step_by(7).map(|r| Line::Record(Box::new(r))));
    lines.map(|l| serde_json::to_string(&l).unwrap() + "\n").collect()
}

fn a_baseline() -> Vec<u8> {
    let mut fleet = Fleet::default();
    let file = fleet.file("f");
    for (n, line) in (1..).zip(lines().lines()) {
        match serde_json::from_str(line).unwrap() {
            Line::Environment(e) => fleet.add_environment(&e).unwrap(),
            Line::Record(r) => assert!(fleet.add_record(&r, Source { file, line: n })),
        }
    }
    fleet.finish();
    serde_json::to_vec(&baseline(&fleet)).unwrap()
}

const PACKS: [&str; 3] = [
    include_str!("../../cli/packs/h100.toml"),
    include_str!("../../cli/packs/generic.toml"),
    "name='x'\n[validity]\nmax_ci_pct=3\n[inventory]\ngpus=1\nmodel='H100-SXM'\nmemory_gb=80\necc=true\nlinks=18\npcie='5.0x16'\n\
     nics=8\nnic_gbps=400\ndriver='>=570'\nfirmware={bios='1.*'}\nlibraries={NCCL='>=2.20'}\nsource='s'\n",
];
const KERNEL: &str = include_str!("../../../examples/fused_add_relu/spec.toml");

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn rule_files(pack in 0..PACKS.len(), changes in changes()) {
        parsers::rules(&changed(PACKS[pack].as_bytes(), &changes));
    }

    #[test]
    fn record_files(changes in changes()) {
        parsers::records(&changed(lines().as_bytes(), &changes));
    }

    #[test]
    fn baselines(changes in changes()) {
        parsers::a_baseline(&changed(&a_baseline(), &changes));
    }

    #[test]
    fn case_ids(changes in changes()) {
        parsers::case_id(&changed(b"gemm/m4096n4096k4096/bf16/tn", &changes));
    }

    #[test]
    fn datasheets(changes in changes()) {
        parsers::specs(&changed(&specs::SPECS_TOML.as_bytes()[..4000], &changes));
        parsers::specs(&changed(specs::SPECS_TOML.as_bytes(), &changes));
    }

    #[test]
    fn kernels_of_users(changes in changes()) {
        parsers::kernel(&changed(KERNEL.as_bytes(), &changes));
    }

    #[test]
    fn models(pack in 0..model::SHIPPED.len(), changes in changes()) {
        parsers::model(&changed(model::SHIPPED[pack].1.as_bytes(), &changes));
    }

    #[test]
    fn arrays_of_numpy(changes in changes()) {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        let whole = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &[0; 24]].concat();
        parsers::npy(&changed(&whole, &changes));
    }
}

/// Files made to exhaust rather than to confuse: deep, wide, long, and repeated.
#[test]
fn what_is_deep_or_huge_ends_in_a_sentence() {
    for deep in [100, 10_000, 300_000] {
        for text in [
            format!("name = {}", "[".repeat(deep)),
            format!("name = {}", "{a=".repeat(deep)),
            "a.".repeat(deep) + "b = 1",
            format!("[{}b]", "a.".repeat(deep)),
            format!("{{\"kind\":\"record\",\"x\":{}", "[".repeat(deep)),
            format!("{{\"text_config\":{}", "{\"text_config\":".repeat(deep)),
            format!("{{\"schema\":1,\"made_from\":\"\",\"entries\":{}", "[".repeat(deep)),
        ] {
            for parse in [
                parsers::rules,
                parsers::records,
                parsers::a_baseline,
                parsers::case_id,
                parsers::specs,
                parsers::kernel,
                parsers::model,
            ] {
                parse(text.as_bytes());
            }
        }
    }
    let many = "[[rule]]\nid = \"a\"\ncase = \"*\"\nmin = 1\n".repeat(20_000);
    parsers::rules(format!("name = 'n'\n{many}").as_bytes());
    parsers::rules(format!("name = 'n'\n[[rule]]\nid='a'\ncase='{}'\nmax_cv=1\nsource='s'\n", "*a".repeat(200_000)).as_bytes());
    // Patterns that make a naive matcher take for ever.
    let slow = "*a".repeat(90) + "*b";
    parsers::rules(format!("name = 'n'\n[[rule]]\nid='a'\ncase='{slow}'\nmax_cv=1\nsource='s'\n").as_bytes());
}
