//! NCCL and RCCL by stub libraries, for eight GPUs whose memory is the host's: every call is written down and really done, so
//! that results are checked; and what is said when a rank hangs, when a result is wrong, and when a library is old.

use crate::collectives::expected;
use crate::machine::Machine;
use crate::{CollectiveOp, CollectiveProblem, Collectives, Communicator, Device, PROBES, Redop, Registration};
use ridgepoint_core::{Backend, Bytes, Dtype};

const NCCL: &str = include_str!("../cuda/stubs/nccl.c");
const VENDOR: &str = "RP_STUB_VENDOR";
const LOG: &str = "RP_STUB_LOG";

/// Eight GPUs of a vendor with its library. None where there is no compiler.
fn machine(name: &str, hip: bool, options: &[&str]) -> Option<Machine> {
    let variable = if hip { "RIDGEPOINT_ROCM_PATH" } else { "RIDGEPOINT_CUDA_PATH" };
    let machine = Machine::new(name, variable);
    let (driver, library) = if hip { ("libamdhip64.so.7", "librccl.so.1") } else { ("libcuda.so.1", "libnccl.so.2") };
    let source = if hip { crate::hip::tests::runtime() } else { include_str!("../cuda/stubs/driver.c").to_owned() };
    let (machine, kernels) = machine.with_kernels()?;
    let kernels: Vec<&str> = kernels.iter().map(String::as_str).collect();
    let machine = machine.with(driver, &source, &[&["-DDEVICES=8"], &kernels[..]].concat())?;
    // NVIDIA's kernels were built ahead.
    let machine = if hip { machine.with("libhiprtc.so.7", &crate::hip::tests::compiler(), &[])? } else { machine };
    // ncclMemAlloc takes the driver's memory.
    let (search, path) = (format!("-L{}", machine.dir.display()), format!("-Wl,-rpath,{}", machine.dir.display()));
    let own = if hip { ["-DALLOC=hipMalloc", "-DFREE=hipFree"] } else { ["-DALLOC=cuMemAlloc_v2", "-DFREE=cuMemFree_v2"] };
    let of_driver = format!("-l:{driver}");
    let linked = [search.as_str(), path.as_str(), of_driver.as_str(), "-lm"];
    let version = if options.iter().any(|o| o.contains("VERSION")) { &[][..] } else { &["-DVERSION=23203"][..] };
    let fnuz = if hip { &["-DFNUZ"][..] } else { &[][..] };
    machine.with(library, NCCL, &[options, version, fnuz, &own, &linked].concat())
}

/// What a test of this file prints there, and the calls that it made.
fn run(machine: &Machine, hip: bool, test: &str, variables: &[(&str, &str)]) -> (String, String) {
    let log = machine.dir.join("log");
    let _ = std::fs::remove_file(&log);
    let path = log.display().to_string();
    let all = [variables, &[(VENDOR, if hip { "hip" } else { "cuda" }), (LOG, &path)]].concat();
    let text = machine.run_with(&format!("gpu::tests::{test}"), &all);
    assert!(text.contains("1 passed"), "{text}");
    (text, std::fs::read_to_string(log).unwrap_or_default())
}

/// Does this for all of them side by side: they wait more than they work.
fn at_once<T: Send>(all: impl IntoIterator<Item = T>, each: impl Fn(T) + Sync) {
    std::thread::scope(|scope| all.into_iter().for_each(|one| drop(scope.spawn(|| each(one)))));
}

/// Device 0 of that machine.
fn device() -> Box<dyn Device> {
    let backend = if std::env::var(VENDOR).as_deref() == Ok("hip") { Backend::Hip } else { Backend::Cuda };
    (PROBES.iter().find(|p| p.backend == backend).unwrap().open)(0).unwrap()
}

fn problem(c: &dyn Collectives, op: CollectiveOp, ranks: usize, dtype: Dtype) -> CollectiveProblem {
    let dtype = c.encoding(dtype);
    let elements = (21 * ranks * dtype.element_bytes().unwrap()) as u64;
    CollectiveProblem { root: ranks - 1, ..CollectiveProblem::new(op, ranks, Bytes(elements), dtype) }
}

