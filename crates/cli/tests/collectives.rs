//! `ridgepoint collectives` as a user of nccl-tests meets it: its flags, its columns read by a parser written for that tool, a
//! corrupted reduction counted, and a sweep over algorithms with a child for each, on stub GPUs.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-collectives-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn collectives(name: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let folder = scratch(name);
    let output = kept(&folder, args, variables);
    let _ = std::fs::remove_dir_all(folder);
    output
}

/// The same, and what it wrote stays.
fn kept(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.arg("collectives").args(args).args(["--out", folder.to_str().unwrap()]);
    command.envs(variables.iter().copied()).current_dir(std::env::temp_dir()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One row as scripts read it: whatever is no comment, cut at blanks.
struct Line {
    size: u64,
    count: u64,
    kind: [String; 3],
    /// Time, algbw and busbw, out of place and in place.
    numbers: [[f64; 3]; 2],
    wrong: [Option<u64>; 2],
}

/// A parser for nccl-tests' output: the columns stand by the header's names, twice; the footer tells errors and the average.
fn parse(text: &str) -> (Vec<Line>, u64, f64) {
    let lines: Vec<&str> = text.lines().collect();
    let header = lines.iter().position(|l| l.contains("out-of-place") && l.contains("in-place")).unwrap();
    let names: Vec<&str> = lines[header + 1].trim_start_matches('#').split_whitespace().collect();
    let twice = ["time", "algbw", "busbw", "#wrong"];
    assert_eq!(names, [&["size", "count", "type", "redop", "root"][..], &twice, &twice].concat());
    let mut rows = Vec::new();
    let data = |l: &&&str| !l.starts_with('#') && !l.trim().is_empty();
    for line in lines[header + 3..].iter().take_while(|l| !l.contains("Out of bounds")).filter(data) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.len(), names.len(), "{line}");
        let number = |i: usize| words[i].parse::<f64>().unwrap_or_else(|_| panic!("{} in {line}", words[i]));
        let wrong = |i: usize| words[i].parse::<f64>().ok().map(|n| n as u64);
        rows.push(Line {
            size: words[0].parse().unwrap(),
            count: words[1].parse().unwrap(),
            kind: [2, 3, 4].map(|i| words[i].to_owned()),
            numbers: [[5, 6, 7].map(number), [9, 10, 11].map(number)],
            wrong: [wrong(8), wrong(12)],
        });
    }
    let after = |sign: &str| lines.iter().find_map(|l| l.strip_prefix(sign)).unwrap().trim().to_owned();
    let bounds = after("# Out of bounds values :");
    let (errors, verdict) = bounds.split_once(' ').unwrap();
    assert_eq!(verdict, if errors == "0" { "OK" } else { "FAILED" });
    (rows, errors.parse().unwrap(), after("# Avg bus bandwidth    :").parse().unwrap())
}

#[test]
fn a_parser_for_nccl_tests_reads_ours() {
    let args = ["all_reduce", "-b", "8K", "-e", "128K", "-f", "4", "-g", "2", "-n", "20", "-w", "5", "--device", "cpu"];
    let output = collectives("columns", &[&args[..], &["--format", "nccl-tests"]].concat(), &[]);
    let text = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (rows, errors, average) = parse(&text);
    assert_eq!(rows.iter().map(|r| (r.size, r.count)).collect::<Vec<_>>(), [(8192, 2048), (32768, 8192), (131_072, 32768)]);
    let mut sum = 0.0;
    for row in &rows {
        assert_eq!((row.kind.each_ref().map(String::as_str), row.wrong), (["float", "sum", "-1"], [Some(0), Some(0)]));
        for [time, algbw, busbw] in row.numbers {
            // Two ranks: the factor is 1. Both are rounded to two digits, and a short time's second digit is much of it.
            assert!((algbw - row.size as f64 / time / 1e3).abs() <= 0.006 + algbw * 0.006 / time && busbw == algbw, "{text}");
            sum += busbw;
        }
    }
    assert!(errors == 0 && (average - sum / 6.0).abs() <= 0.006, "{average} for {}", sum / 6.0);
    // The very lines of nccl-tests 2.19.6.
    for line in [
        "# nThread 1 nGpus 2 minBytes 8192 maxBytes 131072 step: 4(factor) warmup iters: 5 iters: 20 agg iters: 1 validation: 1 graph: 0 unalign: 0",
        "# Collective test starting: all_reduce_perf",
        "# Using devices",
        "#                                                              out-of-place                       in-place          ",
        "#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong ",
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)         ",
        "# Out of bounds values : 0 OK",
        "# Collective test concluded: all_reduce_perf",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let row = text.lines().find(|l| l.trim_start().starts_with("8192")).unwrap();
    assert_eq!(&row[..52], "        8192          2048     float     sum      -1", "{row}");
    assert_eq!(row.len(), 52 + 2 * 33, "{row}");
}

