//! Ranks as real processes: right results, and what happens when one of them, or their parent, is killed or stopped. The program
//! becomes a rank when it is told to, which a test of the usual kind cannot; so it has a `main`, and runs its tests by itself.
#![cfg_attr(
    target_os = "linux",
    expect(
        clippy::unwrap_used,
        clippy::print_stdout,
        unsafe_code,
        reason = "a test program: it reports, it fails, and it sends signals"
    )
)]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    if std::env::var_os(linux::DEAF).is_none() && ridgepoint_device::cpu::rank_main(None) {
        return;
    }
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use ridgepoint_core::{Bytes, Dtype};
    use ridgepoint_device::cpu::{affinity, collectives::SharedMemory};
    use ridgepoint_device::{CollectiveOp, CollectiveProblem, Collectives};
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    /// A rank that gets nowhere for so long has failed.
    const PATIENCE: Duration = Duration::from_secs(8);
    /// Said by this program to itself: start ranks, print their process ids, run on until killed.
    const PARENT: &str = "__parent";
    /// Set for a program that does not know that it may be started as a rank.
    pub(super) const DEAF: &str = "RIDGEPOINT_TEST_DEAF";

    const TESTS: &[(&str, fn())] = &[
        ("every_op_and_dtype_is_right_between_processes", every_op_and_dtype_is_right_between_processes),
        ("a_killed_rank_is_named_and_nothing_stays", a_killed_rank_is_named_and_nothing_stays),
        ("a_stopped_rank_is_named_and_nothing_stays", a_stopped_rank_is_named_and_nothing_stays),
        ("ranks_die_with_their_parent", ranks_die_with_their_parent),
        ("a_rank_holds_no_other_ranks_segment", a_rank_holds_no_other_ranks_segment),
        ("a_program_that_does_not_become_a_rank_is_an_error", a_program_that_does_not_become_a_rank_is_an_error),
        ("a_rank_started_by_hand_says_why_not", a_rank_started_by_hand_says_why_not),
    ];

    pub(super) fn main() {
        let args: Vec<String> = std::env::args().skip(1).collect();
        match args.first().map(String::as_str) {
            Some(PARENT) => return be_a_parent(),
            // Only a deaf program comes here with this argument.
            Some("__rank") => return,
            _ => {}
        }
        let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
        let chosen = TESTS.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())));
        let mut failed = 0;
        for (name, test) in chosen {
            let outcome = std::panic::catch_unwind(test);
            println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
            failed += usize::from(outcome.is_err());
        }
        println!("\ntest result: {}. {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
        std::process::exit(i32::from(failed > 0));
    }

    fn engine() -> SharedMemory {
        SharedMemory::new(&affinity::cores(), Bytes::mib(8)).with_patience(PATIENCE)
    }

    fn problem(op: CollectiveOp, ranks: usize, bytes: u64, dtype: Dtype) -> CollectiveProblem {
        CollectiveProblem { seed: 9, ..CollectiveProblem::new(op, ranks, Bytes(bytes), dtype) }
    }

    /// Process ids of the ranks of process `parent`, by rank.
    fn ranks_of(parent: u32) -> Vec<i32> {
        let mut found: Vec<(usize, i32)> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter_map(|pid| {
                let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let arguments: Vec<&str> = arguments.split(|b| *b == 0).filter_map(|a| std::str::from_utf8(a).ok()).collect();
                (arguments.get(1) == Some(&"__rank") && arguments.get(5)?.parse() == Ok(parent))
                    .then(|| Some((arguments.get(3)?.parse().ok()?, pid)))?
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, pid)| pid).collect()
    }

    /// Children of this process, zombies too.
    fn children() -> Vec<String> {
        let own = format!("PPid:\t{}\n", std::process::id());
        let entries = std::fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok()).filter(|s| s.contains(&own)).collect()
    }

    fn signal(pid: i32, signal: i32) {
        // SAFETY: sends a signal to a process that this test started; takes no pointer.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn every_op_and_dtype_is_right_between_processes() {
        for op in CollectiveOp::ALL {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                for (ranks, bytes) in [(1, 4000), (2, 12_000), (3, 12_000), (3, 1_800_000)] {
                    let p = problem(op, ranks, bytes, dtype);
                    let mut communicator = engine().communicator(&p).unwrap();
                    communicator.poison().unwrap();
                    communicator.run(3).unwrap();
                    for rank in 0..ranks {
                        check(&p, rank, &communicator.output(rank).unwrap());
                    }
                }
            }
        }
        assert_eq!(children(), Vec::<String>::new());
    }

    /// Counts here divide by every rank count, so that parts are equal.
    fn check(p: &CollectiveProblem, rank: usize, out: &[u8]) {
        let size = p.size();
        let (n, part) = (p.ranks, p.count() / p.ranks);
        let value = |r: usize, i: usize| p.input(r, i);
        let sum = |i: usize| (0..n).map(|r| value(r, i)).fold((0.0, 0.0), |(sum, scale), x| (sum + x, scale + x.abs()));
        let rounding = p.dtype.unit_roundoff() + n as f64 * Dtype::F32.unit_roundoff();
        for i in 0..p.receives(rank) {
            let (want, scale) = match p.op {
                CollectiveOp::AllReduce | CollectiveOp::Reduce => sum(i),
                CollectiveOp::ReduceScatter => sum(part * rank + i),
                CollectiveOp::AllGather | CollectiveOp::Gather => (value(i / part, i % part), 0.0),
                CollectiveOp::Broadcast => (value(0, i), 0.0),
                CollectiveOp::Scatter => (value(0, part * rank + i), 0.0),
                CollectiveOp::AllToAll => (value(i / part, part * rank + i % part), 0.0),
                CollectiveOp::AllToAllV => {
                    let from = (0..n).find(|r| p.uneven(rank, *r).contains(&i)).unwrap();
                    (value(from, p.uneven(from, rank).start + i - p.uneven(rank, from).start), 0.0)
                }
                CollectiveOp::SendRecv => (value((rank + n - 1) % n, i), 0.0),
            };
            let got = p.dtype.read(&out[i * size..(i + 1) * size]);
            assert!((got - want).abs() <= rounding * scale, "{p:?} rank {rank} element {i}: {got} for {want}");
        }
    }

    /// Runs for ever, sends `number` to rank 1 in the middle, and returns the error.
    fn disturb(number: i32, ranks: usize) -> String {
        let p = problem(CollectiveOp::AllReduce, ranks, 1 << 20, Dtype::F32);
        let mut communicator = engine().communicator(&p).unwrap();
        communicator.run(10).unwrap();
        let pids = ranks_of(std::process::id());
        assert_eq!(pids.len(), ranks);
        let victim = pids[1];
        let disturber = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            signal(victim, number);
            Instant::now()
        });
        let error = communicator.run(usize::MAX >> 1).unwrap_err().to_string();
        let sent = disturber.join().unwrap();
        let again = Instant::now();
        assert_eq!(communicator.run(1).unwrap_err().to_string(), error, "a broken team must stay broken");
        assert!(again.elapsed() < Duration::from_secs(2));
        drop(communicator);
        assert!(sent.elapsed() < PATIENCE + Duration::from_secs(5), "{:?} after the signal", sent.elapsed());
        assert_eq!(children(), Vec::<String>::new(), "something stayed");
        error
    }

    fn a_killed_rank_is_named_and_nothing_stays() {
        let error = disturb(libc::SIGKILL, 3);
        assert!(error.contains("rank 1 is gone (signal: 9 (SIGKILL))"), "{error}");
        assert!(error.contains("that arrived: 0, 2; that did not: 1"), "{error}");
        assert!(disturb(libc::SIGABRT, 2).contains("rank 1 is gone (signal: 6 (SIGABRT)"));
    }

    fn a_stopped_rank_is_named_and_nothing_stays() {
        let error = disturb(libc::SIGSTOP, 3);
        assert!(error.contains("no rank got on for 8 s; ranks that arrived: 0, 2; that did not: 1"), "{error}");
    }

    fn be_a_parent() {
        let p = problem(CollectiveOp::AllGather, 2, 1 << 20, Dtype::F32);
        let mut communicator = match engine().communicator(&p) {
            Ok(communicator) => communicator,
            Err(error) => return println!("{error}"),
        };
        println!("{:?}", ranks_of(std::process::id()));
        let _ = communicator.run(usize::MAX >> 1);
    }

    fn ranks_die_with_their_parent() {
        let program = std::env::current_exe().unwrap();
        let mut parent = Command::new(program).arg(PARENT).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(ranks_of(parent.id()).len(), 2, "{line}");
        // In the middle of a run, at full speed.
        std::thread::sleep(Duration::from_millis(100));
        parent.kill().unwrap();
        parent.wait().unwrap();
        let started = Instant::now();
        while !ranks_of(parent.id()).is_empty() {
            assert!(started.elapsed() < Duration::from_secs(20), "ranks outlive their parent: {:?}", ranks_of(parent.id()));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn a_program_that_does_not_become_a_rank_is_an_error() {
        let program = std::env::current_exe().unwrap();
        let started = Instant::now();
        let output = Command::new(program).arg(PARENT).env(DEAF, "1").output().unwrap();
        let error = String::from_utf8_lossy(&output.stdout);
        assert!(error.contains("starting the ranks failed: rank ") && error.contains("is gone (exit status: 0)"), "{error}");
        assert!(started.elapsed() < 4 * PATIENCE, "{:?}", started.elapsed());
    }

    fn a_rank_holds_no_other_ranks_segment() {
        let p = problem(CollectiveOp::Broadcast, 2, 4096, Dtype::F32);
        let _first = engine().communicator(&p).unwrap();
        let _second = engine().communicator(&p).unwrap();
        for pid in ranks_of(std::process::id()) {
            let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let links = entries.filter_map(|e| std::fs::read_link(e.ok()?.path()).ok());
            let segments = links.filter(|l| l.to_string_lossy().contains("ridgepoint-ranks")).count();
            assert_eq!(segments, 1, "process {pid}");
        }
    }

    fn a_rank_started_by_hand_says_why_not() {
        let own = std::process::id().to_string();
        for (args, words) in [
            (vec!["__rank"], "not for use by hand"),
            (vec!["__rank", "x", "0", "0", "1"], "not for use by hand"),
            (vec!["__rank", "0", "0", "0", "1"], "is gone"),
            (vec!["__rank", "77", "0", "0", &own], "not open"),
            (vec!["__rank", "-5", "0", "0", &own], "not open"),
            (vec!["__rank", "0", "0", "0", &own], "segment"),
        ] {
            let program = std::env::current_exe().unwrap();
            let output = Command::new(program).args(&args).stdin(Stdio::null()).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
            assert!(
                error.starts_with("ridgepoint: ") && error.contains(words) && error.lines().count() == 1,
                "{args:?}: {error}"
            );
        }
    }
}