/// Elements that are wrong, by rank.
fn wrong(p: &CollectiveProblem, communicator: &mut dyn Communicator) -> Vec<(usize, usize)> {
    let mut wrong = Vec::new();
    for rank in 0..p.ranks {
        let out = communicator.output(rank).unwrap();
        let expected = expected(p, rank);
        assert_eq!(out.len(), expected.len() * p.size(), "{p:?}");
        for (i, terms) in expected.iter().enumerate() {
            let whole = |f: fn(f64, f64) -> f64| terms.iter().copied().reduce(f).unwrap();
            let want = match p.redop {
                Redop::Sum => whole(|a, b| a + b),
                Redop::Prod => whole(|a, b| a * b),
                Redop::Min => whole(f64::min),
                Redop::Max => whole(f64::max),
                Redop::Avg => whole(|a, b| a + b) / terms.len() as f64,
            };
            let want = if matches!(p.dtype, Dtype::I8 | Dtype::I32) { want.trunc() } else { want };
            let scale = terms.iter().map(|x| x.abs()).sum::<f64>().max(want.abs());
            let limit = if terms.len() > 1 { 1.1 * scale * p.dtype.unit_roundoff() + 1e-12 } else { 0.0 };
            let limit = if p.size() == 1 && terms.len() > 1 { limit.max(1e-3) } else { limit };
            let error = (p.dtype.read(&out[i * p.size()..(i + 1) * p.size()]) - want).abs();
            if error.is_nan() || error > limit {
                wrong.push((rank, i));
            }
        }
    }
    wrong
}