#[test]
fn each_operation_has_a_block_and_its_own_count_and_root() {
    // What is cut is cut into parts of 16 bytes.
    let args = ["all", "-b", "12010", "-g", "3", "-n", "25", "-w", "0", "-r", "2", "-d", "int32", "--format", "nccl-tests"];
    let output = collectives("all", &[&args[..], &["--device", "fake"]].concat(), &[("RIDGEPOINT_FAKE", "ranks=3,noise=0")]);
    let text = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let blocks: Vec<&str> = text.split("# nThread").skip(1).collect();
    assert_eq!(blocks.len(), 10, "{text}");
    assert!(
        blocks.iter().all(|b| b.contains("minBytes 12010 maxBytes 12010") && b.contains("warmup iters: 0 iters: 25 agg")),
        "{text}"
    );
    let kinds: Vec<(u64, [String; 3], [Option<u64>; 2])> =
        blocks.iter().map(|b| parse(b).0.remove(0)).map(|l| (l.count, l.kind, l.wrong)).collect();
    let expected = |count, redop: &str, root: &str, both| (count, ["int32", redop, root].map(str::to_owned), [Some(0), both]);
    assert_eq!(kinds[0], expected(3002, "sum", "-1", Some(0)));
    assert_eq!(kinds[1], expected(1000, "none", "-1", Some(0)));
    assert_eq!(kinds[5], expected(3002, "sum", "2", Some(0)));
    assert_eq!(kinds[9], expected(3002, "sum", "-1", None));
}

#[test]
fn a_line_of_an_nccl_tests_script_runs_and_all_of_a_flag_is_one_table() {
    let usual = "-c 1 -t 1 -z 0 -a 3 -m 1 -N 1 -G 0 -C 0 -p 1 -y 0 -u 0 -b 24K -g 2 -n 2 -w 1 --device fake --format nccl-tests";
    let usual: Vec<&str> = usual.split(' ').collect();
    let run = |name, words: &[&str]| {
        let output = collectives(name, &[words, &usual].concat(), &[("RIDGEPOINT_FAKE", "ranks=2,noise=0")]);
        let printed = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{printed}{}", text(&output.stderr));
        assert_eq!(printed.matches("# nThread").count(), 1, "{printed}");
        assert!(printed.contains("validation: 1 "), "{printed}");
        parse(&printed).0.into_iter().map(|line| line.kind).collect::<Vec<_>>()
    };
    let kinds = run("script", &["all_reduce", "-d", "all", "-o", "all"]);
    let dtypes = ["int8", "int32", "half", "float", "double", "bfloat16", "f8e4m3", "f8e5m2"];
    let expected = dtypes.iter().flat_map(|d| ["sum", "prod", "min", "max", "avg"].map(|o| [*d, o, "-1"].map(str::to_owned)));
    assert_eq!(kinds, expected.collect::<Vec<_>>());
    let kinds = run("roots", &["broadcast", "-r", "all"]);
    assert_eq!(kinds, ["0", "1"].map(|root| ["float", "none", root].map(str::to_owned)));
}

