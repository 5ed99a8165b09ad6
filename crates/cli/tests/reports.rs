//! What others make of our reports: a browser in which a reader filters, sorts and looks behind a figure, JUnit and Prometheus by
//! their own parsers, CSV by Python; and what a hostile name does in each of them: nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{chromium, drive, outcome, passes, python, ridgepoint, root, scratch, text};
use ridgepoint_core::Line;
use ridgepoint_core::verdict::simulate::{Fault, Simulation};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A host name that would be markup, a formula, a label's end and a new line where it is not escaped.
const HOSTILE: &str = "=<img src=x onerror=window.pwned=1>\"'</script><script>window.pwned=1</script>]]>|`{}\\\n";

/// Reports of a simulated fleet: node 6 computes wrong, node 3 has a hostile name.
fn reports(name: &str, nodes: u32) -> PathBuf {
    let folder = scratch(name);
    let simulation = Simulation {
        seed: 11,
        nodes,
        gpus: if nodes == 1 { 8 } else { 4 },
        fault: Fault::WrongResults,
        size_pct: 12.0,
        every: 12,
        second_group: (0.0, 0.0),
    };
    for n in 0..nodes {
        let (mut environment, records) = simulation.node(n);
        if n == 3 {
            environment.host = HOSTILE.into();
        }
        let lines = std::iter::once(Line::Environment(Box::new(environment)))
            .chain(records.into_iter().map(|r| Line::Record(Box::new(r))))
            .map(|line| serde_json::to_string(&line).unwrap() + "\n");
        std::fs::write(folder.join(format!("{n}.jsonl")), lines.collect::<String>()).unwrap();
    }
    let (code, out, err) = outcome(&ridgepoint(&["accept", text(&folder), "--report", text(&folder.join("reports"))]));
    assert_eq!(code, i32::from(nodes > 6), "{out}{err}");
    folder
}