#[test]
fn eight_ranks_of_either_vendor_do_every_collective() {
    for hip in [false, true] {
        let Some(machine) = machine("ranks", hip, &[]) else { return };
        let (_, log) = run(&machine, hip, "child_does_every_collective", &[]);
        for call in [
            "InitAll 8: 0 1 2 3 4 5 6 7\n",
            "AllReduce rank 7 of 8 count 168 type 7 op 0 root -1 out of place\n",
            "AllReduce rank 0 of 8 count 168 type 9 op 4 root -1 in place\n",
            "ReduceScatter rank 3 of 8 count 21 type 10 op 0 root -1 out of place\n",
            "Reduce rank 1 of 8 count 168 type 8 op 2 root 7",
            "AllGather rank 5 of 8 count 21 type 7",
            "Broadcast rank 2 of 8 count 168 type 7 op 0 root 7",
            "AlltoAll rank 4 of 8 count 21 type 7",
            "Gather rank 0 of 8 count 21 type 7 op 0 root 7",
            "Scatter rank 7 of 8 count 21 type 7 op 0 root 7",
            "Send rank 6 of 8 count 168 type 7 op 0 root 7",
            "Recv rank 0 of 8 count 168 type 7 op 0 root 7",
            "Destroy 7\n",
        ] {
            assert!(log.contains(call), "hip {hip}: {call}\n{}", &log[..2000]);
        }
        assert_eq!(log.matches("InitAll").count(), log.matches("Destroy 0\n").count(), "a communicator stayed");
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_does_every_collective() {
    let device = device();
    let c = device.collectives().unwrap();
    assert_eq!((c.max_ranks(), c.library().unwrap().version.as_str()), (8, "2.32.3"));
    let mut done = 0;
    for ranks in [1, 2, 8] {
        for op in CollectiveOp::ALL {
            for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16, Dtype::E4m3, Dtype::E5m2, Dtype::I8, Dtype::I32] {
                for redop in if op.reduces() { &Redop::ALL[..] } else { &[Redop::Sum] } {
                    for in_place in [false, true].into_iter().filter(|i| !i || op.in_place()) {
                        let p = CollectiveProblem { redop: *redop, in_place, ..problem(c, op, ranks, dtype) };
                        let mut communicator = c.communicator(&p).unwrap();
                        communicator.poison().unwrap();
                        communicator.run(3).unwrap();
                        assert_eq!(wrong(&p, communicator.as_mut()), [], "{p:?}");
                        assert_eq!(communicator.times().len(), ranks);
                        // Where they lie, the same: a look at every element of a few.
                        if ranks < 8 || matches!(dtype, Dtype::F32 | Dtype::E5m2) {
                            let found = communicator.check(limit(&p)).unwrap().expect("the device has a kernel for it");
                            let checked = (0..ranks).map(|rank| p.receives(rank) as u64).sum::<u64>();
                            assert_eq!((found.wrong, found.checked), (0, checked), "{p:?} {found:?}");
                        }
                        done += 1;
                    }
                }
            }
        }
    }
    assert_eq!(done, 3 * 8 * (3 * 5 * 2 + 4 * 2 + 3));
    let fnuz = device.info().backend == Backend::Hip;
    assert_eq!(c.encoding(Dtype::E4m3) == Dtype::E4m3fnuz, fnuz);
}

/// The largest error of a right result, relative to what [`Communicator::check`] says.
fn limit(p: &CollectiveProblem) -> f64 {
    let exact = !p.op.reduces() || p.ranks == 1 || matches!(p.redop, Redop::Min | Redop::Max);
    match (exact, p.dtype) {
        (true, _) => 0.0,
        (_, Dtype::I8 | Dtype::I32) => f64::from(u8::from(p.redop == Redop::Avg)) * (1.0 - f64::EPSILON),
        _ => (p.ranks + 2) as f64 * p.dtype.unit_roundoff(),
    }
}

#[test]
fn an_old_library_is_driven_by_what_it_has_and_the_rest_is_a_sentence() {
    for (name, options, calls) in [
        ("old", &["-DOLD", "-DVERSION=22105"][..], "AlltoAll rank 1 of 2 count 21"),
        ("bare", &["-DBARE", "-DVERSION=21605"][..], "Send rank 1 of 2 count 21"),
    ] {
        for hip in [false, true] {
            let Some(machine) = machine(name, hip, options) else { return };
            let (text, log) = run(&machine, hip, "child_has_an_old_library", &[]);
            assert!(log.contains(calls), "{name} {hip}: {log}");
            let (library, symbol) = if hip { ("RCCL", "librccl.so.1") } else { ("NCCL", "libnccl.so.2") };
            assert!(text.contains(&format!("e4m3: {library} 2.")) && text.contains("has no FP8; 2.24.0 has"), "{text}");
            assert!(text.contains(&format!("{symbol} has no ncclCommRegister: a newer version")), "{text}");
        }
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_has_an_old_library() {
    let device = device();
    let c = device.collectives().unwrap();
    for op in [CollectiveOp::AllToAll, CollectiveOp::Gather, CollectiveOp::Scatter] {
        let p = problem(c, op, 2, Dtype::F32);
        let mut communicator = c.communicator(&p).unwrap();
        communicator.run(1).unwrap();
        assert_eq!(wrong(&p, communicator.as_mut()), [], "{op:?}");
    }
    let refusal = |p| c.communicator(&p).err().map(|e| e.to_string()).unwrap();
    let p = problem(c, CollectiveOp::AllReduce, 2, Dtype::F32);
    println!("e4m3: {}", refusal(CollectiveProblem { dtype: Dtype::E4m3, ..p }));
    println!("-R: {}", refusal(CollectiveProblem { registration: Registration::Local, ..p }));
    assert!(refusal(CollectiveProblem { ranks: 9, bytes: Bytes(36), ..p }).contains("there are 8 GPUs"));
    assert!(refusal(CollectiveProblem { root: 2, ..p }).contains("no rank 2"));
    assert!(
        refusal(CollectiveProblem { bytes: Bytes(4), ..problem(c, CollectiveOp::AllGather, 2, Dtype::F32) })
            .contains("equal parts")
    );
}

#[test]
fn buffers_are_registered_or_windows_and_given_back() {
    for hip in [false, true] {
        let Some(machine) = machine("registered", hip, &[]) else { return };
        let (_, log) = run(&machine, hip, "child_registers_its_buffers", &[]);
        for (call, times) in [
            ("Register rank 7 bytes 672\n", 2),
            ("Window rank 7 bytes 672 flags 1\n", 2),
            ("Deregister rank 7\n", 2),
            ("CloseWindow rank 7\n", 2),
            ("InitRank 0 of 1\n", 1),
        ] {
            assert_eq!(log.lines().filter(|l| format!("{l}\n") == call).count(), times, "{call}{log}");
        }
        assert_eq!((log.matches("MemAlloc").count(), log.matches("MemFree").count()), (32, 32));
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_registers_its_buffers() {
    let device = device();
    let c = device.collectives().unwrap();
    for registration in [Registration::Local, Registration::Symmetric] {
        let p = CollectiveProblem { registration, ..problem(c, CollectiveOp::AllReduce, 8, Dtype::F32) };
        let mut communicator = c.communicator(&p).unwrap();
        communicator.run(2).unwrap();
        assert_eq!(wrong(&p, communicator.as_mut()), []);
        assert_eq!(communicator.config()["buffers"], registration.name());
    }
    // One rank of many processes.
    let p = problem(c, CollectiveOp::AllGather, 1, Dtype::F32);
    let token = c.token().unwrap();
    let mut alone = c.join(&p, 0, &token).unwrap();
    alone.run(1).unwrap();
    assert_eq!(wrong(&p, alone.as_mut()), []);
    let refusal = |rank, token: &[u8]| c.join(&p, rank, token).err().map(|e| e.to_string()).unwrap();
    assert!(refusal(0, &token[1..]).contains("128 bytes, not 127") && refusal(1, &token).contains("no rank 1 of 1"));
    assert!(refusal(0, &[0; 128]).contains("ncclCommInitRank failed: invalid argument"));
}

#[test]
fn a_call_that_does_not_come_back_is_an_error_that_names_it_and_no_standstill() {
    at_once([false, true], |hip| {
        let Some(machine) = machine("standstill", hip, &[]) else { return };
        // They share a log, which is not looked at.
        at_once([("init", "connecting the ranks (ncclCommInit)"), ("group", "ncclGroupEnd")], |(fault, call)| {
            let variables = [("RP_STUB_NCCL", fault), ("RIDGEPOINT_PATIENCE", "5")];
            let (text, _) = run(&machine, hip, "child_stands_still", &variables);
            let said = format!("{call} failed: it did not come back for 5 s; waiting in it: ranks 0 to 2 (devices 0, 1, 2)");
            assert_eq!(text.matches(&said).count(), 2, "{text}");
        });
    });
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_stands_still() {
    let device = device();
    let c = device.collectives().unwrap();
    let p = problem(c, CollectiveOp::AllReduce, 3, Dtype::F32);
    println!("{}", c.communicator(&p).and_then(|mut ranks| ranks.run(1)).unwrap_err());
    // What comes after it does not wait again.
    let since = std::time::Instant::now();
    println!("{}", c.communicator(&p).err().unwrap());
    assert!(since.elapsed() < std::time::Duration::from_millis(4900));
}

#[test]
fn ranks_exchange_in_pairs_all_at_once_one_way_and_then_the_other() {
    at_once([false, true], |hip| {
        let Some(machine) = machine("pairs", hip, &[]) else { return };
        let (_, log) = run(&machine, hip, "child_exchanges_in_pairs", &[]);
        // One communicator for all rounds of a sweep, and one for messages of another size.
        assert_eq!(log.matches("InitAll 3: 0 1 2").count(), 2, "{log}");
        // Two rounds of four bytes a message, of four each way but for the words: 0 sends to 2 before 2 sends to 0.
        let at = |call: &str| log.find(call).unwrap_or_else(|| panic!("{call}{log}"));
        let (there, back) = ("Send rank 0 of 3 count 250 type 7 op 0 root 2", "Send rank 2 of 3 count 250 type 7 op 0 root 0");
        assert!(at(there) < at(back) && log.matches(there).count() == 1 + 3 * 4, "{log}");
        assert_eq!(log.matches("Recv rank 2 of 3 count 250 type 7 op 0 root 0").count(), 1 + 3 * 4, "{log}");
        // A size of no whole floats is bytes.
        assert!(log.contains("Send rank 1 of 3 count 333 type 0 op 0 root 0"), "{log}");
        let hang = [("RP_STUB_HANG", "2"), ("RIDGEPOINT_PATIENCE", "5")];
        let (text, _) = run(&machine, hip, "child_has_a_partner_that_hangs", &hang);
        assert!(text.contains("that did not: 2 (device 2)"), "{text}");
        run(&machine, hip, "child_gets_wrong_bytes", &[("RP_STUB_NCCL", "corrupt")]);
    });
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_exchanges_in_pairs() {
    let device = device();
    let c = device.collectives().unwrap();
    for (bytes, partners) in
        [(Bytes(1000), [Some(2), None, Some(0)]), (Bytes(1000), [None, Some(2), Some(1)]), (Bytes(333), [Some(1), Some(0), None])]
    {
        let seen = c.exchange(&partners, bytes, 4).unwrap();
        assert_eq!(seen.len(), 3);
        for (seen, partner) in seen.iter().zip(partners) {
            assert_eq!(seen.is_some(), partner.is_some());
            assert!(seen.is_none_or(|seen| seen.wrong == 0 && seen.seconds.0 > 0.0 && seen.seconds.0 < 1.0), "{seen:?}");
        }
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_has_a_partner_that_hangs() {
    let device = device();
    let c = device.collectives().unwrap();
    let failure = |partners| c.exchange(partners, Bytes(64), 1).unwrap_err().to_string();
    let first = failure(&[None, Some(2), Some(1)]);
    println!("{first}");
    assert_eq!(failure(&[Some(1), Some(0), None]), first, "there is no going on");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_gets_wrong_bytes() {
    let device = device();
    let c = device.collectives().unwrap();
    let seen = c.exchange(&[None, Some(2), Some(1)], Bytes(64), 1).unwrap();
    assert_eq!(seen.iter().map(|s| s.map(|s| s.wrong > 0)).collect::<Vec<_>>(), [None, Some(false), Some(true)]);
}

#[test]
fn the_gpu_that_comes_late_is_named() {
    for hip in [false, true] {
        let Some(machine) = machine("late", hip, &[]) else { return };
        let slow = if hip { "0" } else { "5" };
        let (text, log) = run(&machine, hip, "child_looks_who_is_late", &[("RP_STUB_SLOW", slow)]);
        assert_eq!(text.matches(&format!("late: [{slow}]\n")).count(), 2, "{slow}: {text}");
        // Eight ranks meet in three rounds of a word.
        assert!(log.contains("Send rank 6 of 8 count 1 type 0 op 0 root 2 ") && log.contains("Recv rank 2 of 8 count 1 type 0"));
        let (text, _) = run(&machine, hip, "child_looks_who_is_late", &[]);
        assert_eq!(text.matches("late: []\n").count(), 2, "{text}");
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_looks_who_is_late() {
    let device = device();
    let c = device.collectives().unwrap();
    for (op, in_place) in [(CollectiveOp::AllReduce, true), (CollectiveOp::Broadcast, false)] {
        let p = CollectiveProblem { in_place, ..problem(c, op, 8, Dtype::F32) };
        let mut communicator = c.communicator(&p).unwrap();
        communicator.poison().unwrap();
        assert!(communicator.lateness().is_empty(), "ranks are connected by the first execution");
        communicator.run(2).unwrap();
        assert_eq!(communicator.times().len(), 8);
        communicator.forget();
        assert!(communicator.times().is_empty());
        communicator.poison().unwrap();
        // A GPU that is slow takes a second for its part; whatever this host is busy with takes less.
        let late: Vec<usize> =
            (0..8).zip(communicator.lateness()).filter(|(_, late)| late.0 > 0.5).map(|(rank, _)| rank).collect();
        assert_eq!(communicator.lateness().len(), 8);
        println!("late: {late:?}");
        communicator.run(1).unwrap();
        assert_eq!(wrong(&p, communicator.as_mut()), [], "{op:?}");
    }
}

#[test]
fn a_rank_that_hangs_is_named_in_bounded_time_and_a_wrong_result_is_found() {
    at_once([false, true], |hip| {
        let Some(machine) = machine("faults", hip, &[]) else { return };
        let variables = [("RP_STUB_HANG", "5"), ("RIDGEPOINT_PATIENCE", "5")];
        let (_, log) = run(&machine, hip, "child_hangs", &variables);
        assert_eq!(log.matches("Abort").count(), 8, "{log}");
        let variables = [("RP_STUB_HANG", "5"), ("RP_STUB_NCCL", "async")];
        let (text, _) = run(&machine, hip, "child_says_what_its_rank_says", &variables);
        assert!(text.contains("all_reduce failed: rank 1: other (6)"), "{text}");
        run(&machine, hip, "child_gets_a_wrong_result", &[("RP_STUB_NCCL", "corrupt")]);
    });
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_hangs() {
    let device = device();
    let c = device.collectives().unwrap();
    let mut communicator = c.communicator(&problem(c, CollectiveOp::AllReduce, 8, Dtype::F32)).unwrap();
    let error = communicator.run(2).unwrap_err().to_string();
    let expected = "no rank got on for 5 s; ranks that arrived: 0 (device 0), 1 (device 1), 2 (device 2), 3 (device 3), \
                    4 (device 4), 6 (device 6), 7 (device 7); that did not: 5 (device 5)";
    assert!(error.contains(expected), "{error}");
    // There is no going on, and nothing that would look like a result.
    assert_eq!(communicator.run(1).unwrap_err().to_string(), error);
    assert_eq!(communicator.poison().unwrap_err().to_string(), error);
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_says_what_its_rank_says() {
    let device = device();
    let c = device.collectives().unwrap();
    println!("{}", c.communicator(&problem(c, CollectiveOp::AllReduce, 2, Dtype::F32)).unwrap().run(1).unwrap_err());
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_gets_a_wrong_result() {
    let device = device();
    let c = device.collectives().unwrap();
    for op in CollectiveOp::ALL.into_iter().filter(|op| *op != CollectiveOp::AllToAllV) {
        let p = problem(c, op, 8, Dtype::F32);
        let mut communicator = c.communicator(&p).unwrap();
        communicator.run(1).unwrap();
        assert_eq!(wrong(&p, communicator.as_mut()), [(7, 0)], "{op:?}");
        let found = communicator.check(limit(&p)).unwrap().unwrap();
        assert!(found.wrong == 1 && found.error > 10.0 * limit(&p), "{op:?}: {found:?}");
        // What nobody wrote is no number.
        communicator.poison().unwrap();
        let found = communicator.check(limit(&p)).unwrap().unwrap();
        assert!(found.wrong == found.checked && found.error.is_nan(), "{op:?}: {found:?}");
    }
}