#[test]
fn a_table_tells_the_time_of_what_is_small_and_of_what_moves_nothing() {
    let args = ["all_reduce", "-b", "8", "-e", "1M", "-f", "131072", "-g", "2", "-n", "8", "-w", "1", "--device", "fake"];
    let table = text(&collectives("latency", &args, &[("RIDGEPOINT_FAKE", "ranks=2,noise=0")]).stdout);
    let row =
        |start: &str| table.lines().find(|l| l.trim_start().starts_with(start)).unwrap_or_else(|| panic!("{start}\n{table}"));
    assert!(row("all_reduce/r2/8B/f32 ").contains(" µs") && !row("all_reduce/r2/1MiB/f32 ").contains("µs"), "{table}");
    let args = ["all_reduce", "-b", "8", "-g", "1", "-n", "8", "-w", "1", "--device", "fake"];
    let table = text(&collectives("one-rank", &args, &[("RIDGEPOINT_FAKE", "ranks=2,noise=0")]).stdout);
    let row = table.lines().find(|l| l.contains("/inplace")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("nothing to move: one rank, in place"), "{table}");
}

#[test]
fn a_corrupted_reduction_is_found_and_counted() {
    let args = ["all_reduce", "-b", "4K", "-g", "2", "-n", "5", "-w", "1", "--device", "fake", "--format", "nccl-tests"];
    let folder = scratch("corrupt");
    let output = kept(&folder, &args, &[("RIDGEPOINT_FAKE", "ranks=2,corrupt")]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    let (rows, errors, average) = parse(&printed);
    assert_eq!((rows[0].wrong, rows[0].numbers, errors, average), ([Some(1), Some(1)], [[0.0; 3]; 2], 2, 0.0));
    // The footer counts columns with something wrong in them, and not elements.
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    let again = |raw: String| {
        std::fs::write(folder.join("raw.jsonl"), raw).unwrap();
        let mut report = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
        text(&report.args(["report", folder.to_str().unwrap(), "--format", "nccl-tests"]).output().unwrap().stdout)
    };
    let (rows, errors, _) =
        parse(&again(raw.replace("\"wrong\":1,", "\"wrong\":1000000,").replace("\"wrong\":1}", "\"wrong\":1000000}")));
    assert_eq!((rows[0].wrong, errors), ([Some(1_000_000); 2], 2));
    // An id may claim more ranks than there can be, or more than anyone reads.
    assert_eq!(again(raw.replace("/r2/", "/r99999999999/")), "# no collective was measured\n");
    let many = again(raw.replace("/r2/", "/r65536/"));
    assert!(many.contains("nGpus 65536") && many.contains("\n...\n") && many.lines().count() < 300, "{many}");
    let _ = std::fs::remove_dir_all(folder);
}

/// The ranks on one half of the cores and a product on the other: both are verified, and what is hidden stands beside the time.
#[test]
fn an_overlap_times_each_alone_and_both() {
    let folder = scratch("overlap");
    let run = |threads: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
        let _ = std::fs::remove_dir_all(&folder);
        command.args([
            "run",
            "collectives/overlap/all_reduce/r2/256KiB/f32/m64n64k64",
            "--device",
            "cpu",
            "--quick",
            "--format",
            "csv",
        ]);
        command.args(["--out", folder.to_str().unwrap()]).env("RIDGEPOINT_CPU_THREADS", threads).output().unwrap()
    };
    let output = run("1");
    assert!(
        text(&output.stdout).contains(",skipped,") && text(&output.stdout).contains("there is one in all"),
        "{}",
        text(&output.stdout)
    );
    if std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) {
        let output = run("2");
        let csv = text(&output.stdout);
        assert!(csv.contains(",measured,") && csv.contains(" hidden"), "{csv}{}", text(&output.stderr));
        let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
        for key in ["\"collective alone\":\"", "\"product alone\":\"", "\"hidden\":\"", "ranks on cores ", " on cpu:0\""] {
            assert!(raw.contains(key), "{key} {raw}");
        }
        assert!(raw.contains("the product: all written, and 4 rows against f64"), "{raw}");
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn mistakes_are_sentences() {
    let fake = [("RIDGEPOINT_FAKE", "ranks=2")];
    for (args, words) in [
        (&["sing"][..], "no collective is named 'sing'; known: all_reduce"),
        (&["-b", "8X"], "'8X' is no size; one looks like 8, 32K, 128M or 4G"),
        (&["-d", "tf32"], "'tf32' is no dtype of a collective; known: i8 (int8)"),
        (&["-o", "xor"], "'xor' is no reduction; known: sum, prod, min, max, avg, all"),
        (&["-r", "x"], "'x' is no root: a rank is, or all"),
        // Flags of nccl-tests that ask for what is not done here.
        (&["-c", "0"], "every result is checked here"),
        (&["--nthreads", "8"], "as many with -g, or started by mpirun, srun or torchrun"),
        (&["-a", "1"], "a time is the slowest rank's here, which is -a 3"),
        (&["-G", "100"], "one by one here, which is -G 0"),
        (&["-J", "out.json"], "raw.jsonl under --out, or printed by --format json"),
        (&["-T", "60"], "-T (--timeout) is of a --sweep; any other run ends when no rank gets on"),
        (&["-g", "0"], "at least one rank"),
        (&["broadcast", "-g", "2", "-r", "2"], "there is no rank 2 of 2 to be the root"),
        (
            &["all_gather", "-b", "4", "-g", "2"],
            "no size from 4B to 4B has an element of f32, and 16 bytes for each of 2 ranks where it is cut",
        ),
        (&["-b", "1K", "-e", "1G", "-i", "1K"], "more than 1000 sizes"),
        (&["-b", "1K", "-e", "1G", "-i", "0"], "steps of no bytes"),
        (&["-b", "8K", "-e", "4K"], "sizes from 8KiB (-b) to 4KiB (-e): the largest is below the smallest"),
        (&["--sweep"], "--sweep is over NCCL's and RCCL's algorithms; fake:0 has its ranks by fake"),
        (&["--format", "papyrus"], "known: table"),
    ] {
        let output = collectives("mistakes", &[&["--device", "fake"], args].concat(), &fake);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(words) && !error.contains("panicked"), "{args:?}: {error}");
    }
}

