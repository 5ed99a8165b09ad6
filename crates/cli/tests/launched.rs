//! Many processes, as launchers start them: mpirun, and the variables that torchrun sets. The ranks are real, and so is what goes
//! wrong with them; what a machine lacks is a skip.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot set itself up has failed; a skip says why")]

mod common;

use common::running::{self, Running};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_ridgepoint");

/// A folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-launched-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// No launcher's variables but those that a test sets.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["OMPI_", "PMI", "SLURM_", "RIDGEPOINT_", "TORCHELASTIC_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env("RIDGEPOINT_CPU_THREADS", "1")
}

/// `mpirun` of Open MPI, with `n` ranks.
fn mpirun(n: usize) -> Option<Command> {
    let version = running::output(Command::new("mpirun").arg("--version"));
    if !out(&version).contains("Open MPI") {
        println!("SKIP: mpirun: there is no mpirun of Open MPI (apt-get install openmpi-bin)");
        return None;
    }
    let mut command = Command::new("mpirun");
    clean(&mut command).args(["--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", &n.to_string()]);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    Some(command)
}

/// What every run here is told.
fn run(command: &mut Command, cases: &[&str], folder: &Path) -> Output {
    running::output(command.arg(BINARY).args(arguments(cases, folder)))
}

fn arguments(cases: &[&str], folder: &Path) -> Vec<String> {
    let tail = ["--device", "cpu", "--quick", "--format", "csv", "--out", folder.to_str().unwrap()];
    ["run"].iter().chain(cases).chain(&tail).map(|s| (*s).to_owned()).collect()
}

/// What a run is told that takes so many executions, on however slow a machine.
fn counted(words: &str, folder: &Path) -> Vec<String> {
    let tail = ["--out-of-place", "--device", "cpu", "--format", "csv", "--out", folder.to_str().unwrap()];
    ["collectives"].into_iter().chain(words.split(' ')).chain(tail).map(str::to_owned).collect()
}

/// Jobs that each program of these tests may have.
const JOBS: u16 = 40;

/// A job number that no other job of this program has: those that run at once would meet otherwise.
fn job() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let job = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(job < JOBS, "the next program's numbers begin");
    job
}