#[test]
fn a_reader_filters_sorts_and_drills_down_in_the_fleet() {
    let Some(chromium) = chromium() else { return };
    let folder = reports("page", 12);
    let said = drive(
        chromium,
        &folder.join("reports/acceptance.html"),
        r#"
        const all = s => [...document.querySelectorAll(s)], one = s => document.querySelector(s);
        const nodes = () => all('table.map tr[data-node]').map(r => r.dataset.node);
        const type = (box, value) => { box.value = value; box.dispatchEvent(new Event('input')); };
        const pick = (list, value) => { list.value = value; list.dispatchEvent(new Event('change')); };
        const said = { title: one('h1').textContent, first: nodes() };
        said.suspect = one('#suspects tbody tr').textContent;
        const [search] = all('#map input'), [verdict, component, order] = all('#map select');
        type(search, 'sim-00005'); said.filtered = nodes(); said.count = one('#count').textContent; type(search, '');
        pick(verdict, 'FAIL'); said.failed = nodes(); pick(verdict, 'all verdicts');
        pick(order, 'by name'); said.named = nodes(); pick(order, 'outliers first');
        said.metrics = all('table.map th.metric').length;
        pick(component, 'gemm'); said.gemm = all('table.map th.metric').map(h => h.textContent); pick(component, 'all metrics');
        // Sorted by one metric: its worst node first.
        const column = 4, percents = () => all('table.map tr[data-node]').map(r => parseFloat(r.querySelectorAll('td.cell')[column].getAttribute('aria-label').split(', ').pop().replace('−', '-')));
        all('table.map th.metric button')[column].click();
        said.sorted = percents(); said.marked = all('table.map th.metric')[column].getAttribute('aria-sort');
        // Behind an outlined cell lies what was found, and a way to the node.
        one('td.cell.flag').click();
        said.evidence = one('table.map tr.detail').textContent;
        one('table.map tr.detail a').click(); await wait();
        said.node = one('h1').textContent; said.hash = location.hash;
        said.inventory = all('h2').map(h => h.textContent);
        const rows = () => all('#tests tbody tr.row').length;
        said.tests = rows(); type(one('#tests input'), 'wrong-result'); said.wrong = rows();
        one('#tests tbody tr.row').click(); said.detail = one('#tests tr.detail').textContent; type(one('#tests input'), '');
        all('#tests th button').find(b => b.textContent === 'measured').click();
        said.order = one('#tests th[aria-sort]').textContent;
        said.signatures = all('.signatures .field').length;
        one('.back').click(); await wait(); said.back = nodes().length;
        // The hostile name is text and nothing else.
        said.pwned = window.pwned ?? null; said.images = all('img').length; said.scripts = all('script').length;
        said.hostile = nodes().filter(n => n.includes('onerror'));
        location.hash = '#node/' + encodeURIComponent(said.hostile[0]); await wait();
        said.sheet = one('h1').textContent; said.pwned = said.pwned ?? window.pwned ?? null; said.images += all('img').length;
        return said;
        "#,
    );
    let bad = Simulation::name(6);
    let list = |key: &str| said[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(said["title"], "FAIL acceptance of 12 nodes");
    assert_eq!((list("first").len(), &list("first")[0]), (12, &bad), "outliers first");
    assert!(said["suspect"].as_str().unwrap().contains("wrong results"), "{said}");
    assert_eq!((list("filtered"), said["count"].as_str()), (vec![Simulation::name(5)], Some("1 of 12 nodes")));
    assert_eq!(list("failed"), [bad.as_str()]);
    let mut by_name = list("first");
    by_name.sort();
    assert_eq!(list("named"), by_name);
    assert!(said["metrics"].as_u64().unwrap() as usize > list("gemm").len());
    // `m4096n4096k4096/bf16 cublaslt`: no other component's metric is called so.
    let is_gemm = |m: &String| m.starts_with('m') && m[1..].starts_with(|c: char| c.is_ascii_digit());
    assert!(!list("gemm").is_empty() && list("gemm").iter().all(is_gemm), "{said}");
    let sorted: Vec<f64> = said["sorted"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert!(sorted.len() == 12 && sorted.is_sorted() && said["marked"] == "ascending", "{sorted:?}");
    for words in ["usual", "computed wrong in 2 cases", "6.jsonl:"] {
        assert!(said["evidence"].as_str().unwrap().contains(words), "{words}: {said}");
    }
    assert_eq!((said["node"].as_str(), said["hash"].as_str()), (Some("FAIL sim-00006"), Some("#node/sim-00006")));
    assert!(list("inventory").contains(&"inventory".to_owned()) && list("inventory").contains(&"signatures".to_owned()));
    assert!(said["tests"].as_u64() > said["wrong"].as_u64() && said["wrong"].as_u64().unwrap() >= 1, "{said}");
    assert!(said["detail"].as_str().unwrap().contains("wrong-result"), "{said}");
    assert!(said["order"].as_str().unwrap().starts_with("measured"));
    assert_eq!((said["signatures"].as_u64(), said["back"].as_u64()), (Some(8), Some(12)));
    // The data, the page's script and the driver's.
    assert_eq!((&said["pwned"], said["images"].as_u64(), said["scripts"].as_u64()), (&serde_json::Value::Null, Some(0), Some(3)));
    assert_eq!(list("hostile").len(), 1);
    assert!(said["sheet"].as_str().unwrap().contains("<img src=x onerror=window.pwned=1>"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_page_of_one_node_is_its_sheet() {
    let Some(chromium) = chromium() else { return };
    let folder = reports("sheet", 1);
    let said = drive(
        chromium,
        &folder.join("reports/acceptance.html"),
        r#"
        const all = s => [...document.querySelectorAll(s)];
        const rows = all('#tests tbody tr.row').map(r => [...r.cells].map(c => c.textContent));
        return { title: document.querySelector('h1').textContent, back: all('.back').length, text: document.querySelector('main').textContent, rows,
            heat: all('.heat').length, narrow: document.documentElement.scrollWidth <= innerWidth };
        "#,
    );
    assert_eq!((said["title"].as_str(), said["back"].as_u64()), (Some(&*format!("PASS {}", Simulation::name(0))), Some(0)));
    for words in ["0000:18:00.0", "command", "environment", "threshold from", "customer"] {
        assert!(said["text"].as_str().unwrap().contains(words), "{words}");
    }
    let rows = said["rows"].as_array().unwrap();
    // verdict, test, device, measured, expected, of peak, difference, case, threshold
    let full = rows.iter().filter(|r| [3, 4, 5, 8].iter().all(|i| !["–", ""].contains(&r[*i].as_str().unwrap())));
    assert!(full.count() > 5, "{rows:?}");
    // Eight alike say what is usual; the page itself is no wider than the window.
    assert!(said["heat"].as_u64().unwrap() > 20 && said["narrow"] == true);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_page_of_a_run_draws_its_roofline_with_no_error_and_no_network() {
    let Some(chromium) = chromium() else { return };
    let folder = scratch("roofline");
    let cases = ["gemm/m64n48k80/f32", "gemm/m128n64k64/bf16", "memory/latency/16KiB"];
    let run = ["--device", "cpu", "--quick", "--provider", "native", "--out", text(&folder)];
    assert_eq!(outcome(&ridgepoint(&[&["run"], &cases[..], &run].concat())).0, 0);
    let script = "return [...document.querySelectorAll('circle[data-case]')].map(c => c.dataset.case).sort();";
    assert_eq!(drive(chromium, &folder.join("report.html"), script), serde_json::json!([cases[1], cases[0]]));

    // The comparison of the run with itself: filtered, sorted, and with what lies behind a row.
    let page = folder.join("compare.html");
    let args = ["compare", text(&folder), text(&folder), "--format", "html", "-o", text(&page)];
    assert_eq!(outcome(&ridgepoint(&args)).0, 0);
    let said = drive(
        chromium,
        &page,
        r#"
        const rows = () => [...document.querySelectorAll('tr[data-case]')].map(r => r.dataset.case);
        const said = { all: rows() };
        const search = document.querySelector('input');
        search.value = 'BF16'; search.dispatchEvent(new Event('input')); said.filtered = rows();
        search.value = ''; search.dispatchEvent(new Event('input'));
        const head = [...document.querySelectorAll('th')].find(h => h.textContent === 'case');
        head.click(); said.up = rows(); head.click(); said.down = rows();
        document.querySelector('tr[data-case]').click(); said.detail = document.querySelector('tr.detail').textContent;
        return said;
        "#,
    );
    assert_eq!((said["all"].as_array().unwrap().len(), &said["filtered"]), (3, &serde_json::json!([cases[1]])));
    assert_eq!(said["up"], serde_json::json!([cases[1], cases[0], cases[2]]));
    assert_eq!(said["down"], serde_json::json!([cases[2], cases[0], cases[1]]));
    assert!(said["detail"].as_str().unwrap().contains("95 % from"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn junitparser_reads_every_suite() {
    let Some(python) = python("junitparser") else { return };
    let folder = reports("junit", 12);
    let script = r#"
import sys, junitparser
xml = junitparser.JUnitXml.fromfile(sys.argv[1])
suites = list(xml)
assert len(suites) == 12, [s.name for s in suites]
for s in suites:
    cases = list(s)
    bad = [c for c in cases if any(isinstance(r, junitparser.Failure) for r in c.result)]
    skipped = [c for c in cases if any(isinstance(r, junitparser.Skipped) for r in c.result)]
    assert (s.tests, s.failures, s.skipped) == (len(cases), len(bad), len(skipped)), s.name
    assert cases[0].name == 'verdict' and len(cases) > 10
    assert bool(bad) == (s.name == 'sim-00006'), (s.name, [c.name for c in bad])
    assert {p.name for p in s.properties()} >= {'started', 'command', 'cuda:0'}
assert xml.tests == sum(s.tests for s in suites) and xml.failures == sum(s.failures for s in suites) > 1
failure = next(s for s in suites if s.name == 'sim-00006')
assert any(r.type == 'wrong-result' for c in failure for r in c.result if isinstance(r, junitparser.Failure))
hostile = [s.name for s in suites if 'onerror' in s.name]
assert hostile == [sys.argv[2].replace('\n', '\ufffd')], hostile
"#;
    passes(&python, script, &[&folder.join("reports/acceptance.junit.xml"), Path::new(HOSTILE)]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn pandas_reads_the_csv_with_its_types() {
    let Some(python) = python("pandas") else { return };
    let folder = reports("csv", 12);
    let script = r#"
import sys, pandas
d = pandas.read_csv(sys.argv[1])
nodes = d[d.kind == 'node'].set_index('node')
assert len(nodes) == 12 and list(nodes.index[nodes.verdict == 'FAIL']) == ['sim-00006'], nodes.verdict
# A text that a spreadsheet would take for a formula begins with a quote mark; the rest is there as it was, but for the line's end.
assert "'" + sys.argv[2].replace('\n', '\ufffd') in nodes.index, list(nodes.index)
found = d[d.kind == 'finding']
for verdict in ['pass', 'warn', 'fail', 'skip', 'invalid']:
    counted = found[found.verdict == verdict.upper()].groupby('node').size().reindex(nodes.index, fill_value=0)
    assert (counted == nodes[verdict]).all(), verdict
figures = found[found.unit.isin(['GB/s', 'TFLOP/s']) & (found.verdict == 'PASS')]
assert len(figures) > 100 and (figures.measured >= figures.limit).all() and figures.measured.dtype == 'float64'
reads = figures[figures.case == 'memory/read/1GiB/f32']
assert ((reads.measured / 3350 - reads.of_roof).abs() < 0.01).all() and reads.threshold.notna().all()
"#;
    passes(&python, script, &[&folder.join("reports/acceptance.csv"), Path::new(HOSTILE)]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn prometheus_takes_our_metrics() {
    let folder = reports("metrics", 12);
    let metrics = folder.join("reports/acceptance.prom");
    let own = root().join("target/tools/promtool");
    let promtool = if own.exists() { own } else { "promtool".into() };
    match Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::from(std::fs::File::open(&metrics).unwrap())).output() {
        Err(e) => println!("SKIP: promtool: {e} (scripts/tools/promtool brings it)"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.trim().is_empty(), "{said}");
        }
    }
    let Some(python) = python("prometheus_client") else { return };
    let open = folder.join("open.txt");
    let args = ["accept", text(&folder), "--format", "openmetrics", "-o", text(&open)];
    assert_eq!(outcome(&ridgepoint(&args)).0, 1);
    let script = r#"
import sys
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
read = lambda path: open(path, encoding='utf-8').read()
samples = [s for f in plain(read(sys.argv[1])) for s in f.samples]
assert samples == [s for f in openmetrics(read(sys.argv[2])) for s in f.samples]
of = lambda name: [s for s in samples if s.name == name]
verdicts = {s.labels['node']: s.labels['verdict'] for s in of('ridgepoint_node_verdict')}
assert len(verdicts) == 12 and [n for n, v in verdicts.items() if v == 'FAIL'] == ['sim-00006'], verdicts
assert sys.argv[3].replace('\n', '\ufffd') in verdicts, list(verdicts)
assert {s.labels['verdict']: s.value for s in of('ridgepoint_verdict')}['FAIL'] == 1
reads = [s.value for s in of('ridgepoint_device_bandwidth_bytes_per_second') if s.labels['case'] == 'memory/read/1GiB/f32']
assert len(reads) == 48 and all(2e12 < r < 4e12 for r in reads), reads[:4]
"#;
    passes(&python, script, &[&metrics, &open, Path::new(HOSTILE)]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn markdown_is_for_people_and_takes_no_orders() {
    let folder = reports("markdown", 7);
    let text = std::fs::read_to_string(folder.join("reports/acceptance.md")).unwrap();
    for words in ["# Acceptance: FAIL", "## Look at first", "## FAIL sim-00006", "wrong results", "| signature |", "≥ "] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let open = text.match_indices('<').filter(|(at, _)| !text[..*at].ends_with('\\')).count();
    assert!(text.contains("\\<img src=x") && open == 0, "markup comes through");
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("| ")).collect();
    assert!(lines.iter().all(|l| l.ends_with('|')) && lines.len() > 50);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_node_that_is_measured_leaves_its_sheet_beside_its_records() {
    let folder = scratch("beside");
    let out = folder.join("out");
    let mut accept = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    accept.env("RIDGEPOINT_FAKE", "healthy").args([
        "accept",
        "--device",
        "fake",
        "--only",
        "memory/latency/16KiB",
        "--soak",
        "0s",
    ]);
    let (_, shown, err) = outcome(&accept.args(["--out", text(&out)]).output().unwrap());
    assert!(err.contains("sheet to sign:"), "{shown}{err}");
    for (file, words) in [
        ("acceptance.html", "memory/latency/16KiB"),
        ("acceptance.junit.xml", "<testsuite name="),
        ("acceptance.prom", "ridgepoint_verdict{"),
        ("acceptance.csv", "kind,node"),
        ("acceptance.md", "# Acceptance"),
        ("acceptance.json", "\"verdict\""),
        ("acceptance.txt", "1 node"),
        ("raw.jsonl", "\"kind\":\"record\""),
    ] {
        let text = std::fs::read_to_string(out.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains(words), "{file}: {text}");
    }
    // And nothing half written.
    assert!(std::fs::read_dir(&out).unwrap().all(|f| !f.unwrap().file_name().to_str().unwrap().starts_with('.')));
    std::fs::remove_dir_all(folder).unwrap();
}