#[test]
fn one_process_tells_how_its_gpus_are_connected_and_leaves_the_log_to_whoever_wants_it() {
    let Some(machine) = common::stub_gpus("ways", &["-DSWEPT"]) else { return };
    let (path, theirs) = (machine.to_str().unwrap(), machine.join("own.log"));
    let words = "all_reduce -b 4K -g 2 -n 1 -w 0 --out-of-place --device cuda:0 --format csv";
    let args: Vec<&str> = words.split(' ').collect();
    let run = |variables: &[(&str, &str)]| {
        let folder = scratch("one-process");
        let output = kept(&folder, &args, &[&[("RIDGEPOINT_CUDA_PATH", path)], variables].concat());
        let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
        let _ = std::fs::remove_dir_all(folder);
        (raw, text(&output.stdout) + &text(&output.stderr))
    };
    let told = |raw: &str| raw.contains("\"transport\":\"P2P/CUMEM\"") && raw.contains("\"network\":\"IB\"");
    // The record has the environment as it was found.
    let (raw, printed) = run(&[]);
    assert!(told(&raw) && !raw.contains("NCCL_DEBUG") && !printed.contains("NCCL INFO"), "{raw}{printed}");
    // As images set it: nothing is hidden by that, and warnings come as before.
    let refused = [("NCCL_DEBUG", "WARN"), ("NCCL_ALGO", "CollnetDirect"), ("NCCL_PROTO", "LL")];
    let (raw, printed) = run(&refused);
    assert!(told(&raw) && raw.contains("\"env NCCL_DEBUG\":\"WARN\"") && !raw.contains("NCCL_DEBUG_FILE"), "{raw}");
    assert!(printed.contains("NCCL WARN Error : no algorithm/protocol available") && !printed.contains("NCCL INFO"), "{printed}");
    // Whoever wants all of it has it where they want it, and it is read there; with no file it is theirs alone.
    let (raw, _) = run(&[("NCCL_DEBUG", "INFO"), ("NCCL_DEBUG_FILE", theirs.to_str().unwrap())]);
    assert!(told(&raw) && theirs.exists() && raw.contains("as the environment has it: NCCL_DEBUG_FILE="), "{raw}");
    let (raw, _) = run(&[("NCCL_DEBUG", "INFO")]);
    assert!(!told(&raw) && raw.contains("as the environment has it: NCCL_DEBUG=INFO without NCCL_DEBUG_FILE, not read"), "{raw}");
    let _ = std::fs::remove_dir_all(machine);
}