/// Rank `rank` of `size`, as torchrun 2.15 starts it on one host, of this program's job number `job`. Another run of this program at
/// the same time has ports of its own.
fn torchrun(rank: usize, size: usize, job: u16, arguments: &[String]) -> Command {
    let mut command = Command::new(BINARY);
    clean(&mut command).args(arguments);
    let port = 20_000 + std::process::id() as usize % 300 * usize::from(JOBS) + usize::from(job);
    let numbers = [
        ("GROUP_RANK", 0),
        ("GROUP_WORLD_SIZE", 1),
        ("LOCAL_RANK", rank),
        ("LOCAL_WORLD_SIZE", size),
        ("MASTER_PORT", port),
        ("OMP_NUM_THREADS", 1),
        ("RANK", rank),
        ("ROLE_RANK", rank),
        ("ROLE_WORLD_SIZE", size),
        ("TORCHELASTIC_MAX_RESTARTS", 0),
        ("TORCHELASTIC_RESTART_COUNT", 0),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", 1),
        ("WORLD_SIZE", size),
    ];
    command.envs(numbers.map(|(name, value)| (name, value.to_string())));
    command.envs([
        ("MASTER_ADDR", "localhost"),
        ("ROLE_NAME", "default"),
        ("TORCHELASTIC_RUN_ID", "e690bde6-0609-4048-bac6-07f02ead46d7"),
        ("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
    ]);
    command
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The rows of a CSV report: case, provider, outcome.
fn rows(text: &str) -> Vec<[String; 3]> {
    let rows = text.lines().filter(|l| l.starts_with("cpu:0,"));
    rows.map(|l| l.split(',').map(str::to_owned).collect::<Vec<_>>())
        .map(|c| [c[1].clone(), c[3].clone(), c[5].clone()])
        .collect()
}

const OPS: [&str; 10] = [
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "broadcast",
    "alltoall",
    "reduce",
    "alltoallv",
    "gather",
    "scatter",
    "sendrecv",
];

#[test]
fn mpirun_connects_every_operation_by_the_library() {
    let Some(mut two) = mpirun(2) else { return };
    let mut cases: Vec<String> = OPS.iter().map(|op| format!("collectives/{op}/r2/24KiB/f32")).collect();
    for op in ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "gather", "scatter"] {
        cases.push(format!("collectives/{op}/r2/24KiB/f32/inplace"));
    }
    cases.extend(["f32/max", "f32/prod", "bf16/min", "i32"].map(|d| format!("collectives/reduce_scatter/r2/24KiB/{d}")));
    cases.extend(["bf16", "f16", "e4m3", "i8", "f64"].map(|d| format!("collectives/all_reduce/r2/24KiB/{d}")));
    let folder = scratch("mpirun");
    let output = run(&mut two, &cases.iter().map(String::as_str).collect::<Vec<_>>(), &folder);
    let (text, errors) = (out(&output), err(&output));
    assert!(output.status.success(), "{text}{errors}");
    let expected: Vec<[String; 3]> = cases.iter().map(|c| [c.clone(), "mpi".into(), "measured".into()]).collect();
    assert_eq!(rows(&text), expected, "{text}{errors}");
    assert!(text.contains("Open MPI v"), "{text}");
    // One report, by rank 0; each rank checked what it received by itself.
    assert_eq!(text.matches("device,case,").count(), 1, "{text}");
    assert_eq!(errors.matches("records:").count(), 1, "{errors}");
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    assert_eq!(raw.matches("every element of every rank, on its own device").count(), cases.len(), "{raw}");
    std::fs::remove_dir_all(&folder).unwrap();
    // As buffers beyond 2 GiB are counted: what is moved in blocks, what is combined in pieces.
    let mut two = mpirun(2).unwrap();
    let counted = |case: &&String| !case.contains("alltoallv");
    let words: Vec<&str> = cases[..17].iter().filter(counted).map(String::as_str).collect();
    let expected: Vec<[String; 3]> = words.iter().map(|c| [(*c).to_owned(), "mpi".into(), "measured".into()]).collect();
    let output = run(two.env("RIDGEPOINT_TEST_MPI_COUNT", "5000"), &words, &folder);
    assert_eq!(rows(&out(&output)), expected, "{}{}", out(&output), err(&output));
    std::fs::remove_dir_all(&folder).unwrap();
    // What fails or cannot be done is the end of a case alone.
    let words =
        ["all_reduce/r2/900GiB", "reduce_scatter/r2/24KiB", "all_reduce/r2/24KiB"].map(|c| format!("collectives/{c}/f32"));
    let output = run(mpirun(2).unwrap().env("RIDGEPOINT_TEST_MPI_COUNT", "3000"), &words.each_ref().map(String::as_str), &folder);
    let text = out(&output);
    assert_eq!(
        rows(&text).iter().map(|row| row[2].as_str()).collect::<Vec<_>>(),
        ["failed", "skipped", "measured"],
        "{text}{}",
        err(&output)
    );
    assert!(text.contains("MPI counts to 3000; 24KiB are more f32"), "{text}{}", err(&output));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn mpiexec_of_mpich_connects_by_either_abi() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python");
    if !home.join("bin/mpiexec").exists() {
        return println!("SKIP: mpich: there is no MPICH in target/python (scripts/test installs it)");
    }
    // The standard ABI, beside the launcher, which the machine's own libraries do not come before; and MPICH's own, which was asked for.
    let own = scratch("mpich-abi");
    std::fs::create_dir(&own).unwrap();
    for name in ["libmpi.so.12", "mpich"] {
        std::os::unix::fs::symlink(home.join("lib").join(name), own.join(name)).unwrap();
    }
    for (library, path, cases) in [
        ("libmpi_abi.so.1", "", &["all_reduce/r2/24KiB/bf16"][..]),
        (
            "libmpi.so.12",
            own.to_str().unwrap(),
            &[
                "reduce_scatter/r2/24KiB/i32/inplace",
                "all_reduce/r2/24KiB/bf16",
                "scatter/r2/24KiB/f32/inplace",
                "sendrecv/r2/24KiB/f64",
            ],
        ),
    ] {
        let (folder, mut two) = (scratch("mpich"), Command::new(home.join("bin/mpiexec")));
        clean(&mut two).args(["-n", "2"]).env_remove("VIRTUAL_ENV");
        if !path.is_empty() {
            two.env("RIDGEPOINT_MPI_PATH", path);
        }
        let cases: Vec<String> = cases.iter().map(|case| format!("collectives/{case}")).collect();
        let output = run(&mut two, &cases.iter().map(String::as_str).collect::<Vec<_>>(), &folder);
        let expected: Vec<[String; 3]> = cases.iter().map(|c| [c.clone(), "mpi".into(), "measured".into()]).collect();
        assert_eq!(rows(&out(&output)), expected, "{library} {}{}", out(&output), err(&output));
        let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
        assert!(raw.contains(&format!("/{library}\"")) && out(&output).contains("MPICH 5"), "{library} {raw}");
        std::fs::remove_dir_all(folder).unwrap();
    }
    std::fs::remove_dir_all(own).unwrap();
}

#[test]
fn variables_as_torchrun_sets_them_make_one_job_over_shared_memory() {
    let folder = scratch("torchrun");
    let cases = OPS.map(|op| format!("collectives/{op}/r3/12KiB/bf16"));
    let (job, words) = (job(), counted("all -g 3 -b 12K -d bf16 -n 20 -w 2", &folder));
    let started = |rank| Running::start(&torchrun(rank, 3, job, &words));
    // Rank 0 last: the others wait for it.
    let others: Vec<Running> = [2, 1].map(started).into_iter().collect();
    let first = started(0).end();
    assert!(first.status.success(), "{}{}", out(&first), err(&first));
    let expected: Vec<[String; 3]> = cases.iter().map(|c| [c.clone(), "shared-memory".into(), "measured".into()]).collect();
    assert_eq!(rows(&out(&first)), expected, "{}", err(&first));
    assert!(out(&first).contains("shared-memory engine"), "{}", out(&first));
    for other in others {
        let other = other.end();
        assert!(other.status.success());
        assert_eq!((out(&other), err(&other)), (String::new(), String::new()), "only rank 0 speaks");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let (job, arguments) = (job(), arguments(&["collectives/all_reduce/r3/12KiB/f32"], &scratch("missing")));
    // torchrun is told why, too.
    let words = scratch("words");
    let impatient = |rank| {
        let mut command = torchrun(rank, 3, job, &arguments);
        Running::start(
            command.env("RIDGEPOINT_PATIENCE", "8").env("TORCHELASTIC_ERROR_FILE", words.with_extension(rank.to_string())),
        )
    };
    let (first, second) = (impatient(0), impatient(2));
    let (first, second) = (first.end(), second.end());
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(words.with_extension("0")).unwrap()).unwrap();
    assert!(told["message"].as_str().unwrap().contains("that did not: 1") && told["timestamp"].as_u64() > Some(1), "{told}");
    [0, 2].into_iter().for_each(|rank| drop(std::fs::remove_file(words.with_extension(rank.to_string()))));
    assert_eq!(first.status.code(), Some(3), "{}", err(&first));
    assert!(err(&first).contains("ranks that arrived: 0, 2; that did not: 1"), "{}", err(&first));
    // Meanwhile it was said for whom it waits.
    assert!(
        err(&first).contains(" of 3 ranks, ")
            && err(&first).contains(" s more: ")
            && err(&first).contains("ridgepoint: waiting for "),
        "{}",
        err(&first)
    );
    // It came, and was sent home without a result of its own.
    assert_eq!(out(&second), "");
    // More than can be heard at once are not waited for.
    let many = torchrun(0, 1000, job, &arguments);
    let mut limited = Command::new("sh");
    clean(&mut limited).args(["-c", "ulimit -n 300 && exec \"$0\" \"$@\"", BINARY]).args(&arguments);
    limited.envs(many.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let limited = running::output(&limited);
    let expected = "rank 0 needs 2896 open files for 1000 ranks and may have 300 (ulimit -Hn)";
    assert!(limited.status.code() == Some(3) && err(&limited).contains(expected), "{}", err(&limited));
}

/// Three cases: the first is soon over, and each of the others lasts for seconds on the fastest machine.
const LONG: &str = "-b 8K -e 16392K -i 8M -n 2000 -w 0";
/// The same for GPUs: 4 MiB is all that the stub of their library passes on.
const LONG_ON_GPUS: &str = "-b 8K -e 4008K -i 2000K -n 2000 -w 0";

/// Waits until a first result is there and the long case after it is under way.
fn under_way(folder: &Path) {
    let (raw, waiting) = (folder.join("raw.jsonl"), Instant::now());
    while std::fs::read_to_string(&raw).unwrap_or_default().lines().count() < 2 {
        assert!(waiting.elapsed() < Duration::from_secs(90), "no result");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn a_killed_process_of_a_job_is_named_in_bounded_time() {
    let folder = scratch("killed");
    let (job, words) = (job(), counted(&format!("all_reduce {LONG} -g 2"), &folder));
    let started = |rank| Running::start(&torchrun(rank, 2, job, &words));
    let (first, mut second) = (started(0), started(1));
    under_way(&folder);
    second.kill();
    let killed = Instant::now();
    let first = first.end();
    let text = out(&first);
    assert!(killed.elapsed() < Duration::from_secs(60), "{:?}", killed.elapsed());
    assert_eq!(first.status.code(), Some(1), "{text}{}", err(&first));
    let outcomes: Vec<String> = rows(&text).into_iter().map(|[_, _, outcome]| outcome).collect();
    assert_eq!(outcomes, ["measured", "failed", "failed"], "what was done is kept: {text}");
    assert!(text.contains("rank 1") && text.contains("its launched process hung up"), "{text}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Runs three cases by mpirun with a fault planted at rank 1 from the second case on.
fn planted(fault: &str) -> Option<(Output, Vec<String>, Duration)> {
    let mut two = mpirun(2)?;
    let folder = scratch(fault);
    let cases =
        ["collectives/all_reduce/r2/8KiB/f32", "collectives/all_reduce/r2/12KiB/f32", "collectives/all_gather/r2/12KiB/f32"];
    two.env("RIDGEPOINT_TEST_FAULT", format!("{fault}:1:1"));
    if fault == "hang" {
        // Nothing else tells of it. Ranks that are connecting may not take longer, either.
        two.env("RIDGEPOINT_PATIENCE", "8");
    }
    let started = Instant::now();
    let output = run(&mut two, &cases, &folder);
    let outcomes = rows(&out(&output)).into_iter().map(|[_, _, outcome]| outcome).collect();
    let took = started.elapsed();
    if fault == "corrupt" {
        let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
        assert_eq!(raw.matches("\"wrong\":1}").count(), 2, "one element a result: {raw}");
    }
    let _ = std::fs::remove_dir_all(folder);
    Some((output, outcomes, took))
}

#[test]
fn a_corrupted_reduction_is_found_and_counted() {
    let Some((output, outcomes, _)) = planted("corrupt") else { return };
    let text = out(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{}", err(&output));
    assert_eq!(outcomes, ["measured", "wrong", "wrong"], "{text}");
    assert!(text.contains("planted fault corrupt:1:1"), "{text}");
}

#[test]
fn a_rank_that_dies_is_named_and_what_was_done_is_kept() {
    let Some((output, outcomes, took)) = planted("die") else { return };
    let text = out(&output);
    assert_eq!(outcomes, ["measured", "failed", "failed"], "{text}{}", err(&output));
    assert!(text.contains("rank 1 (") && text.contains("is gone (signal: 6 (SIGABRT)"), "{text}");
    assert!(text.contains("ranks that arrived: 0; that did not: 1"), "{text}");
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn a_rank_that_hangs_is_named_and_what_was_done_is_kept() {
    let Some((output, outcomes, took)) = planted("hang") else { return };
    let text = out(&output);
    assert_eq!(outcomes, ["measured", "failed", "failed"], "{text}{}", err(&output));
    assert!(text.contains("no rank got on for 8 s; ranks that arrived: 0; that did not: 1"), "{text}");
    assert!(took < Duration::from_secs(90), "{took:?}");
}

/// The process that serves as the rank of a launched process, once there is one.
fn serving(launched: &Running) -> u32 {
    let own = format!("PPid:\t{}\n", launched.id());
    let waiting = Instant::now();
    loop {
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let serves = |pid: &u32| {
            let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
            read("status").contains(&own) && read("cmdline").split('\0').nth(1) == Some("__launched-rank")
        };
        if let Some(pid) = pids.into_iter().find(serves) {
            return pid;
        }
        assert!(waiting.elapsed() < Duration::from_secs(60), "no rank was started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts `n` ranks, and sends a signal to the one that serves as rank 1 once a first result is there and a long case is under way.
fn disturbed(name: &str, device: &str, variables: &[(&str, &str)], signal: &str) -> (Output, Duration) {
    let (folder, job) = (scratch(name), job());
    let long = if device == "cpu" { LONG } else { LONG_ON_GPUS };
    let mut words = counted(&format!("all_reduce {long} -g 3"), &folder);
    words.iter_mut().filter(|w| *w == "cpu").for_each(|w| *w = device.into());
    let started =
        |rank| Running::start(torchrun(rank, 3, job, &words).envs(variables.iter().copied()).env("RIDGEPOINT_PATIENCE", "8"));
    let (first, second, third) = (started(0), started(1), started(2));
    under_way(&folder);
    let sent = Command::new("kill").args([signal, &serving(&second).to_string()]).status().unwrap();
    assert!(sent.success());
    let since = Instant::now();
    let output = first.end();
    let took = since.elapsed();
    for other in [second, third] {
        other.end();
    }
    let _ = std::fs::remove_dir_all(folder);
    (output, took)
}

/// The process that serves as rank `rank` of what mpirun started with these words, once there is one.
fn serving_under_mpirun(rank: usize, word: &str) -> u32 {
    let waiting = Instant::now();
    let read = |pid: u32, what: &str| {
        String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default()).into_owned()
    };
    loop {
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let serves = |pid: &u32| {
            let parent = read(*pid, "status").lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok()).unwrap_or(0);
            read(*pid, "cmdline").split('\0').nth(1) == Some("__launched-rank")
                && read(*pid, "environ").split('\0').any(|set| set == format!("OMPI_COMM_WORLD_RANK={rank}"))
                && read(parent, "cmdline").contains(word)
        };
        if let Some(pid) = pids.into_iter().find(serves) {
            return pid;
        }
        assert!(waiting.elapsed() < Duration::from_secs(60), "no rank was started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_rank_is_named_whether_mpi_or_tcp_connects_it_and_over_the_network() {
    let ended = |text: &str, how: &str| {
        assert!(text.contains(",measured,") && text.contains(",failed,"), "{how}: what was done is kept: {text}");
        assert!(text.contains("rank 1 (") && text.contains("is gone (signal: 9 (SIGKILL)"), "{how}: {text}");
        assert!(text.contains("ranks that arrived: 0, 2; that did not: 1"), "{how}: {text}");
    };
    let (output, took) = disturbed("tcp-killed", "cpu", &[("RIDGEPOINT_ENGINE", "tcp")], "-KILL");
    ended(&(out(&output) + &err(&output)), "tcp");
    assert!(took < Duration::from_secs(60), "{took:?}");
    for network in [false, true] {
        let Some(mut three) = mpirun(3) else { return };
        let folder = scratch(if network { "mpi-killed-far" } else { "mpi-killed" });
        let words = counted(&format!("all_reduce {LONG} -g 3"), &folder);
        if network {
            if cannot("network namespaces", &running::output(script("mpi/on-namespaces").args(["1", "true"]))) {
                return;
            }
            three = script("mpi/on-namespaces");
            three.args(["3", "sh", "-c", &format!("$MPIRUN {BINARY} {}", words.join(" "))]);
        } else {
            three.arg(BINARY).args(&words);
        }
        let job = Running::start(&three);
        under_way(&folder);
        let rank = serving_under_mpirun(1, folder.to_str().unwrap());
        assert!(Command::new("kill").args(["-KILL", &rank.to_string()]).status().unwrap().success());
        let since = Instant::now();
        let output = job.end();
        let took = since.elapsed();
        ended(&(out(&output) + &err(&output)), if network { "mpi over the network" } else { "mpi" });
        assert!(took < Duration::from_secs(120), "{took:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_stopped_rank_is_named_by_its_silence_and_nothing_waits_for_it() {
    let Some(gpus) = common::stub_gpus("launched-stopped", &[]) else { return };
    let gpus_path = gpus.to_str().unwrap();
    for (device, variable) in [("cpu", ("RIDGEPOINT_ENGINE", "tcp")), ("cuda:0", ("RIDGEPOINT_CUDA_PATH", gpus_path))] {
        let (output, took) = disturbed(&format!("stopped-{}", &device[..3]), device, &[variable], "-STOP");
        let text = out(&output);
        assert_eq!(output.status.code(), Some(1), "{text}{}", err(&output));
        assert!(text.contains(",measured,") && text.contains(",failed,"), "what was done is kept: {text}");
        assert!(text.contains("no rank got on for 8 s, rank 1 (") && text.contains(") gives no sign of life"), "{text}");
        assert!(text.contains("ranks that arrived: 0, 2; that did not: 1"), "{text}");
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
    std::fs::remove_dir_all(gpus).unwrap();
}

/// A library that multiplies f32 on the host, beside the stubs in this folder.
fn add_matrix_library(folder: &Path) {
    let stub = common::root().join("crates/device/src/hip/stubs/blas.c");
    let source = folder.join("cublaslt.c");
    std::fs::write(&source, std::fs::read_to_string(stub).unwrap().replace("hipblasLt", "cublasLt")).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-w", "-O1", "-DCUBLAS"]).arg(&source).arg("-o").arg(folder.join("libcublasLt.so.13"));
    assert!(command.status().unwrap().success());
}

#[test]
fn gpus_of_launched_ranks_do_every_operation_check_for_themselves_and_end_with_one_that_dies() {
    let Some(gpus) = common::stub_gpus("launched", &[]) else { return };
    let path = gpus.to_str().unwrap();
    let mut cases: Vec<String> = OPS.iter().map(|op| format!("collectives/{op}/r3/36KiB/f32")).collect();
    cases.extend(
        ["bf16/inplace", "e4m3/max", "i32", "f64/avg/symmetric"].map(|d| format!("collectives/reduce_scatter/r3/36KiB/{d}")),
    );
    // One beside a product of each rank's own.
    cases.push("collectives/overlap/all_reduce/r3/36KiB/f32/m64n64k64".into());
    add_matrix_library(&gpus);
    let folder = scratch("gpus");
    let mut words = arguments(&cases.iter().map(String::as_str).collect::<Vec<_>>(), &folder);
    words.iter_mut().filter(|w| *w == "cpu").for_each(|w| *w = "cuda:0".into());
    for (fault, outcome) in [("none", "measured"), ("corrupt", "wrong")] {
        let job = job();
        let _ = std::fs::remove_dir_all(&folder);
        // The last rank's host has another network; in the second run a user has the library write where they want it.
        let theirs = gpus.join("rank-%p.log");
        let started = |rank| {
            let mut command = torchrun(rank, 3, job, &words);
            command.env("RIDGEPOINT_CUDA_PATH", path).env("RP_STUB_NCCL", fault);
            command.env("RP_STUB_NET", if rank == 2 { "socket" } else { "ib" });
            if fault == "corrupt" {
                command.env("RP_STUB_BLAS", if rank == 1 { fault } else { "none" });
                command.env("NCCL_DEBUG", "INFO").env("NCCL_DEBUG_FILE", &theirs);
            } else {
                // As images set it; nothing is hidden by that.
                command.env("NCCL_DEBUG", "WARN");
            }
            Running::start(&command)
        };
        let others = [1, 2].map(started);
        let first = started(0).end();
        let (text, errors) = (out(&first), err(&first));
        let seen: Vec<Vec<&str>> = text.lines().filter(|l| l.starts_with("cuda:0,")).map(|l| l.split(',').collect()).collect();
        let seen: Vec<[&str; 3]> = seen.iter().map(|c| [c[1], c[3], c[5]]).collect();
        let expected: Vec<[&str; 3]> = cases.iter().map(|case| [case.as_str(), "nccl", outcome]).collect();
        assert_eq!(seen, expected, "{text}{errors}");
        let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
        assert_eq!(raw.matches("every element of every rank, on its own device").count(), cases.len(), "{raw}");
        // What the last rank, or the root, received has one wrong element, and a wrong one of each rank where each sends its own. The
        // second rank's product has another.
        let counts = ["\"wrong\":1}", "\"wrong\":3}", "\"wrong\":2}"].map(|n| raw.matches(n).count());
        assert_eq!(counts, if fault == "corrupt" { [cases.len() - 2, 1, 1] } else { [0, 0, 0] }, "{raw}");
        for told in ["\"collective alone\":\"", "\"product alone\":\"", "\"product\":\"cublaslt on cuda:0\"", "rows against f64"]
        {
            assert!(raw.contains(told) || fault == "corrupt" && told.ends_with("alone\":\""), "{told} {raw}");
        }
        // What each rank's library wrote of its ways is in every record, and who goes another way.
        for told in [
            "\"transport\":\"NET/IB/1/GDRDMA, NET/Socket/0, P2P/CUMEM\"",
            "\"network\":\"IB\"",
            "\"GPUDirect RDMA\":\"partly used, not by NET/Socket/0\"",
            "\"NIC\":\"[0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.7<0>\"",
            "rank 2: network Socket, where most have IB; rank 2: NICs [0]eth0, where most have [0]mlx5_0:1/IB [1]mlx5_1:1/IB; rank 2: GPUDirect RDMA not used",
            "\"ranks differ in network\"",
        ] {
            assert_eq!(raw.matches(told).count(), cases.len(), "{told} {raw}");
        }
        let logs =
            || std::fs::read_dir(&gpus).unwrap().filter(|e| e.as_ref().unwrap().path().extension() == Some("log".as_ref()));
        let by_user = format!("as the environment has it: NCCL_DEBUG_FILE={}", theirs.display());
        let expected = if fault == "corrupt" { (3, cases.len()) } else { (0, 0) };
        assert_eq!((logs().count(), raw.matches(&by_user).count()), expected, "{raw}");
        others.into_iter().for_each(|other| assert!(other.end().status.success()));
    }
    let (output, took) = disturbed("gpu-dies", "cuda:0", &[("RIDGEPOINT_CUDA_PATH", path)], "-KILL");
    let text = out(&output);
    assert!(text.contains("rank 1 (") && text.contains("is gone (signal: 9 (SIGKILL)"), "{text}{}", err(&output));
    assert!(text.contains("that did not: 1") && took < Duration::from_secs(60), "{took:?} {text}");
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::remove_dir_all(gpus).unwrap();
}

#[test]
fn a_sweep_of_a_job_has_new_ranks_for_each_combination_and_goes_on_after_one_that_hangs() {
    let Some(gpus) = common::stub_gpus("launched-swept", &["-DSWEPT"]) else { return };
    let folder = scratch("swept");
    let words =
        "collectives all_reduce all_gather -b 4K -e 8K -n 1 -w 0 --out-of-place --device cuda:0 --sweep --format csv --out";
    let words: Vec<String> = words.split(' ').chain([folder.to_str().unwrap()]).map(str::to_owned).collect();
    let job = job();
    let started = |rank| {
        let mut command = torchrun(rank, 2, job, &words);
        // A user's own wish for the log does not blind the sweep.
        command.env("RIDGEPOINT_CUDA_PATH", &gpus).env("RIDGEPOINT_PATIENCE", "3").env("NCCL_DEBUG", "WARN");
        Running::start(&command)
    };
    let other = started(1);
    let first = started(0).end();
    let (csv, errors) = (out(&first), err(&first));
    let of = |provider: &str, op: &str, size: &str| {
        let line = csv.lines().find(|l| l.contains(&format!("/{op}/r2/{size}/")) && l.contains(&format!(",{provider},")));
        line.unwrap_or_else(|| panic!("{provider} {op}\n{csv}{errors}"))
    };
    // As in one process: what ran is told, what the library has not is skipped, and what fails, dies or hangs is a failure.
    for (provider, op, size, outcome, words) in [
        ("nccl", "all_reduce", "4KiB", "measured", "Tree LL"),
        ("nccl", "all_reduce", "8KiB", "measured", "Ring Simple"),
        ("nccl", "all_gather", "4KiB", "measured", "Ring LL"),
        ("nccl", "all_gather", "8KiB", "measured", "PAT Simple"),
        ("nccl-ring-ll128", "all_gather", "4KiB", "measured", "Ring LL128"),
        ("nccl-tree-ll", "all_reduce", "4KiB", "failed", "is gone (signal: 6 (SIGABRT)"),
        ("nccl-nvls-simple", "all_gather", "4KiB", "failed", "ncclAllGather failed"),
        ("nccl-nvlstree-ll128", "all_reduce", "4KiB", "failed", "no rank got on for 3 s, rank 0 ("),
        ("nccl-nvlstree-simple", "all_reduce", "4KiB", "measured", "NVLSTree Simple"),
        ("nccl-collnetdirect-ll", "all_reduce", "4KiB", "skipped", "does not do this combination here"),
        ("nccl-collnetdirect-ll", "all_gather", "4KiB", "measured", "CollnetDirect LL"),
        ("nccl-collnetchain-ll", "all_reduce", "4KiB", "measured", "CollnetChain LL"),
        ("nccl-collnetchain-ll", "all_gather", "4KiB", "skipped", "nccl ran Ring LL where CollnetChain LL was asked for"),
        ("nccl-collnetchain-ll", "all_gather", "8KiB", "measured", "CollnetChain LL"),
    ] {
        let line = of(provider, op, size);
        assert!(line.contains(&format!(",{outcome},")) && line.contains(words), "{provider} {op} {size}: {line}");
    }
    assert_eq!((csv.lines().count(), first.status.code()), (1 + 4 * 19, Some(1)), "{csv}{errors}");
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    assert!(raw.contains("\"algorithm\":\"NVLSTree\"") && raw.contains("\"launcher\":"), "{raw}");
    assert!(other.end().status.success());
    [gpus, folder].into_iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
}

#[test]
fn what_one_rank_alone_cannot_do_is_said_in_its_own_words() {
    let Some(gpus) = common::stub_gpus("launched-refuses", &[]) else { return };
    // Its library is older than that of the others, and knows no FP8.
    let Some(old) = common::stub_gpus("launched-old", &["-DVERSION=21803"]) else { return };
    let cases = ["f32", "e4m3", "bf16"].map(|dtype| format!("collectives/all_reduce/r3/36KiB/{dtype}"));
    let run = |second: &Path, fault: &str| -> (Vec<String>, String) {
        let (folder, job) = (scratch(fault), job());
        let mut words = arguments(&cases.each_ref().map(String::as_str), &folder);
        words.iter_mut().filter(|w| *w == "cpu").for_each(|w| *w = "cuda:0".into());
        let started = |rank, path: &Path, fault: &str| {
            let mut command = torchrun(rank, 3, job, &words);
            Running::start(command.env("RIDGEPOINT_CUDA_PATH", path).env("RP_STUB_NCCL", fault))
        };
        let others = [started(1, second, fault), started(2, &gpus, "none")];
        let first = started(0, &gpus, "none").end();
        others.into_iter().for_each(|other| drop(other.end()));
        let _ = std::fs::remove_dir_all(folder);
        let text = out(&first) + &err(&first);
        let seen = text.lines().filter(|l| l.starts_with("cuda:0,")).map(|l| l.split(',').nth(5).unwrap().to_owned()).collect();
        (seen, text)
    };
    let started = Instant::now();
    let (outcomes, text) = run(&gpus, "refuse");
    assert_eq!(outcomes, ["failed"; 3], "{text}");
    assert!(text.contains("rank 1 (") && text.contains("ncclCommInitRank"), "{text}");
    assert!(!text.contains("ranks that arrived") && started.elapsed() < Duration::from_secs(120), "others are blamed: {text}");
    // The others are left waiting inside their library; the next case has new ones.
    let (outcomes, text) = run(&old, "none");
    assert_eq!(outcomes, ["measured", "skipped", "measured"], "{text}");
    assert!(text.contains("rank 1 (") && text.contains("NCCL 2.18.3"), "{text}");
    [gpus, old].into_iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
}

#[test]
fn a_rank_that_comes_late_is_named_whatever_connects_the_ranks() {
    let named = |folder: &Path, output: &Output| {
        let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap_or_default();
        let late = raw.split("\"lateness of ranks\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        assert!(late.contains(" µs (rank 1) after the first"), "{late}\n{}{}", out(output), err(output));
        // A hundred milliseconds are planted, or a second of a GPU's; no busy core keeps another rank that long each time.
        let last: f64 = late.split(" to ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(last > 5e4, "{late}");
        std::fs::remove_dir_all(folder).unwrap();
    };
    let gpus = common::stub_gpus("launched-late", &[]);
    let words = |folder: &Path| counted("all_reduce -g 3 -b 384K -n 1 -w 0", folder);
    let path = gpus.as_deref().and_then(Path::to_str);
    let engines = [("cpu", Some(("RIDGEPOINT_ENGINE", "tcp"))), ("cuda:0", path.map(|path| ("RIDGEPOINT_CUDA_PATH", path)))];
    for (device, variable) in engines {
        let (folder, job, Some(variable)) = (scratch(&format!("late-{}", &device[..3])), job(), variable) else { continue };
        let mut words = words(&folder);
        words.iter_mut().filter(|w| *w == "cpu").for_each(|w| *w = device.into());
        let started = |rank| Running::start(torchrun(rank, 3, job, &words).envs([variable, ("RIDGEPOINT_TEST_FAULT", "slow:1")]));
        let others = [1, 2].map(started);
        named(&folder, &started(0).end());
        others.into_iter().for_each(|other| assert!(other.end().status.success()));
    }
    if let Some(path) = path {
        // Three of its GPUs in one process.
        let folder = scratch("late-gpu");
        let mut words = words(&folder);
        words.iter_mut().filter(|w| *w == "cpu").for_each(|w| *w = "cuda:0".into());
        let mut alone = Command::new(BINARY);
        clean(&mut alone).args(words).env("RIDGEPOINT_CUDA_PATH", path).env("RP_STUB_SLOW", "1");
        named(&folder, &running::output(&alone));
    }
    gpus.into_iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
    let Some(mut three) = mpirun(3) else { return };
    let folder = scratch("late-mpi");
    let output = running::output(three.env("RIDGEPOINT_TEST_FAULT", "slow:1").arg(BINARY).args(words(&folder)));
    named(&folder, &output);
}

#[test]
fn the_columns_of_nccl_tests_are_printed_once_with_each_ranks_process() {
    let words =
        ["collectives", "all_reduce", "-b", "8K", "-n", "5", "-w", "1", "--device", "cpu", "--format", "nccl-tests", "--out"];
    let folder = scratch("columns");
    let words: Vec<String> = words.iter().copied().chain([folder.to_str().unwrap()]).map(str::to_owned).collect();
    // Of two hosts, as it seems, on the first of which the port after that of torchrun's store is taken.
    let job = job();
    let port = torchrun(0, 2, job, &words).get_envs().find(|(name, _)| *name == "MASTER_PORT").unwrap().1.unwrap().to_owned();
    let taken = std::net::TcpListener::bind(("127.0.0.2", port.to_str().unwrap().parse::<u16>().unwrap() + 1)).unwrap();
    std::thread::spawn(move || taken.incoming().for_each(drop));
    let hosts = [("MASTER_ADDR", "127.0.0.2"), ("LOCAL_WORLD_SIZE", "1"), ("RIDGEPOINT_SECRET", "a secret of enough bytes")];
    let started = |rank| Running::start(torchrun(rank, 2, job, &words).envs(hosts));
    let second = started(1);
    let (first, other) = (started(0), second.id());
    let own = first.id();
    let (first, second) = (first.end(), second.end());
    let text = out(&first);
    assert!(first.status.success() && second.status.success(), "{text}{}", err(&first));
    assert_eq!((text.matches("# nThread").count(), out(&second)), (1, String::new()), "{text}");
    for (rank, pid) in [(0, own), (1, other)] {
        assert!(text.contains(&format!("#  Rank  {rank} Group  0 Pid {pid:>6} on ")), "{text}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_script_for_torchrun_wants_a_secret_for_several_hosts() {
    let started = |secret: &str, nodes: &str| {
        let mut command = script("torchrun/run");
        command.env("TORCHRUN", "echo").env("RIDGEPOINT_SECRET", secret);
        running::output(command.args([nodes, "--nproc-per-node", "8", "--", "ridgepoint", "run"]))
    };
    assert_eq!(out(&started("", "--nnodes=1")), "--nnodes=1 --nproc-per-node 8 --no-python ridgepoint run\n");
    assert_eq!(out(&started("0123456789abcdef", "--nnodes=2")), "--nnodes=2 --nproc-per-node 8 --no-python ridgepoint run\n");
    let refused = started("", "--nnodes=2");
    assert!(refused.status.code() == Some(2) && err(&refused).contains("RIDGEPOINT_SECRET_FILE"), "{}", err(&refused));
}

/// A script of the tree's, as a command.
fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name));
    clean(&mut command);
    command
}

/// True if a script could not do its work on this machine: it says so by this status.
fn cannot(what: &str, output: &Output) -> bool {
    let cannot = output.status.code() == Some(77);
    if cannot {
        println!("SKIP: {what}: {}", err(output).trim().replace('\n', "; "));
    }
    cannot
}

#[test]
fn slurm_starts_ranks_with_and_without_mpi() {
    let folder = scratch("slurm");
    std::fs::create_dir_all(&folder).unwrap();
    // Four jobs under one Slurm: plain tasks, tasks that PMIx connects, and the script of the tree as its own allocation, with and
    // without PMIx. Links of a busy machine are not to be judged.
    let sbatch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/slurm/collectives.sbatch");
    let jobs = format!(
        "set -e; case=collectives/all_reduce/r2/24KiB/f32; run=\"{BINARY} {2}\"
        srun -n 2 $run/plain; srun -n 2 --mpi=pmix $run/mpi
        export RIDGEPOINT={BINARY} RIDGEPOINT_SLOW=0
        RIDGEPOINT_OUT={0}/script salloc -Q -n 2 {1} $case
        srun() {{ [ $1 = --mpi=list ] || command srun \"$@\"; }}; export -f srun
        RIDGEPOINT_OUT={0}/alone salloc -Q -n 2 {1} $case",
        folder.display(),
        sbatch.display(),
        counted("all -g 2 -b 24K -n 20 -w 2", &folder).join(" ")
    );
    let output = running::output(script("slurm/on-loopback").args(["bash", "-c", &jobs]));
    if cannot("slurm", &output) {
        return;
    }
    let (text, errors) = (out(&output), err(&output));
    assert!(output.status.success(), "{text}{errors}");
    let all =
        |provider: &'static str| OPS.map(|op| [format!("collectives/{op}/r2/24KiB/f32"), provider.into(), "measured".into()]);
    assert_eq!(rows(&text), [all("shared-memory"), all("mpi")].concat(), "{text}{errors}");
    for (name, provider, by) in [("script", "mpi", "mpi"), ("alone", "shared-memory", "tcp")] {
        let read = |file: &str| std::fs::read_to_string(folder.join(name).join(file)).unwrap_or_default();
        let raw = read("raw.jsonl");
        let record: serde_json::Value = serde_json::from_str(raw.lines().last().unwrap_or_default()).unwrap();
        let [told, outcome] = [&record["provider"], &record["outcome"]].map(serde_json::Value::to_string);
        assert!(told == format!("\"{provider}\"") && outcome.contains("measured"), "{raw}{errors}");
        let pairs = read("pairs.json");
        let said: serde_json::Value = serde_json::from_str(&pairs).unwrap();
        assert_eq!((said["provider"].as_str(), said["links"].as_array().map(Vec::len)), (Some(by), Some(2)), "{pairs}{errors}");
        assert!(said["wrong"] == serde_json::json!([]) && pairs.contains("within a node"), "{pairs}{errors}");
        assert_eq!(read("pairs.jsonl").lines().count(), 3, "{errors}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_slowed_link_between_hosts_is_named_with_its_rank() {
    if mpirun(1).is_none() {
        return;
    }
    for (hosts, slow) in [("2", "1"), ("8", "5")] {
        let folder = scratch("slowed");
        let pairs = format!("$MPIRUN {BINARY} pairs --size 32KiB --times 4 --slow 5 --format json --out {}", folder.display());
        let output =
            running::output(script("mpi/on-namespaces").args([hosts, "sh", "-c", &pairs]).env("SLOW", format!("{slow}:2mbit")));
        if cannot("network namespaces", &output) {
            return;
        }
        let (text, errors) = (out(&output), err(&output));
        let _ = std::fs::remove_dir_all(folder);
        assert_eq!(output.status.code(), Some(1), "{text}{errors}");
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said["provider"], "mpi", "{text}{errors}");
        let [hosts, slow] = [hosts, slow].map(|n| n.parse::<u64>().unwrap());
        let ranks = said["slow ranks"].as_array().unwrap();
        let [rank] = ranks.as_slice() else { panic!("{text}{errors}") };
        let named = (rank["rank"].as_u64(), rank["direction"].as_str(), rank["over"].as_str());
        assert_eq!(named, (Some(slow), Some("sends"), Some("network")), "{text}{errors}");
        // The links by name, and the rank that explains them.
        let its = |l: &&serde_json::Value| l["rank"].as_u64() == Some(slow);
        let links: Vec<_> = said["slow links"].as_array().unwrap().iter().filter(its).collect();
        let mut to: Vec<u64> = links.iter().filter_map(|l| l["to"].as_u64()).collect();
        to.sort_unstable();
        assert_eq!(to, (0..hosts).filter(|rank| *rank != slow).collect::<Vec<_>>(), "{text}{errors}");
        assert!(links.iter().all(|l| l["from"].as_u64() == Some(slow)), "{text}");
        assert!(text.contains("\"wrong\":[]") && text.contains("\"kind\":\"rail 0\""), "{text}");
    }
}

#[test]
fn ranks_of_several_hosts_are_measured_over_the_network() {
    if mpirun(1).is_none() {
        return;
    }
    let folder = scratch("hosts");
    let run = format!("$MPIRUN {BINARY} {}", arguments(&["collectives/all_reduce/r2/24KiB/f32"], &folder).join(" "));
    let output = running::output(script("mpi/on-namespaces").args(["2", "sh", "-c", &run]));
    if cannot("network namespaces", &output) {
        return;
    }
    let text = out(&output);
    assert!(output.status.success(), "{text}{}", err(&output));
    assert_eq!(rows(&text), [["collectives/all_reduce/r2/24KiB/f32", "mpi", "measured"].map(str::to_owned)], "{text}");
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    assert!(raw.contains("2 processes on 2 hosts") && !raw.contains("RIDGEPOINT_SECRET"), "{raw}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn tcp_connects_every_operation_and_finds_every_link() {
    let folder = scratch("tcp");
    let mut cases: Vec<String> = OPS.iter().map(|op| format!("collectives/{op}/r3/36KiB/f32")).collect();
    for op in ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "gather", "scatter"] {
        cases.push(format!("collectives/{op}/r3/36KiB/bf16/inplace"));
    }
    cases.extend(["f32/avg", "e4m3/max", "i8", "f64/prod"].map(|d| format!("collectives/all_reduce/r3/36KiB/{d}")));
    // What is too big for a rank is the end of that case alone.
    cases.insert(1, "collectives/all_reduce/r3/900GiB/f32".into());
    let arguments = arguments(&cases.iter().map(String::as_str).collect::<Vec<_>>(), &folder);
    let job = job();
    let started = |rank, arguments: &[String]| Running::start(torchrun(rank, 3, job, arguments).env("RIDGEPOINT_ENGINE", "tcp"));
    let others: Vec<Running> = [1, 2].map(|rank| started(rank, &arguments)).into_iter().collect();
    let first = started(0, &arguments).end();
    let outcome = |case: &str| if case.contains("900GiB") { "failed" } else { "measured" };
    let expected: Vec<[String; 3]> = cases.iter().map(|c| [c.clone(), "tcp".into(), outcome(c).into()]).collect();
    assert_eq!(rows(&out(&first)), expected, "{}{}", out(&first), err(&first));
    others.into_iter().for_each(|other| assert!(other.end().status.success()));
    std::fs::remove_dir_all(folder).unwrap();
}

/// The words of a pair sweep in which no link is slow.
fn pairs(folder: &Path, words: &[&str]) -> Vec<String> {
    let all = [&["pairs", "--slow", "0", "--format", "json", "--out", folder.to_str().unwrap()], words].concat();
    all.into_iter().map(str::to_owned).collect()
}

#[test]
fn pairs_of_a_job_need_no_mpi_and_no_variable_and_gpus_talk_by_their_library() {
    let Some(gpus) = common::stub_gpus("launched-pairs", &[]) else { return };
    let path = gpus.to_str().unwrap();
    for (device, provider) in [("cpu", "tcp"), ("cuda:0", "nccl")] {
        let (folder, job) = (scratch("pairs"), job());
        let words = pairs(&folder, &["--device", device, "--size", "4KiB", "--times", "2"]);
        let started = |rank| Running::start(torchrun(rank, 3, job, &words).env("RIDGEPOINT_CUDA_PATH", path));
        let others = [1, 2].map(started);
        let first = started(0).end();
        let text = out(&first);
        assert!(first.status.success(), "{text}{}", err(&first));
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((said["provider"].as_str(), said["links"].as_array().unwrap().len()), (Some(provider), 6), "{text}");
        // The same, a line each, and what was found.
        let lines = std::fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
        assert!(lines.lines().count() == 7 && lines.lines().last().unwrap().contains("\"slow links\":[]"), "{lines}");
        others.into_iter().for_each(|other| assert!(other.end().status.success()));
        std::fs::remove_dir_all(folder).unwrap();
    }
    std::fs::remove_dir_all(gpus).unwrap();
}

#[test]
fn links_that_were_measured_before_a_rank_died_are_kept() {
    let folder = scratch("pairs-killed");
    let words = pairs(&folder, &["--size", "4MiB", "--times", "400"]);
    let job = job();
    let started = |rank| Running::start(torchrun(rank, 4, job, &words).env("RIDGEPOINT_PATIENCE", "10"));
    let (first, second) = (started(0), started(1));
    let others = [2, 3].map(started);
    let waiting = Instant::now();
    while std::fs::read_to_string(folder.join("pairs.jsonl")).unwrap_or_default().lines().count() < 4 {
        assert!(waiting.elapsed() < Duration::from_secs(120), "no round");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-KILL", &serving(&second).to_string()]).status().unwrap().success());
    let first = first.end();
    let (text, errors) = (out(&first), err(&first));
    assert_eq!(first.status.code(), Some(1), "{text}{errors}");
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    let links = said["links"].as_array().unwrap().len();
    assert!((4..12).contains(&links) && said["failure"].as_str().unwrap().contains("rank 1 ("), "{text}{errors}");
    assert!(errors.contains(" of 3 rounds were done: ") && errors.contains("is gone (signal: 9 (SIGKILL)"), "{errors}");
    let lines = std::fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), links + 1, "{lines}");
    [second].into_iter().chain(others).for_each(|other| drop(other.end()));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn pods_of_an_indexed_job_are_measured_over_tcp() {
    let folder = scratch("pods");
    // Two hosts with the variables of scripts/k8s/indexed-job.yaml; an address stands for the cluster's names.
    let pods = format!(
        "for pod in 0 1; do ip netns exec $ON_NAMESPACES-$pod unshare --uts sh -c \"hostname pod-$pod && exec env \\
            JOB_COMPLETION_INDEX=$pod RIDGEPOINT_RANKS=2 RIDGEPOINT_JOB=links RIDGEPOINT_SERVICE=links \\
            RIDGEPOINT_RENDEZVOUS=10.77.0.1:29555 RIDGEPOINT_INTERFACE=eth0 RIDGEPOINT_SECRET=0123456789abcdef \\
            {BINARY} {}\" & done; wait",
        arguments(&["collectives/all_reduce/r2/64KiB/f32", "collectives/alltoallv/r2/96KiB/bf16"], &folder).join(" ")
    );
    let output = running::output(script("mpi/on-namespaces").args(["2", "sh", "-c", &pods]));
    if cannot("network namespaces", &output) {
        return;
    }
    let (text, errors) = (out(&output), err(&output));
    let expected = ["collectives/all_reduce/r2/64KiB/f32", "collectives/alltoallv/r2/96KiB/bf16"];
    assert_eq!(rows(&text), expected.map(|c| [c, "tcp", "measured"].map(str::to_owned)), "{text}{errors}");
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    assert!(raw.contains("pod-0: 1, pod-1: 1") && raw.contains("kubernetes"), "{raw}");
    std::fs::remove_dir_all(folder).unwrap();
}