#[test]
fn a_sweep_runs_each_combination_in_a_child_and_ends_one_that_hangs() {
    let Some(machine) = common::stub_gpus("swept", &["-DSWEPT"]) else { return };
    let path = machine.to_str().unwrap();
    // Eight ranks, and a size eight times the other: what the library tells of a part of one is what it tells of the other's whole.
    let words = "all_reduce all_gather alltoall -b 4K -e 32K -f 8 -g 8 -n 3 -w 1 --device cuda:0 --sweep --timeout 16 --format csv --out-of-place";
    let args: Vec<&str> = words.split(' ').collect();
    let variables = [("RIDGEPOINT_CUDA_PATH", path), ("RIDGEPOINT_PATIENCE", "4"), ("RP_STUB_HANG", "5:NVLSTree:LL")];
    let swept = scratch("sweep");
    let output = kept(&swept, &args, &variables);
    let csv = text(&output.stdout);
    let case = |provider: &str, op: &str, size: &str| {
        let found = csv.lines().find(|l| l.contains(&format!("/{op}/r8/{size}/")) && l.contains(&format!(",{provider},")));
        found.unwrap_or_else(|| panic!("{provider} {op} {size}\n{csv}{}", text(&output.stderr)))
    };
    let of = |provider: &str| case(provider, "all_reduce", "4KiB");
    // What ran is told by operation and size. The stub has no CollNet, as it says or does not say, fails where NVLS meets Simple, and
    // dies where Tree meets LL.
    for (provider, op, size, outcome, words) in [
        ("nccl", "all_reduce", "4KiB", "measured", "Tree LL"),
        ("nccl", "all_reduce", "32KiB", "measured", "Ring Simple"),
        ("nccl", "all_gather", "4KiB", "measured", "Ring LL"),
        ("nccl", "all_gather", "32KiB", "measured", "PAT Simple"),
        ("nccl", "alltoall", "4KiB", "measured", "no algorithm to choose"),
        (
            "nccl-ring-ll128",
            "alltoall",
            "32KiB",
            "skipped",
            "nccl has no algorithm to choose for alltoall: it is sends and receives",
        ),
        ("nccl-ring-ll128", "all_reduce", "4KiB", "measured", "Ring LL128"),
        ("nccl-collnetdirect-ll", "all_reduce", "4KiB", "skipped", "does not do this combination here"),
        ("nccl-collnetdirect-ll", "all_gather", "4KiB", "measured", "CollnetDirect LL"),
        ("nccl-collnetchain-ll128", "all_reduce", "4KiB", "measured", "CollnetChain LL128"),
        (
            "nccl-collnetchain-ll128",
            "all_gather",
            "4KiB",
            "skipped",
            "nccl ran Ring LL128 where CollnetChain LL128 was asked for",
        ),
        ("nccl-collnetchain-ll128", "all_gather", "32KiB", "measured", "CollnetChain LL128"),
        ("nccl-nvls-simple", "all_reduce", "4KiB", "failed", "(3)"),
        ("nccl-tree-ll", "all_reduce", "4KiB", "failed", "its process ended by signal: 6"),
    ] {
        let line = case(provider, op, size);
        assert!(line.contains(&format!(",{outcome},")) && line.contains(words), "{provider} {op} {size}: {line}");
    }
    // What the library wrote of its ways is in the records of those that came to an end.
    let raw = std::fs::read_to_string(swept.join("raw.jsonl")).unwrap();
    assert!(raw.contains("\"transport\":\"P2P/CUMEM\"") && raw.contains("\"network\":\"IB\""), "{raw}");
    let _ = std::fs::remove_dir_all(swept);
    // A rank that hangs is named by its process; a process that is stopped can name no one, and is ended.
    let hung = of("nccl-nvlstree-ll");
    assert!(hung.contains(",failed,") && hung.contains("that did not: 5 (device 5)") && hung.contains("4 (device 4)"), "{csv}");
    let stopped = of("nccl-nvlstree-ll128");
    assert!(stopped.contains(",failed,") && stopped.contains("no end after 16 s; its process was ended"), "{csv}");
    assert_eq!((csv.lines().count(), output.status.code()), (1 + 6 * 19, Some(1)), "{csv}");
    let _ = std::fs::remove_dir_all(machine);
}
